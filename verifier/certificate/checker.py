"""A stand-alone checker of certificates: `python checker.py CERT --model M.onnx --property P.vnnlib`.

It trusts nobody: with `reading.py` beside it, it reads model and property itself, recomputes every bound, and needs
only numpy and onnx. A certificate (see format.py) holds a tree of splits for every unsafe set of the property, and
hints that can make a bound weak but never wrong, by weak duality: for ANY multipliers s, with l <= z <= u,

    y = W x + b:    s.y = (W^T s).x + s.b
    a = act(z):     v.a >= s.z + sum_j min over z_j in [l_j, u_j] of (v_j act(z_j) - s_j z_j),

so that pulling a combination of outputs back to the input, op by op, leaves a lower bound. In float32 an op computes
y + e, |e| <= gamma_{n+2} (|W| |x| + |b|) + underflow, in any order of summation (Higham 2002, section 3.1); paying
|s|.e makes every bound hold for computed values and for exact ones alike.

Two arithmetics, both rigorous, without tolerance. Exact: integers, matrix products by limbs so small that float64
multiplies and adds them without rounding. Rounded: float64 with a bound on every rounding error.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import itertools
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

if __package__:
    from verifier.certificate.reading import SMOOTH, Case, Network, Node, Refused, Weight, logistic, need, read_property
else:  # run as a file, with reading.py beside it
    from reading import SMOOTH, Case, Network, Node, Refused, Weight, logistic, need, read_property  # type: ignore

MAGIC, LEAF, INPUT = b"NN certificate 1\n", 0, 1  # kinds of tree nodes; kind 2 + i splits the input of activation i
TYPES = {"kind": "<u4", "position": "<u4", "point": "<f8", "weights": "<u2", "code": "<u4", "extra": "<f4",
         "slots": "<u4", "codes": "|u1", "lemma": "<u4"}  # fmt: skip
MOST_BYTES, MOST_SPLITS, BATCH, EXACT_WORK = 1 << 28, 2000, 1 << 16, 1 << 25  # work: about a minute of exact arithmetic
UNIT, TINY, MORE = 2.0**-53, 2.0**-1000, 1 + 2.0**-20  # MORE covers the rounding of sums of nonnegative terms
UNIT32, SMALL32, LARGE32 = 2.0**-24, 2.0**-148, 2.0**126
Array = np.ndarray
Number = Any  # a float64 array, taken exactly, or a pair that stands for such an array in an arithmetic
Bilinear = Callable[[Array, Array], Array]


def limbs(x: Array, bits: int) -> tuple[list[Array], int]:
    """x as sum_i piece_i 2^(low + i bits), pieces integers below 2^bits in magnitude; and low."""
    need(np.isfinite(x).all(), "a number is NaN or infinite")
    mantissa, exponent = np.frexp(x)
    whole = (mantissa * 2.0**53).astype(np.int64)
    last = np.frexp((whole & -whole).astype(np.float64))[1] - 54 + exponent
    low, top = int(last.min(where=whole != 0, initial=2000)), int(exponent.max(where=whole != 0, initial=-2000))
    pieces = []
    for shift in reversed(range(low, top, bits)):
        pieces.append(np.trunc(np.ldexp(x, -shift)))
        x = x - np.ldexp(pieces[-1], shift)
    return (pieces[::-1], low) if pieces else ([np.zeros_like(x)], 0)


class Exact:
    """Pairs (integers, exponent) stand for integers * 2^exponent; only multipliers and bounds are rounded, safely."""

    name, keeps = "exact arithmetic", 40  # keeps: bits of a multiplier or bound

    def __init__(self) -> None:
        self.limbs = functools.cache(lambda weight, bits: limbs(weight.array, bits))

    def number(self, x: Number) -> tuple[Any, int]:
        if isinstance(x, tuple):
            return x
        pieces, low = limbs(x, 60)
        return sum(p.astype(np.int64).astype(object) << 60 * i for i, p in enumerate(pieces)), low

    def total(self, parts: list[Number]) -> Number:
        numbers = [self.number(part) for part in parts]
        low = min(e for _, e in numbers)
        return sum(i << (e - low) for i, e in numbers), low

    def product(self, f: Bilinear, x: Array, weight: Weight, terms: int) -> Number:
        """f(x, weight) for a bilinear f whose values are sums of at most `terms` products."""
        bits = (49 - terms.bit_length()) // 2
        (xs, low), (ws, base) = limbs(x, bits), self.limbs(weight, bits)
        need(min(len(xs), len(ws)) <= 8 and bits > 4, "numbers of too different sizes meet in one op")
        result: Any = 0
        for k in range(len(xs) + len(ws) - 1):  # sums of 8 products of limbs stay below 2^52: float64 is exact
            group: Any = sum(f(xs[i], ws[k - i]) for i in range(len(xs)) if 0 <= k - i < len(ws))
            result = result + (group.astype(np.int64).astype(object) << k * bits)
        return result, low + base

    def least(self, v: Number, s: Array, pairs: list[tuple[Array, Array]]) -> Number:
        """By row, sum_j min over pairs (p, q) of v_j p_j - s_j q_j."""
        (v, ve), (s, se) = self.number(v), self.number(s)
        v, s = v << max(ve - se, 0), s << max(se - ve, 0)
        points, scale = self.number(np.stack(np.broadcast_arrays(*itertools.chain(*pairs))))
        terms = [v * points[i] - s * points[i + 1] for i in range(0, len(points), 2)]
        return functools.reduce(np.minimum, terms).sum(axis=1), min(ve, se) + scale

    def near(self, v: Number) -> Array:
        return np.ldexp(v[0].astype(np.float64), v[1]) if isinstance(v, tuple) else v

    def down(self, v: Number) -> Array:
        """Floats of few bits that are not above v."""
        whole, low = self.number(v)
        shift = np.maximum(np.frexp(whole.astype(np.float64))[1] - self.keeps, max(0, -1000 - low))
        return np.ldexp((whole >> shift.astype(object)).astype(np.float64), low + shift)

    def multiplier(self, s: Array, reach: Array) -> Array:
        """s rounded such that |change| * reach is small beside the greatest |s| * reach of the row."""
        greatest = (np.abs(s) * reach).max(axis=1, keepdims=True)
        step = np.frexp(np.divide(greatest, reach, out=np.zeros_like(s), where=reach > 0))[1] - self.keeps
        return np.where((reach > 0) & (greatest > 0), np.ldexp(np.rint(np.ldexp(s, -step)), step), 0.0)

    def fractions(self, v: Number) -> list[Fraction]:
        return [int(i) * Fraction(2) ** v[1] for i in v[0]]


class Rounded:
    """Pairs (float64 array, bound of its error)."""

    name = "outward-rounded float64, a sample of leaves exactly"

    def number(self, x: Number) -> tuple[Array, Any]:
        return x if isinstance(x, tuple) else (x, 0.0)

    def total(self, parts: list[Number]) -> Number:
        values, errors = zip(*map(self.number, parts), strict=True)
        mass = sum(np.abs(v) for v in values)
        return sum(values), (sum(errors) + len(parts) * UNIT * mass) * MORE + TINY

    def product(self, f: Bilinear, x: Array, weight: Weight, terms: int) -> Number:
        w = weight.array
        return f(x, w), f(np.abs(x), np.abs(w)) * ((terms + 2) * UNIT * MORE) + TINY * terms

    def least(self, v: Number, s: Array, pairs: list[tuple[Array, Array]]) -> Number:
        v, error = self.number(v)
        if s is v:  # all pairs are (z, z)
            p = functools.reduce(np.maximum, [np.abs(p) for p, _ in pairs])
            return np.zeros(len(v)), ((error * p).sum(axis=1) + TINY * v.shape[1]) * MORE
        low = functools.reduce(np.minimum, [v * p - s * q for p, q in pairs])
        p, q = (functools.reduce(np.maximum, map(np.abs, side)) for side in zip(*pairs, strict=True))
        mass = (low.shape[1] + 8) * UNIT * (np.abs(v) * p + np.abs(s) * q) + error * p
        return low.sum(axis=1), (mass.sum(axis=1) + TINY * low.shape[1]) * MORE

    def near(self, v: Number) -> Array:
        return self.number(v)[0]

    def down(self, v: Number) -> Array:
        value, error = self.number(v)
        return np.nextafter(value - error, -math.inf)

    def multiplier(self, s: Array, reach: Array) -> Array:
        return s

    def fractions(self, v: Number) -> list[Fraction]:
        return [Fraction(x) for x in self.down(v).tolist()]  # NaN and infinity raise


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

    def pull(self, start: Node, rows: Array, owner: Array, d: Domains, code: Array, splits: Splits) -> Number:
        """Lower bounds of rows (r, size) over what `start` reads, in the regions `owner`, with rows `code` of hints."""
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
            if node.op == "input":
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
            stated = self.hints["codes"][code[rows, None] - 1, columns] * ((high - low) / 255) + low
            slopes[side[columns], rows[:, None], position[columns]] = stated
        return slopes

    def bounds(self, lower: Array, upper: Array, splits: Splits, base: Domains | None = None) -> Domains:
        """All about d regions of inputs between lower and upper (d, inputs), cut by splits.

        base: all about one region that holds them, to be taken over instead of computed anew.
        """
        error = (np.maximum(np.abs(lower), np.abs(upper)) * (UNIT32 * MORE) + SMALL32) * self.single
        d = Domains(np.zeros(len(lower), dtype=bool))
        d.lower += [np.zeros((1, 1)), np.nextafter(lower - error, -math.inf)]
        d.upper += [np.zeros((1, 1)), np.nextafter(upper + error, math.inf)]
        for j, node in enumerate(self.network.nodes[2:], start=2):
            if node.op != "affine":
                l, u = base.z[j] if base else (node.gather(d.lower), node.gather(d.upper))
                l, u = (np.broadcast_to(x, (len(lower), node.size)).copy() for x in (l, u))
                self.settle(j, l, u, d, splits, base is None)
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

    def settle(self, j: int, l: Array, u: Array, d: Domains, splits: Splits, refine: bool) -> None:
        """Tighten, in place, bounds (d, n) of an activation's inputs by splits and backward passes; record them."""
        node, number = self.network.nodes[j], self.network.activations.index(j)
        for i, position, side, point, _ in splits.get(j, ()):
            cut(l, u, (i, position), side, point)
        if refine and self.hints["refine"][number]:
            is_open = np.any([(l < b) & (b < u) for b in node.breaks], axis=0) | ((l < u) & (node.op in SMOOTH))
            step = max(8, BATCH // max(math.prod(n.shape[:3]) + n.size for n in self.network.nodes[: j + 1]))
            codes = self.hints.get(f"lemma.{number}", np.zeros((2, node.size), dtype=int))
            regions, places = np.nonzero(is_open)
            for i in range(0, len(regions), step):
                at = region, place = regions[i : i + step], places[i : i + step]
                rows, count = np.zeros((2, len(region), node.size)), np.arange(len(region))
                rows[0, count, place], rows[1, count, place] = 1, -1
                found = self.pull(node, rows.reshape(-1, node.size), np.tile(region, 2), d, codes[:, place].ravel(), {})
                low, high = self.arithmetic.down(found).reshape(2, -1)
                l[at], u[at] = np.maximum(l[at], low), np.minimum(u[at], -high)
        d.empty |= (l > u).any(axis=1)
        d.z[j], d.slopes[j] = (l, u), self.default_slopes(node, l, u)


# --- The certificate. -------------------------------------------------------------------------------------------------
def unpack(content: bytes) -> dict[str, Any]:
    """The header of a certificate file and its arrays, by name."""
    need(content.startswith(MAGIC), "this is no certificate of a known version")
    start = len(MAGIC) + 4
    size = int.from_bytes(content[start - 4 : start], "little")
    header = json.loads(content[start : start + size])
    kinds = [(name, np.dtype(TYPES[name.split(".")[0]]), shape) for name, shape in header["arrays"]]
    ends = list(itertools.accumulate(math.prod(shape) * dtype.itemsize for _, dtype, shape in kinds))
    need(all(n >= 0 for _, _, shape in kinds for n in shape) and ends[-1] < MOST_BYTES, "the arrays are too large")
    stream = zlib.decompressobj()
    data = stream.decompress(content[start + size :], ends[-1] + 1)
    need(len(data) == ends[-1] and stream.eof and not stream.unused_data, "the arrays are damaged or truncated")
    for (name, dtype, shape), i, j in zip(kinds, [0, *ends], ends, strict=False):
        array = np.frombuffer(data[i:j], dtype).reshape(shape)
        header[name] = array if name == "codes" else array.astype(np.int64 if dtype.kind == "u" else np.float64)
    return header


def paths(tree: zip[Any]) -> Iterator[list[tuple[int, int, int, float]]]:
    """The splits (kind, position, side, point) above each leaf of a binary tree in preorder, the lower half first."""
    stack: list[Any] = [[]]
    for kind, position, point in tree:
        need(stack and len(stack[-1]) < MOST_SPLITS, "the tree of splits has loose ends or is too deep")
        path = stack.pop()
        if kind == LEAF:
            yield path
        else:
            stack += [[*path, (kind, position, side, point)] for side in (1, -1)]
    need(not stack, "the tree of splits is incomplete")


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

    def check(self, arithmetic: str = "auto", sample: int = 16) -> Accepted:
        """Raises Refused at the first fault."""
        single, network = self.hints["semantics"] == "float32", self.network
        smooth = any(node.op in SMOOTH for node in network.nodes)
        need(self.hints["semantics"] in ("real", "float32"), "unknown semantics")
        need(not (single and smooth), "there is no float32 claim about sigmoid and tanh")
        leaves = [int((self.hints[f"kind.{k}"] == LEAF).sum()) for k in range(len(self.cases))]
        hidden = 2 * sum(network.nodes[j].size for j in network.activations)
        work = network.total * (hidden + sum(leaves) * (hidden if self.hints["recompute"] else 1))
        exact = arithmetic == "exact" or (arithmetic == "auto" and work < EXACT_WORK)
        analysis = Analysis(network, Exact() if exact else Rounded(), single, self.hints)
        second = Analysis(network, Exact(), single, self.hints)
        margins: list[Fraction] = []
        bases: dict[bytes, Domains] = {}
        for k, case in enumerate(self.cases):
            key = np.concatenate(case.box).tobytes()
            base = bases[key] = bases.get(key) or analysis.bounds(*case.box, {})
            margins.append(self.tree(k, analysis, base, range(leaves[k])))
            if not exact:
                self.tree(k, second, base, np.random.default_rng().permutation(leaves[k])[:sample].tolist())
        kind = "float32 (any order, round to nearest) and real" if single else "real"
        return Accepted(kind, sum(leaves), float(min(margins)), analysis.arithmetic.name)

    def tree(self, k: int, analysis: Analysis, base: Domains, chosen: Any) -> Fraction:
        """Check the chosen leaves of one case; returns their least margin."""
        kind, position, point, weights, code, extra = (
            self.hints[f"{name}.{k}"].tolist() for name in ("kind", "position", "point", "weights", "code", "extra")
        )
        case, least, at, batch, chosen, last = self.cases[k], Fraction(1 << 200), 0, [], set(chosen), max(chosen)
        for leaf, path in enumerate(paths(zip(kind, position, point, strict=True))):
            neurons = sum(split[0] != INPUT for split in path)
            own = extra[at : at + neurons] if extra else [0.0] * neurons
            need(len(own) == neurons, "a multiplier is missing")
            at += neurons
            if leaf in chosen:
                batch.append((leaf, path, iter(own)))
            if batch and (len(batch) * analysis.network.total > BATCH or leaf == last):
                rows = np.array([weights[i] for i, *_ in batch], dtype=object).reshape(len(batch), -1) @ case.rows
                found, empty = self.leaves(analysis, base, case, batch, rows, np.array([code[i] for i, *_ in batch]))
                for (i, *_), bound, nothing in zip(batch, found, empty, strict=True):
                    total = bound + sum(map(Fraction.__mul__, case.constants, map(Fraction, weights[i])))
                    need(nothing or total > 0, f"leaf {i} of set {k} is not proved: its bound is {float(total):.6g}")
                    least = least if nothing else min(least, total / (sum(weights[i]) or 1))
                batch = []
        return least

    def leaves(self, analysis: Analysis, base: Domains, case: Case, batch: Any, rows: Array, code: Array) -> Any:
        """Lower bounds of rows, one for each leaf, and which leaves are empty."""
        lower, upper = (side.repeat(len(batch), axis=0) for side in case.box)
        splits: Splits = {}
        for i, (_, path, extra) in enumerate(batch):
            for kind, position, side, point in path:
                if kind == INPUT:
                    cut(lower, upper, (i, position), side, point)
                else:
                    j = self.network.activations[kind - 2]
                    splits.setdefault(j, []).append((i, position, side, point, next(extra)))
        d = analysis.bounds(lower, upper, splits, None if self.hints["recompute"] else base)
        exact = rows.astype(np.float64)
        need((exact == rows).all(), "the property's coefficients have too many digits")
        found = analysis.pull(self.network.output, exact, np.arange(len(batch)), d, code, splits)
        return analysis.arithmetic.fractions(found), d.empty | (lower > upper).any(axis=1)


def check(certificate: bytes, model: bytes, prop: bytes, arithmetic: str = "auto") -> Accepted:
    """What was proved. Raises Refused whatever the bytes are: any error on the way is a reason to refuse."""
    try:
        hints = unpack(certificate)
        for name, content in (("model", model), ("property", prop)):
            need(hints[name] == hashlib.sha256(content).hexdigest(), f"the certificate is about another {name}")
        with np.errstate(all="ignore"):
            network = Network(model)
            cases = read_property(prop.decode("utf-8"), network.nodes[1].size, network.output.size)
            return Checker(hints, network, cases).check(arithmetic)
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
