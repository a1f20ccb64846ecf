"""Pulling rows of outputs back to the input, op by op. One part of the stand-alone checker (see analysis.py)."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

if __package__:
    from verifier.certificate.arithmetic import MORE, TINY, Extra, Number, Prepared, picked
    from verifier.certificate.balls import rounded
    from verifier.certificate.exact import Exact
    from verifier.certificate.living import Living
    from verifier.certificate.nodes import Array, Node, need
    from verifier.certificate.properties import Ball
    from verifier.certificate.reading import Network
    from verifier.certificate.relaxation import Sides
    from verifier.certificate.rounded import Rounded
else:  # run as a file, with the others beside it
    from arithmetic import MORE, TINY, Extra, Number, Prepared, picked  # type: ignore
    from balls import rounded  # type: ignore
    from exact import Exact  # type: ignore
    from living import Living  # type: ignore
    from nodes import Array, Node, need  # type: ignore
    from properties import Ball  # type: ignore
    from reading import Network  # type: ignore
    from relaxation import Sides  # type: ignore
    from rounded import Rounded  # type: ignore

Others = Sequence[tuple[Node, Array]]
UNIT32, SMALL32, LARGE32 = 2.0**-24, 2.0**-148, 2.0**126
WIDE, FEW = 128, 4  # of how many values what counts is told apart; how many times fewer these must be
NOTHING = np.zeros((1, 1))


class Planes(NamedTuple):
    """Planes R.p + high above ReLUs at positions (k,), over the values p that the affine op `node` reads (planes.py).

    usable: (k,), which are planes. high: (1, k). reach: (1, k), of R.p + high. prepared: what a pull pays for them.
    share: (d, k), to which part of a ReLU each counts, in d regions.
    """

    node: Node
    positions: Array
    usable: Array
    high: Array
    reach: Array
    prepared: Prepared
    share: Array

    def at(self, columns: Array, shares: Array) -> Planes:
        """With shares (d, n) that are stated at columns (n,), in their order."""
        at = np.searchsorted(columns, self.positions) % len(columns)
        return self._replace(share=np.where(columns[at] == self.positions, shares[:, at], 0.0))


@dataclass(eq=False)
class Domains:
    """d regions: by node, bounds of its values, constants of affine ops with all errors, and what a pull pays there;
    by activation, bounds of its inputs z. Arrays (d, size), or (1, size) where all regions share them.

    parallel: what a pull pays at activations with parallel lines. extra: by activation, what is added to multipliers.
    planes: by activation, above it. slack: (d,), paid in any case. living: of one region, and its parts, what is left
    of affine ops by what is zero there. outside: (d,), whether some function may not be defined there, or not be
    bounded.
    """

    box: Sides
    empty: Array
    slack: Array
    lower: list[Array] = field(default_factory=list)
    upper: list[Array] = field(default_factory=list)
    constants: dict[int, Sides] = field(default_factory=dict)
    z: dict[int, Sides] = field(default_factory=dict)
    prepared: dict[int, Prepared] = field(default_factory=dict)
    parallel: dict[int, Prepared] = field(default_factory=dict)
    extra: dict[int, Extra] = field(default_factory=dict)
    planes: dict[int, Planes] = field(default_factory=dict)
    outside: Array = field(default_factory=lambda: np.zeros(1, dtype=bool))
    living: Living | None = None

    def __post_init__(self) -> None:
        self.outside = np.broadcast_to(self.outside, self.empty.shape).copy()

    def seen(self, regions: Array, columns: dict[int, Array], shared: set[int]) -> Domains:
        """What pulls need of some regions at positions (regions, k) of nodes, of which several read those `shared`."""
        made = Domains(self.box, self.empty, self.slack if len(self.slack) == 1 else self.slack[regions])
        made.lower, made.upper = ([NOTHING] * (max(columns) + 1) for _ in range(2))
        for i, own in columns.items():
            if i in self.prepared:
                made.prepared[i] = self.prepared[i].seen(regions, own)
            if i in shared:
                made.lower[i], made.upper[i] = (picked(x, regions, own) for x in (self.lower[i], self.upper[i]))
        return made

    def under(self, planes: dict[int, Planes]) -> Domains:
        """The same with planes above activations."""
        d = copy.copy(self)
        d.planes = planes
        return d

    def reach(self, j: int) -> Array:
        return np.maximum(np.abs(self.lower[j]), np.abs(self.upper[j]))


@dataclass(eq=False)
class Pulling:
    """How rows are pulled back. single: for float32 execution as well; hints: the certificate's header and arrays.

    ball: in which inputs lie, too.
    """

    network: Network
    kind: type[Exact | Rounded]
    single: bool
    hints: dict[str, Any]
    ball: Ball | None = None

    def __post_init__(self) -> None:
        sizes = [node.size for node in self.network.nodes]
        self.arithmetic = self.kind(max(sizes) + 4 * len(sizes))
        self.round = rounded(self.ball, sizes[1]) if self.ball else None
        self.planes: dict[int, dict[int, Planes]] = {}  # by list of the certificate, the last one

    def begun(self, box: Sides) -> Domains:
        """Regions of which only the boxes of inputs are known."""
        lower, upper = box
        reach = np.maximum(np.abs(lower), np.abs(upper))
        need(not self.single or (reach < LARGE32).all(), "an input may overflow in float32")
        error = self.reading_error(reach)
        d = Domains(box, np.any(lower > upper, axis=1), np.full(len(lower), -TINY))
        d.lower += [np.zeros((1, 1)), np.nextafter(lower - error, -math.inf)]
        d.upper += [np.zeros((1, 1)), np.nextafter(upper + error, math.inf)]
        d.slack = d.slack - TINY * d.reach(1).sum(axis=1)
        d.prepared[1] = self.arithmetic.plain(d.lower[1], d.upper[1], d.reach(1))
        return d

    def reading_error(self, reach: Array) -> Array:
        """How far from its input what a float32 network reads may be."""
        return (reach * (UNIT32 * MORE) + SMALL32) * self.single

    def least(
        self,
        start: Node,
        rows: Array,
        d: Domains,
        regions: Array,
        added: Array | None = None,
        both: bool = False,
        others: Others = (),
    ) -> Number:
        """Lower bounds (d k,) of rows (d, k, size) over what `start` reads in regions of d, plus numbers (d, k).

        both: where lines are parallel, the same for the rows' negatives, too; two arrays in one. others: nodes and rows
        (d k, size) over what they read, which count as well.
        """
        total, v = self.pull(start, rows, d, regions, both, others)
        total = total if added is None else self.arithmetic.total([total, added.reshape((2, -1) if both else -1)])
        if v is None:
            return total
        box = d.prepared[1].at(regions)
        if self.round is None:
            return self.arithmetic.total([total, self.arithmetic.least(v, box, both)])
        reach = d.reach(1)
        error = self.reading_error(reach.max(axis=0, keepdims=True)) * self.round.counts
        low = np.where(error > 0, np.nextafter(self.round.low - error, -math.inf), self.round.low)
        high = np.where(error > 0, np.nextafter(self.round.high + error, math.inf), self.round.high)
        centre = self.arithmetic.plain(low, high, reach)
        least = self.arithmetic.in_ball(v, box, self.round, centre, reach if len(reach) == 1 else reach[regions])
        return self.arithmetic.total([total, least])

    def sides(self, start: Node, rows: Array, d: Domains, regions: Array, parallel: bool, added: Sides | None) -> Sides:
        """Lower bounds (regions, k) of rows (regions, k, size) over what `start` reads, and of their negatives.

        parallel: by parallel lines, of which one pass gives both. added: to either.
        """
        shape, both = rows.shape[:2], parallel and self.arithmetic.mirrors and self.round is None
        if both:
            found = self.least(start, rows, d, regions, None if added is None else np.stack(added), both=True)
            low, high = self.arithmetic.down(found).reshape(2, *shape)
            return low, high
        more = None if added is None else np.concatenate(added, axis=1)
        found = self.least(start, np.concatenate((rows, -rows), axis=1), d, regions, more)
        low, high = np.split(self.arithmetic.down(found).reshape(len(rows), -1), 2, axis=1)
        return low, high

    def counting(self, j: int, v: Number, d: Domains) -> Array | None:
        """Where coefficients v of a wide node's values are not zero, if that is at few places."""
        node = self.network.nodes[j]
        few = node.op != "affine" or (node.index is not None and node.shape[1] == node.shape[3] == 1)
        if not (few and node.size >= WIDE and self.arithmetic.fuses and isinstance(v, Array)) or j in d.extra:
            return None
        some = np.flatnonzero(v.any(axis=0))
        return some if 0 < FEW * len(some) <= node.size else None

    def backward(self, j: int, v: Number, d: Domains) -> Number:
        """Coefficients of what an affine op reads. Those of values that are zero over the region may be left out."""
        node = self.network.nodes[j]
        if d.living is not None and isinstance(v, Array) and self.arithmetic.fuses:
            left = d.living.of(j, node)
            narrow = left.narrow(v)
            if narrow is not None:
                terms = node.shape[3] * node.repeats
                return left.wide(self.arithmetic.product(np.matmul, v[:, narrow[0]], narrow[1], terms))
        return self.product(node, v)

    def product(self, node: Node, v: Number) -> Number:
        return self.arithmetic.product(node.backward, v, node.weight, node.shape[3] * node.repeats)

    def pull(
        self, start: Node, rows: Array, d: Domains, regions: Array, both: bool = False, others: Others = ()
    ) -> tuple[Number, Number | None]:
        """Numbers c (d k,) and coefficients A (d k, inputs) such that rows . y >= c + A . x.

        both: c is (2, d k), and -rows . y >= c[1] - A . x as well. others: see `least`.
        """
        nodes, arithmetic, many = self.network.nodes, self.arithmetic, len(rows) * rows.shape[1]
        slack = d.slack if len(d.slack) == 1 else d.slack[regions]
        totals: list[Number] = [np.repeat(slack, many // len(slack))]
        pending: list[list[Number]] = [[] for _ in nodes]
        paid: set[int] = set()

        def spread(node: Node, A: Number) -> None:
            for i, end in zip(node.sources, itertools.accumulate(nodes[i].size for i in node.sources), strict=True):
                some = slice(end - nodes[i].size, end)
                pending[i].append(A[:, some] if isinstance(A, Array) else (A[0][:, some], A[1]))

        for node, A in ((start, rows.reshape(many, -1)), *others):
            spread(node, node.scatter(A))
        for j in range(len(nodes) - 1, 0, -1):
            if not pending[j]:
                continue
            node, v = nodes[j], pending[j][0]
            if pending[j][1:]:
                reach = d.reach(j)
                v, cost = arithmetic.sum(pending[j], reach if len(reach) == 1 else reach[regions])
                totals.append(cost)
            pending[j] = []
            if j == 1:
                return arithmetic.total(totals), v
            if j in d.planes:
                totals.append(self.pull_planes(v, d.planes[j], regions, spread))
            some = self.counting(j, v, d)
            if some is not None:
                node, v = node.part(some), v[:, some]
            if j not in paid:
                cost, v = arithmetic.through(v, d.prepared[j].at(regions, some), d.extra.get(j), both)
                totals.append(cost)
            if node.op == "affine":
                A = self.backward(j, v, d) if some is None else self.product(node, v)
            else:
                A = node.scatter(v)
                if arithmetic.fuses and j in self.network.alone:
                    i = self.network.alone[j]
                    totals += [arithmetic.least(own, d.prepared[i].at(regions)) for own in pending[i]]  # of `others`
                    paid.add(i)
            spread(node, A)
        return arithmetic.total(totals), None

    def pull_planes(self, v: Number, planes: Planes, regions: Array, spread: Callable[[Node, Number], None]) -> Number:
        """What coefficients v below zero cost where planes take the place of lines; hands on what they become."""
        part = self.arithmetic.below_zero(v, planes.positions, planes.share[regions])
        cost, part = self.arithmetic.through(part, planes.prepared)
        node = planes.node
        spread(node, self.product(node, part))
        return cost
