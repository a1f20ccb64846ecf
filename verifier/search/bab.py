"""Branch and bound: split what is open, bound the parts, drop what is proved (Bunel et al. 2020; Wang et al. 2021).

One loop serves every kind of split (`verifier.search.splitting`): with few inputs that of the input box, else that of
neurons.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from verifier.bounds.symbolic import moving
from verifier.search.domain import D
from verifier.search.inputs import InputSplits
from verifier.search.loop import Loop
from verifier.search.rounds import Rounds
from verifier.search.splitting import Splitting
from verifier.search.task import Outcome, Task
from verifier.types import Ball

TURNS = (1 / 30, 1 / 3, 2 / 3, 1.0)
"""Where neither kind of split is known to be better they take turns, inputs first: the shares of the time by which each
turn ends. Trees differ so much in size that the better kind is mostly done in its first turn."""

PATIENCE = 0.5  # of the time, in which a search wants margins that hold for float32 as well

MOST = 0.4
"""The share of several unsafe sets, at least, that a search proves within its patience to go on beyond it."""


@dataclass(frozen=True)
class BranchAndBound:
    """A complete search for piecewise-linear networks.

    input_limit: the most inputs that may vary for input splits alone; up to trial_limit of them, input and neuron
    splits take turns. batch: the most subdomains per step (fewer where they are large or slow). steps: of the ascent
    per subdomain. shortlist: candidates whose children are bounded before one is chosen. memory: bytes that the open
    subdomains may take before the search goes depth first. jobs: how many processes may share the work.
    """

    input_limit: int = 12
    trial_limit: int = 50
    batch: int = 512
    steps: int = 16
    shortlist: int = 8
    memory: int = 1 << 31
    jobs: int = 1

    def __call__(self, task: Task, progress: Callable[[str], None] | None = None) -> Outcome:
        """Prove that no output is in any of the task's unsafe sets, or find one that is."""
        began, total, rounds = time.monotonic(), None, None
        for by_inputs, share in self._turns(task):
            until = began + share * (task.deadline - began)
            left = {k: s for k, s in task.unsafe.items() if total is None or not total.proved[k] > task.enough}
            turn = replace(task, unsafe=left, deadline=until)
            if by_inputs:
                outcome = self._by_inputs(turn, progress)
            else:
                rounds = rounds or Rounds(task.graph, task.region, task.nodes, until, task.records, self.jobs)
                rounds.deadline = until
                outcome = self._by_neurons(turn, rounds, progress)
            total = outcome if total is None else total.then(outcome)
            if total.decided(task.enough):
                break
        assert total is not None
        return total

    def _turns(self, task: Task) -> Sequence[tuple[bool, float]]:
        """Whether inputs are split, and by which share of the time that ends; turn by turn."""
        varying = math.inf if isinstance(task.region, Ball) else len(moving(task.region))
        if varying <= self.input_limit:
            return [(True, 1.0)]
        if varying > self.trial_limit:
            return [(False, 1.0)]
        return [(i % 2 == 0, share) for i, share in enumerate(TURNS)]

    def _by_inputs(self, task: Task, progress: Callable[[str], None] | None) -> Outcome:
        unsafe, recorded = list(task.unsafe.values()), task.records is not None
        inputs = InputSplits(task.graph, task.region, unsafe, task.nodes, task.enough, recorded)
        return self._loop(task, inputs).run(progress)

    def _by_neurons(self, task: Task, rounds: Rounds, progress: Callable[[str], None] | None) -> Outcome:
        """Rounds that each know the region better than the one before and search on for as long as that took."""
        total: Outcome | None = None
        relent = time.monotonic() + PATIENCE * (task.deadline - time.monotonic())
        while True:
            began = time.monotonic()
            left = {k: s for k, s in task.unsafe.items() if total is None or not total.proved[k] > task.enough}
            wish = task.price(rounds.nodes, left.values()) if began < relent else 0.0
            neurons = rounds.next(list(left.values()), task.enough + wish, self.steps, self.shortlist)
            tightening = time.monotonic() - began
            now = time.monotonic()
            deadline, trial = min(task.deadline, now + rounds.limit), now + rounds.patience
            success = 0.0 if rounds.dear else MOST
            spare = min(rounds.tightening.seconds, rounds.limit, task.deadline - deadline)
            part = replace(
                task,
                unsafe=left,
                deadline=deadline,
                spare=spare,
                trial=trial,
                success=success,
                wish=wish,
                relent=relent,
            )
            outcome = self._loop(part, neurons).run(progress)
            outcome.seconds["tightening"] = tightening
            total = outcome if total is None else total.then(outcome)
            # Searched to the end, what is open now stays so.
            if total.decided(task.enough) or not outcome.open or time.monotonic() > task.deadline:
                return total

    def _loop(self, task: Task, splitting: Splitting[D]) -> Loop[D]:
        return Loop(task, splitting, self.batch, self.memory, self.jobs)
