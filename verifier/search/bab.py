"""Branch and bound: split what is open, bound the halves, drop what is proved (Bunel et al. 2020; Wang et al. 2021).

One loop serves both kinds of split. With few inputs the input box is halved and the hidden bounds are recomputed for
every half; otherwise neurons are split, and their multipliers optimised from the parent's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.interval import read_by_activations
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.ops.patches import Coefficients, dense
from verifier.search.bounding import Bounding, initial_slopes
from verifier.search.branching import best_of, candidates, children, neuron_scores, split_points
from verifier.search.domain import Domains, Frontier
from verifier.search.leaf import close_by_lp
from verifier.spec.property import HalfSpaces
from verifier.types import Ball, Box, Interval

MOST_UNEVEN = 16
"""How much wider than another, relative to the region, an input of a subdomain may stay."""

Candidate = Callable[[Tensor], bool]  # judges points (k, *input_shape); True ends the search


@dataclass(frozen=True)
class BranchAndBound:
    """A complete search for piecewise-linear networks.

    input_limit: the most inputs that may vary for input splits. batch: subdomains per step (by the memory that a
    subdomain takes). steps: of the ascent per subdomain. shortlist: candidates whose children are bounded before one is
    chosen. memory: bytes that the open subdomains may take before the search goes depth first.
    """

    input_limit: int = 12
    batch: int = 512
    steps: int = 16
    shortlist: int = 8
    memory: int = 1 << 31

    def __call__(self, task: Task, progress: Callable[[str], None] | None = None) -> Outcome:
        """Prove that no output is in any of the task's unsafe sets, or find one that is."""
        return _Search(self, task).run(progress)


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be proved.

    region: batch one. unsafe: at least one set. nodes: bounds of what activations read, over the whole region. enough:
    a margin bound above this proves a subdomain. deadline: a time.monotonic(). judge: replays candidate inputs.
    """

    graph: Graph
    region: Box
    unsafe: Mapping[int, HalfSpaces]
    nodes: Mapping[int, Interval]
    enough: float
    deadline: float
    judge: Candidate


@dataclass(frozen=True)
class Outcome:
    """proved: by unsafe set, the margin bound over all its closed subdomains (-inf while any is open).

    best: the least bound over everything, open ones included. found: a candidate was accepted. nodes: subdomains
    bounded. stuck: subdomains that nothing could decide.
    """

    proved: dict[int, float]
    best: float
    found: bool
    nodes: int
    stuck: int


class _Search:
    """The state of one search."""

    def __init__(self, options: BranchAndBound, task: Task) -> None:
        graph, region, unsafe = task.graph, task.region, task.unsafe
        self.options, self.graph, self.region, self.judge = options, graph, region, task.judge
        self.keys, self.enough, self.deadline = list(unsafe), task.enough, task.deadline
        varying = int((region.upper > region.lower).sum())
        self.by_input = varying <= options.input_limit and not isinstance(region, Ball)
        most = max(len(s.C) for s in unsafe.values())
        fill = [torch.arange(most).clamp(max=len(s.C) - 1) for s in unsafe.values()]
        C = torch.stack([s.C[i] for s, i in zip(unsafe.values(), fill, strict=True)]).to(region.lower)
        d = torch.stack([s.d[i] for s, i in zip(unsafe.values(), fill, strict=True)]).to(region.lower)
        steps = 0 if self.by_input else options.steps
        self.bounding = Bounding(graph, region, C, d, steps, task.enough)
        self.points = split_points(graph)
        self.closed = {k: math.inf for k in self.keys}
        self.count = self.stuck = 0
        self.root = self._root(task.nodes)

    def _root(self, nodes: Mapping[int, Interval]) -> Domains:
        """The whole region, once for every unsafe set."""
        n, rows = self.bounding.C.shape[:2]
        copies = torch.zeros(n, dtype=torch.long, device=self.region.lower.device)
        bounds = {node: z.select(copies) for node, z in nodes.items()}
        if self.by_input:
            bounds[0] = Interval(self.region.lower, self.region.upper).select(copies)
        slopes = {
            index: initial_slopes(node.op, bounds[node.inputs[0]])
            for index, node in enumerate(self.graph.nodes)
            if isinstance(node.op, Activation)
        }
        hidden = {} if self.by_input else read_by_activations(self.graph)
        like = self.region.lower
        return Domains(
            bounds=bounds,
            slopes=slopes,
            gamma={node: torch.zeros_like(bounds[node].lower) for node in hidden},
            split={node: torch.zeros_like(bounds[node].lower, dtype=torch.bool) for node in hidden},
            weights=like.new_full((n, rows), 1.0 / rows),
            unsafe=torch.arange(n, device=like.device),
            lower=like.new_full((n,), -math.inf),
        )

    def run(self, progress: Callable[[str], None] | None) -> Outcome:
        """The loop: take the worst, split, bound, keep what is open."""
        size = sum(t.nbytes for part in (self.root.slopes, self.root.gamma) for t in part.values())
        size += sum(2 * z.lower.nbytes for z in self.root.bounds.values())
        each = max(size // len(self.root), 1)
        frontier = Frontier(limit=max(self.options.memory // each, 1))
        batch = max(1, min(self.options.batch, self.options.memory // (64 * each)))
        found = self._settle(self.root, frontier)
        reported = time.monotonic()
        while len(frontier) and not found and time.monotonic() < self.deadline:
            found = self._settle(self._split(frontier.pop(batch)), frontier)
            if progress is not None and time.monotonic() - reported > 1:
                reported = time.monotonic()
                progress(f"bab: {self.count} subdomains, {len(frontier)} open, worst bound {frontier.worst:.4g}")
        open_sets = frontier.open_sets
        proved = {k: -math.inf if i in open_sets or found else self.closed[k] for i, k in enumerate(self.keys)}
        best = min(frontier.worst, *self.closed.values())
        return Outcome(proved, best, found, self.count, self.stuck)

    def _split(self, domains: Domains) -> Domains:
        """The halves of every subdomain."""
        coefficients: dict[int, Coefficients] = {}
        with torch.no_grad():
            self.bounding.bound(domains, coefficients)
            scores = self._scores(domains, coefficients)
            node, position, score = candidates(scores, self.options.shortlist)
            if node.shape[1] > 1 and not self.by_input:
                first, place = best_of(domains, node, position, score, self.points, self.bounding.bound)
            else:
                first, place = node[:, 0], position[:, 0]
            return children(domains, first, place, self.points)

    def _scores(self, domains: Domains, coefficients: dict[int, Coefficients]) -> dict[int, Tensor]:
        at_input = coefficients.pop(0)
        if self.by_input:
            # A coefficient of zero does not say that an input is idle: none may stay far wider than the others.
            radius, whole = domains.bounds[0].radius, self.region.radius
            width = torch.where(whole > 0, radius / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0.0).flatten(1)
            wide = (width >= width.amax(1, keepdim=True) / MOST_UNEVEN).view_as(radius)
            return {0: (dense(at_input).squeeze(1).abs() * radius + torch.finfo(radius.dtype).tiny) * wide}
        return neuron_scores(self.graph, domains, coefficients)

    def _settle(self, domains: Domains, frontier: Frontier) -> bool:
        """Bound subdomains, close what is proved, push what is open; True when a candidate was accepted."""
        self.count += len(domains)
        if self.by_input:
            self.bounding.refresh(domains)
        if self.by_input or self.count == len(domains):
            self.bounding.choose_rows(domains)
        self.bounding.improve(domains)
        done, hopeless = domains.lower > self.enough, domains.lower == -math.inf
        self._close(domains.select(done))
        self._give_up(domains.select(hopeless))  # the numbers overflow: splitting mends nothing
        rest = domains.select(~done & ~hopeless)
        if not len(rest):
            return False
        if self._try(rest):
            return True
        undecided = self._undecided(rest)
        frontier.push(rest.select(undecided))
        return self._close_leaves(rest.select(~undecided))

    def _close(self, domains: Domains) -> None:
        for i, lower in zip(domains.unsafe.tolist(), domains.lower.tolist(), strict=True):
            self.closed[self.keys[i]] = min(self.closed[self.keys[i]], lower)

    def _undecided(self, domains: Domains) -> Tensor:
        """A mask of the subdomains that can still be split."""
        if self.by_input:
            z = domains.bounds[0]
            return (z.radius > 1e-12 * z.center.abs()).flatten(1).any(1)
        masks = [
            op.unstable(domains.bounds[node]).flatten(1).any(1)
            for node, readers in read_by_activations(self.graph).items()
            for op in readers
        ]
        return torch.stack(masks).any(0)

    def _try(self, domains: Domains) -> bool:
        """Judge the points at which the linear bounds of the worst subdomains are least."""
        if isinstance(self.region, Ball):
            return False
        coefficients: dict[int, Coefficients] = {}
        with torch.no_grad():
            self.bounding.bound(domains, coefficients)
            box = self.bounding.inputs(domains)
            a = dense(coefficients[0]).squeeze(1)
            points = torch.where(a > 0, box.lower, torch.where(a < 0, box.upper, box.center))
            outputs = self.graph(points).flatten(1).unsqueeze(2)
            rows = (self.bounding.C[domains.unsafe] @ outputs).squeeze(2) + self.bounding.d[domains.unsafe]
            margins = rows.amax(1)
        hits = (margins <= 0).nonzero().squeeze(1)
        hits = hits[margins[hits].argsort()[:3]]
        return bool(len(hits)) and self.judge(points[hits])

    def _close_leaves(self, leaves: Domains) -> bool:
        """Subdomains in which every neuron is decided are linear programs."""
        for i in range(len(leaves)):
            if time.monotonic() > self.deadline:
                self._give_up(leaves.select(torch.arange(i, len(leaves))))
                return False
            leaf = leaves.select(torch.tensor([i]))
            bound, point = close_by_lp(self.graph, self.bounding, leaf)
            leaf.lower = torch.maximum(leaf.lower, leaf.lower.new_tensor([bound]))
            if bound > self.enough:
                self._close(leaf)
            elif point is not None and self.judge(point):
                return True
            else:
                self._give_up(leaf)
        return False

    def _give_up(self, leaves: Domains) -> None:
        """Subdomains that neither a bound nor a candidate decides stay open for good."""
        self.stuck += len(leaves)
        for i in leaves.unsafe.tolist():
            self.closed[self.keys[i]] = -math.inf
