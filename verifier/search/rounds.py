"""The neuron splits of a task: which evaluator, and how well the region is known before the search starts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from verifier.graph import Graph
from verifier.proof import Plane
from verifier.search.leaf import close_by_lp
from verifier.search.neurons import Leaf, NeuronSplits, Open
from verifier.search.planes import can_be_raised, raised
from verifier.search.record import Records
from verifier.search.rows import Rows
from verifier.search.segments import SegmentEvaluator, for_graph
from verifier.search.tighten import Tightening
from verifier.search.units import Units
from verifier.spec.property import HalfSpaces
from verifier.types import Box, Interval

NEAR = 0.15  # of what CROWN's bounds lack, at most, may planes leave for a search before anything is tightened
FIRST_SHARE = 0.25  # of the time, at most, for the first round of tightening: one round of splits
LAST_SHARE = 0.5  # of the time left, at most, for any further round of tightening: the search needs the rest
GROWTH = 3  # how much longer a round tightens than the round before
PATIENCE = 0.25  # seconds of search for every second that the next round would tighten
GAIN = 0.1  # of the width of a layer's bounds; a round that gains less everywhere is the last
IDLE = 0.25  # a round that needs less of its time than this leaves nothing for the next
SHAVING_SHARE, FIRST_SHAVING = 0.1, 0.5  # of a round's search, at most, for what only that search gains by
SHORTEST = 0.5  # seconds, at least, of search and (after the first round) of tightening
WORTHWHILE, GRACE = 4, 4.0  # times its patience, and seconds more, that a search which has proved much goes on for
MANY = 1000  # rounds of splits: the clock ends them


class Rounds:
    """Neuron splits over a region that every round knows better.

    The first one tightens nothing: where little is lacking, planes for the unsafe sets prove it, or a short search
    does, in a fraction of the time that better bounds of all hidden neurons take.

    patience: seconds that the search of the last round may take before the next round; inf after the last. limit:
    seconds that it may take where it goes well. dear: would the next round take so much of the time left that a search
    which proves something should rather go on? records: where to keep what proves the bounds, if that is wanted. jobs:
    how many processes may share the work.
    """

    def __init__(
        self,
        graph: Graph,
        region: Box,
        nodes: Mapping[int, Interval],
        deadline: float,
        records: Records | None = None,
        jobs: int = 1,
    ) -> None:
        self.graph, self.region, self.nodes, self.deadline, self.records = graph, region, dict(nodes), deadline, records
        self.tightening, self.patience, self.limit, self.dear = Tightening(0, 0.0, jobs), 0.0, math.inf, False

    def next(self, unsafe: Sequence[HalfSpaces], enough: float, steps: int, shortlist: int) -> NeuronSplits:
        """The splits for some unsafe sets, after tightening the bounds of the neurons once more."""
        graph, region, rows, began = self.graph, self.region, Rows.of(unsafe, self.region.lower), time.monotonic()
        units, network = self._known()
        bare = not self.tightening.rounds
        if bare and (network is None or not can_be_raised(units)):
            bare = False
            self._begin()
            units, network = self._known()
        evaluator = network or for_graph(graph, region, self.nodes, units)
        close = leaf_closer(graph, region, self.nodes, units, rows)
        sizes = [len(s.C) for s in unsafe]
        start, planes, records, near = None, list[Plane](), self.records, False
        if isinstance(evaluator, SegmentEvaluator) and can_be_raised(units):
            plain = NeuronSplits(evaluator, rows, enough, steps, shortlist)
            better = raised(plain, graph, self.nodes, self.deadline, whole=not bare)
            evaluator, start, near = better.evaluator, better.start, better.lacking <= NEAR
            planes = [] if records is None else better.described(records.numbers)
        now = time.monotonic()
        if bare:
            self.patience = now - began if near else 0.0
            self.limit = WORTHWHILE * self.patience
            self._begin()
        record = None if records is None else records.neuron_record(units, sizes, self.nodes, planes)
        share = FIRST_SHAVING if bare else SHAVING_SHARE
        shave_until = now + share * min(self.patience, self.deadline - now)
        return NeuronSplits(evaluator, rows, enough, steps, shortlist, close, record, shave_until, start)

    def _known(self) -> tuple[Units, SegmentEvaluator | None]:
        """The undecided neurons and their matrices after a round of tightening, which may plan the next one."""
        known, began, tightening = self.nodes, time.monotonic(), self.tightening
        self.nodes, network = tightening(self.graph, self.region, known, self.deadline, self.records)
        units = Units.of(self.graph, self.nodes) if network is None else network.units
        if tightening.rounds:
            before, after = _widths(Units.of(self.graph, known)), _widths(units)
            gained = any(after.get(read, 0.0) < (1 - GAIN) * width for read, width in before.items())
            self._plan(time.monotonic() - began, gained)
        return units, network

    def _begin(self) -> None:
        """The next round is the first that tightens."""
        seconds = FIRST_SHARE * (self.deadline - time.monotonic())
        self.tightening = replace(self.tightening, rounds=1, seconds=seconds)

    def _plan(self, took: float, gained: bool) -> None:
        """The next round, after one that tightened for so many seconds; is there one?"""
        given, first = self.tightening.seconds, self.tightening.rounds == 1
        room = LAST_SHARE * (self.deadline - time.monotonic())
        wanted = max(GROWTH * took, SHORTEST) if first else GROWTH * given
        seconds = min(wanted, room)
        exhausted = not first and took < IDLE * given
        late = seconds < (took if first else given)  # no longer than the round before: little would be gained
        last = exhausted or late or not gained
        self.dear = room < wanted and not last
        self.patience = math.inf if last else max(PATIENCE * seconds, SHORTEST)
        self.limit = math.inf if self.dear else WORTHWHILE * self.patience + GRACE
        self.tightening = replace(self.tightening, rounds=MANY, seconds=seconds, planes=True)


def _widths(units: Units) -> dict[int, float]:
    """How wide the undecided neurons of every layer are, together."""
    return {b.read: float((units.upper[b.part] - units.lower[b.part]).sum()) for b in units.blocks}


def narrowed(nodes: Mapping[int, Interval], units: Units, l: Tensor, u: Tensor) -> dict[int, Interval]:
    """The bounds of what activations read, with those of the units (units,) in their places."""
    result = dict(nodes)
    for b in units.blocks:
        z = result[b.read]
        low, high = z.lower.flatten().clone(), z.upper.flatten().clone()
        low[b.positions], high[b.positions] = l[b.part].to(low), u[b.part].to(high)
        result[b.read] = Interval(low.view_as(z.lower), high.view_as(z.upper))
    return result


def leaf_closer(graph: Graph, region: Box, nodes: Mapping[int, Interval], units: Units, rows: Rows) -> Leaf:
    """What decides subdomains of `units` by a linear program, whose multipliers become theirs."""

    def close(leaf: Open, deadline: float) -> tuple[float, Tensor | None]:
        bounds = narrowed(nodes, units, leaf.l[0], leaf.u[0])
        split = {b.read: b.positions[leaf.split[0, b.part]] for b in units.blocks}
        k = int(leaf.unsafe)
        found = close_by_lp(graph, region, bounds, split, rows.C[k], rows.d[k], deadline)
        if found.pressure is not None and found.weights is not None:
            cut = [torch.arange(b.part.start, b.part.stop)[leaf.split[0, b.part].cpu()] for b in units.blocks]
            places = torch.cat([torch.zeros(0, dtype=torch.long), *cut])  # nothing may be left to split
            leaf.multipliers[0, -1] = 0
            leaf.multipliers[0, -1, places] = torch.from_numpy(found.pressure).to(leaf.multipliers)
            leaf.weights[0] = torch.from_numpy(found.weights).to(leaf.weights)
        return found.bound, found.point

    return close
