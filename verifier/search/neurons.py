"""Splits of neurons, bounded by CROWN with optimised slopes and split multipliers, warm-started from the parent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from verifier.search.ascent import Ascent, Patterns, bound
from verifier.search.branching import best_of, children, scores
from verifier.search.domain import joined, outward
from verifier.search.evaluator import Evaluator
from verifier.search.record import Cut, Evidence, Record, Shaved
from verifier.search.rows import Rows
from verifier.search.shaving import LITTLE, Ends, Shaving


@dataclass(eq=False)
class Open(Patterns):
    """shortlist: (n, count), units to be split by the last bound, best first. score: (n, count), theirs."""

    shortlist: Tensor
    score: Tensor


class Promises:
    """Which share of its score every unit has been seen to gain, for every unsafe set: few candidates then suffice.

    Such averages over a search tree are the pseudo-costs of integer programming (Benichou et al. 1971).
    """

    def __init__(self, zeros: Tensor) -> None:
        self.total, self.count = zeros, zeros.clone()  # (sets, units), of shares and of how many they are

    def kept(self, sets: Tensor) -> Tensor:
        """The mean shares (n, units) for sets (n,); what was never tried is believed."""
        return (self.total[sets] + BELIEF) / (self.count[sets] + BELIEF)

    def learn(self, sets: Tensor, units: Tensor, score: Tensor, gains: Tensor) -> None:
        """Take in what candidates gain: sets (n,); units, score and gains (n, count)."""
        share, tried = (gains / score).clamp(0, MOST), score > 0
        place = (sets.unsqueeze(1).expand_as(tried)[tried], units[tried])
        self.total.index_put_(place, share[tried], accumulate=True)
        self.count.index_put_(place, torch.ones_like(share[tried]), accumulate=True)


Leaf = Callable[[Open, float], tuple[float, Tensor | None]]

BELIEF = 0.1  # the weight of a share of one that stands for what was not seen yet
MOST = 10.0  # scores near zero would make shares of any size
TRIED = 8  # points per batch that are handed on to be judged

# Everything below inherits what is done for the first subdomains, and a small batch costs little more than one:
STEPS, EFFORT = 24, 256  # of ascent, at most, and how many for all of a batch together
SHAVES = 4  # of the root, at most
WIDER, CANDIDATES = 4, 256  # times the shortlist, at most, and how many candidates for all of a batch together


class NeuronSplits:
    """Splits undecided neurons. Searches in float32; a bound counts once it is confirmed in the graph's precision.

    exact: bounds in the graph's precision. close_leaf: decides subdomains in which no neuron is undecided. record: of
    the splits, where one is to be kept. shave_until: a time.monotonic(), until when the root may be shaved. start:
    (sets, parameters + 1, units), multipliers of the root.
    """

    def __init__(
        self,
        exact: Evaluator,
        rows: Rows,
        enough: float,
        steps: int,
        shortlist: int,
        close_leaf: Leaf | None = None,
        record: Record | None = None,
        shave_until: float | None = None,
        start: Tensor | None = None,
    ) -> None:
        self.exact, self.units, self.rows, self.enough = exact, exact.units, rows, enough
        self.fast, self.fast_rows = exact.to(torch.float32), rows.to(torch.float32)
        self.ascent, self.close_leaf, self.record = Ascent(steps), close_leaf, record
        self.shave_until, self.start = shave_until, start
        self.slack = 0.0  # what float32 bounds have been seen to promise too much
        self.promises = Promises(self.fast_rows.d.new_zeros(len(rows.d), len(self.units)))
        self.shortlist, self.widest = (min(k * shortlist, max(len(self.units), 1)) for k in (1, WIDER))
        self.evaluations = 0
        self.cut_off = False  # whether the root lacks what is proved to have a margin above `enough`

    def root(self) -> Open:
        n, count = self.rows.d.shape
        l = outward(self.units.lower, -math.inf).repeat(n, 1)
        u = outward(self.units.upper, math.inf).repeat(n, 1)
        device = l.device
        start = torch.cat((self.units.initial(l, u), torch.zeros_like(l).unsqueeze(1)), 1)
        root = Open(
            unsafe=torch.arange(n, device=device),
            lower=torch.full((n,), -math.inf, dtype=torch.float64, device=device),
            node=torch.arange(n, device=device),
            l=l,
            u=u,
            split=torch.zeros_like(l, dtype=torch.bool),
            multipliers=start if self.start is None else self.start.clone(),
            weights=l.new_full((n, count), 1 / count),
            shortlist=torch.zeros(n, self.widest, dtype=torch.long, device=device),
            score=l.new_zeros(n, self.widest),
        )
        root.weights = self._best_rows(root)
        return root if self.shave_until is None else self._shaved(root, self.shave_until)

    def _shaved(self, root: Open, until: float) -> Open:
        """The root with the ends of its units' ranges cut off, subdomains that are nearly proved first."""
        for turn in range(SHAVES):
            root, _ = self.bound(root, until)
            open_ = ~(root.lower > self.enough)
            if not bool(open_.any()) or time.monotonic() > until:
                break
            part = root.select(open_)
            part = part.select(part.lower.argsort(descending=True))
            width = (part.u - part.l).sum()
            keep = partial(self._keep_ends, turn)
            self.evaluations += Shaving()(self.fast, self.exact, self.rows, part, self.enough, until, keep)
            root = joined([root.select(~open_), part])
            narrower = (part.u - part.l).sum()
            self.cut_off = self.cut_off or bool(narrower < width)
            if not narrower < (1 - LITTLE) * width:
                break
        return root

    @torch.no_grad()
    def _best_rows(self, domains: Patterns) -> Tensor:
        """Weights (n, rows) that pick the row that is bounded best by itself."""
        count = domains.weights.shape[1]
        if count == 1:
            return domains.weights
        every = domains.select(torch.arange(len(domains), device=domains.l.device).repeat_interleave(count))
        every.weights = torch.eye(count, dtype=domains.l.dtype, device=domains.l.device).repeat(len(domains), 1)
        found = bound(self.fast, self.fast_rows, every).bound.view(-1, count)
        return torch.nn.functional.one_hot(found.argmax(1), count).to(domains.weights)

    @torch.no_grad()
    def bound(self, domains: Open, deadline: float) -> tuple[Open, Tensor]:
        ascent = replace(self.ascent, steps=max(self.ascent.steps, min(STEPS, EFFORT // len(domains))))
        index, back, count = ascent(self.fast, self.fast_rows, domains, self.enough + self.slack, deadline)
        self.evaluations += count
        if len(index):
            part = domains.select(index)
            lines = self.units.relaxed(part.l, part.u).alone(part.multipliers[:, :-1])
            found = scores(self.units, part.l, part.u, lines, back.v)
            if found.shape[1]:
                domains.shortlist[index] = (found * self.promises.kept(part.unsafe)).topk(self.widest, 1).indices
                domains.score[index] = found.gather(1, domains.shortlist[index])
        self.confirm(domains, domains.lower > self.enough)
        worst = domains.lower[index].argsort()[:TRIED]
        return domains, self.exact.points(back.x[worst].to(self.rows.d))

    def confirm(self, domains: Open, which: Tensor | None = None) -> None:
        """Replace bounds, all or those of a mask, by what the same multipliers give in the graph's precision."""
        index = torch.arange(len(domains), device=domains.l.device) if which is None else which.nonzero().squeeze(1)
        if len(index):
            self.evaluations += len(index)
            confirmed = self._confirmed(domains.select(index)).double()
            excess = float((domains.lower[index] - confirmed).max())
            self.slack = max(self.slack, 2 * excess) if excess < math.inf else self.slack
            domains.lower[index] = confirmed

    @torch.no_grad()
    def _confirmed(self, domains: Open) -> Tensor:
        dtype = self.rows.d.dtype
        exact = domains.mapped(lambda t: t.to(dtype) if t.is_floating_point() else t)
        exact.weights = exact.weights / exact.weights.sum(1, keepdim=True)
        found = bound(self.exact, self.rows, exact).bound
        return torch.where(found < math.inf, found, -math.inf)  # what overflows proves nothing

    def splittable(self, domains: Open) -> Tensor:
        return self.units.unstable(domains.l, domains.u).any(1)

    @torch.no_grad()
    def split(self, domains: Open) -> tuple[Open, Cut]:
        count = min(self.widest, max(self.shortlist, CANDIDATES // len(domains)))
        candidates, score = domains.shortlist[:, :count], domains.score[:, :count]
        unit, gains = best_of(self.units, domains, candidates, score, self.enough, self._quick)
        self.promises.learn(domains.unsafe, candidates, score, gains)
        both = children(self.units, domains, unit)
        return both, Cut(unit, both.u[torch.arange(len(domains), device=unit.device), unit])

    @torch.no_grad()
    def keep(self, closed: Open) -> None:
        if self.cut_off:  # of what was cut off, more is not known
            closed.lower = closed.lower.clamp(max=math.nextafter(self.enough, math.inf))
        if self.record is not None:
            pressure = closed.multipliers[:, -1] * closed.split
            evidence = self._evidence(self.record, closed, closed.multipliers[:, :-1], pressure)
            self.record.close(closed.node, closed.unsafe, evidence)

    def _keep_ends(
        self, turn: int, domains: Patterns, ends: Ends, values: Tensor, strength: Tensor, found: Tensor
    ) -> None:
        """Ends of units' ranges have been moved as far as `found`, by these parameters of lines and strengths."""
        if self.record is None:
            return
        cut = domains.select(ends.domain)
        shaved = Shaved(cut.unsafe, ends.unit, ends.sign, strength, self._evidence(self.record, cut, values), turn)
        self.record.shave(shaved)
        # Where both ends of a unit have passed each other, they close the two halves of a split between them.
        key = ends.domain * len(self.units) + ends.unit
        lower, upper = ((ends.sign == sign).nonzero().squeeze(1) for sign in (1, -1))
        low, high = (key[lower].unsqueeze(1) == key[upper]).nonzero().unbind(1)
        low, high = lower[low], upper[high]
        crossed = found[low] > -found[high]
        low, high = low[crossed], high[crossed]
        if len(low):
            both = torch.cat((low, high))
            cut, unit = cut.select(both), ends.unit[both]
            signed = (ends.sign * strength)[both].unsqueeze(1)
            pressure = torch.zeros_like(cut.l).scatter(1, unit.unsqueeze(1), signed)
            split = Cut(unit[: len(low)], (found[low] - found[high]) / 2)
            halves = self.record.split(cut.node[: len(low)], cut.unsafe[: len(low)], split)
            self.record.close(halves, cut.unsafe, self._evidence(self.record, cut, values[both], pressure))

    def _evidence(self, record: Record, domains: Patterns, values: Tensor, pressure: Tensor | None = None) -> Evidence:
        """What closes subdomains by lines with parameters `values` (n, parameters, units)."""
        relaxed, planes = self.units.relaxed(domains.l, domains.u), self.units.planes
        lines = relaxed.alone(values)
        slopes = [lines.lower_slope]
        if record.above:
            slopes.append(lines.upper_slope)
        if planes is not None:
            share = relaxed.at(values).share
            assert share is not None
            slopes.append(share[:, planes])
        return Evidence(domains.weights, torch.cat(slopes, 1), pressure)

    def _quick(self, domains: Patterns) -> Tensor:
        self.evaluations += len(domains)
        return bound(self.fast, self.fast_rows, domains).bound

    def close(self, leaf: Open, deadline: float) -> tuple[float, Tensor | None]:
        return (-math.inf, None) if self.close_leaf is None else self.close_leaf(leaf, deadline)
