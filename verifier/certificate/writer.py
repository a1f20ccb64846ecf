"""Trees of splits, with the multipliers that close their leaves -> certificate files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifier.certificate.format import LEVEL, pack
from verifier.certificate.properties import Case, read_property
from verifier.certificate.reading import Network
from verifier.certificate.trees import LEAF
from verifier.proof import End, Leaf, Neuron, Proof, Tree, preorder

PRODUCER = "verifier 0.1.0"


@dataclass(frozen=True, eq=False)
class Subject:
    """What a certificate is about, as the checker reads it: a model (ONNX) and a property (VNN-LIB 1.0)."""

    network: Network
    cases: list[Case]
    digests: dict[str, str]

    @classmethod
    def read(cls, model: bytes, prop: bytes, merge: bool = False) -> Subject:
        """Raises Refused for what the checker does not read."""
        network = read_model(model, merge)
        cases = read_property(prop.decode(), network.nodes[1].size, network.output.size)
        digests = {"model": hashlib.sha256(model).hexdigest(), "property": hashlib.sha256(prop).hexdigest()}
        return cls(network, cases, digests)

    @functools.cached_property
    def places(self) -> list[tuple[int, int]]:
        """By case, the number of its region, in the order of the cases, and its own among the cases of that region."""
        counts: dict[int, int] = {}
        found = []
        for case in self.cases:
            key = id(case.region)
            counts[key] = counts.get(key, -1) + 1
            found.append((list(counts).index(key), counts[key]))
        return found


@functools.lru_cache(maxsize=2)
def read_model(model: bytes, merge: bool) -> Network:
    """The network of a model, which many certificates are about."""
    return Network(model, merge)


def write(model: bytes, prop: bytes, proof: Proof, semantics: str = "float32") -> bytes:
    """The certificate of a proof about a model (ONNX) and a property (VNN-LIB 1.0)."""
    return written(Subject.read(model, prop, proof.merge), [proof], semantics)


def written(subject: Subject, proofs: Sequence[Proof], semantics: str, fine: bool = False, level: int = LEVEL) -> bytes:
    """The certificate of proofs about a subject, one for every region, with trees about its cases in their order.

    fine: slopes take two bytes. level: how well it is compressed.
    """
    network, places = subject.network, subject.places
    if len(places) != sum(len(proof.trees) for proof in proofs):
        raise ValueError(f"the property has {len(places)} unsafe sets, the proof has not as many trees")
    coders = [_Coder.of(network, proof, fine) for proof in proofs]
    arrays: dict[str, np.ndarray] = {}
    again = [bool(proofs[b].recompute and proofs[b].recompute[i]) for b, i in places]
    for k, (b, i) in enumerate(places):
        found = flattened([proofs[b].trees[i]], len(subject.cases[k].rows), coders[b], by_node=again[k])
        arrays |= {f"{name}.{k}": array for name, array in found.items()}
        if proofs[b].ends and proofs[b].ends[i]:
            ends = _of_ends(proofs[b].ends[i], len(subject.cases[k].rows), coders[b])
            arrays |= {f"{name}.s{k}": array for name, array in ends.items()}
    for b, (proof, coder) in enumerate(zip(proofs, coders, strict=True)):
        own = _about_region(proof, coder)
        arrays |= {name + (f".b{b}" if b else ""): array for name, array in own.items()}
    stated = next((proof.refine for proof in proofs if proof.refine is not None), None)
    header = {
        **subject.digests,
        "semantics": semantics,
        "producer": PRODUCER,
        "merge": int(proofs[0].merge),
        "refine": [int(r) for r in stated or inexact(network, subject.cases)],
        "recompute": [int(r) for r in again],
    }
    return pack(header, arrays, level)


def _of_ends(ends: Sequence[End], row_count: int, coder: _Coder) -> dict[str, np.ndarray]:
    """The arrays of bounds that hold for inputs of an unsafe set with so many rows."""
    given = np.array([end.leaf.weights for end in ends], dtype=np.float64)
    weights = quantised(given, row_count)
    strength = np.array([end.strength for end in ends]) * weights.sum(axis=1) / given.sum(axis=1)
    return {
        "target": np.array([(*end.of, end.upper, end.turn) for end in ends], dtype=np.int64).T,
        "weights": weights,
        "code": np.array([coder(end.leaf.slopes) for end in ends]),
        "extra": np.maximum(strength.astype(np.float32), np.finfo(np.float32).tiny),
    }


def _about_region(proof: Proof, coder: _Coder) -> dict[str, np.ndarray]:
    """The arrays of a region's lemmas, and the slopes that they and its trees state."""
    arrays: dict[str, np.ndarray] = {}
    for i in sorted({lemma.of[0] for lemma in proof.lemmas}):
        lemmas = [lemma for lemma in proof.lemmas if lemma.of[0] == i]
        found = flattened([lemma.tree for lemma in lemmas], None, coder)
        found["target"] = np.array([(lemma.of[1], lemma.upper) for lemma in lemmas], dtype=np.int64).T
        arrays |= {f"{name}.a{i}": array for name, array in found.items()}
    slots = [(*neuron, side) for neuron, side in proof.slots]
    arrays["slots"] = np.array(slots, dtype=np.int64).reshape(-1, 3).T
    codes = np.frombuffer(b"".join(coder.rows), dtype=coder.dtype).reshape(len(coder.rows), len(slots))
    arrays["codes" if coder.levels == 255 else "finer"] = codes
    return arrays


def inexact(network: Network, cases: Sequence[Case]) -> list[bool]:
    """By activation, whether intervals may be wide for its inputs: behind one op that mixes a box they are exact."""
    if any(case.region.ball for case in cases):
        return [True] * len(network.activations)
    independent, exact = [True, True], [True, True]  # the zero and the input
    for node in network.nodes[2:]:
        before, alone = [i for i in node.sources if i > 0], node.op == "affine"
        moves = node.shape[2] == 1 and node.repeats == 1  # it reads one value for each of its own
        single = alone and len(before) == 1 and independent[before[0]]
        independent.append(single and moves)
        exact.append(single or (alone and moves and all(exact[i] for i in before)))
    return [not all(exact[i] for i in network.nodes[j].sources) for j in network.activations]


class _Coder:
    """Collects rows of coded slopes. least, greatest: (slots,). dtype: of the codes, which use its whole range."""

    def __init__(self, least: np.ndarray, greatest: np.ndarray, dtype: np.dtype) -> None:
        self.least, self.greatest, self.dtype, self.levels = least, greatest, dtype, np.iinfo(dtype).max
        self.rows: dict[bytes, int] = {}  # the number of every row

    @classmethod
    def of(cls, network: Network, proof: Proof, fine: bool) -> _Coder:
        """For the slopes that a proof states."""
        ranges = np.array([network.nodes[network.activations[i]].slopes for (i, _), _ in proof.slots]).reshape(-1, 2).T
        return cls(ranges[0], ranges[1], np.dtype(np.uint16 if fine else np.uint8))

    def __call__(self, slopes: np.ndarray | None) -> int:
        """One plus the number of the row that codes the slopes; 0 for none."""
        if slopes is None:
            return 0
        shares = np.clip((slopes - self.least) / (self.greatest - self.least), 0, 1)
        row = np.rint(shares * self.levels).astype(self.dtype).tobytes()
        return self.rows.setdefault(row, len(self.rows)) + 1


def flattened(
    trees: Sequence[Tree], row_count: int | None, coder: _Coder, by_node: bool = False
) -> dict[str, np.ndarray]:
    """The arrays of trees, end to end; with weights for so many rows, or without.

    by_node: weights and codes are those of every node, not of leaves alone.
    """
    kind, position, point, code, extra, counts = [], [], [], [], [], []
    weights: list[Sequence[float]] = []
    for tree in trees:
        for node, path in preorder(tree):
            number, place, at = (LEAF, 0, 0.0) if isinstance(node, Leaf) else (node.at[0] + 2, node.at[1], node.point)
            kind.append(number)  # the input is 1
            position.append(place)
            point.append(at)
            own = _pressure(node, path) if isinstance(node, Leaf) else []
            if isinstance(node, Leaf) or by_node:
                weights.append(node.weights or [0.0] * (row_count or 0))
                code.append(coder(node.slopes) if isinstance(node, Leaf) else 0)
                extra += own
                counts.append(len(own))
    arrays = {"kind": np.array(kind), "position": np.array(position), "point": np.array(point), "code": np.array(code)}
    pressure = np.array(extra)
    if row_count is not None:
        given = np.array(weights, dtype=np.float64).reshape(len(weights), -1)
        arrays["weights"] = stated = quantised(given, row_count)
        sums = given.sum(axis=1), stated.sum(axis=1)  # multipliers go with the weights
        pressure = pressure * np.repeat(np.divide(sums[1], sums[0], out=np.ones(len(given)), where=sums[1] > 0), counts)
    return {**arrays, "extra": (pressure if pressure.any() else pressure[:0]).astype(np.float32)}


def _pressure(leaf: Leaf, path: Sequence[Neuron]) -> list[float]:
    """What is added to the multipliers of the neurons that are split above a leaf; one that is cut twice has one."""
    if not leaf.extra:
        return [0.0 for number, _ in path if number >= 0]
    neurons = [neuron for neuron in path if neuron[0] >= 0]
    last = {neuron: i for i, neuron in enumerate(neurons)}
    return [leaf.extra.get(neuron, 0.0) if last[neuron] == i else 0.0 for i, neuron in enumerate(neurons)]


def quantised(weights: np.ndarray, count: int) -> np.ndarray:
    """Rows of `count` weights as integers below 2^16; a single weight counts once."""
    if weights.shape[1:] != (count,):
        raise ValueError(f"a leaf has weights for {weights.shape[1]} rows of {count}")
    given = np.maximum(weights, 0)
    top = given.max(axis=1, initial=0.0, keepdims=True)
    whole = np.rint(np.divide(given, top, out=np.zeros_like(given), where=top > 0) * 65535).astype(np.int64)
    return whole // np.maximum(np.gcd.reduce(whole, axis=1, keepdims=True), 1)
