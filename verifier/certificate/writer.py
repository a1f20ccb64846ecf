"""Trees of splits, with the multipliers that close their leaves -> certificate files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.certificate.coding import Coder, flattened, quantised
from verifier.certificate.format import pack
from verifier.certificate.planes import LEVELS, reads
from verifier.certificate.properties import Case, read_property
from verifier.certificate.reading import Network
from verifier.certificate.refining import FIRST
from verifier.proof import INPUT, End, Lemma, Plane, Proof, Tree

PRODUCER = "verifier 0.1.0"
NOTHING = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))


@dataclass(frozen=True, eq=False)
class Subject:
    """What a certificate is about, as the checker reads it: a model (ONNX) and a property (VNN-LIB 1.0)."""

    network: Network
    cases: list[Case]
    digests: dict[str, str]

    @classmethod
    def read(cls, model: bytes, prop: bytes, merge: bool = False, scales: Sequence[int] = ()) -> Subject:
        """merge, scales: see `Proof`. Raises Refused for what the checker does not read."""
        network = read_model(model, merge, tuple(scales))
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
def read_model(model: bytes, merge: bool, scales: tuple[int, ...] = ()) -> Network:
    """The network of a model, which many certificates are about."""
    return Network(model, merge, np.array(scales))


def write(model: bytes, prop: bytes, proof: Proof, semantics: str = "float32") -> bytes:
    """The certificate of a proof about a model (ONNX) and a property (VNN-LIB 1.0)."""
    return written(Subject.read(model, prop, proof.merge, proof.scales), [proof], semantics)


def written(subject: Subject, proofs: Sequence[Proof], semantics: str, fine: bool = False) -> bytes:
    """The certificate of proofs about a subject, one for every region, with trees about its cases in their order.

    fine: slopes take two bytes.
    """
    author = Author(subject, proofs, fine)
    arrays = author.trees()
    for b, lemmas in enumerate(author.lemmas):
        for i in sorted(lemmas):
            arrays |= suffixed(author.about(b, i), b)
        arrays |= suffixed(author.coders[b].arrays, b)
    return pack(author.header(semantics), arrays)


class Author:
    """Writes proofs about a subject, one for every region, with trees about its cases in their order, array by array.

    fine: slopes take two bytes. again: by case, whether its tree recomputes bounds. lemmas: by region and activation.
    """

    def __init__(self, subject: Subject, proofs: Sequence[Proof], fine: bool = False) -> None:
        self.subject, self.proofs = subject, proofs
        if len(subject.places) != sum(len(proof.trees) for proof in proofs):
            raise ValueError(f"the property has {len(subject.places)} unsafe sets, the proof has not as many trees")
        self.coders = [Coder.of(subject.network, proof, fine) for proof in proofs]
        self.again = [bool(proofs[b].recompute and proofs[b].recompute[i]) for b, i in subject.places]
        self.lemmas: list[dict[int, list[Lemma]]] = [{} for _ in proofs]
        for proof, own in zip(proofs, self.lemmas, strict=True):
            lists = [*dict.fromkeys(tuple(map(id, lemma.planes)) for lemma in proof.lemmas)]
            for lemma in sorted(proof.lemmas, key=lambda lemma: lists.index(tuple(map(id, lemma.planes)))):
                own.setdefault(lemma.of[0], []).append(lemma)
        self.lists = 0  # of planes so far

    def header(self, semantics: str) -> dict[str, Any]:
        stated = next((proof.refine for proof in self.proofs if proof.refine is not None), None)
        wide = (FIRST * int(r) if not any(self.again) else int(r) for r in inexact(self.subject.network, self.cases))
        return {
            **self.subject.digests,
            "semantics": semantics,
            "producer": PRODUCER,
            "merge": int(self.proofs[0].merge),
            "refine": [*wide] if stated is None else [int(r) for r in stated],
            "recompute": [int(r) for r in self.again],
        }

    @property
    def cases(self) -> list[Case]:
        return self.subject.cases

    def trees(self) -> dict[str, np.ndarray]:
        """The arrays of what is stated about unsafe sets."""
        arrays = {"scales": np.array(self.proofs[0].scales)} if self.proofs[0].scales else {}
        for k, (b, i) in enumerate(self.subject.places):
            arrays |= self.tree(k, self.proofs[b].trees[i])
            if self.proofs[b].ends and self.proofs[b].ends[i]:
                ends = _of_ends(self.proofs[b].ends[i], len(self.cases[k].rows), self.coders[b])
                arrays |= {f"{name}.s{k}": array for name, array in ends.items()}
        return arrays | self.planes()

    def planes(self) -> dict[str, np.ndarray]:
        """The arrays of the planes that trees and ends, written before, use."""
        own = [self.proofs[b].planes[i] if self.proofs[b].planes else () for b, i in self.subject.places]
        regions = [b for b, _ in self.subject.places]
        return self.listed("planes", [() if again else x for x, again in zip(own, self.again, strict=True)], regions)

    def listed(self, name: str, planes: Sequence[Sequence[Plane]], regions: Sequence[int]) -> dict[str, np.ndarray]:
        """The arrays of the planes that trees in regions may use; one with this name says which list each does."""
        arrays: dict[str, np.ndarray] = {}
        lists: dict[tuple[int, ...], int] = {}  # by region and planes, the number of the list
        which = np.zeros(len(planes), dtype=np.int64)
        for k, (own, b) in enumerate(zip(planes, regions, strict=True)):
            key = (b, *map(id, own))
            if own and key not in lists:
                found = stated(self.subject.network, own, self.coders[b])
                arrays |= {f"{kind}.p{self.lists}": array for kind, array in found.items()}
                self.lists += bool(found)
                lists[key] = self.lists if found else 0
            which[k] = lists.get(key, 0)
        return {name: which, **arrays} if arrays else {}

    def tree(self, k: int, tree: Tree) -> dict[str, np.ndarray]:
        """The arrays of an unsafe set's tree."""
        coder = self.coders[self.subject.places[k][0]]
        found = flattened([tree], len(self.cases[k].rows), coder, by_node=self.again[k])
        return {f"{name}.{k}": array for name, array in found.items()}

    def targets(self, b: int, i: int) -> np.ndarray:
        """What the lemmas of a region about an activation are about, (2, lemmas): positions, sides."""
        return np.array([(x.of[1], x.upper) for x in self.lemmas[b].get(i, [])], dtype=np.int64).reshape(-1, 2).T

    def about(self, b: int, i: int, wanted: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The arrays of a region's lemmas about an activation. wanted: a mask of its inputs; None for all."""
        some = [x for x in self.lemmas[b].get(i, []) if wanted is None or wanted[x.of[1]]]
        if not some:
            return {}
        found = flattened([lemma.tree for lemma in some], None, self.coders[b])
        found["target"] = np.array([(x.of[1], x.upper) for x in some], dtype=np.int64).T
        planes = self.listed(f"planes.a{i}", [lemma.planes for lemma in some], [b] * len(some))
        return {f"{name}.a{i}": array for name, array in found.items()} | planes


def suffixed(arrays: Mapping[str, np.ndarray], b: int) -> dict[str, np.ndarray]:
    """A region's arrays under the names that they have in a file."""
    return {name + (f".b{b}" if b else ""): array for name, array in arrays.items()}


def _of_ends(ends: Sequence[End], row_count: int, coder: Coder) -> dict[str, np.ndarray]:
    """The arrays of bounds that hold for inputs of an unsafe set with so many rows."""
    given = np.array([end.leaf.weights for end in ends], dtype=np.float64)
    weights = quantised(given, row_count)
    strength = np.array([end.strength for end in ends]) * weights.sum(axis=1) / given.sum(axis=1)
    return {
        "target": np.array([(*end.of, end.upper, end.turn) for end in ends], dtype=np.int64).T,
        "weights": weights,
        "code": coder([end.leaf.slopes for end in ends]),
        "extra": np.maximum(strength.astype(np.float32), np.finfo(np.float32).tiny),
    }


def stated(network: Network, planes: Sequence[Plane], coder: Coder) -> dict[str, np.ndarray]:
    """The arrays of those planes that rows of slopes use; none where they use none."""
    units, shares = [np.zeros((2, 0), dtype=np.int64)], []
    for plane in sorted(planes, key=lambda plane: plane.activation):
        kept = np.isin(plane.positions, coder.used(plane.activation))
        if kept.any():
            own = plane.positions[kept]
            masks, row, values = reads(network, network.activations[plane.activation], own), np.cumsum(kept) - 1, []
            for i, mask in masks.items():
                rows, places, T = plane.sources.get(INPUT if i == 1 else network.activations.index(i), NOTHING)
                full, some = np.zeros(mask.shape), kept[rows]
                full[row[rows[some]], places[some]] = T[some]
                values.append(full)
            mask, full = (np.concatenate(parts, axis=1) for parts in ([*masks.values()], values))
            units.append(np.stack((np.full(len(own), plane.activation), own)))
            shares.append(np.rint(full[mask].clip(0, 1) * LEVELS).astype(np.uint8))
    return {"unit": np.concatenate(units, axis=1), "share": np.concatenate(shares)} if shares else {}


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
