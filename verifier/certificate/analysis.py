"""Bounds of what a network computes, by weak duality; like `checker.py` it needs only numpy and onnx.

For ANY multipliers s = v slope, and z in [l, u],

    y = W x + b:    s.y = (W^T s).x + s.b
    a = act(z):     v.a >= s.z + sum_j (v_j low_j where v_j >= 0, v_j high_j elsewhere),

where low <= act(z) - slope z <= high; so that pulling a combination of outputs back to the input, op by op, leaves a
lower bound that is linear in the input. In float32 an op computes y + e, |e| <= gamma_{n+2} (|W| |x| + |b|) +
underflow, in any order of summation (Higham 2002, section 3.1); paying |s|.e makes every bound hold for computed values
and for exact ones alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

if __package__:
    from verifier.certificate.arithmetic import MORE, TINY, Exact, Extra, Number, Prepared, Rounded
    from verifier.certificate.balls import rounded
    from verifier.certificate.properties import Ball
    from verifier.certificate.reading import SMOOTH, Array, Network, Node, logistic, need
    from verifier.certificate.trees import INPUT, Leaf, batches, leaves
else:  # run as a file, with the others beside it
    from arithmetic import MORE, TINY, Exact, Extra, Number, Prepared, Rounded  # type: ignore
    from balls import rounded  # type: ignore
    from properties import Ball  # type: ignore
    from reading import SMOOTH, Array, Network, Node, logistic, need  # type: ignore
    from trees import INPUT, Leaf, batches, leaves  # type: ignore

BATCH = 1 << 16  # numbers of an array
UNIT32, SMALL32, LARGE32 = 2.0**-24, 2.0**-148, 2.0**126
Sides = tuple[Array, Array]  # lower and upper
Split = tuple[int, int, int, float, float]  # region, position, side, point, what is added to the multiplier


@dataclass(eq=False)
class Domains:
    """d regions: by node, bounds of its values, constants of affine ops with all errors, and what a pull pays there;
    by activation, bounds of its inputs z. Arrays (d, size), or (1, size) where all regions share them.

    extra: by activation, what is added to multipliers. slack: (d,), paid in any case.
    """

    box: Sides
    empty: Array
    slack: Array
    lower: list[Array] = field(default_factory=list)
    upper: list[Array] = field(default_factory=list)
    constants: dict[int, Sides] = field(default_factory=dict)
    z: dict[int, Sides] = field(default_factory=dict)
    prepared: dict[int, Prepared] = field(default_factory=dict)
    extra: dict[int, Extra] = field(default_factory=dict)

    def reach(self, j: int) -> Array:
        return np.maximum(np.abs(self.lower[j]), np.abs(self.upper[j]))


def cut(lower: Array, upper: Array, at: tuple[int, int], side: int, point: float) -> None:
    """Keep of an interval, in place, what is above (side 1) or below a point."""
    lower[at], upper[at] = (max(lower[at], point), upper[at]) if side > 0 else (lower[at], min(upper[at], point))


@dataclass(eq=False)
class Analysis:
    """How bounds are computed. single: for float32 execution as well; hints: the certificate's header and arrays.

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

    # --- One activation. ---
    def default_slopes(self, node: Node, l: Array, u: Array) -> Array:
        """Of lines below and above an activation, (2, d, n): of a few, those best in the middle of [l, u]."""
        middle = (l + u) / 2
        if node.op == "Relu":  # the same in short
            chord = np.divide(u, u - l, out=(l >= 0).astype(np.float64), where=(l < 0) & (u > 0))
            return np.stack((np.where(u <= 0, 0.0, (middle > 0) | (l >= 0)), chord))
        shares = (0, 1) if node.op not in SMOOTH else (0, 1, 0.25, 0.5, 0.75)
        z = np.stack([*(l + share * (u - l) for share in shares), *(np.clip(b, l, u) for b in node.breaks)])
        y = node.values(z, self.single)[0]
        pieces = [np.full_like(l, slope) for slope in node.slopes]
        if node.op in SMOOTH:
            y0 = logistic(SMOOTH[node.op][1] * middle)
            pieces = [4 * node.slopes[1] * y0 * (1 - y0)]
        slopes = np.stack([*pieces, np.divide(y[1] - y[0], u - l, out=np.zeros_like(l), where=u > l)])
        offsets = y - slopes[:, None] * z
        last = np.arange(len(slopes)).reshape(-1, 1, 1) * (u - l) * 2.0**-30  # prefers the first of equals
        heights = (slopes * middle + offsets.min(1) - last, slopes * middle + offsets.max(1) + last)
        best = (heights[0].argmax(0), heights[1].argmin(0))
        return np.stack([np.take_along_axis(slopes, i[None], 0)[0] for i in best])

    def points(self, node: Node, l: Array, u: Array, slope: Array, above: bool) -> list[tuple[Array, Array]]:
        """Pairs (p, q) such that act(z) - slope z >= min of p - slope q (above: <= max) for every z in [l, u]."""
        pairs = []
        for z in (l, u, *(np.clip(b, l, u) for b in node.breaks)):
            low, high = node.values(z, self.single)
            pairs.append((high if above else low, z))
        if node.op in SMOOTH:  # where act is convex, a tangent is below it, by little if its slope is about that
            a, b, c = SMOOTH[node.op]
            ends = (np.clip(0, l, u), u) if above else (l, np.clip(0, l, u))
            root = np.sqrt(np.clip(np.nan_to_num(1 - 4 * slope / (a * b)), 0, 1 - 2.0**-40))
            touch = np.clip(np.log((1 + root) / (1 - root)) / (b if above else -b), *ends)
            y = logistic(b * touch)
            for z in ends:
                line, error = a * y + c + a * b * y * (1 - y) * (z - touch), 2.0**-42 * (1 + np.abs(z - touch))
                pairs.append((line + error if above else line - error, z))
        return pairs

    def relaxed(self, j: int, l: Array, u: Array, slopes: Array, constants: Sides | None) -> Prepared:
        """What a pull pays at activation j. constants: of the affine op below it, where that is paid here as well."""
        node, (below, above) = self.network.nodes[j], slopes
        low, high = np.zeros(l.shape), np.zeros(l.shape)
        bent = np.ones(l.shape, dtype=bool)
        if node.op == "Relu":  # beyond the bend, lines with the slope of ReLU are ReLU
            side = np.where(l >= 0, 1.0, np.where(u <= 0, 0.0, np.nan))
            bent = (below != side) | (above != side)
        l_, u_, a, b = (x[bent] for x in (l, u, below, above))
        low[bent] = self.arithmetic.offset(self.points(node, l_, u_, a, False), a)
        high[bent] = -self.arithmetic.offset([(-p, -q) for p, q in self.points(node, l_, u_, b, True)], b)
        reach = np.maximum(np.abs(l), np.abs(u))
        return self.arithmetic.activation(below, above, low, high, reach, constants)

    def fused(self, j: int, constants: dict[int, Sides]) -> Sides | None:
        """The constants of the affine op that activation j alone reads, if they are paid together with it."""
        return constants[self.network.alone[j]] if self.arithmetic.fuses and j in self.network.alone else None

    def stated(self, j: int, slopes: Array, code: Array, columns: Array) -> None:
        """Put slopes that rows of codes (d,) state (0: none) in the place of slopes (2, d, n), given at `columns`."""
        number, position, side = self.hints["slots"]
        some, rows = np.nonzero(number == self.network.activations.index(j))[0], np.nonzero(code)[0]
        if len(some) and len(rows):
            low, high = self.network.nodes[j].slopes
            codes, levels = (self.hints["finer"], 65535) if "finer" in self.hints else (self.hints["codes"], 255)
            values = codes[code[rows, None] - 1, some] * ((high - low) / levels) + low
            slopes[side[some], rows[:, None], np.searchsorted(columns, position[some])] = values

    # --- Bounds of all nodes. ---
    def bounds(self, box: Sides, known: Any = None, code: Array | None = None, lemmas: bool = True) -> Domains:
        """All about d regions of inputs in boxes (lower, upper), each (d, inputs).

        known: valid bounds of the inputs of activations, to be improved; else the certificate's lemmas improve them.
        code: of the slopes that regions use.
        """
        d = self.begun(box)
        for j, node in enumerate(self.network.nodes[2:], start=2):
            l, u = node.gather(d.lower), node.gather(d.upper)
            if node.op == "affine":
                mass = node.forward(np.maximum(np.abs(l), np.abs(u)), node.magnitude)
                d.constants[j] = low, high = self.constants(node, mass, l, u, d)
                l, u = self.arithmetic.interval(node, l, u, low, high, mass)
                d.prepared[j] = self.arithmetic.plain(low, high, np.maximum(np.abs(l), np.abs(u)))
            else:
                l, u = (np.broadcast_to(x, (len(box[0]), node.size)).copy() for x in (l, u))
                if known:
                    l, u = np.maximum(l, known[j][0]), np.minimum(u, known[j][1])
                self.refine(j, l, u, d)
                if lemmas and not known:
                    self.prove(j, l, u, d)
                d.empty |= (l > u).any(axis=1)
                d.z[j], slopes = (l, u), self.default_slopes(node, l, u)
                if code is not None:
                    self.stated(j, slopes, code, np.arange(node.size))
                d.prepared[j] = self.relaxed(j, l, u, slopes, self.fused(j, d.constants))
                ends = (l, u) if node.slopes[0] >= 0 else (l, u, *(np.clip(b, l, u) for b in node.breaks))
                values = [node.values(z, self.single) for z in ends]
                d.slack = d.slack - TINY * (np.abs(l) + np.abs(u)).sum(axis=1)
                l, u = np.minimum.reduce([low for low, _ in values]), np.maximum.reduce([high for _, high in values])
            d.lower.append(l)
            d.upper.append(u)
            d.slack = d.slack - TINY * (1 + d.reach(j).sum(axis=1))
        return d

    def adopted(self, base: Domains) -> Domains:
        """The same bounds, from another arithmetic, for this one."""
        d = self.begun(base.box)
        d.lower, d.upper, d.z, d.constants, d.slack = base.lower, base.upper, base.z, base.constants, base.slack
        for j, node in enumerate(self.network.nodes[2:], start=2):
            if node.op == "affine":
                d.prepared[j] = self.arithmetic.plain(*d.constants[j], d.reach(j))
            else:
                slopes = self.default_slopes(node, *d.z[j])
                d.prepared[j] = self.relaxed(j, *d.z[j], slopes, self.fused(j, d.constants))
        return d

    def begun(self, box: Sides) -> Domains:
        """Regions of which only the boxes of inputs are known."""
        lower, upper = box
        error = self.reading_error(np.maximum(np.abs(lower), np.abs(upper)))
        d = Domains(box, np.any(lower > upper, axis=1), np.full(len(lower), -TINY))
        d.lower += [np.zeros((1, 1)), np.nextafter(lower - error, -math.inf)]
        d.upper += [np.zeros((1, 1)), np.nextafter(upper + error, math.inf)]
        d.slack = d.slack - TINY * d.reach(1).sum(axis=1)
        d.prepared[1] = self.arithmetic.plain(d.lower[1], d.upper[1], d.reach(1))
        return d

    def constants(self, node: Node, mass: Array, l: Array, u: Array, d: Domains) -> Sides:
        """The constants of an affine op with all that its result may be off by, where it reads from [l, u].

        mass: |W| |x| at most. What rounding loses when a pull goes on from here to x counts as well. In float32, two
        numbers that differ by nothing, or by their sign, in real arithmetic each err by themselves.
        """
        need(np.isfinite(mass).all(), "a value may overflow")
        error = (node.shape[3] * node.repeats + 4) * self.arithmetic.unit * mass
        if node.deviation is not None:
            error = error + node.forward(np.maximum(np.abs(l), np.abs(u)), node.deviation) * MORE + TINY
        if self.single and node.terms:
            total = mass + np.abs(node.bias)
            need((total < LARGE32).all(), "a value may overflow in float32")
            error = error + (node.terms + 2) * (UNIT32 / (1 - (node.terms + 2) * UNIT32) * total * MORE + SMALL32)
        if self.single and node.copies is not None:
            own, other = node.copies
            error = error + np.where(own == other, 0.0, (self.drift(own, d) + self.drift(other, d)) * MORE)
        if not error.any():
            return node.bias, node.bias
        return np.nextafter(node.bias - error * MORE, -math.inf), np.nextafter(node.bias + error * MORE, math.inf)

    def drift(self, ids: Array, d: Domains) -> Array:
        """How far scalars of a dense layer, perhaps with constants added, may be from it on what it reads."""
        j = int(np.searchsorted(self.network.starts, ids.min(), side="right")) - 1
        node, (low, high), columns = self.network.nodes[j], d.constants[j], ids - self.network.starts[j]
        error = (high - low)[:, columns]
        if node.shape[:2] == (1, 1):
            return error
        index = np.arange(node.size) if node.index is None else node.index.ravel()
        return error + self.drift(index[columns] + self.network.starts[node.sources[0]], d)

    def refine(self, j: int, l: Array, u: Array, d: Domains) -> None:
        """Improve, in place, bounds (d, n) of an activation's undecided inputs by backward passes."""
        node, number = self.network.nodes[j], self.network.activations.index(j)
        if not self.hints["refine"][number]:
            return
        is_open = np.any([(l < b) & (b < u) for b in node.breaks], axis=0) | ((l < u) & (node.op in SMOOTH))
        width = 2 * max(math.prod(n.shape[:3]) + n.size for n in self.network.nodes[: j + 1])
        step = max(8, BATCH // width, min(64, 32 * BATCH // width))  # products of few rows are slow
        for regions, places in chunks(is_open, step):
            found = self.least(*self.units(j, places, d, regions))
            low, high = np.split(self.arithmetic.down(found).reshape(len(regions), -1), 2, axis=1)
            at = regions[:, None], places
            l[at] = np.where(is_open[at] & (low > l[at]), low, l[at])
            u[at] = np.where(is_open[at] & (-high < u[at]), -high, u[at])

    def units(
        self, j: int, places: Array, d: Domains, regions: Array
    ) -> tuple[Node, Array, Domains, Array, Array | None]:
        """What to pull (see `least`) for lower and for negative upper bounds of inputs of activation j at places.

        places: (regions, k). Rows come to (regions, 2 k, ...). A dense layer below needs no product.
        """
        node, i = self.network.nodes[j], self.network.alone.get(j)
        if i is None or self.network.nodes[i].shape[:2] != (1, 1) or self.network.nodes[i].repeats > 1:
            rows = np.zeros((*places.shape, node.size))
            np.put_along_axis(rows, places[..., None], 1, axis=2)
            return node, np.concatenate((rows, -rows), axis=1), d, regions, None
        rows = self.network.nodes[i].weights[0].array[0].T[places]
        low, high = (x[0][places] if len(x) == 1 else x[regions[:, None], places] for x in d.constants[i])
        added = np.concatenate((low, -high), axis=1)
        added = added - 4 * self.arithmetic.loss * np.abs(added)
        return self.network.nodes[i], np.concatenate((rows, -rows), axis=1), d, regions, added

    def prove(self, j: int, l: Array, u: Array, d: Domains) -> None:
        """Improve, in place, bounds (1, n) of an activation's inputs by the certificate's lemmas about them."""
        node, name = self.network.nodes[j], f"a{self.network.activations.index(j)}"
        if f"kind.{name}" not in self.hints:
            return
        position, side = self.hints[f"target.{name}"]
        best, code, last = np.full(len(position), math.inf), self.hints[f"code.{name}"], -1
        for batch in batches(leaves(self.hints, name), max(1, BATCH // sum(n.size for n in self.network.nodes[:j]))):
            trees, last = np.array([leaf.tree for leaf in batch]), batch[-1].tree
            rows = np.zeros((len(batch), 1, node.size))
            rows[np.arange(len(batch)), 0, position[trees]] = 1 - 2 * side[trees]
            found, empty = self.at_leaves(node, rows, batch, code[batch[0].number :][: len(batch)], d, j)
            np.minimum.at(best, trees, np.where(empty, math.inf, self.arithmetic.down(found)))
        need(last == len(position) - 1 and np.isfinite(best).all(), f"the lemmas {name} are incomplete")
        np.maximum.at(l, (0, position[side == 0]), best[side == 0])
        np.minimum.at(u, (0, position[side == 1]), -best[side == 1])

    def at_leaves(
        self, start: Node, rows: Array, batch: list[Leaf], code: Array, base: Domains, until: int | None
    ) -> tuple[Number, Array]:
        """Lower bounds of rows (leaves, 1, size) over what `start` reads, and which leaves are empty.

        Leaves take over bounds of the one region that holds them. until: the node before which `start` comes.
        """
        lower, upper = (side.repeat(len(batch), axis=0) for side in base.box)
        splits: dict[int, list[Split]] = {}
        for i, leaf in enumerate(batch):
            extra = iter(leaf.extra)
            for kind, position, side, point in leaf.path:
                if kind == INPUT:
                    cut(lower, upper, (i, position), side, point)
                else:
                    j = self.network.activations[kind - 2]
                    splits.setdefault(j, []).append((i, position, side, point, next(extra)))
        d = self.begun((lower, upper))
        d.lower, d.upper = d.lower[:2] + base.lower[2:], d.upper[:2] + base.upper[2:]
        d.slack = d.slack + base.slack
        for j in range(2, until or len(self.network.nodes)):
            if self.network.nodes[j].op == "affine":
                d.prepared[j] = base.prepared[j]
            else:
                self.split(j, splits.get(j, []), code, base, d)
        return self.least(start, rows, d, np.arange(len(batch))), d.empty

    def split(
        self, j: int, splits: list[tuple[int, int, int, float, float]], code: Array, base: Domains, d: Domains
    ) -> None:
        """What is known of activation j in the parts of a region where its inputs are split, or slopes are stated."""
        slots = self.hints["slots"]
        touched = slots[1][slots[0] == self.network.activations.index(j)] if code.any() else []
        columns = np.unique([*touched, *(split[1] for split in splits)]).astype(np.int64)
        need(not len(columns) or columns[-1] < self.network.nodes[j].size, "there is no such neuron")
        d.prepared[j] = base.prepared[j]
        if not len(columns):
            return
        l, u = (side[:, columns].repeat(len(d.empty), axis=0) for side in base.z[j])
        added: dict[tuple[int, int], float] = {}
        for i, position, side, point, extra in splits:
            place = int(np.searchsorted(columns, position))
            cut(l, u, (i, place), side, point)
            if extra:
                added[i, place] = added.get((i, place), 0.0) + extra
        node, constants = self.network.nodes[j], self.fused(j, base.constants)
        slopes = self.default_slopes(node, l, u)
        self.stated(j, slopes, code, columns)
        if constants is not None:
            constants = constants[0][:, columns], constants[1][:, columns]
        d.empty |= (l > u).any(axis=1)
        own = self.relaxed(j, l, u, slopes, constants)
        if added:
            at = regions, places = tuple(np.array(some) for some in zip(*added, strict=True))
            own.low[at] = own.high[at] = 0  # what they cost is seen when the multipliers are
            below, above = (np.stack(self.points(node, l[at], u[at], slopes[i][at], i > 0)) for i in (0, 1))
            paid = np.stack([np.broadcast_to(x, l.shape)[at] for x in constants or (np.zeros((1, 1)),) * 2])
            d.extra[j] = Extra(regions, columns[places], np.array([*added.values()]), below, above, paid)
        d.prepared[j] = base.prepared[j].changed(columns, own)

    # --- Pulling back. ---
    def least(self, start: Node, rows: Array, d: Domains, regions: Array, added: Array | None = None) -> Number:
        """Lower bounds (d k,) of rows (d, k, size) over what `start` reads in regions of d, plus numbers (d, k)."""
        total, v = self.pull(start, rows, d, regions)
        total = total if added is None else self.arithmetic.total([total, added.ravel()])
        box, reach = d.prepared[1].at(regions), d.reach(1)
        if v is None:
            return total
        if self.round is None:
            return self.arithmetic.total([total, self.arithmetic.least(v, box)])
        error = self.reading_error(reach.max(axis=0, keepdims=True)) * self.round.counts
        low = np.where(error > 0, np.nextafter(self.round.low - error, -math.inf), self.round.low)
        high = np.where(error > 0, np.nextafter(self.round.high + error, math.inf), self.round.high)
        centre = self.arithmetic.plain(low, high, reach)
        least = self.arithmetic.in_ball(v, box, self.round, centre, reach if len(reach) == 1 else reach[regions])
        return self.arithmetic.total([total, least])

    def reading_error(self, reach: Array) -> Array:
        """How far from its input what a float32 network reads may be."""
        return (reach * (UNIT32 * MORE) + SMALL32) * self.single

    def pull(self, start: Node, rows: Array, d: Domains, regions: Array) -> tuple[Number, Number | None]:
        """Numbers c (d k,) and coefficients A (d k, inputs) such that rows . y >= c + A . x."""
        nodes, arithmetic, many = self.network.nodes, self.arithmetic, len(rows) * rows.shape[1]
        slack = d.slack if len(d.slack) == 1 else d.slack[regions]
        totals: list[Number] = [np.repeat(slack, many // len(slack))]
        pending: list[list[Number]] = [[] for _ in nodes]
        paid: set[int] = set()

        def spread(node: Node, A: Number) -> None:
            for i, end in zip(node.sources, itertools.accumulate(nodes[i].size for i in node.sources), strict=True):
                some = slice(end - nodes[i].size, end)
                pending[i].append(A[:, some] if isinstance(A, Array) else (A[0][:, some], A[1]))

        spread(start, start.scatter(rows.reshape(many, -1)))
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
            if j not in paid:
                cost, v = arithmetic.through(v, d.prepared[j].at(regions), d.extra.get(j))
                totals.append(cost)
            if node.op == "affine":
                A = arithmetic.product(node.backward, v, node.weights[0], node.shape[3] * node.repeats)
            else:
                A = node.scatter(v)
                if arithmetic.fuses and j in self.network.alone:
                    paid.add(self.network.alone[j])
            spread(node, A)
        return arithmetic.total(totals), None


def chunks(is_open: Array, most: int) -> Iterator[tuple[Array, Array]]:
    """Regions (m,) with open neurons (m, k) of each, about `most` at a time; closed ones where fewer are open."""
    counts, places = is_open.sum(axis=1), np.argsort(~is_open, axis=1, kind="stable")
    order = np.argsort(counts)[(counts == 0).sum() :]
    while len(order):
        count = int(counts[order[-1]])
        some = order[-max(1, most // count) :]
        order = order[: -len(some)]
        for i in range(0, count, most):
            yield some, places[some, i : min(count, i + most)]
