"""Small models and properties as files hold them, and proofs about them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import torch
from nets import Case, random_case

from verifier.certificate.analysis import Analysis
from verifier.certificate.exact import Exact
from verifier.certificate.properties import Case as Statement
from verifier.certificate.properties import read_property
from verifier.certificate.pulling import Domains
from verifier.certificate.reading import Network
from verifier.certificate.rounded import Rounded
from verifier.certificate.statement import vnnlib
from verifier.graph import Graph
from verifier.load.export import export_onnx
from verifier.proof import Leaf, Proof, Split, Tree
from verifier.spec.property import HalfSpaces, Property

ARITHMETICS = (Exact, Rounded)
NO_HINTS = {"slots": np.zeros((3, 0), dtype=int), "codes": np.zeros((0, 0), dtype=np.uint8)}


def onnx_bytes(graph: Graph) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(graph, Path(folder) / "net.onnx")
        return (Path(folder) / "net.onnx").read_bytes()


@dataclass(frozen=True, eq=False)
class Files:
    """A network and a property about it, in both forms."""

    graph: Graph
    prop: Property
    model: bytes
    text: bytes

    @staticmethod
    def of(graph: Graph, prop: Property) -> Files:
        return Files(graph, prop, onnx_bytes(graph), vnnlib(prop).encode())

    @property
    def network(self) -> Network:
        return Network(self.model)

    @property
    def statements(self) -> list[Statement]:
        network = self.network
        return read_property(self.text.decode(), network.nodes[1].size, network.output.size)

    def analysis(
        self, arithmetic: type[Exact | Rounded] = Exact, single: bool = False, refine: bool = True, ball: bool = True
    ) -> Analysis:
        """ball: whether the inputs' ball counts, if there is one, and not the box alone."""
        network = self.network
        hints = {**NO_HINTS, "refine": [int(refine)] * len(network.activations)}
        return Analysis(network, arithmetic, single, hints, self.statements[0].region.ball if ball else None)


def bounds(analysis: Analysis, statement: Statement) -> Domains:
    with np.errstate(all="ignore"):
        return analysis.bounds(statement.region.box)


def read_at(network: Network, x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """By activation, what it reads (n, size) at inputs x (n, inputs)."""
    values = [np.zeros((len(x), 1)), x]
    for j, node in enumerate(network.nodes[2:], start=2):
        read = node.gather(values)
        if node.op == "affine":
            values.append(node.forward(read, node.weight.array) + node.bias)
        else:
            yield j, read
            values.append(node.values(read, False)[0])


def row_bounds(analysis: Analysis, statement: Statement) -> list[Fraction]:
    """Lower bounds of every row of an unsafe set over the whole box, without splits."""
    rows = statement.rows.astype(np.float64)
    with np.errstate(all="ignore"):
        d = bounds(analysis, statement)
        found = analysis.least(analysis.network.output, rows[None], d, np.arange(1))
    return [a + b for a, b in zip(analysis.arithmetic.fractions(found), statement.constants, strict=True)]


@cache
def random_files(seed: int) -> Files:
    case: Case = random_case(seed, most=8)
    return Files.of(case.graph, case.prop)


def shifted(files: Files, lift: float, arithmetic: type[Exact | Rounded] = Exact) -> Files:
    """The same, each half-space moved to where the bound of its row is `lift` above zero (in float32, no splits)."""
    found = [row_bounds(files.analysis(arithmetic, single=True), s) for s in files.statements]
    sets = tuple(
        HalfSpaces(s.C, s.d + torch.tensor([lift - float(bound) for bound in rows], dtype=torch.float64))
        for s, rows in zip(files.prop.unsafe, found, strict=True)
    )
    return Files(files.graph, (prop := Property(files.prop.region, sets)), files.model, vnnlib(prop).encode())


def flat_proof(files: Files, tree: Callable[[Statement], Tree] | None = None, recompute: bool = False) -> Proof:
    """A proof whose trees are all alike: by default a single leaf about the first row."""
    make = tree or (lambda s: leaf(s))
    refine = [True] * len(files.network.activations)
    trees = [make(s) for s in files.statements]
    return Proof(trees, refine=refine, recompute=[recompute] * len(trees))


def leaf(statement: Statement, **more: dict) -> Leaf:
    return Leaf([1.0] + [0.0] * (len(statement.rows) - 1), **more)


def neuron_tree(analysis: Analysis, statement: Statement, most: int = 4) -> Tree:
    """All halves of the first unstable neurons, at zero."""
    d = bounds(analysis, statement)
    neurons = [
        (number, int(i))
        for number, j in enumerate(analysis.network.activations)
        for i in np.nonzero((d.z[j][0] < 0) & (d.z[j][1] > 0))[1]
    ][:most]
    tree: Tree = leaf(statement)
    for neuron in neurons:
        tree = Split(neuron, 0.0, tree, tree)
    return tree


def input_tree(statement: Statement, depth: int = 3) -> Tree:
    """The box halved along its widest inputs in turn."""

    def grow(low: list[float], high: list[float], left: int) -> Tree:
        if not left:
            return leaf(statement)
        i = int(np.argmax(np.subtract(high, low)))
        middle = (low[i] + high[i]) / 2
        below, above = [*high], [*low]
        below[i] = above[i] = middle
        return Split((-1, i), middle, grow(low, below, left - 1), grow(above, high, left - 1))

    return grow([float(x) for x in statement.lower], [float(x) for x in statement.upper], depth)
