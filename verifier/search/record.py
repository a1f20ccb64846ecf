"""The trees of splits that searches make, and what closes their leaves: what a certificate is written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.crown import unsqueezed
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.ops.product import SumDifference
from verifier.ops.relu import Hinge
from verifier.proof import INPUT, End, Leaf, Lemma, Neuron, Plane, Proof, Split, Tree, pressed
from verifier.search.units import Units
from verifier.types import Interval

Slot = tuple[Neuron, int]  # a neuron, and a side of it (see `Proof`)

CORNER = 2.0**10
"""Added to a multiplier, and taken from that of a neuron that reads the same number from the other side of a split: the
bound is then least where both are at the split. Still more would cost float32 the digits of what it is added to."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What closes n subdomains. weights: (n, rows), of the rows of the unsafe set. slopes: (n, slots), of the lines of
    the record's slots; None where there are no such choices. pressure: (n, places), multipliers of what was split."""

    weights: Tensor
    slopes: Tensor | None = None
    pressure: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Shaved:
    """Bounds of what places (n,) read that hold for all inputs of unsafe sets (n,): lower ones, where sign (n,) is 1,
    and upper ones. evidence: what proves them together with strength (n,). turn: see `End`."""

    unsafe: Tensor
    place: Tensor
    sign: Tensor
    strength: Tensor
    evidence: Evidence
    turn: int


class Cut(NamedTuple):
    """How n subdomains are halved: at points (n,) of places (n,). weights: (n, rows), of the combination of rows that
    has cut off parts of them before, if one has."""

    place: Tensor
    point: Tensor
    weights: Tensor | None = None


class Record:
    """One tree for every unsafe set, whose roots are the nodes 0, 1, ...

    sizes: how many rows each unsafe set has. places: the neurons (or inputs) that may be split. slots: the lines whose
    slopes leaves state. nodes: the bounds of what activations read that the search rests on. twins: by neuron, others
    that read the same number, which a split cuts as well. planes: those whose shares slots are about. above:
    whether slots are about lines above neurons.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        places: Sequence[Neuron],
        slots: Sequence[Slot] = (),
        nodes: Mapping[int, Interval] | None = None,
        twins: Mapping[Neuron, Sequence[Neuron]] | None = None,
        planes: Sequence[Plane] = (),
    ) -> None:
        self.sizes, self.places, self.slots, self.nodes, self.count = sizes, places, slots, nodes or {}, len(sizes)
        self.twins, self.planes = twins or {}, planes
        self.above = any(side == 1 for _, side in slots)
        self._splits: list[tuple[list[int], list[int], list[float], list[Sequence[float]], int]] = []
        self._leaves: list[tuple[list[int], _Leaves]] = []
        self._shaved: list[tuple[Shaved, _Leaves]] = []

    def split(self, node: Tensor, unsafe: Tensor, cut: Cut) -> Tensor:
        """Cut nodes (n,) of unsafe sets (n,); returns the halves (2n,), first all below."""
        first, n = self.count, len(node)
        combined: list[Sequence[float]] = [()] * n if cut.weights is None else [*self._own_rows(cut.weights, unsafe)]
        self._splits.append((node.tolist(), cut.place.tolist(), cut.point.double().tolist(), combined, first))
        self.count += 2 * n
        return torch.arange(first, first + 2 * n, device=node.device)

    def close(self, node: Tensor, unsafe: Tensor, evidence: Evidence) -> None:
        """Nodes (n,) of unsafe sets (n,) are proved."""
        if len(node):
            self._leaves.append((node.tolist(), _Leaves.of(evidence, self._own_rows(evidence.weights, unsafe))))

    def shave(self, shaved: Shaved) -> None:
        """Whatever is proved of the unsafe sets from here on may rest on these bounds."""
        if len(shaved.place):
            own = self._own_rows(shaved.evidence.weights, shaved.unsafe)
            self._shaved.append((shaved, _Leaves.of(shaved.evidence, own)))

    def _own_rows(self, weights: Tensor, unsafe: Tensor) -> list[list[float]]:
        """Weights of the rows that each set has; `search.rows` repeats the last one."""
        sizes = [self.sizes[k] for k in unsafe.tolist()]
        return [[*w[: n - 1], sum(w[n - 1 :])] for w, n in zip(weights.tolist(), sizes, strict=True)]

    def trees(self, slots: Sequence[Slot] = (), defaults: np.ndarray | None = None) -> list[Tree | None]:
        """By unsafe set, the tree, or None where some part of it is not closed.

        slots: those that leaves' slopes are to be about, at least the record's own; defaults: (slots,), for the others.
        """
        found: list[Tree | None] = [None] * self.count
        own = self._columns(slots)
        for nodes, leaves in self._leaves:
            for node, leaf in zip(nodes, leaves.made(self.places, own, defaults), strict=True):
                found[node] = leaf
        for nodes, places, points, weights, first in reversed(self._splits):
            for i, (node, place, point, w) in enumerate(zip(nodes, places, points, weights, strict=True)):
                below, above = found[first + i], found[first + len(nodes) + i]
                if below is not None and above is not None:
                    found[node] = self._split(self.places[place], point, below, above, w)
        return found[: len(self.sizes)]

    def ends(self, slots: Sequence[Slot] = (), defaults: np.ndarray | None = None) -> list[list[End]]:
        """By unsafe set, the bounds that hold for its inputs. slots, defaults: as above."""
        found: list[list[End]] = [[] for _ in self.sizes]
        for shaved, leaves in self._shaved:
            parts = (part.tolist() for part in (shaved.unsafe, shaved.place, shaved.sign, shaved.strength))
            made = leaves.made(self.places, self._columns(slots), defaults)
            for k, place, sign, strength, leaf in zip(*parts, made, strict=True):
                found[k].append(End(self.places[place], sign < 0, leaf, strength, shaved.turn))
        return found

    def _columns(self, slots: Sequence[Slot]) -> np.ndarray:
        """Where the record's own slots are among others."""
        columns = {slot: i for i, slot in enumerate(slots)}
        return np.array([columns[slot] for slot in self.slots], dtype=np.int64)

    def _split(self, at: Neuron, point: float, below: Tree, above: Tree, weights: Sequence[float]) -> Tree:
        """A split with its twins: where two disagree, their number is the point, and a tree of either half holds."""
        for twin in self.twins.get(at, ()):
            low, high = pressed(below, {at: CORNER, twin: -CORNER}), pressed(above, {at: -CORNER, twin: CORNER})
            below, above = Split(twin, point, below, low), Split(twin, point, high, above)
        return Split(at, point, below, above, weights)


@dataclass(frozen=True, eq=False)
class _Leaves:
    """Evidence in little memory; pressure by row, place and value."""

    weights: list[list[float]]
    slopes: np.ndarray | None
    pressure: tuple[np.ndarray, np.ndarray, np.ndarray] | None

    @classmethod
    def of(cls, evidence: Evidence, weights: list[list[float]]) -> _Leaves:
        slopes, pressure = evidence.slopes, None
        if evidence.pressure is not None:
            dense = evidence.pressure.float().cpu().numpy()
            rows, places = np.nonzero(dense)
            pressure = rows, places, dense[rows, places]
        single = None if slopes is None else slopes.to("cpu", torch.float32).numpy()
        return cls(weights, single, pressure)

    def made(self, places: Sequence[Neuron], own: np.ndarray, defaults: np.ndarray | None) -> list[Leaf]:
        """Leaves with slopes for all slots, of which `own` are stated here."""
        slopes: list[np.ndarray | None] = [None] * len(self.weights)
        if self.slopes is not None:
            assert defaults is not None
            every = np.tile(defaults.astype(np.float32), (len(self.weights), 1))
            every[:, own] = self.slopes
            slopes = list(every)
        extra: list[dict[Neuron, float]] = [{} for _ in self.weights]
        if self.pressure is not None:
            for row, place, value in zip(*(part.tolist() for part in self.pressure), strict=True):
                extra[row][places[place]] = value
        return [Leaf(*parts) for parts in zip(self.weights, slopes, extra, strict=True)]


class Records:
    """Everything that a search leaves behind.

    sets: by unsafe set, the record that closed it, and as which of its sets. claims: by neuron, and whether it is the
    upper bound, the record that proves the best bound, and as which of its sets. flat: whether there will be proofs by
    intervals, which state slopes above neurons.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.numbers = {
            i: k for k, i in enumerate(i for i, n in enumerate(graph.nodes) if isinstance(n.op, Activation))
        }
        self.sets: dict[int, tuple[Record, int]] = {}
        self.claims: dict[tuple[Neuron, bool], tuple[Record, int]] = {}
        self.flat = False

    def neuron_record(
        self, units: Units, sizes: Sequence[int], nodes: Mapping[int, Interval], planes: Sequence[Plane] = ()
    ) -> Record:
        """A record of splits of units, for unsafe sets with so many rows, over bounds of what activations read.

        planes: above units; their shares are the last slots, in the order of the planes.
        """
        places = [(self.numbers[b.activation], i) for b in units.blocks for i in b.positions.tolist()]
        # Above a convex bend the best line is the chord, the checker's own choice where no leaf states another.
        convex = all(isinstance(b.op, Hinge) and b.op.slopes[0] <= b.op.slopes[1] for b in units.blocks)
        twins = _twins(units, places)
        sides = (False,) if convex and not self.flat and not twins else (False, True)
        slots: list[Slot] = [(place, upper) for upper in sides for place in places]
        slots += [((plane.activation, i), 2) for plane in planes for i in plane.positions.tolist()]
        return Record(sizes, places, slots, nodes, twins, planes)

    def unsplit(self, weights: Tensor, flat: bool) -> Record:
        """The record of one set, that `weights` (rows,) of its rows prove without splits.

        flat: by intervals, which are the slope zero below and above every neuron; else by the checker's own lines.
        """
        sizes = {number: self.graph.nodes[i].size for i, number in self.numbers.items() if flat}
        slots = [((number, i), upper) for number, size in sizes.items() for upper in (False, True) for i in range(size)]
        root, record = torch.zeros(1, dtype=torch.long), Record([len(weights)], [], slots)
        slopes = torch.zeros(1, len(slots)) if slots else None
        record.close(root, root, Evidence(weights.unsqueeze(0), slopes))
        return record

    def claim(self, activation: int, positions: Tensor, record: Record, before: Interval, after: Interval) -> None:
        """The record's sets are the lower, then the upper bounds of what an activation reads at positions."""
        ends = ((False, before.lower, after.lower), (True, -before.upper, -after.upper))
        for upper, old, new in ends:
            values = [side.flatten()[positions].tolist() for side in (old, new)]
            for i, (position, was, now) in enumerate(zip(positions.tolist(), *values, strict=True)):
                if now > was:
                    self.claims[(self.numbers[activation], position), upper] = record, i + upper * len(positions)

    def proof(self, count: int, merge: bool = False) -> Proof | None:
        """The proof of `count` unsafe sets, or None when one is not closed. merge: see `Proof`."""
        if not all(k in self.sets for k in range(count)):
            return None
        used = [record for record, _ in self.sets.values()] + [record for record, _ in self.claims.values()]
        records = list(dict.fromkeys(used))
        slots = sorted({slot for record in records for slot in record.slots}, key=lambda slot: (slot[1], slot[0]))
        made = {record: record.trees(slots, self._defaults(record, slots)) for record in records}
        trees = [made[record][i] for record, i in (self.sets[k] for k in range(count))]
        lemmas = [
            Lemma(neuron, upper, tree, record.planes)
            for (neuron, upper), (record, i) in self.claims.items()
            if (tree := made[record][i]) is not None
        ]
        closed = [tree for tree in trees if tree is not None]
        shaved = {record: record.ends(slots, self._defaults(record, slots)) for record in records}
        ends = [shaved[record][i] for record, i in (self.sets[k] for k in range(count))]
        inputs = [any(number == INPUT for number, _ in self.sets[k][0].places) for k in range(count)]
        if len(closed) < count:
            return None
        planes = [self.sets[k][0].planes for k in range(count)]
        bounds = self._bounds([self.sets[k][0] for k in range(count)])
        return Proof(closed, lemmas, ends, slots, None, inputs, merge, exponents(self.graph), planes, bounds)

    def _bounds(self, records: Sequence[Record]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """By the number of an activation, the best bounds of its inputs that records rest on."""
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for index, number in self.numbers.items():
            known = [r.nodes[read] for r in records if (read := self.graph.nodes[index].inputs[0]) in r.nodes]
            if known:
                lower = torch.stack([z.lower.flatten() for z in known]).amax(0)
                upper = torch.stack([z.upper.flatten() for z in known]).amin(0)
                found[number] = lower.double().cpu().numpy(), upper.double().cpu().numpy()
        return found

    def _defaults(self, record: Record, slots: Sequence[Slot]) -> np.ndarray:
        """CROWN's slopes (slots,) under the bounds that a record rests on; zero where it has none, and no planes."""
        slopes: dict[int, tuple[Tensor, Tensor]] = {}
        for index, number in self.numbers.items():
            node = self.graph.nodes[index]
            z = record.nodes.get(node.inputs[0])
            if z is not None:
                z = unsqueezed(z)
                assert isinstance(node.op, Activation)
                lines = node.op.relax(z, node.op.initial(z, "adaptive"))
                slopes[number] = lines.lower_slope.flatten().cpu(), lines.upper_slope.flatten().cpu()
        found = [float(slopes[i][side][j]) if i in slopes and side < 2 else 0.0 for (i, j), side in slots]
        return np.array(found)


def exponents(graph: Graph) -> list[int]:
    """Of the powers of two that the first factors of products are scaled by, in their order (see bounds/balance.py)."""
    scales = [node.op.a.expand(node.shape[1:]).log2() for node in graph.nodes if isinstance(node.op, SumDifference)]
    return [round(exponent) for scale in scales for exponent in scale.flatten().tolist()]


def _twins(units: Units, places: Sequence[Neuron]) -> dict[Neuron, list[Neuron]]:
    """By neuron, the others that read the same number."""
    readers: dict[int, list[Neuron]] = {}
    for number, place in zip(units.neuron.tolist(), places, strict=True):
        readers.setdefault(number, []).append(place)
    return {place: [p for p in some if p != place] for some in readers.values() if some[1:] for place in some}
