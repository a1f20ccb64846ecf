"""A stand-alone checker of certificates: `python checker.py CERT --model M.onnx --property P.vnnlib`.

It trusts nobody: with the files of this folder that it imports beside it, it reads model and property itself,
recomputes every bound, and needs only numpy and onnx. A certificate (see format.py) holds a tree of splits for every
unsafe set of the property, and hints that can make a bound weak but never wrong (see analysis.py).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import math
import os
import sys
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

if not __package__:  # run as a file: products are small, and threads that wait for each other take ten times as long
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

if __package__:
    from verifier.certificate.analysis import Analysis
    from verifier.certificate.arithmetic import clipped
    from verifier.certificate.exact import Exact, TooWide
    from verifier.certificate.nodes import Array, Refused, need
    from verifier.certificate.properties import Case, read_property
    from verifier.certificate.pulling import SMALL32, UNIT32, Domains
    from verifier.certificate.reading import Network
    from verifier.certificate.refining import BATCH, leaves_at_once
    from verifier.certificate.rounded import Rounded
    from verifier.certificate.trees import INPUT, LEAF, MOST_BYTES, Leaves, Trees, joined, of_region, unpack
else:  # run as a file, with the others beside it
    from analysis import Analysis  # type: ignore
    from arithmetic import clipped  # type: ignore
    from exact import Exact, TooWide  # type: ignore
    from nodes import Array, Refused, need  # type: ignore
    from properties import Case, read_property  # type: ignore
    from pulling import SMALL32, UNIT32, Domains  # type: ignore
    from reading import Network  # type: ignore
    from refining import BATCH, leaves_at_once  # type: ignore
    from rounded import Rounded  # type: ignore
    from trees import INPUT, LEAF, MOST_BYTES, Leaves, Trees, joined, of_region, unpack  # type: ignore


EXACT_WORK = 1 << 25  # about a minute of exact arithmetic


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
        smooth = any(node.curve is not None for node in network.nodes)
        need(self.hints["semantics"] in ("real", "float32"), "unknown semantics")
        need(not (single and smooth), "there is no float32 claim about smooth functions")
        need(not (single and network.double), "there is no float32 claim about a network with float64 in it")
        kinds = [self.hints[f"kind.{k}"] for k in range(len(self.cases))]
        count = sum(int((kind == LEAF).sum()) for kind in kinds)
        hidden = 2 * sum(network.nodes[j].size for j in network.activations)
        lemmas = sum(array.size for name, array in self.hints.items() if name.startswith(("kind.a", "code.s", "unit")))
        again = sum(len(kind) for kind, yes in zip(kinds, anew, strict=True) if yes)
        work = network.total * (hidden + lemmas + count + hidden * again)
        exact = arithmetic == "exact" or (arithmetic == "auto" and work < EXACT_WORK)
        margins, regions = list[Fraction](), dict[int, list[int]]()
        for k, case in enumerate(self.cases):
            regions.setdefault(id(case.region), []).append(k)
        for region, sets in enumerate(regions.values()):
            case = self.cases[sets[0]]
            analysis = self.analysis(Exact if exact else Rounded, case, region)
            second = self.analysis(Exact, case, region) if sample and not exact else None
            base = analysis.bounds(case.region.box)
            closed = {k: np.flatnonzero(kinds[k] == LEAF) for k in sets}
            chosen = {k: np.random.default_rng().permutation(len(closed[k]))[: sample if second else 0] for k in sets}
            margins += [self.split(k, base, analysis, second, chosen[k]) for k in sets if not anew[k]]
            nodes = {k: set(closed[k][chosen[k]].tolist()) for k in sets if anew[k]}
            margins += [self.halved(nodes, base, analysis, second)] if nodes else []
        kind = "float32 (any order, round to nearest) and real" if single else "real"
        name = Exact.name if exact else Rounded.name + ", a sample of leaves exactly" * (sample > 0)
        return Accepted(kind, count, float(min(margins)), name)

    def analysis(self, kind: type[Exact | Rounded], case: Case, region: int) -> Analysis:
        """How bounds of the region with this number, a case's, are computed."""
        single, hints = self.hints["semantics"] == "float32", of_region(self.hints, region)
        return Analysis(self.network, kind, single, hints, case.region.ball)

    def split(self, k: int, base: Domains, analysis: Analysis, second: Analysis | None, chosen: Array) -> Fraction:
        """Check a tree whose leaves take over the bounds of the whole region; returns their least margin.

        Where these hold for unsafe inputs alone, all that is known is a margin above zero.
        """
        output, code = self.network.output, self.hints[f"code.{k}"]
        whole = analysis.planed(int(self.hints["planes"][k]) if "planes" in self.hints else 0, base)
        need(not base.outside.any(), f"what a function of set {k} reads may leave its domain")
        base = analysis.shaved(k, whole, self.combined)
        least = Fraction(1 << 200 if base is whole else 0)
        leaves, own = Leaves(self.hints, str(k)), second.adopted(base) if second else base
        need(leaves.count == 1, f"set {k} has no tree of splits, or several")
        for batch in leaves.batches(leaves_at_once(self.network.nodes)):
            sampled = batch[np.isin(batch, chosen)]
            for judge, numbers, known in ((analysis, batch, base), (second, sampled, own)):
                if judge and len(numbers):
                    rows, _ = self.combined(k, self.hints[f"weights.{k}"][numbers])
                    some = leaves.some(numbers)
                    found, empty = judge.at_leaves(output, rows[:, None], some, code[numbers], known, None)
                    least = min(least, self.margin(k, numbers, judge.arithmetic.fractions(found), empty))
        return least

    def halved(
        self, chosen: dict[int, set[int]], base: Domains, analysis: Analysis, second: Analysis | None
    ) -> Fraction:
        """Check trees every part of which improves the bounds of the region; returns the least margin of all.

        What linear functions below the rows prove of a part is cut off. chosen: by unsafe set, which nodes of its tree
        the second analysis checks, too; it takes over the bounds of a part's parent.
        """
        trees, least, step = Trees.of(self.hints, [*chosen]), math.inf, max(1, 4 * BATCH // self.network.total)
        again = [root + i for root, own in zip(trees.roots, chosen.values(), strict=True) for i in own]
        roots = np.array(trees.roots)
        lower, upper = (side.repeat(len(roots), axis=0) for side in base.box)
        known = {j: tuple(side.repeat(len(roots), axis=0) for side in z) for j, z in base.z.items()}
        stack: list[Any] = [(roots, lower, upper, known)]
        while stack:
            taken = [stack.pop()]
            while stack and sum(len(one[0]) for one in taken) < step:
                taken.append(stack.pop())
            parts, lower, upper, known = joined(taken)
            for i in np.flatnonzero(np.isin(parts, again)).tolist():
                assert second is not None
                own = {j: (l[[i]], u[[i]]) for j, (l, u) in known.items()}
                self.part(trees, second, parts[[i]], lower[[i]], upper[[i]], own, None)
            shared = base if np.array_equal(parts, roots) and not any(trees.code[root] for root in roots) else None
            known, lower, upper, bound = self.part(trees, analysis, parts, lower, upper, known, shared)
            least = min(least, bound)
            halves = self.halves(trees, parts, lower, upper, known)
            for i in range(0, len(halves[0]), step):
                some = slice(i, i + step)
                own = {j: (l[some], u[some]) for j, (l, u) in halves[3].items()}
                stack.append((*(one[some] for one in halves[:3]), own))
        return Fraction(least if least < math.inf else 1 << 200)

    def halves(self, trees: Trees, parts: Array, lower: Array, upper: Array, known: Any) -> Any:
        """The halves of those parts that are split and not empty: nodes, boxes, what is known of them."""
        kinds = np.array([trees.kind[part] for part in parts])
        inner = np.flatnonzero((kinds != LEAF) & ~(lower > upper).any(axis=1))
        kinds, count = kinds[inner], len(inner)
        lower, upper = (np.tile(side[inner], (2, 1)) for side in (lower, upper))
        known = {j: tuple(np.tile(side[inner], (2, 1)) for side in z) for j, z in known.items()}
        position, point, below, above = (
            np.array([one[part] for part in parts[inner]])
            for one in (trees.position, trees.point, trees.below, trees.above)
        )
        for kind in np.unique(kinds):
            own = np.flatnonzero(kinds == kind)
            low, high = (lower, upper) if kind == INPUT else known[self.network.activations[kind - 2]]
            at, over = (own, position[own]), (own + count, position[own])
            high[at], low[over] = np.fmin(high[at], point[own]), np.fmax(low[over], point[own])
        return np.concatenate((below, above)), lower, upper, known

    def part(
        self,
        trees: Trees,
        analysis: Analysis,
        parts: Array,
        lower: Array,
        upper: Array,
        known: Any,
        shared: Domains | None,
    ) -> Any:
        """Of parts of trees: bounds of activations, what is left of their boxes, the least margin of the leaves.

        shared: the region, of which all of them are.
        """
        d = shared or analysis.bounds((lower, upper), known, np.array([trees.code[part] for part in parts]))
        regions = np.zeros(len(parts), dtype=np.int64) if shared else np.arange(len(parts))
        nothing, low, high = d.empty | (lower > upper).any(axis=1), d.lower[1], d.upper[1]
        rows, constants, sums = self.rows(trees, parts)
        total, v = analysis.pull(self.network.output, rows, d, regions)
        v = np.zeros((constants.size, lower.shape[1])) if v is None else v
        constant, A = analysis.arithmetic.linear(total, v, d.reach(1)[regions] if shared else d.reach(1))
        constant = np.nextafter(constant.reshape(constants.shape) + constants, -math.inf)
        constant[np.broadcast_to(d.outside, len(parts))] = np.nan
        A, proved = A.reshape(*constants.shape, -1), np.zeros(len(parts))
        for i in range(constants.shape[1]):
            bound, low, high = clipped(low, high, constant[:, i], A[:, i])
            if i == 0:
                proved = bound / np.maximum(sums, 1)
        left = ~(nothing | (low > high).any(axis=1))  # a box that is NaN is left, and not proved
        whole = ((low <= d.lower[1]) & (high >= d.upper[1])).all(axis=1)
        # What a float32 network reads may be as far from its input as that.
        room = (np.maximum(np.abs(lower), np.abs(upper)) * (2 * UNIT32) + SMALL32) * analysis.single
        lower = np.maximum(lower, np.nextafter(low - room, -math.inf))
        upper = np.where(left[:, None], np.minimum(upper, np.nextafter(high + room, math.inf)), -math.inf)
        closed = np.array([trees.kind[part] == LEAF for part in parts])
        for j in np.flatnonzero(left & closed & ~(proved > 0)).tolist():
            self.failed(trees, int(parts[j]), float(proved[j]), lower[j], upper[j], A[j, 0])
        # Of what is cut off, all that is known is a margin above zero.
        least = float(np.where(closed & (proved > 0), proved, 0.0)[~nothing & (closed | ~whole)].min(initial=math.inf))
        return known if shared else d.z, lower, upper, least

    def rows(self, trees: Trees, parts: Array) -> tuple[Array, Array, Array]:
        """Of parts of trees: rows (parts, k, outputs), constants (parts, k), and the sums (parts,) of stated weights.

        The first row is the stated combination, those of the unsafe set follow; those of sets with fewer are zero.
        """
        sets = np.array([trees.sets[part] for part in parts])
        most = 1 + max(len(self.cases[k].rows) for k in set(sets.tolist()))
        rows, constants = np.zeros((len(parts), most, self.network.output.size)), np.zeros((len(parts), most))
        sums = np.zeros(len(parts))
        for k in np.unique(sets).tolist():
            own = np.flatnonzero(sets == k)
            stated = np.array([trees.weights[part] for part in parts[own]], dtype=np.int64)
            count = 1 + stated.shape[1]
            every = np.eye(count - 1, dtype=np.int64)[None].repeat(len(own), axis=0)
            weights = np.concatenate((stated[:, None], every), axis=1)
            found = self.combined(k, weights.reshape(-1, count - 1))
            rows[own, :count], constants[own, :count] = (x.reshape(len(own), count, *x.shape[1:]) for x in found)
            sums[own] = stated.sum(axis=1)
        return rows, constants, sums

    def failed(self, trees: Trees, part: int, bound: float, lower: Array, upper: Array, slopes: Array) -> None:
        """A leaf is not proved: `bound` is what its linear function, with these slopes, is at least on its box.

        NaN where numbers are too large, or a function may be read beyond its domain.
        """
        k = trees.sets[part]
        need(not math.isnan(bound), f"a part of set {k} is not proved: what it computes is not bounded")
        raise Unproved(f"a part of set {k} is not proved: its bound is {bound:.6g}", bound)

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
        """The least margin of leaves by lower bounds of their combinations of rows. Refuses the worst of them."""
        least, constants, worst = Fraction(1 << 200), self.cases[k].constants, (Fraction(1 << 200), -1)
        for i, bound, nothing in zip(numbers.tolist(), found, empty.tolist(), strict=True):
            weights = [Fraction(int(weight)) for weight in self.hints[f"weights.{k}"][i]]
            total = bound + sum(map(Fraction.__mul__, constants, weights))
            total /= sum(weights) or 1
            if not nothing:
                least, worst = min(least, total), min(worst, (total, i))
        bound, i = worst
        if not least > 0:
            raise Unproved(f"leaf {i} of set {k} is not proved: its bound is {float(bound):.6g}", float(bound))
        return least


def check(certificate: bytes, model: bytes, prop: bytes, arithmetic: str = "auto", sample: int = 16) -> Accepted:
    """What was proved. Raises Refused whatever the bytes are: any error on the way is a reason to refuse.

    arithmetic: exact, rounded, or auto, which is exact up to a certain size. sample: of how many leaves of every set a
    rounded check is repeated exactly.
    """
    try:
        with np.errstate(all="ignore"):
            hints = unpack(certificate)
            for name, content in (("model", model), ("property", prop)):
                need(hints[name] == hashlib.sha256(content).hexdigest(), f"the certificate is about another {name}")
            network = Network(model, bool(hints["merge"]), hints.get("scales"))
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
    """A file's content, all of it: the first part of a model may be another model. Refused if it is too large."""
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if zipped else open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    need(len(content) <= MOST_BYTES, f"{path} is too large")
    return content


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Check a certificate.", epilog="Exit code: 0 if accepted, 1 if refused."
    )
    parser.add_argument("certificate")
    parser.add_argument("--model", required=True, help="the network that it is about (ONNX)")
    parser.add_argument("--property", required=True, help="what must not happen (VNN-LIB)")
    how = "exact numbers, or float64 with all rounding paid for; auto: exact where that takes a minute at most, about"
    parser.add_argument("--arithmetic", choices=("auto", "exact", "rounded"), default="auto", help=how)
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
