"""A stand-alone checker of certificates: `python checker.py CERT --model M.onnx --property P.vnnlib`.

It trusts nobody: with `trees.py`, `arithmetic.py` and `reading.py` beside it, it reads model and property itself,
recomputes every bound, and needs only numpy and onnx. A certificate (see format.py) holds a tree of splits for every
unsafe set of the property, and hints that can make a bound weak but never wrong, by weak duality: for ANY multipliers s
and l <= z <= u,

    y = W x + b:    s.y = (W^T s).x + s.b
    a = act(z):     v.a >= s.z + sum_j min over z_j in [l_j, u_j] of (v_j act(z_j) - s_j z_j),

so that pulling a combination of outputs back to the input, op by op, leaves a lower bound. In float32 an op computes
y + e, |e| <= gamma_{n+2} (|W| |x| + |b|) + underflow, in any order of summation (Higham 2002, section 3.1); paying
|s|.e makes every bound hold for computed values and for exact ones alike.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import math
import sys
import zlib
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

if __package__:
    from verifier.certificate.arithmetic import MORE, TINY, Exact, Number, Rounded, TooWide, clipped
    from verifier.certificate.reading import SMOOTH, Array, Case, Network, Node, Refused, logistic, need, read_property
    from verifier.certificate.trees import INPUT, LEAF, MOST_BYTES, Leaf, Tree, batches, joined, leaves, unpack
else:  # run as a file, with the others beside it
    from arithmetic import MORE, TINY, Exact, Number, Rounded, TooWide, clipped  # type: ignore
    from reading import SMOOTH, Array, Case, Network, Node, Refused, logistic, need, read_property  # type: ignore
    from trees import INPUT, LEAF, MOST_BYTES, Leaf, Tree, batches, joined, leaves, unpack  # type: ignore

BATCH, EXACT_WORK = 1 << 16, 1 << 25  # work: about a minute of exact arithmetic
UNIT32, SMALL32, LARGE32 = 2.0**-24, 2.0**-148, 2.0**126


# --- Bounds. ----------------------------------------------------------------------------------------------------------
@dataclass(eq=False)
class Domains:
    """d regions: by node, bounds of its values and of its constants with errors; by activation, bounds of its inputs z
    and default slopes (below, above). Arrays (d, size), or (1, size) where all regions share them."""

    empty: Array
    lower: list[Array] = field(default_factory=list)
    upper: list[Array] = field(default_factory=list)
    constants: dict[int, tuple[Array, Array]] = field(default_factory=dict)
    z: dict[int, tuple[Array, Array]] = field(default_factory=dict)
    slopes: dict[int, Array] = field(default_factory=dict)


def cut(lower: Array, upper: Array, at: tuple[int, int], side: int, point: float) -> None:
    """Keep of an interval, in place, what is above (side 1) or below a point."""
    lower[at], upper[at] = (max(lower[at], point), upper[at]) if side > 0 else (lower[at], min(upper[at], point))


Sides = tuple[Array, Array]  # lower and upper
Splits = dict[int, list[tuple[int, int, int, float, float]]]  # by node: region, position, side, point, extra multiplier


@dataclass(eq=False)
class Analysis:
    """How bounds are computed. single: for float32 execution as well; hints: the certificate's header and arrays."""

    network: Network
    arithmetic: Exact | Rounded
    single: bool
    hints: dict[str, Any]

    def default_slopes(self, node: Node, l: Array, u: Array) -> Array:
        """Of lines below and above an activation, (2, d, n): of a few, those best in the middle of [l, u]."""
        middle = (l + u) / 2
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

    def points(self, node: Node, l: Array, u: Array, v: Array, s: Array) -> list[tuple[Array, Array]]:
        """Pairs (p, q) such that v act(z) - s z >= min of v p - s q for every z in [l, u]."""
        pairs = []
        for z in (l, u, *(np.clip(b, l, u) for b in node.breaks)):
            low, high = node.values(z, self.single)
            pairs += [(low, z)] if low is high else [(low, z), (high, z)]
        if node.op in SMOOTH:  # where v act is convex, a tangent is below it, by little if its slope is about s / v
            a, b, c = SMOOTH[node.op]
            ends = (np.where(v >= 0, l, np.clip(0, l, u)), np.where(v >= 0, np.clip(0, l, u), u))
            root = np.sqrt(np.clip(np.nan_to_num(1 - 4 * s / (a * b * v)), 0, 1 - 2.0**-40))
            touch = np.clip(np.log((1 + root) / (1 - root)) / np.where(v >= 0, -b, b), *ends)
            y = logistic(b * touch)
            for z in ends:
                line, error = a * y + c + a * b * y * (1 - y) * (z - touch), 2.0**-42 * (1 + np.abs(z - touch))
                pairs += [(line - error, z), (line + error, z)]
        return pairs

    def pull(
        self, start: Node, rows: Array, owner: Array, d: Domains, code: Array, splits: Splits, form: Any = None
    ) -> Number:
        """Lower bounds of rows (r, size) over what `start` reads, in the regions `owner`, with rows `code` of hints.

        form: a list that takes up the coefficients of the inputs, which then do not enter the bounds.
        """
        nodes, arithmetic, totals = self.network.nodes, self.arithmetic, [np.zeros(len(rows))]
        pending: list[list[Number]] = [[] for _ in nodes]

        def spread(node: Node, A: Number) -> None:
            for i, end in zip(node.sources, itertools.accumulate(nodes[i].size for i in node.sources), strict=True):
                cut = slice(end - nodes[i].size, end)
                whole = isinstance(A, Array)
                pending[i].append(A[:, cut] if whole else tuple(x[:, cut] if isinstance(x, Array) else x for x in A))

        def own(x: Array) -> Array:
            return x if len(x) == 1 else x[owner]

        spread(start, start.scatter(rows))
        for j in range(len(nodes) - 1, 0, -1):
            if not pending[j]:
                continue
            node, v = nodes[j], arithmetic.total(pending[j]) if pending[j][1:] else pending[j][0]
            lower, upper = map(own, d.z.get(j) or (d.lower[j], d.upper[j]))
            near, reach = arithmetic.near(v), np.maximum(np.abs(lower), np.abs(upper))
            if node.op == "input" and form is not None:
                form.append(v)
            elif node.op == "input":
                totals.append(arithmetic.least(v, np.zeros(1), [(lower, lower), (upper, upper)]))
            elif node.op == "affine":
                s = v
                if isinstance(v, tuple):
                    s = arithmetic.multiplier(near, reach)
                    totals.append(arithmetic.least(v, s, [(lower, lower), (upper, upper)]))
                totals.append(arithmetic.least(s, np.zeros(1), [(own(x), np.zeros(1)) for x in d.constants[j]]))
                terms = node.shape[3] * node.repeats
                spread(node, arithmetic.product(node.backward, s, node.weights[0], terms))
            else:
                s = near * np.where(near >= 0, *self.hinted(j, np.stack([own(x) for x in d.slopes[j]]), code))
                for row, position, _, _, extra in splits.get(j, ()):
                    s[row, position] += extra
                s = arithmetic.multiplier(s, reach)
                totals.append(arithmetic.least(v, s, self.points(node, lower, upper, near, s)))
                spread(node, node.scatter(s))
        return arithmetic.total(totals)

    def hinted(self, j: int, slopes: Array, code: Array) -> Array:
        """Slopes (2, r or 1, n) with those that rows of codes (0: none) state in their place."""
        number, position, side = self.hints["slots"]
        columns, rows = np.nonzero(number == self.network.activations.index(j))[0], np.nonzero(code)[0]
        if len(columns) and len(rows):
            slopes = np.broadcast_to(slopes, (2, len(code), slopes.shape[2])).copy()
            low, high = self.network.nodes[j].slopes
            codes, levels = (self.hints["finer"], 65535) if "finer" in self.hints else (self.hints["codes"], 255)
            stated = codes[code[rows, None] - 1, columns] * ((high - low) / levels) + low
            slopes[side[columns], rows[:, None], position[columns]] = stated
        return slopes

    def bounds(
        self, box: Sides, splits: Splits, base: Domains | None = None, known: Any = None, until: int | None = None
    ) -> Domains:
        """All about d regions of inputs in boxes (lower, upper), each (d, inputs), cut by splits, up to node `until`.

        base: all about one region that holds them, to be taken over instead of computed anew. known: valid bounds of
        the inputs of activations, to be improved.
        """
        lower, upper = box
        error = (np.maximum(np.abs(lower), np.abs(upper)) * (UNIT32 * MORE) + SMALL32) * self.single
        d = Domains(np.zeros(len(lower), dtype=bool))
        d.lower += [np.zeros((1, 1)), np.nextafter(lower - error, -math.inf)]
        d.upper += [np.zeros((1, 1)), np.nextafter(upper + error, math.inf)]
        for j, node in enumerate(self.network.nodes[2:until], start=2):
            if node.op != "affine":
                l, u = base.z[j] if base else (node.gather(d.lower), node.gather(d.upper))
                l, u = (np.broadcast_to(x, (len(lower), node.size)).copy() for x in (l, u))
                if known:
                    l, u = np.maximum(l, known[j][0]), np.minimum(u, known[j][1])
                for i, position, side, point, _ in splits.get(j, ()):
                    cut(l, u, (i, position), side, point)
                if not base:
                    self.refine(j, l, u, d)
                    if not known:
                        self.prove(j, l, u, d, box)
                d.empty |= (l > u).any(axis=1)
                d.z[j], d.slopes[j] = (l, u), self.default_slopes(node, l, u)
                values = [node.values(z, self.single) for z in (l, u, *(np.clip(b, l, u) for b in node.breaks))]
                l, u = np.minimum.reduce([low for low, _ in values]), np.maximum.reduce([high for _, high in values])
            elif base:
                l, u, d.constants[j] = base.lower[j], base.upper[j], base.constants[j]
            else:
                l, u = node.gather(d.lower), node.gather(d.upper)
                low, high = d.constants[j] = self.constants(node, np.maximum(np.abs(l), np.abs(u)))
                l, u = self.least_sum(node, l, u, low), -self.least_sum(node, -u, -l, -high)
            d.lower.append(l)
            d.upper.append(u)
        return d

    def least_sum(self, node: Node, l: Array, u: Array, constants: Array) -> Array:
        """Lower bounds of an affine op's values, by interval arithmetic."""
        sides = zip((l, u), node.weights[1:], strict=True)
        parts = [self.arithmetic.product(node.forward, x, weight, node.shape[2]) for x, weight in sides]
        return self.arithmetic.down(self.arithmetic.total([*parts, constants]))

    def constants(self, node: Node, reach: Array) -> tuple[Array, Array]:
        """The constants of an affine op with all that its result may be off by, where |x| <= reach."""
        error = np.zeros((1, 1))
        if node.deviation is not None:
            error = error + node.forward(reach, node.deviation) * MORE + TINY
        if self.single and node.terms:
            mass = node.forward(reach, np.abs(node.weights[0].array)) + np.abs(node.bias)
            need((mass < LARGE32).all(), "a value may overflow in float32")
            error = error + (node.terms + 2) * (UNIT32 / (1 - (node.terms + 2) * UNIT32) * mass * MORE + SMALL32)
        low, high = np.nextafter(node.bias - error * MORE, -math.inf), np.nextafter(node.bias + error * MORE, math.inf)
        return (low, high) if error.any() else (node.bias, node.bias)

    def refine(self, j: int, l: Array, u: Array, d: Domains) -> None:
        """Improve, in place, bounds (d, n) of an activation's undecided inputs by backward passes."""
        node, number = self.network.nodes[j], self.network.activations.index(j)
        if not self.hints["refine"][number]:
            return
        is_open = np.any([(l < b) & (b < u) for b in node.breaks], axis=0) | ((l < u) & (node.op in SMOOTH))
        step = max(8, BATCH // max(math.prod(n.shape[:3]) + n.size for n in self.network.nodes[: j + 1]))
        regions, places = np.nonzero(is_open)
        for i in range(0, len(regions), step):
            at = region, place = regions[i : i + step], places[i : i + step]
            rows, count = np.zeros((2, len(region), node.size)), np.arange(len(region))
            rows[0, count, place], rows[1, count, place] = 1, -1
            owner = np.tile(region, 2)
            found = self.pull(node, rows.reshape(-1, node.size), owner, d, np.zeros(len(owner), dtype=int), {})
            low, high = self.arithmetic.down(found).reshape(2, -1)
            l[at], u[at] = np.maximum(l[at], low), np.minimum(u[at], -high)

    def prove(self, j: int, l: Array, u: Array, d: Domains, box: Sides) -> None:
        """Improve, in place, bounds (1, n) of an activation's inputs by the certificate's lemmas about them."""
        node, name = self.network.nodes[j], f"a{self.network.activations.index(j)}"
        if f"kind.{name}" not in self.hints:
            return
        position, side = self.hints[f"target.{name}"]
        best, code, last = np.full(len(position), math.inf), self.hints[f"code.{name}"], -1
        for batch in batches(leaves(self.hints, name), max(1, BATCH // sum(n.size for n in self.network.nodes[:j]))):
            trees, last = np.array([leaf.tree for leaf in batch]), batch[-1].tree
            rows = np.zeros((len(batch), node.size))
            rows[np.arange(len(batch)), position[trees]] = 1 - 2 * side[trees]
            found, empty = self.at_leaves(node, rows, batch, code[batch[0].number :][: len(batch)], d, box, j)
            np.minimum.at(best, trees, np.where(empty, math.inf, self.arithmetic.down(found)))
        need(last == len(position) - 1 and np.isfinite(best).all(), f"the lemmas {name} are incomplete")
        np.maximum.at(l, (0, position[side == 0]), best[side == 0])
        np.minimum.at(u, (0, position[side == 1]), -best[side == 1])

    def at_leaves(
        self, start: Node, rows: Array, batch: list[Leaf], code: Array, base: Domains, box: Sides, until: int | None
    ) -> tuple[Number, Array]:
        """Lower bounds of rows over what `start` reads, one for each leaf, and which leaves are empty."""
        lower, upper = (side.repeat(len(batch), axis=0) for side in box)
        splits: Splits = {}
        for i, leaf in enumerate(batch):
            extra = iter(leaf.extra)
            for kind, position, side, point in leaf.path:
                if kind == INPUT:
                    cut(lower, upper, (i, position), side, point)
                else:
                    j = self.network.activations[kind - 2]
                    splits.setdefault(j, []).append((i, position, side, point, next(extra)))
        d = self.bounds((lower, upper), splits, base, until=until)
        found = self.pull(start, rows, np.arange(len(batch)), d, code, splits)
        return found, d.empty | (lower > upper).any(axis=1)


# --- The certificate. -------------------------------------------------------------------------------------------------
class Unproved(Refused):
    """A leaf whose multipliers prove too little. bound: what they prove."""

    def __init__(self, reason: str, bound: float) -> None:
        super().__init__(reason)
        self.bound = bound


class Accepted(NamedTuple):
    """What was proved, and how. margin: the least bound of a leaf's combination of rows, per unit of weight."""

    semantics: str
    leaves: int
    margin: float
    arithmetic: str


@dataclass(eq=False)
class Checker:
    """A certificate against a model and a property."""

    hints: dict[str, Any]
    network: Network
    cases: list[Case]

    def check(self, arithmetic: str, sample: int) -> Accepted:
        """Raises Refused at the first fault."""
        single, network, anew = self.hints["semantics"] == "float32", self.network, self.hints["recompute"]
        smooth = any(node.op in SMOOTH for node in network.nodes)
        need(self.hints["semantics"] in ("real", "float32"), "unknown semantics")
        need(not (single and smooth), "there is no float32 claim about sigmoid and tanh")
        need(not (single and network.merged), "there is no float32 claim about a network with merged neurons")
        kinds = [self.hints[f"kind.{k}"] for k in range(len(self.cases))]
        count = sum(int((kind == LEAF).sum()) for kind in kinds)
        hidden = 2 * sum(network.nodes[j].size for j in network.activations)
        lemmas = sum(len(array) for name, array in self.hints.items() if name.startswith("kind.a"))
        again = sum(len(kind) for kind, yes in zip(kinds, anew, strict=True) if yes)
        work = network.total * (hidden + lemmas + count + hidden * again)
        exact = arithmetic == "exact" or (arithmetic == "auto" and work < EXACT_WORK)
        analysis = Analysis(network, Exact() if exact else Rounded(), single, self.hints)
        second = Analysis(network, Exact(), single, self.hints) if sample and not exact else None
        margins: list[Fraction] = []
        bases: dict[bytes, Domains] = {}
        for k, case in enumerate(self.cases):
            key = np.concatenate(case.box).tobytes()
            base = bases[key] = bases.get(key) or analysis.bounds(case.box, {})
            closed = np.nonzero(kinds[k] == LEAF)[0] if anew[k] else np.arange(int((kinds[k] == LEAF).sum()))
            chosen = np.random.default_rng().permutation(closed)[: sample if second else 0]
            margins.append((self.halved if anew[k] else self.split)(k, base, analysis, second, set(chosen.tolist())))
        kind = "float32 (any order, round to nearest) and real" if single else "real"
        sampled = ", a sample of leaves exactly" if second else ""
        return Accepted(kind, count, float(min(margins)), analysis.arithmetic.name + sampled)

    def split(self, k: int, base: Domains, analysis: Analysis, second: Analysis | None, chosen: set[int]) -> Fraction:
        """Check a tree whose leaves take over the bounds of the whole region; returns their least margin."""
        case, output, code, least = self.cases[k], self.network.output, self.hints[f"code.{k}"], Fraction(1 << 200)
        last = -1
        for batch in batches(leaves(self.hints, str(k)), max(1, BATCH // self.network.total)):
            last = batch[-1].tree
            for judge, some in ((analysis, batch), (second, [leaf for leaf in batch if leaf.number in chosen])):
                if judge and some:
                    numbers = np.array([leaf.number for leaf in some])
                    rows, _ = self.combined(k, self.hints[f"weights.{k}"][numbers])
                    found, empty = judge.at_leaves(output, rows, some, code[numbers], base, case.box, None)
                    least = min(least, self.margin(k, numbers, judge.arithmetic.fractions(found), empty))
        need(last == 0, f"set {k} has no tree of splits, or several")
        return least

    def halved(self, k: int, base: Domains, analysis: Analysis, second: Analysis | None, chosen: set[int]) -> Fraction:
        """Check a tree every part of which improves the bounds of the whole; returns the least margin.

        What linear functions below the rows prove of a part is cut off. The second analysis takes over the bounds of a
        leaf's parent.
        """
        tree, least, step = Tree.of(self.hints, k), math.inf, max(1, BATCH // self.network.total)
        stack: list[Any] = [([0], *self.cases[k].box, base.z)]
        while stack:
            taken = [stack.pop()]
            while stack and sum(len(one[0]) for one in taken) + len(stack[-1][0]) <= step:
                taken.append(stack.pop())
            parts, lower, upper, known = joined(taken)
            for i in [i for i, part in enumerate(parts) if second and part in chosen and tree.kind[part] == LEAF]:
                assert second is not None
                own = {j: (l[[i]], u[[i]]) for j, (l, u) in known.items()}
                self.part(k, tree, second, parts[i : i + 1], lower[[i]], upper[[i]], own)
            known, lower, upper, bound = self.part(k, tree, analysis, parts, lower, upper, known)
            least, left = min(least, bound), ~(lower > upper).any(axis=1)
            inner = [i for i, part in enumerate(parts) if tree.kind[part] != LEAF and left[i]]
            halves = [half[parts[i]] for half in (tree.below, tree.above) for i in inner]
            lower, upper = (np.tile(side[inner], (2, 1)) for side in (lower, upper))
            known = {j: tuple(np.tile(side[inner], (2, 1)) for side in z) for j, z in known.items()}
            for at, part in enumerate(parts[i] for i in inner):
                kind = tree.kind[part]
                split = (lower, upper) if kind == INPUT else known[self.network.activations[kind - 2]]
                for half, side in ((at, -1), (at + len(inner), 1)):
                    cut(split[0], split[1], (half, tree.position[part]), side, tree.point[part])
            for i in range(0, len(halves), step):
                some = slice(i, i + step)
                own = {j: (l[some], u[some]) for j, (l, u) in known.items()}
                stack.append((halves[some], lower[some], upper[some], own))
        return Fraction(least if least < math.inf else 1 << 200)

    def part(
        self, k: int, tree: Tree, analysis: Analysis, parts: list[int], lower: Array, upper: Array, known: Any
    ) -> Any:
        """Of parts of a tree: bounds of activations, what is left of their boxes, the least margin of the leaves."""
        d, code = analysis.bounds((lower, upper), {}, known=known), np.array([tree.code[part] for part in parts])
        nothing, low, high = d.empty | (lower > upper).any(axis=1), d.lower[1], d.upper[1]
        stated, proved = np.array([tree.weights[part] for part in parts], dtype=np.int64), np.zeros(len(parts))
        # The stated combination of rows, then the rows one by one.
        every = np.eye(stated.shape[1], dtype=np.int64).repeat(len(parts), axis=0)
        weights, form = np.concatenate((stated, every)), list[Number]()
        rows, constants = self.combined(k, weights)
        count = 1 + stated.shape[1]
        owner = np.tile(np.arange(len(parts)), count)
        found = analysis.pull(self.network.output, rows, owner, d, np.tile(code, count), {}, form)
        constant = np.nextafter(analysis.arithmetic.down(found) + constants, -math.inf).reshape(count, -1)
        A, error = (
            x.reshape(count, *low.shape) for x in analysis.arithmetic.enclosed(form[0], (len(rows), low.shape[1]))
        )
        for i in range(count):
            bound, low, high = clipped(low, high, constant[i], A[i], error[i])
            if i == 0:
                proved = bound / np.maximum(stated.sum(axis=1), 1)
        left = ~(nothing | (low > high).any(axis=1))  # a box that is NaN is left, and not proved
        whole = ((low <= d.lower[1]) & (high >= d.upper[1])).all(axis=1)
        # What a float32 network reads may be as far from its input as that.
        room = (np.maximum(np.abs(lower), np.abs(upper)) * (2 * UNIT32) + SMALL32) * analysis.single
        lower = np.maximum(lower, np.nextafter(low - room, -math.inf))
        upper = np.where(left[:, None], np.minimum(upper, np.nextafter(high + room, math.inf)), -math.inf)
        for j in np.nonzero(left & ~(proved > 0))[0].tolist():
            if tree.kind[parts[j]] == LEAF:
                self.failed(k, tree, parts[j], float(proved[j]), lower[j], upper[j], A[0][j])
        closed = np.array([tree.kind[part] == LEAF for part in parts])
        # Of what is cut off, all that is known is a margin above zero.
        least = float(np.where(closed & (proved > 0), proved, 0.0)[~nothing & (closed | ~whole)].min(initial=math.inf))
        return d.z, lower, upper, least

    def failed(self, k: int, tree: Tree, part: int, bound: float, lower: Array, upper: Array, slopes: Array) -> None:
        """A leaf is not proved: `bound` is what its linear function, with these slopes, is at least on its box."""
        raise Unproved(f"part {part} of set {k} is not proved: its bound is {bound:.6g}", bound)

    def combined(self, k: int, weights: Array) -> tuple[Array, Array]:
        """Combinations (n, outputs) of the rows of a set, and numbers (n,) not above their constants."""
        rows, constants = self.cases[k].rows, self.cases[k].constants
        if all(x.denominator == 1 for x in rows.ravel()):
            rows = np.array([int(x) for x in rows.ravel()], dtype=object).reshape(rows.shape)
        exact = weights.astype(object) @ rows
        scale = math.lcm(*(x.denominator for x in constants))
        totals = weights.astype(object) @ np.array([int(x * scale) for x in constants], dtype=object)
        near = exact.astype(np.float64)
        need((near == exact).all(), "the property's coefficients have too many digits")
        return near, np.nextafter(np.array([x / scale for x in totals]), -math.inf)

    def margin(self, k: int, numbers: Array, found: list[Fraction], empty: Array) -> Fraction:
        """The least margin of leaves by lower bounds of their combinations of rows."""
        least, constants = Fraction(1 << 200), self.cases[k].constants
        for i, bound, nothing in zip(numbers.tolist(), found, empty.tolist(), strict=True):
            weights = [Fraction(int(weight)) for weight in self.hints[f"weights.{k}"][i]]
            total = bound + sum(map(Fraction.__mul__, constants, weights))
            total /= sum(weights) or 1
            if not (nothing or total > 0):
                raise Unproved(f"leaf {i} of set {k} is not proved: its bound is {float(total):.6g}", float(total))
            least = least if nothing else min(least, total)
        return least


def check(certificate: bytes, model: bytes, prop: bytes, arithmetic: str = "auto", sample: int = 16) -> Accepted:
    """What was proved. Raises Refused whatever the bytes are: any error on the way is a reason to refuse.

    arithmetic: exact, rounded, or auto, which is exact up to a certain size. sample: of how many leaves of every set a
    rounded check is repeated exactly.
    """
    try:
        hints = unpack(certificate)
        for name, content in (("model", model), ("property", prop)):
            need(hints[name] == hashlib.sha256(content).hexdigest(), f"the certificate is about another {name}")
        with np.errstate(all="ignore"):
            network = Network(model, bool(hints["merge"]))
            cases = read_property(prop.decode("utf-8"), network.nodes[1].size, network.output.size)
            try:
                return Checker(hints, network, cases).check(arithmetic, sample)
            except TooWide:
                need(arithmetic == "auto", "exact arithmetic would take too many digits: check in rounded arithmetic")
                return Checker(hints, network, cases).check("rounded", 0)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"malformed input ({type(error).__name__}: {str(error)[:80]!r})") from error


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if zipped else open(path, "rb") as file:
        return file.read(MOST_BYTES)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a certificate.")
    parser.add_argument("certificate")
    parser.add_argument("--model", required=True)
    parser.add_argument("--property", required=True)
    parser.add_argument("--arithmetic", choices=("auto", "exact", "rounded"), default="auto")
    options = parser.parse_args()
    try:
        found = check(read(options.certificate), read(options.model), read(options.property), options.arithmetic)
        print(f"ACCEPTED: {options.model} satisfies {options.property} in {found.semantics} semantics")
        print(f"{found.leaves} leaves, least margin {found.margin:.6g}, checked in {found.arithmetic}")
    except (Refused, OSError, EOFError, zlib.error) as error:
        print(f"REFUSED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
