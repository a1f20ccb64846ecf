"""Certify a test set: which question is asked next, in which pass, and what is kept of the answers.

Where there are several radii, attacks come first: they tell where each input breaks at the latest. Cases then pass
through the batched cascade in chunks, its dearer stages in chunks of what the others leave open. What is left is
searched one by one, the easiest first: for a short time each, if `Plan.timeout` allows several times as much, and once
nothing else is left, anew for the rest of it.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import pairwise

from verifier.batch.curve import Bisection
from verifier.batch.journal import Journal
from verifier.batch.merging import contents
from verifier.batch.records import ERROR, UNKNOWN, VERIFIED, Case, Record, Run
from verifier.batch.workers import Outcome
from verifier.errors import InputError

GRACE = 5.0  # seconds: a worker that stops itself late is cheaper than a new one
SHORT = 5.0  # seconds of the first search of a case, of the processor: where others use it as well, it takes longer
WORTHWHILE = 4  # times SHORT: less time than that is better spent in one search
CHUNK_LIMIT = 120.0  # seconds for a chunk, if that is less than what its cases may take
LIMIT = re.compile(r"time limit of \S+ s")  # as reasons name it


class Pass(Enum):
    """What is done about the cases of a task."""

    ATTACK = "attacks alone, where there are several radii"
    BOUNDS = "the batched cascade"
    REST = "the dearer stages of the cascade"
    SHORT = "a short search"
    LONG = "a search with all the time that is left"


FOLLOWING = dict(pairwise((Pass.BOUNDS, Pass.REST, Pass.SHORT, Pass.LONG)))
TOGETHER = (Pass.ATTACK, Pass.BOUNDS, Pass.REST)  # what is done about many cases at once


@dataclass(frozen=True)
class Task:
    """Cases for a worker. seconds: that it may take. again: whether a worker has failed on them before."""

    cases: tuple[Case, ...]
    kind: Pass
    seconds: float
    again: bool = False


Answer = Callable[[Task], Iterator[list[Record]]]
Setup = Callable[[], Answer]
Serve = Callable[..., Iterator[Outcome[Task, list[Record]]]]


@dataclass(frozen=True)
class Plan:
    """How a run goes about it.

    timeout: seconds for the searches of one case. batch: cases in a chunk. memory: bytes that a worker may take. retry:
    verdicts of an earlier run that are asked again, in small letters. shard: (i, n) for the i-th of n parts of the
    inputs, from 1.
    """

    timeout: float = 60.0
    batch: int = 50
    jobs: int = 1
    memory: int | None = None
    retry: tuple[str, ...] = ()
    shard: tuple[int, int] = (1, 1)

    def indices(self, count: int) -> range:
        """The inputs of the shard, among the first `count`."""
        part, parts = self.shard
        return range(part - 1, count, parts)


@dataclass
class Tally:
    """How far a run is. total: inputs; done: those with nothing left to ask.

    resumed: results that the journal held.
    """

    total: int
    done: int = 0
    resumed: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)


class Certification:
    """One run: `results` yields records as they are found, each after the journal has it."""

    def __init__(self, run: Run, plan: Plan, journal: Journal) -> None:
        """Takes over what the journal holds. Raises InputError when that is about something else."""
        self.run, self.plan, self.journal = run, plan, journal
        indices = plan.indices(run.count)
        self.known = {index: Bisection(len(run.eps)) for index in indices}
        self.place = {eps: i for i, eps in enumerate(run.eps)}
        self.tally = Tally(len(indices))
        self.records: dict[Case, Record] = {}
        self.stopping = False
        self._resume()
        self.ready: dict[Pass, list[tuple[int, int]]] = {Pass.ATTACK: [], Pass.BOUNDS: []}  # (position, input)
        for index in indices:
            self._line_up(index)
        self.again: deque[Task] = deque()
        self.open: dict[Pass, list[tuple[float, Case]]] = {kind: [] for kind in FOLLOWING.values()}
        self.left: dict[Task, set[Case]] = {}
        self.first: dict[Case, Record] = {}  # what was said so far of cases that are searched
        self.spent: dict[Case, float] = {}  # seconds of their short searches

    def _resume(self) -> None:
        held = contents(self.journal.lines, self.journal.path)
        if held and self.run.identity not in held:
            other = "is about another model, data set, norm, method or kind of evidence"
            raise InputError(f"{self.journal.path}: {other}; give another --journal")
        before = held.get(self.run.identity)
        if before is None or before.run != before.run.joined(self.run):
            self.journal.append([self.run.line()])
        for record in before.records.values() if before else ():
            position = self.place.get(record.eps)
            if record.index in self.known and position is not None and record.verdict.lower() not in self.plan.retry:
                self.records[record.case] = record
                self.known[record.index].tell(position, record)
                self.tally.verdicts[record.verdict] += 1
        self.tally.resumed = len(self.records)

    def results(self, setup: Setup, serve: Serve) -> Iterator[list[Record]]:
        """Ask all that there is to ask; what `serve` is: see `workers.serve`."""
        for outcome in serve(setup, self.next_task, self._patience, self._workers, self.plan.memory):
            records = list(self._taken(outcome))
            assert not self.run.certified or all(r.certified for r in records if r.verdict == VERIFIED)
            if records:
                self.journal.append(record.line(self.run) for record in records)
                for record in records:
                    self._keep(record)
                yield records

    def _patience(self, task: Task) -> float:
        """Seconds after which a worker is killed; what a search proves may take as long again to be certified."""
        searches = task.kind not in TOGETHER and self.run.certified
        return task.seconds * (2 if searches else 1) + GRACE

    @property
    def _workers(self) -> int:
        return max(1, min(self.plan.jobs, sum(map(len, self.ready.values()))))

    @property
    def undecided(self) -> bool:
        """Whether any input is left without a verdict at some radius."""
        return any(one.verified + 1 < one.falsified for one in self.known.values())

    def stop(self) -> None:
        """Begin nothing more; what is begun is finished."""
        self.stopping = True

    def next_task(self) -> Task | None:
        """What a worker that has nothing to do should do."""
        if self.stopping:
            return None
        task = self._next()
        if task is not None:
            self.left[task] = set(task.cases)
        return task

    def _next(self) -> Task | None:
        if self.again:
            return self.again.popleft()
        for kind, ready in self.ready.items():
            if ready and len(self.open[Pass.REST]) < self.plan.batch:
                chunk = [heapq.heappop(ready) for _ in range(self._chunk(len(ready)))]
                return self._together([Case(index, self.run.eps[position]) for position, index in chunk], kind)
        for kind in FOLLOWING.values():
            if kind in TOGETHER and (left := self.open[kind]):
                return self._together([heapq.heappop(left)[1] for _ in range(self._chunk(len(left)))], kind)
            if self.open[kind]:
                case = heapq.heappop(self.open[kind])[1]
                return Task((case,), kind, self.plan.timeout - self.spent.pop(case, 0.0))
        return None

    def _chunk(self, count: int) -> int:
        """How many of so many cases a worker takes at once."""
        return min(self.plan.batch, max(1, -(-count // self.plan.jobs)))

    def _together(self, cases: list[Case], kind: Pass) -> Task:
        limit = min(len(cases) * self.plan.timeout, max(self.plan.timeout, CHUNK_LIMIT))
        return Task(tuple(cases), kind, limit)

    def _taken(self, outcome: Outcome[Task, list[Record]]) -> Iterator[Record]:
        """The final records among what came of a task; the others lead to more tasks."""
        task = outcome.task
        for record in outcome.value or ():
            self.left[task].discard(record.case)
            if task.kind is Pass.ATTACK and record.verdict == UNKNOWN:
                self.known[record.index].resist(self.place[record.eps])
                self._line_up(record.index)
            elif not self._passed_on(task.kind, record):
                yield self._completed(record)
        if not outcome.last:
            return
        for case in sorted(self.left.pop(task), key=lambda case: case.index):
            yield from self._failed(task, case, outcome)

    def _passed_on(self, kind: Pass, record: Record) -> bool:
        """Whether a case that a pass left open goes to the next one."""
        following = FOLLOWING.get(kind)
        if record.verdict != UNKNOWN or following is None or self.run.method != "auto":
            return False
        if kind is Pass.SHORT:
            if record.seconds >= self.plan.timeout:
                return False
            self.spent[record.case] = record.seconds
        if following is Pass.SHORT and self.plan.timeout < WORTHWHILE * SHORT:
            following = Pass.LONG
        self.first[record.case] = self._completed(record)
        ease = self.first[record.case].proved
        heapq.heappush(self.open[following], (float("inf") if ease is None else -ease, record.case))
        return True

    def _failed(self, task: Task, case: Case, outcome: Outcome[Task, list[Record]]) -> Iterator[Record]:
        """A worker was killed, or died, before it had answered."""
        record = Record(case.index, case.eps, -1, -1, UNKNOWN, "", outcome.seconds)
        if outcome.late:
            record = replace(record, reason=f"the worker was killed at the time limit of {task.seconds:g} s")
            if task.kind not in TOGETHER and self._passed_on(task.kind, record):
                return
        else:
            record = replace(record, verdict=ERROR, reason=outcome.failure or "the worker gave no answer")
        if (task.kind in TOGETHER or not outcome.late) and not task.again:
            self.again.append(Task((case,), task.kind, min(task.seconds, self.plan.timeout), again=True))
            return
        yield self._completed(record)

    def _completed(self, record: Record) -> Record:
        """The record with what was said of its case before; a pass has only a part of the time that reasons name."""
        record = replace(record, reason=LIMIT.sub(f"time limit of {self.plan.timeout:g} s", record.reason))
        before = self.first.pop(record.case, None)
        if before is None:
            return record
        stages = dict(before.stages)
        for name, spent in record.stages.items():
            stages[name] = stages.get(name, 0.0) + spent
        better = [value for value in (before.proved, record.proved) if value is not None]
        seen = [value for value in (before.found, record.found) if value is not None]
        return replace(
            record,
            label=before.label,
            prediction=before.prediction,
            stage=record.stage or before.stage,
            seconds=before.seconds + record.seconds,
            proved=max(better, default=None),
            found=min(seen, default=None),
            stages=stages,
            unstable=before.unstable,
        )

    def _keep(self, record: Record) -> None:
        self.records[record.case] = record
        self.tally.verdicts[record.verdict] += 1
        self.known[record.index].tell(self.place[record.eps], record)
        self._line_up(record.index)

    def _line_up(self, index: int) -> None:
        """Have an input wait for the next question about it, those of small radii first."""
        known = self.known[index]
        attack = known.next_attack() if len(self.run.eps) > 1 and self.run.method == "auto" else None
        position = known.next() if attack is None else attack
        if position is None:
            self.tally.done += 1
        else:
            heapq.heappush(self.ready[Pass.BOUNDS if attack is None else Pass.ATTACK], (position, index))
