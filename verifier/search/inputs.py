"""Splits of the input box, for few inputs: every part gets new bounds of its hidden neurons.

What the linear bounds of a part leave of it is halved along the input whose width costs them most. Parts are screened
in float32; what its rounding cannot tell from zero is bounded again in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.interval import intersected, margins, propagate, read_by_activations
from verifier.bounds.symbolic import Form, moving, symbolic_bounds
from verifier.graph import Graph
from verifier.proof import INPUT
from verifier.search.clipping import best_combination, clipped
from verifier.search.domain import Domains, joined
from verifier.search.record import Cut, Evidence, Record
from verifier.search.rows import Rows
from verifier.spec.property import HalfSpaces
from verifier.types import Box, Interval

MOST_UNEVEN = 1024
"""How much wider than another, relative to the region, an input of a subdomain may stay: some inputs matter a hundred
times less than others, and halving them is wasted."""

COARSE = 8
"""A float32 bound is computed again if this many times its rounding error would close the subdomain."""

NARROW = 2.0**-16
"""Boxes narrower than this, relative to their middle, are too small for float32."""

SIDES = ("lower", "upper")

MEMORY, LARGEST = 1 << 26, 1 << 31
"""Bytes that the forms of one layer may take, and those of one subdomain if they are more."""


@dataclass(eq=False)
class Boxes(Domains):
    """Subdomains that are boxes.

    low, high: (n, k), of the k varying inputs. hidden: (n, 2, neurons), lower and upper bounds of what activations
    read. score: (n, k), how much the width of each input costs the bound. weights: (n, rows), of the combination of
    rows that is bounded.
    """

    low: Tensor
    high: Tensor
    hidden: Tensor
    score: Tensor
    weights: Tensor


class InputSplits:
    """Halves the input whose width costs the bound most; bounds every part anew on its own box.

    recorded: keep a record of the splits.
    """

    def __init__(
        self,
        graph: Graph,
        region: Box,
        unsafe: Sequence[HalfSpaces],
        nodes: Mapping[int, Interval],
        enough: float,
        recorded: bool = False,
    ) -> None:
        self.region, self.nodes, self.enough, self.evaluations = region, nodes, enough, 0
        self.varying = moving(region)
        # What the others vary is an error, rounded up: their middle is rounded as well.
        still = 2 * region.radius.flatten(1)
        still[:, self.varying] = 0
        self.still = still.view_as(region.lower)
        self.whole = region.radius.flatten(1)[:, self.varying]
        rows = Rows.of(unsafe, region.lower)
        self.exact = (graph, rows)
        places = [(INPUT, i) for i in self.varying.tolist()]
        self.record = Record([len(s.C) for s in unsafe], places) if recorded else None
        self.widest = max(node.size for node in graph.nodes)
        self.quick = (graph.to(torch.float32), rows.to(torch.float32))
        self.screening = True  # until float32 leaves most subdomains to float64

    def root(self) -> Boxes:
        n, like = len(self.exact[1].C), self.region.lower
        sides = [side.flatten(1)[:, self.varying].expand(n, -1) for side in (self.region.lower, self.region.upper)]
        return Boxes(
            unsafe=torch.arange(n, device=like.device),
            lower=like.new_full((n,), -math.inf),
            node=torch.arange(n, device=like.device),
            low=sides[0].clone(),
            high=sides[1].clone(),
            hidden=_packed(self.nodes, like).expand(n, -1, -1).clone(),
            score=like.new_ones((n, len(self.varying))),
            weights=like.new_zeros(n, self.exact[1].d.shape[1]),
        )

    @torch.no_grad()
    def bound(self, domains: Boxes, deadline: float) -> tuple[Boxes, Tensor]:
        if 8 * self.widest * (1 + len(self.varying) + domains.hidden.shape[2]) * len(domains) <= MEMORY:
            return self._screened(domains)
        each = self._bytes(domains.hidden)
        large = each > LARGEST
        found = [self._by_intervals(domains.select(large))] if large.any() else []
        rest = domains.select(~large)
        if len(rest):
            size = max(1, int(MEMORY / each[~large].max()))
            parts = torch.arange(len(rest), device=each.device).split(size)
            found += [self._screened(rest.select(part)) for part in parts]
        return joined([boxes for boxes, _ in found]), torch.cat([points for _, points in found])

    def _bytes(self, hidden: Tensor) -> Tensor:
        """What the symbolic forms of each subdomain's widest layer take in memory, at most."""
        graph = self.exact[0]
        readers = read_by_activations(graph)
        unstable = [readers[n][0].unstable(z).flatten(1).sum(1) for n, z in self._unpacked(hidden).items()]
        terms = sum(unstable, torch.full((len(hidden),), 1 + len(self.varying), device=hidden.device))
        return 8 * self.widest * terms

    def _by_intervals(self, domains: Boxes) -> tuple[Boxes, Tensor]:
        """Bounded by intervals alone, for want of memory; scored by width."""
        graph, rows = self.exact
        self.evaluations += len(domains)
        known = self._unpacked(domains.hidden.to(graph.dtype))
        middle = (domains.low + domains.high) / 2
        box = Box(self._inputs(domains.low), self._inputs(domains.high, self.region.upper))
        values, nodes = propagate(graph, box, lambda node, z, _: intersected(z, known[node]))
        C, d = rows.C[domains.unsafe], rows.d[domains.unsafe]
        best, row = (margins(graph, box, C, values) + d).max(1)
        proved = best.clamp(max=math.nextafter(self.enough, math.inf))
        domains.weights = torch.nn.functional.one_hot(row, C.shape[1]).to(domains.weights)
        domains.lower = torch.where(proved > domains.lower, proved, domains.lower)
        domains.hidden = _packed(nodes, domains.low)
        domains.score = (domains.high - domains.low) / self.whole
        return domains, self._inputs(middle)

    def _screened(self, domains: Boxes) -> tuple[Boxes, Tensor]:
        """Bounded in float32; in float64 where that is too coarse."""
        if not self.screening:
            return self._bounded(domains, *self.exact)[:2]
        center, radius = (domains.low + domains.high) / 2, (domains.high - domains.low) / 2
        narrow = (radius < NARROW * center.abs()).all(1)
        boxes, points, error = self._bounded(domains, *self.quick)
        again = ~(boxes.lower > self.enough) & ((boxes.lower + COARSE * error > self.enough) | narrow)
        self.screening = 2 * int(again.sum()) <= len(domains)
        if not again.any():
            return boxes, points
        exact, better, _ = self._bounded(domains.select(again), *self.exact)
        return joined([boxes.select(~again), exact]), torch.cat((points, better))

    def _bounded(self, domains: Boxes, graph: Graph, rows: Rows) -> tuple[Boxes, Tensor, Tensor]:
        """Bounded in the precision of the graph; also points to try, and what rounding cost the bounds (n,).

        The parts of the boxes where a linear bound exceeds `enough` are cut off.
        """
        self.evaluations += len(domains)
        low, high = outward(domains.low, domains.high, graph.dtype)
        center, radius = (low + high) / 2, (high - low) / 2
        radius = radius + torch.finfo(radius.dtype).eps * (center.abs() + radius)  # the middle is rounded, too
        C, d = rows.C[domains.unsafe], rows.d[domains.unsafe]
        known = self._unpacked(domains.hidden.to(graph.dtype))
        found = symbolic_bounds(graph, self._start(center, radius), known, C, d)
        best, linear, weights = best_combination(found.linear)
        domains.weights = weights.to(domains.weights)
        forms = torch.cat((linear.unsqueeze(2), found.linear), 2)
        start, end = clipped(forms, self.enough)
        center, radius = center.to(domains.low), radius.to(domains.low)
        cut = (torch.fmax(domains.low, center + radius * start), torch.fmin(domains.high, center + radius * end))
        empty = (start > end).any(1) | (cut[0] > cut[1]).any(1)
        # `enough` holds wherever something was cut off, and is all that is claimed of the rest.
        proved = torch.where(empty, math.inf, best.to(domains.lower)).clamp(max=math.nextafter(self.enough, math.inf))
        domains.lower = torch.where(proved > domains.lower, proved, domains.lower)
        done = domains.lower > self.enough
        domains.low, domains.high = (
            torch.where(done.unsqueeze(1), side, part)
            for side, part in zip((domains.low, domains.high), cut, strict=True)
        )
        domains.hidden = _packed(found.nodes, center)
        domains.score = (found.blame.amax(2) * (end - start).clamp(min=0)).to(domains.low)
        corner = torch.where(linear[:, 1:] > 0, domains.low, domains.high)
        return domains, self._inputs(corner[~done]), found.error.amax(1).to(domains.lower)

    def _start(self, center: Tensor, radius: Tensor) -> Form:
        """The forms of the inputs: the middle, and half the width for every varying input."""
        n, k = center.shape
        form = center.new_zeros(n, 1 + k, self.region.lower[0].numel())
        form[:, 0] = self.region.center.flatten(1)
        form[:, 0, self.varying] = center
        form[:, torch.arange(1, 1 + k, device=center.device), self.varying] = radius
        still = outward(-self.still, self.still, form.dtype)[1].expand(n, *self.region.lower.shape[1:])
        return Form(form.view(n, 1 + k, *self.region.lower.shape[1:]), still)

    def _inputs(self, values: Tensor, side: Tensor | None = None) -> Tensor:
        """Inputs (n, *input_shape) with the given values (n, k) of those that vary, others at one side of the region.

        By default it is the lower one.
        """
        points = (self.region.lower if side is None else side).flatten(1).repeat(len(values), 1)
        points[:, self.varying] = values
        return points.view(-1, *self.region.lower.shape[1:])

    def _unpacked(self, hidden: Tensor) -> dict[int, Interval]:
        """The bounds (n, 2, neurons) by node."""
        parts = hidden.split([z.lower[0].numel() for z in self.nodes.values()], 2)
        shapes = [z.lower.shape[1:] for z in self.nodes.values()]
        pairs = [part.unflatten(2, shape).unbind(1) for part, shape in zip(parts, shapes, strict=True)]
        return {node: Interval(*pair) for node, pair in zip(self.nodes, pairs, strict=True)}

    def splittable(self, domains: Boxes) -> Tensor:
        center, radius = (domains.low + domains.high) / 2, (domains.high - domains.low) / 2
        return (radius > 1e-12 * center.abs()).any(1)

    def split(self, domains: Boxes) -> tuple[Boxes, Cut]:
        radius = (domains.high - domains.low) / 2
        # A score of zero does not say that an input is idle: none may stay far wider than the others.
        width = radius / self.whole
        wide = width >= width.amax(1, keepdim=True) / MOST_UNEVEN
        place = ((domains.score + torch.finfo(radius.dtype).tiny * width) * wide).argmax(1)
        n = len(domains)
        row = torch.arange(n, device=place.device)
        both = domains.select(row.repeat(2))
        middle = (domains.low[row, place] + domains.high[row, place]) / 2
        both.high[row, place], both.low[row + n, place] = middle, middle
        return both, Cut(place, middle, domains.weights)

    def keep(self, closed: Boxes) -> None:
        if self.record is not None:
            self.record.close(closed.node, closed.unsafe, Evidence(closed.weights))

    def close(self, leaf: Boxes, deadline: float) -> tuple[float, Tensor | None]:
        """A box that cannot be halved is a point: its centre decides as far as arithmetic can."""
        return -math.inf, self._inputs((leaf.low + leaf.high) / 2)


def outward(low: Tensor, high: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Bounds in another precision that hold if the given ones do."""
    if low.dtype == dtype:
        return low, high
    l, u = low.to(dtype), high.to(dtype)
    l = torch.where(l > low, torch.nextafter(l, torch.full_like(l, -math.inf)), l)
    return l, torch.where(u < high, torch.nextafter(u, torch.full_like(u, math.inf)), u)


def _packed(nodes: Mapping[int, Interval], like: Tensor) -> Tensor:
    """The bounds of nodes as (n, 2, neurons), in float32; n is that of `like`."""
    none = like.new_zeros(len(like), 0)
    lower, upper = (torch.cat([none, *(getattr(z, s).flatten(1) for z in nodes.values())], 1) for s in SIDES)
    return torch.stack(outward(lower, upper, torch.float32), 1)
