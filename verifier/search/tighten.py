"""Better bounds of hidden neurons over the whole region, before the search: one small search per end of each neuron.

Layer by layer the undecided neurons become the outputs of a network over the units found so far. Their bounds
improve by ascent on lines of their own and by a few levels of splits below them; what gets decided is no unit any more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.graph import Graph
from verifier.ops.base import Activation, PiecewiseLinear
from verifier.proof import Plane
from verifier.search.crew import Crew, Halved, halved, helpers
from verifier.search.domain import joined
from verifier.search.neurons import NeuronSplits, Open
from verifier.search.planes import can_be_raised, raised
from verifier.search.record import Records
from verifier.search.rows import Rows
from verifier.search.segments import Matrices, SegmentEvaluator
from verifier.search.units import Units
from verifier.types import Box, Interval

BATCH = 256  # subdomains that are split together
SHARED = 64  # parts, at least, that others are given
MANY = 4 * SHARED  # parts, at least, for which others are asked at once
RAISING = 0.5  # of a layer's time, at most, for planes
LONG = 0.3  # seconds, at least, for a layer with whose splits others are asked to help
LITTLE = 0.01  # of the sum of a layer's bounds: a round of splits, but for the first, that gains less is the last
WORST = 0.5  # the share of the range of a neuron's bounds in which parts are split


@dataclass(frozen=True)
class Tightening:
    """rounds: of splits below a neuron, at most. seconds: half of them in equal parts for all layers, half by neurons;
    in none, bounds stay as they are.

    jobs: how many processes share the work. planes: whether planes above ReLUs are chosen for every layer, which takes
    longer than the first splits. steps, shortlist: as in the search, of which there are few here: many subdomains pay
    more than good bounds of some.
    """

    rounds: int
    seconds: float
    jobs: int = 1
    planes: bool = False

    steps: int = 4
    shortlist: int = 8

    def __call__(
        self,
        graph: Graph,
        region: Box,
        nodes: Mapping[int, Interval],
        deadline: float,
        records: Records | None = None,
    ) -> tuple[dict[int, Interval], SegmentEvaluator | None]:
        """Better bounds of what activations read, and the matrices of the whole network unless they are too large.

        records: where to keep what proves the bounds, if that is wanted.
        """
        nodes, units = dict(nodes), Units.none(graph)
        if not all(isinstance(n.op, PiecewiseLinear) for n in graph.nodes if isinstance(n.op, Activation)):
            return nodes, None
        until, left = time.monotonic() + self.seconds, _undecided(graph, nodes)
        matrices, done = Matrices(graph, region), set[int]()
        for index, node in enumerate(graph.nodes):
            if not isinstance(node.op, Activation):
                continue
            read = node.inputs[0]
            positions = node.op.unstable(nodes[read]).flatten().nonzero().squeeze(1)
            if len(units) and len(positions) and read not in done and time.monotonic() < min(until, deadline):
                network = matrices.evaluator(units, read, positions)
                now = time.monotonic()
                part = (1 / len(left) + left[index] / sum(left.values())) / 2
                share = now + max(until - now, 0.0) * part
                if network is not None:
                    z, end = nodes[read], min(share, deadline)
                    search = self._search(graph, network, nodes, len(positions), end, records)
                    nodes[read] = self._tightened(search, z, positions, end)
                    if records is not None and search.record is not None:
                        records.claim(index, positions, search.record, z, nodes[read])
            done.add(read)
            left.pop(index, None)
            units = units.then(graph, index, nodes[read])
            matrices.add(index, nodes[read], units)
        return nodes, matrices.evaluator(units, graph.output, torch.arange(graph.nodes[-1].size, device=graph.device))

    def _search(
        self,
        graph: Graph,
        network: SegmentEvaluator,
        nodes: Mapping[int, Interval],
        count: int,
        deadline: float,
        records: Records | None,
    ) -> NeuronSplits:
        """The splits for the lower ends of the network's `count` outputs, and for their upper ends."""
        eye = torch.eye(count, dtype=network.units.lower.dtype, device=graph.device)
        C = torch.cat((eye, -eye)).unsqueeze(1)
        rows, start, planes, record = Rows(C, C.new_zeros(2 * count, 1)), None, list[Plane](), None
        if self.planes and can_be_raised(network.units):
            plain = NeuronSplits(network, rows, 0.0, self.steps, self.shortlist)
            now = time.monotonic()
            better = raised(plain, graph, nodes, now + RAISING * (deadline - now))
            network, start, planes = *better[:2], [] if records is None else better.described(records.numbers)
        if records is not None:
            record = records.neuron_record(network.units, [1] * 2 * count, dict(nodes), planes)
        return NeuronSplits(network, rows, 0.0, self.steps, self.shortlist, record=record, start=start)

    def _tightened(self, search: NeuronSplits, z: Interval, positions: Tensor, deadline: float) -> Interval:
        """The bounds of what is searched, the neurons of z at `positions`."""
        low, high = self._least(search, deadline).to(z.lower).chunk(2)
        lower, upper = z.lower.flatten().clone(), z.upper.flatten().clone()
        lower[positions] = torch.fmax(lower[positions], low)
        upper[positions] = torch.fmin(upper[positions], -high)
        # The two can cross by a rounding error alone; both ends then bound the same number.
        low, high = torch.minimum(lower, upper), torch.maximum(lower, upper)
        return Interval(low.view_as(z.lower), high.view_as(z.upper))

    def _least(self, search: NeuronSplits, deadline: float) -> Tensor:
        """The best bound (sets,) of every set, by splits of its worst parts for as long as there is time."""
        parts = roots = _bounded(search, search.root(), deadline)
        count, before = len(parts), -math.inf

        def step(batch: Open) -> Halved[Open]:
            answer = halved(search, batch, math.inf)
            search.confirm(answer.parts)
            return answer

        with Crew(step, helpers(self.jobs, parts.l.device)) as crew:
            for number in range(self.rounds):
                least, most = (_by_set(parts, count, how) for how in ("amin", "amax"))
                total = float(least.clamp(max=search.enough).sum())
                if number > 1 and not total - before > LITTLE * -before:
                    break
                before = total
                bad = parts.lower <= (least + WORST * (most - least))[parts.unsafe]
                decided = (least > search.enough).view(2, -1).any(0).repeat(2)[parts.unsafe]  # at either end
                going = (bad & ~decided & search.splittable(parts)).nonzero().squeeze(1)
                if not len(going):
                    break
                if (number or len(going) > MANY) and deadline - time.monotonic() > LONG:
                    crew.start()
                size = min(BATCH, max(SHARED, -(-len(going) // crew.size)))
                chunks, taken = going.split(size), list[Tensor]()
                answers = crew.all(_batches(parts, chunks, taken, deadline))
                halves = [answer.placed(batch, search.record) for batch, answer in answers]
                if not halves:
                    break
                kept = torch.ones(len(parts), dtype=torch.bool, device=going.device)
                kept[torch.cat(taken)] = False
                parts = joined([parts.select(kept), *halves])
        # Halves can be bounded worse than the whole: they have other chords, for which nobody chose lines and planes.
        worse = _by_set(parts, count, "amin") < roots.lower
        parts = joined([parts.select(~worse[parts.unsafe]), roots.select(worse)])
        search.keep(parts)
        return _by_set(parts, count, "amin")


def _undecided(graph: Graph, nodes: Mapping[int, Interval]) -> dict[int, int]:
    """How many neurons of an activation are undecided, where some are."""
    ops = {i: (n.op, n.inputs[0]) for i, n in enumerate(graph.nodes) if isinstance(n.op, Activation)}
    counts = {i: int(op.unstable(nodes[read]).sum()) for i, (op, read) in ops.items()}
    return {i: n for i, n in counts.items() if n}


def _batches(parts: Open, chunks: Iterable[Tensor], taken: list[Tensor], deadline: float) -> Iterator[Open]:
    """The parts of each chunk of positions, which is then noted as taken, until time is up."""
    for index in chunks:
        if time.monotonic() > deadline:
            return
        taken.append(index)
        yield parts.select(index)


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
