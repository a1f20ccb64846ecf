"""The loop of branch and bound: take the worst subdomains, split and bound them, keep what is open."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic

import torch
from torch import Tensor

from verifier.attack.pgd import Pgd
from verifier.search.crew import Crew, Halved, halved, helpers
from verifier.search.domain import D, Frontier
from verifier.search.splitting import Splitting
from verifier.search.task import Outcome, Task

STEP_SECONDS = 0.25
"""How long bounding one batch should take, so that the clock is looked at often enough."""

FEWEST = 32
"""Smaller batches waste more time on every step than they save by looking at the clock."""

SHARED = 48
"""Subdomains, at least, that are handed to another process: a smaller batch takes hardly less time."""

ALONE = 0.25
"""Seconds of search before others are asked to help, which costs some 0.05 seconds each."""

ATTACK_SHARE = 0.1
"""How much of the time that bounding and branching take may go into descending from the points they propose."""

AGAIN, LEAST = 1.0, 1.0
"""Once what is enough is proved, the wish for more gets so many times as long, and so many seconds at least."""

NEARLY = 0.03
"""What is left of the root's worst bound, at most, where a search may go on for the time that it has to spare."""

SUCCESS = 0.5
"""What a trial leaves of the root's worst bound, at most, to be a success."""

DESCENTS = 32
DESCENT = Pgd(steps=15, step_size=0.05)


class Loop(Generic[D]):
    """The state of one search. batch: the most subdomains per step. memory: bytes for the open subdomains. jobs:
    how many processes share the work."""

    def __init__(self, task: Task, splitting: Splitting[D], batch: int, memory: int, jobs: int = 1) -> None:
        self.task, self.splitting, self.batch, self.memory = task, splitting, batch, memory
        self.enough = task.enough + task.wish
        self.keys = list(task.unsafe)
        self.closed = {k: math.inf for k in self.keys}
        self.count = self.stuck = self.descents = self.evaluations = 0
        self.found, self.first, self.trial, self.relent = False, -math.inf, task.trial, task.relent
        self.began, self.deadline, self.spare = math.inf, task.deadline, task.spare
        self.crew: Crew[D] = Crew(self._halved, helpers(jobs, task.graph.device))
        self.seconds = dict.fromkeys(("shaving", "bounding", "branching", "attack", "leaves"), 0.0)
        self.elsewhere = 0.0  # the part of them that other processes spent

    def run(self, progress: Callable[[str], None] | None) -> Outcome:
        """Search until everything is decided, a candidate is accepted or time is up."""
        began = reported = self.began = time.monotonic()
        with self._timed("shaving"):
            root = self.splitting.root()
        each = max(root.nbytes() // len(root), 16 * max(node.size for node in self.task.graph.nodes))
        self.frontier: Frontier[D] = Frontier(limit=max(self.memory // each, 1))
        most = batch = max(1, min(self.batch, self.memory // (64 * each)))
        with self._timed("bounding"):
            root, points = self.splitting.bound(root, self.deadline)
        self.evaluations = self.splitting.evaluations
        self._settle(root, points)
        self.first = self.frontier.worst
        with self.crew:
            while (len(self.frontier) or self.crew.given) and not self.found and self._goes_on():
                stepped = time.monotonic()
                taken = self._step(batch)
                now = time.monotonic()
                allowed = min(STEP_SECONDS, max(self.deadline - now, 0.0))
                fewest = min(most, FEWEST) if allowed == STEP_SECONDS else 1
                if taken:
                    batch = max(fewest, min(most, 2 * taken, int(taken * allowed / (now - stepped))))
                if now - began > ALONE:
                    self.crew.start()
                if progress is not None and now - reported > 1:
                    reported = now
                    worst = self.frontier.worst
                    progress(f"bab: {self.count} subdomains, {len(self.frontier)} open, worst bound {worst:.4g}")
            self._recall()
        return self._outcome(time.monotonic() - began)

    def _step(self, size: int) -> int:
        """Split and bound a batch for every process; returns how many subdomains this one has done itself."""
        while self.crew.idle and len(self.frontier) >= 2 * SHARED:
            share = max(SHARED, len(self.frontier) // (1 + self.crew.idle))
            self.crew.give(self.frontier.pop(min(size, share)))
        if not len(self.frontier):
            self._take(self.crew.answers(patience=max(self.deadline - time.monotonic(), 0.0)))
            return 0
        own = self.frontier.pop(size)
        answer = self.crew.step(own)
        self.elsewhere -= sum(answer.seconds.values())
        self._take([(own, answer), *self.crew.answers(patience=0)])
        return len(own)

    def _outcome(self, seconds: float) -> Outcome:
        """What came of it, after so many seconds."""
        open_sets = self.open_sets
        proved = {k: -math.inf if i in open_sets or self.found else self.closed[k] for i, k in enumerate(self.keys)}
        if self.task.records is not None and self.splitting.record is not None:
            done = [i for i, k in enumerate(self.keys) if proved[k] > self.task.enough]
            self.task.records.sets.update({self.keys[i]: (self.splitting.record, i) for i in done})
        best = min(self.frontier.worst, *self.closed.values())
        self.seconds["overhead"] = seconds - sum(self.seconds.values()) + self.elsewhere
        left = len(self.frontier)
        return Outcome(proved, best, self.found, self.count, self.stuck, left, self.evaluations, self.seconds)

    def _halved(self, batch: D) -> Halved[D]:
        return halved(self.splitting, batch, self.deadline)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[part] += time.monotonic() - began

    @property
    def open_sets(self) -> set[int]:
        """The unsafe sets with an open subdomain."""
        return self.frontier.open_sets.union(*(batch.unsafe.tolist() for batch in self.crew.given))

    def _goes_on(self) -> bool:
        """Whether there is time left; after the trial, only when it was a success."""
        now = time.monotonic()
        if self.enough > self.task.enough:
            if min([self.frontier.worst, *(float(batch.lower.min()) for batch in self.crew.given)]) > self.task.enough:
                self.relent = min(self.relent, now + max(AGAIN * (now - self.began), LEAST))
            if now > self.relent:
                self._relent()
        if now > self.trial:
            proved = len(self.keys) - len(self.open_sets) > self.task.success * len(self.keys)
            if not (self.frontier.worst > SUCCESS * self.first if len(self.keys) == 1 else proved):
                return False
            self.trial = math.inf
        if now > self.deadline and self.spare and self.frontier.worst > NEARLY * self.first:
            self.deadline, self.spare = now + self.spare, 0.0
            self._recall()  # forks know the old deadline
        return now < self.deadline

    def _recall(self) -> None:
        """Let forks go, which begin anew with what is known then; what they have not answered is open."""
        for unanswered in self.crew.stop():
            self.frontier.push(unanswered)

    def _relent(self) -> None:
        """Give up what is wished for, and close what is proved without; forks know the old goal, and start anew."""
        self.enough = self.splitting.enough = self.task.enough
        self._recall()
        rest = self.frontier.pop(len(self.frontier))
        done = rest.lower > self.enough
        self.frontier.push(rest.select(~done))
        proved = done.nonzero().squeeze(1)
        for index in proved.split(self.batch) if len(proved) else ():
            with self._timed("bounding"):  # which confirms bounds that were no goal before
                batch, points = self.splitting.bound(rest.select(index), self.deadline)
            self._settle(batch, points)

    def _take(self, answers: Iterable[tuple[D, Halved[D]]]) -> None:
        """Take in what became of batches."""
        for batch, answer in answers:
            self.evaluations += answer.evaluations
            for part, seconds in answer.seconds.items():
                self.seconds[part] += seconds
                self.elsewhere += seconds
            self._settle(answer.placed(batch, self.splitting.record), answer.points)

    def _settle(self, domains: D, points: Tensor) -> None:
        """Close what is proved, try the points, keep what is open."""
        self.count += len(domains)
        done, hopeless = domains.lower > self.enough, domains.lower == -math.inf
        self._close(domains.select(done))
        self._give_up(domains.select(hopeless))  # the numbers overflow: splitting mends nothing
        rest = domains.select(~done & ~hopeless)
        if not len(rest) or self.found:
            return
        with self._timed("attack"):
            self.found = self._try(points)
        more = self.splitting.splittable(rest)
        self.frontier.push(rest.select(more))
        with self._timed("leaves"):
            self.found = self.found or self._close_leaves(rest.select(~more))

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
            if time.monotonic() > self.deadline:
                self.frontier.push(leaf)  # as open as when the search began
                continue
            bound, point = self.splitting.close(leaf, self.deadline)
            if bound > self.task.enough:
                leaf.lower = leaf.lower.new_tensor([bound])  # in place of one that was not confirmed
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
