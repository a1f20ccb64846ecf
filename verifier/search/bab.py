"""Branch and bound: split what is open, bound the parts, drop what is proved (Bunel et al. 2020; Wang et al. 2021).

One loop serves every kind of split (`verifier.search.splitting`): with few inputs that of the input box, else that of
neurons.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from verifier.search.domain import D
from verifier.search.inputs import InputSplits
from verifier.search.loop import Loop
from verifier.search.rounds import Rounds
from verifier.search.splitting import Splitting
from verifier.search.task import Outcome, Task
from verifier.types import Ball

TRIAL_SHARE = 0.25
"""The share of the time for trying input splits where neither kind is known to be better."""


@dataclass(frozen=True)
class BranchAndBound:
    """A complete search for piecewise-linear networks.

    input_limit: the most inputs that may vary for input splits alone; up to trial_limit of them, input splits are tried
    before neuron splits. batch: the most subdomains per step (fewer where they are large or slow). steps: of the ascent
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
        varying = int((task.region.upper > task.region.lower).sum())
        if varying <= max(self.input_limit, self.trial_limit) and not isinstance(task.region, Ball):
            now = time.monotonic()
            only = varying <= self.input_limit
            until = task.deadline if only else now + TRIAL_SHARE * (task.deadline - now)
            unsafe, recorded = list(task.unsafe.values()), task.records is not None
            inputs = InputSplits(task.graph, task.region, unsafe, task.nodes, task.enough, recorded)
            outcome = self._loop(replace(task, deadline=until), inputs).run(progress)
            if only or outcome.decided(task.enough):
                return outcome
            return self._by_neurons(task, outcome, progress)
        return self._by_neurons(task, None, progress)

    def _by_neurons(self, task: Task, total: Outcome | None, progress: Callable[[str], None] | None) -> Outcome:
        """Rounds that each know the region better than the one before and search on for as long as that took.

        total: the outcome so far.
        """
        rounds = Rounds(task.graph, task.region, task.nodes, task.deadline, task.records, self.jobs)
        while True:
            began = time.monotonic()
            left = {k: s for k, s in task.unsafe.items() if total is None or not total.proved[k] > task.enough}
            neurons = rounds.next(list(left.values()), task.enough, self.steps, self.shortlist)
            tightening = time.monotonic() - began
            pause = min(task.deadline, time.monotonic() + rounds.patience)
            deadline, trial = (task.deadline, pause) if rounds.dear else (pause, math.inf)
            part = replace(task, unsafe=left, deadline=deadline, trial=trial)
            outcome = self._loop(part, neurons).run(progress)
            outcome.seconds["tightening"] = tightening
            total = outcome if total is None else total.then(outcome)
            # Searched to the end, what is open now stays so.
            if total.decided(task.enough) or not outcome.open or time.monotonic() > task.deadline:
                return total

    def _loop(self, task: Task, splitting: Splitting[D]) -> Loop[D]:
        return Loop(task, splitting, self.batch, self.memory, self.jobs)
