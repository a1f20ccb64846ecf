"""Trees of splits, with the multipliers that close their leaves -> certificate files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from verifier.certificate.checker import LEAF, Network, read_property
from verifier.certificate.format import pack

PRODUCER = "verifier 0.1.0"
Neuron = tuple[int, int]  # the number of an activation (-1: the input), and a position in its flattened tensor


@dataclass(frozen=True)
class Leaf:
    """A closed subdomain.

    weights: of the rows of its unsafe set, nonnegative (scaled and rounded here); all zero where the multipliers prove
    that the subdomain is empty. slopes: of the lines below activations, where they differ from the checker's default.
    extra: by split neuron, what its multiplier has beyond the slope's (beta).
    """

    weights: Sequence[float] = (1.0,)
    slopes: Mapping[Neuron, float] = field(default_factory=dict)
    extra: Mapping[Neuron, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """A neuron, or an input, cut at a point into the halves below and above."""

    at: Neuron
    point: float
    below: Tree
    above: Tree


Tree = Leaf | Split


@dataclass(frozen=True)
class Proof:
    """What a search hands over: a tree for every unsafe set, in the order of the property's normal form.

    refine: whether bounds of activations' inputs are refined by backward passes (default: of all but the first).
    recompute: whether that is done anew in every leaf; worth it for splits of inputs.
    """

    trees: Sequence[Tree]
    refine: Sequence[bool] | None = None
    recompute: bool = False


def write(model: bytes, prop: bytes, proof: Proof, semantics: str = "float32") -> bytes:
    """The certificate of a proof about a model (ONNX) and a property (VNN-LIB 1.0)."""
    network = Network(model)
    cases = read_property(prop.decode(), network.nodes[1].size, network.output.size)
    if len(cases) != len(proof.trees):
        raise ValueError(f"the property has {len(cases)} unsafe sets, the proof {len(proof.trees)} trees")
    count = len(network.activations)
    refine = proof.refine if proof.refine is not None else [i > 0 for i in range(count)]
    leaves = [leaf for tree in proof.trees for node, _ in preorder(tree) if isinstance(leaf := node, Leaf)]
    slots = sorted({neuron for leaf in leaves for neuron in leaf.slopes})
    ranges = [network.nodes[network.activations[activation]].slopes for activation, _ in slots]
    rows: dict[bytes, int] = {}  # the number of every row of codes
    arrays: dict[str, np.ndarray] = {}
    for k, (tree, case) in enumerate(zip(proof.trees, cases, strict=True)):
        arrays |= {f"{name}.{k}": array for name, array in flattened(tree, len(case.rows), slots, ranges, rows).items()}
    arrays["slots"] = np.array([(*neuron, 0) for neuron in slots], dtype=np.int64).reshape(-1, 3).T
    arrays["codes"] = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), len(slots))
    header = {
        "model": hashlib.sha256(model).hexdigest(),
        "property": hashlib.sha256(prop).hexdigest(),
        "semantics": semantics,
        "producer": PRODUCER,
        "refine": [int(r) for r in refine],
        "recompute": int(proof.recompute),
    }
    return pack(header, arrays)


def flattened(
    tree: Tree, row_count: int, slots: Sequence[Neuron], ranges: Sequence[tuple[float, float]], rows: dict[bytes, int]
) -> dict[str, np.ndarray]:
    """The arrays of one tree; codes are collected in `rows`."""
    kind, position, point, weights, code, extra = [], [], [], [], [], []
    for node, path in preorder(tree):
        if isinstance(node, Split):
            kind.append(node.at[0] + 2)  # the input is 1
            position.append(node.at[1])
            point.append(node.point)
            continue
        kind.append(LEAF)
        position.append(0)
        point.append(0.0)
        weights.append(quantised(node.weights, row_count))
        code.append(rows.setdefault(coded(node, slots, ranges), len(rows)) + 1 if node.slopes else 0)
        extra += [np.float32(node.extra.get(neuron, 0.0)) for neuron in path if neuron[0] >= 0]
    return {
        "kind": np.array(kind),
        "position": np.array(position),
        "point": np.array(point),
        "weights": np.array(weights).reshape(-1, row_count),
        "code": np.array(code),
        "extra": np.array(extra if any(extra) else [], dtype=np.float32),
    }


def preorder(tree: Tree) -> Iterator[tuple[Tree, list[Neuron]]]:
    """Every node with the neurons and inputs that are split above it, halves below first."""
    stack: list[tuple[Tree, list[Neuron]]] = [(tree, [])]
    while stack:
        node, path = stack.pop()
        yield node, path
        if isinstance(node, Split):
            stack += [(half, [*path, node.at]) for half in (node.above, node.below)]


def quantised(weights: Sequence[float], count: int) -> np.ndarray:
    """Weights as integers below 2^16; a single row counts once."""
    given = np.maximum(np.asarray(weights, dtype=np.float64), 0)
    if given.shape != (count,):
        raise ValueError(f"a leaf has weights for {given.size} rows of {count}")
    top = given.max(initial=0.0)
    if not top > 0:
        return np.zeros(count, dtype=np.int64)
    whole = np.rint(given / top * 65535).astype(np.int64)
    return whole // np.gcd.reduce(whole)


def coded(leaf: Leaf, slots: Sequence[Neuron], ranges: Sequence[tuple[float, float]]) -> bytes:
    """A row of codes; a slope that the leaf does not state is coded in the middle."""
    values = [
        (leaf.slopes.get(neuron, (low + high) / 2) - low) / (high - low)
        for neuron, (low, high) in zip(slots, ranges, strict=True)
    ]
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8).tobytes()
