"""Better bounds of hidden neurons over the whole region, before the search: one small search per end of each neuron.

Layer by layer the undecided neurons become the outputs of a reduced network over the units found so far. Their bounds
improve by ascent on lines of their own and by a few levels of splits below them; what gets decided is no unit any more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.graph import Graph
from verifier.ops.base import Activation, PiecewiseLinear, Relaxation
from verifier.search.domain import joined
from verifier.search.evaluator import Evaluator
from verifier.search.neurons import NeuronSplits, Open
from verifier.search.record import Record, Records
from verifier.search.reduced import Forms, ReducedEvaluator, forms, pays, stable_lines
from verifier.search.rows import Rows
from verifier.search.segments import SegmentEvaluator
from verifier.search.units import Units
from verifier.types import Box, Interval

BATCH = 256  # subdomains that are split together
WORST = 0.5  # the share of the range of a neuron's bounds in which parts are split


@dataclass(frozen=True)
class Tightening:
    """rounds: of splits below a neuron, at most. seconds: for them, in equal parts for all layers.

    steps, shortlist: as in the search, of which there are few here: many subdomains pay more than good bounds of some.
    """

    rounds: int
    seconds: float

    steps: int = 4
    shortlist: int = 8

    def __call__(
        self,
        graph: Graph,
        region: Box,
        nodes: Mapping[int, Interval],
        deadline: float,
        records: Records | None = None,
    ) -> tuple[dict[int, Interval], ReducedEvaluator | None]:
        """Better bounds of what activations read, and the reduced network of the whole graph where that pays.

        records: where to keep what proves the bounds, if that is wanted.
        """
        nodes, units = dict(nodes), Units.none(graph)
        lines: dict[int, Relaxation] = {}
        if not all(isinstance(n.op, PiecewiseLinear) for n in graph.nodes if isinstance(n.op, Activation)):
            return nodes, None
        activations = sum(isinstance(n.op, Activation) for n in graph.nodes)
        every: Forms | None = Forms.none(graph)  # None once the reduced network would be dearer than the network itself
        done: set[int] = set()
        for index, node in enumerate(graph.nodes):
            if not isinstance(node.op, Activation):
                continue
            read = node.inputs[0]
            positions = node.op.unstable(nodes[read]).flatten().nonzero().squeeze(1)
            rows = None if every is None else forms(graph, read, positions, lines, units)
            if len(units) and len(positions) and read not in done and time.monotonic() < deadline:
                network: Evaluator | None
                if every is None or rows is None:
                    network = SegmentEvaluator.of(graph, region, nodes, units, read, positions)
                else:
                    network = ReducedEvaluator.of(region, units, every.then(rows))
                share = time.monotonic() + self.seconds / activations
                if network is not None:
                    z, record = nodes[read], None
                    if records is not None:
                        record = records.neuron_record(units, [1] * 2 * len(positions), dict(nodes))
                    nodes[read] = self._tightened(network, z, positions, min(share, deadline), record)
                    if records is not None and record is not None:
                        records.claim(index, positions, record, z, nodes[read])
            done.add(read)
            kept = node.op.unstable(nodes[read]).flatten()[positions]
            units = units.then(graph, index, nodes[read])
            if every is not None and rows is not None:
                every, positions = every.then(rows.select(kept)), positions[kept]
                lines[index] = stable_lines(node.op, nodes[read], positions)
                every = every if pays(graph, region, len(units)) else None
        if every is None:
            return nodes, None
        output = torch.arange(graph.nodes[-1].size, device=graph.device)
        rows = forms(graph, graph.output, output, lines, units)
        return nodes, ReducedEvaluator.of(region, units, every.then(rows))

    def _tightened(
        self, network: Evaluator, z: Interval, positions: Tensor, deadline: float, record: Record | None
    ) -> Interval:
        """The bounds of the network's outputs, which are the neurons of z at `positions`."""
        eye = torch.eye(len(positions), dtype=z.lower.dtype, device=z.lower.device)
        C = torch.cat((eye, -eye)).unsqueeze(1)
        rows = Rows(C, C.new_zeros(len(C), 1))
        search = NeuronSplits(network, rows, 0.0, self.steps, self.shortlist, record=record)
        low, high = self._least(search, deadline).to(z.lower).chunk(2)
        lower, upper = z.lower.flatten().clone(), z.upper.flatten().clone()
        lower[positions] = torch.fmax(lower[positions], low)
        upper[positions] = torch.fmin(upper[positions], -high)
        # The two can cross by a rounding error alone; both ends then bound the same number.
        low, high = torch.minimum(lower, upper), torch.maximum(lower, upper)
        return Interval(low.view_as(z.lower), high.view_as(z.upper))

    def _least(self, search: NeuronSplits, deadline: float) -> Tensor:
        """The best bound (sets,) of every set, by splits of its worst parts for as long as there is time."""
        parts = _bounded(search, search.root(), deadline)
        count = len(parts)
        for _ in range(self.rounds):
            least, most = (_by_set(parts, count, how) for how in ("amin", "amax"))
            bad = parts.lower <= (least + WORST * (most - least))[parts.unsafe]
            going = (bad & ~(parts.lower > search.enough) & search.splittable(parts)).nonzero().squeeze(1)
            if not len(going):
                break
            kept = torch.ones(len(parts), dtype=torch.bool, device=going.device)
            halves = []
            for index in going.split(BATCH):
                if time.monotonic() > deadline:
                    break
                halves.append(_bounded(search, search.split(parts.select(index)), math.inf))
                kept[index] = False
            if not halves:
                break
            parts = joined([parts.select(kept), *halves])
        search.keep(parts)
        return _by_set(parts, count, "amin")


def _bounded(search: NeuronSplits, domains: Open, deadline: float) -> Open:
    """The subdomains with bounds that hold in the graph's precision; those that come too late keep what they have."""
    batches = []
    for index in torch.arange(len(domains), device=domains.l.device).split(2 * BATCH):
        batch = domains.select(index)
        if time.monotonic() < deadline:
            batch, _ = search.bound(batch, deadline)
            search.confirm(batch)
        batches.append(batch)
    return joined(batches)


def _by_set(parts: Open, count: int, how: str) -> Tensor:
    """The least ("amin") or greatest ("amax") bound of every set, (count,)."""
    start = torch.zeros(count, dtype=parts.lower.dtype, device=parts.lower.device)
    return start.scatter_reduce(0, parts.unsafe, parts.lower, how, include_self=False)
