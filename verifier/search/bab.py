"""Branch and bound: split what is open, bound the parts, drop what is proved (Bunel et al. 2020; Wang et al. 2021).

One loop serves every kind of split (`verifier.search.splitting`): with few inputs that of the input box, else that of
neurons.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Generic

import torch
from torch import Tensor

from verifier.attack.pgd import Pgd
from verifier.graph import Graph
from verifier.search.domain import D, Frontier
from verifier.search.inputs import InputSplits
from verifier.search.record import Records
from verifier.search.rounds import Rounds
from verifier.search.splitting import Splitting
from verifier.spec.property import HalfSpaces
from verifier.types import Ball, Box, Interval

STEP_SECONDS = 0.25
"""How long bounding one batch should take, so that the clock is looked at often enough."""

TRIAL_SHARE = 0.25
"""The share of the time for trying input splits where neither kind is known to be better."""

FEWEST = 32
"""Smaller batches waste more time on every step than they save by looking at the clock."""

ATTACK_SHARE = 0.1
"""How much of the time that bounding and branching take may go into descending from the points they propose."""

DESCENTS = 32
DESCENT = Pgd(steps=15, step_size=0.05)

Candidate = Callable[[Tensor], bool]  # judges points (k, *input_shape); True ends the search


@dataclass(frozen=True)
class BranchAndBound:
    """A complete search for piecewise-linear networks.

    input_limit: the most inputs that may vary for input splits alone; up to trial_limit of them, input splits are tried
    before neuron splits. batch: the most subdomains per step (fewer where they are large or slow). steps: of the ascent
    per subdomain. shortlist: candidates whose children are bounded before one is chosen. memory: bytes that the open
    subdomains may take before the search goes depth first.
    """

    input_limit: int = 12
    trial_limit: int = 50
    batch: int = 512
    steps: int = 16
    shortlist: int = 8
    memory: int = 1 << 31

    def __call__(self, task: Task, progress: Callable[[str], None] | None = None) -> Outcome:
        """Prove that no output is in any of the task's unsafe sets, or find one that is."""
        varying = int((task.region.upper > task.region.lower).sum())
        if varying <= max(self.input_limit, self.trial_limit) and not isinstance(task.region, Ball):
            now = time.monotonic()
            only = varying <= self.input_limit
            until = task.deadline if only else now + TRIAL_SHARE * (task.deadline - now)
            unsafe, recorded = list(task.unsafe.values()), task.records is not None
            inputs = InputSplits(task.graph, task.region, unsafe, task.nodes, task.enough, recorded)
            outcome = _Search(self, replace(task, deadline=until), inputs).run(progress)
            if only or outcome.decided(task.enough):
                return outcome
            return self._by_neurons(task, outcome, progress)
        return self._by_neurons(task, None, progress)

    def _by_neurons(self, task: Task, total: Outcome | None, progress: Callable[[str], None] | None) -> Outcome:
        """Rounds that each know the region better than the one before and search on for as long as that took.

        total: the outcome so far.
        """
        rounds = Rounds(task.graph, task.region, task.nodes, task.deadline, task.records)
        while True:
            began = time.monotonic()
            left = {k: s for k, s in task.unsafe.items() if total is None or not total.proved[k] > task.enough}
            neurons = rounds.next(list(left.values()), task.enough, self.steps, self.shortlist)
            tightening = time.monotonic() - began
            round_ = replace(task, unsafe=left, deadline=min(task.deadline, time.monotonic() + rounds.patience))
            outcome = _Search(self, round_, neurons).run(progress)
            outcome.seconds["tightening"] = tightening
            total = outcome if total is None else total.then(outcome)
            searched = time.monotonic() < round_.deadline  # to the end: what is open now stays so
            if total.decided(task.enough) or searched or time.monotonic() > task.deadline:
                return total


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be proved.

    region: batch one. unsafe: at least one set. nodes: bounds of what activations read, over the whole region. enough:
    a margin bound above this proves a subdomain. deadline: a time.monotonic(). judge: replays candidate inputs.
    records: where to keep what proves the sets, if that is wanted.
    """

    graph: Graph
    region: Box
    unsafe: Mapping[int, HalfSpaces]
    nodes: Mapping[int, Interval]
    enough: float
    deadline: float
    judge: Candidate
    records: Records | None = None


@dataclass(frozen=True)
class Outcome:
    """proved: by unsafe set, the margin bound over all its closed subdomains (-inf while any is open).

    best: the least bound over everything, open ones included. found: a candidate was accepted. nodes: subdomains
    bounded. stuck: subdomains that nothing could decide. evaluations: bounds computed, one for each subdomain and step.
    seconds: by part (tightening of hidden bounds before the search, bounding, branching, attack, leaves, overhead).
    """

    proved: dict[int, float]
    best: float
    found: bool
    nodes: int
    stuck: int
    evaluations: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def decided(self, enough: float) -> bool:
        """Whether there is nothing left to search."""
        return self.found or all(bound > enough for bound in self.proved.values())

    def then(self, other: Outcome) -> Outcome:
        """Both, the other being about the sets that this left open."""
        settled = [bound for k, bound in self.proved.items() if k not in other.proved]
        return Outcome(
            self.proved | other.proved,
            min([other.best, *settled]),
            other.found,
            self.nodes + other.nodes,
            other.stuck,
            self.evaluations + other.evaluations,
            {k: self.seconds.get(k, 0.0) + other.seconds.get(k, 0.0) for k in self.seconds | other.seconds},
        )


class _Search(Generic[D]):
    """The state of one search."""

    def __init__(self, options: BranchAndBound, task: Task, splitting: Splitting[D]) -> None:
        self.options, self.task, self.splitting = options, task, splitting
        self.keys = list(task.unsafe)
        self.closed = {k: math.inf for k in self.keys}
        self.count = self.stuck = self.descents = 0
        self.seconds = dict.fromkeys(("bounding", "branching", "attack", "leaves"), 0.0)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[part] += time.monotonic() - began

    def run(self, progress: Callable[[str], None] | None) -> Outcome:
        """The loop: take the worst, split, bound, keep what is open."""
        began = reported = time.monotonic()
        root = self.splitting.root()
        each = max(root.nbytes() // len(root), 16 * max(node.size for node in self.task.graph.nodes))
        frontier: Frontier[D] = Frontier(limit=max(self.options.memory // each, 1))
        most = batch = max(1, min(self.options.batch, self.options.memory // (64 * each)))
        found = self._settle(root, frontier)
        while len(frontier) and not found and time.monotonic() < self.task.deadline:
            stepped = time.monotonic()
            taken = frontier.pop(batch)
            with self._timed("branching"):
                parts = self.splitting.split(taken)
            found = self._settle(parts, frontier)
            now = time.monotonic()
            allowed = min(STEP_SECONDS, max(self.task.deadline - now, 0.0))
            fewest = min(most, FEWEST) if allowed == STEP_SECONDS else 1
            batch = max(fewest, min(most, 2 * len(taken), int(len(taken) * allowed / (now - stepped))))
            if progress is not None and now - reported > 1:
                reported = now
                progress(f"bab: {self.count} subdomains, {len(frontier)} open, worst bound {frontier.worst:.4g}")
        open_sets = frontier.open_sets
        proved = {k: -math.inf if i in open_sets or found else self.closed[k] for i, k in enumerate(self.keys)}
        if self.task.records is not None and self.splitting.record is not None:
            done = [i for i, k in enumerate(self.keys) if proved[k] > self.task.enough]
            self.task.records.sets.update({self.keys[i]: (self.splitting.record, i) for i in done})
        best = min(frontier.worst, *self.closed.values())
        self.seconds["overhead"] = time.monotonic() - began - sum(self.seconds.values())
        return Outcome(proved, best, found, self.count, self.stuck, self.splitting.evaluations, self.seconds)

    def _settle(self, domains: D, frontier: Frontier[D]) -> bool:
        """Bound subdomains, close what is proved, push what is open; True when a candidate was accepted."""
        self.count += len(domains)
        with self._timed("bounding"):
            domains, points = self.splitting.bound(domains, self.task.deadline)
        done, hopeless = domains.lower > self.task.enough, domains.lower == -math.inf
        self._close(domains.select(done))
        self._give_up(domains.select(hopeless))  # the numbers overflow: splitting mends nothing
        rest = domains.select(~done & ~hopeless)
        if not len(rest):
            return False
        with self._timed("attack"):
            if self._try(points):
                return True
        more = self.splitting.splittable(rest)
        frontier.push(rest.select(more))
        with self._timed("leaves"):
            return self._close_leaves(rest.select(~more))

    def _try(self, points: Tensor) -> bool:
        """Judge the most promising of the points that the network, as computed here, takes into an unsafe set."""
        if not len(points):
            return False
        points = points.to(self.task.region.lower)
        with torch.no_grad():
            margins = self._margin(self.task.graph(points))
        best = margins.argsort()[:DESCENTS]
        points, margins = points[best], margins[best]
        spent, others = self.seconds["attack"], self.seconds["bounding"] + self.seconds["branching"]
        if not margins[0] <= 0 and spent < ATTACK_SHARE * others:
            region = self.task.region.select(torch.zeros_like(best[: len(points)]))
            self.descents += 1
            objective = (self._margin, self._excess)[self.descents % 2]
            points, margins = DESCENT(self.task.graph, region, objective, points)
        hits = (margins <= 0).nonzero().squeeze(1)
        hits = hits[margins[hits].argsort()[:3]]
        return bool(len(hits)) and self.task.judge(points[hits])

    def _margin(self, outputs: Tensor) -> Tensor:
        """The least margin over the unsafe sets, for outputs (k, ...)."""
        return torch.stack([s.margin(outputs) for s in self.task.unsafe.values()]).amin(0)

    def _excess(self, outputs: Tensor) -> Tensor:
        """How much all rows of the nearest unsafe set are exceeded together: smoother than the margin's one row."""
        return torch.stack([s.rows(outputs).clamp(min=0).sum(1) for s in self.task.unsafe.values()]).amin(0)

    def _close(self, domains: D) -> None:
        self.splitting.keep(domains)
        for i in domains.unsafe.unique().tolist():
            least = float(domains.lower[domains.unsafe == i].min())
            self.closed[self.keys[i]] = min(self.closed[self.keys[i]], least)

    def _close_leaves(self, leaves: D) -> bool:
        """Decide subdomains that cannot be split; True when a candidate was accepted."""
        for i in range(len(leaves)):
            leaf = leaves.select(torch.tensor([i], device=leaves.lower.device))
            if time.monotonic() > self.task.deadline:
                self._give_up(leaf)
                continue
            bound, point = self.splitting.close(leaf, self.task.deadline)
            if bound > self.task.enough:
                leaf.lower = torch.maximum(leaf.lower, leaf.lower.new_tensor([bound]))
                self._close(leaf)
            elif point is not None and self.task.judge(point):
                return True
            else:
                self._give_up(leaf)
        return False

    def _give_up(self, leaves: D) -> None:
        """Subdomains that neither a bound nor a candidate decides stay open for good."""
        self.stuck += len(leaves)
        for i in leaves.unsafe.unique().tolist():
            self.closed[self.keys[i]] = -math.inf
