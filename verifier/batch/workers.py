"""Worker processes that can be killed: each answers one task at a time and keeps what it has loaded.

The parent holds the clock. A worker that outlives its task's limit, or dies, costs that task alone. What a worker
writes to its standard error is kept, and its last line tells why it died.
"""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any, Generic, TypeVar

from verifier.errors import StorageError, VerifierError

STARTUP_LIMIT = 300.0  # seconds; importing torch from a cold disk takes many
SPAWN = get_context("spawn")  # a fork of a process that runs threads may hang


class Said(Enum):
    """What a message of a worker is."""

    READY = "it has started"
    PART = "an item of its answer"
    DONE = "its answer, or the end of it"
    FULL = "what it found cannot be written"


Task = TypeVar("Task")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Outcome(Generic[Task, Value]):
    """What became of a task. value: the worker's answer; None when it was killed (`late`) or died (`failure`).

    seconds: from handing the task out until the answer, or the end. last: whether the worker is done with the task; of
    a setup whose answers are iterators every item is an outcome, and a last one without a value follows.
    """

    task: Task
    value: Value | None
    seconds: float
    late: bool = False
    failure: str = ""
    last: bool = True


def run(
    setup: Callable[[], Callable[[Task], Value]], tasks: Iterable[Task], limit: Callable[[Task], float], jobs: int = 1
) -> Generator[Outcome[Task, Value], None, None]:
    """Answer the tasks in `jobs` processes; see `serve`."""
    return serve(setup, partial(next, iter(tasks), None), limit, jobs)


def serve(
    setup: Callable[[], Callable[[Task], Value | Iterator[Value]]],
    source: Callable[[], Task | None],
    limit: Callable[[Task], float],
    jobs: int = 1,
    memory: int | None = None,
) -> Generator[Outcome[Task, Value], None, None]:
    """Answer what the source gives in `jobs` processes of one thread each; outcomes come as they are ready.

    setup: called once in every worker, returns what answers a task, at once or item by item; like tasks and answers it
    must be picklable. source: the next task, or None when there is none now; asked again after every outcome, so that
    answers may lead to tasks. limit: after how many seconds a worker is killed. memory: bytes that a worker may take.
    Raises VerifierError when workers cannot start, StorageError when one cannot write what it found: others could not
    either.
    """
    workers: list[_Worker] = []
    try:
        while True:
            workers = [worker for worker in workers if not worker.stopped]
            while len(workers) < jobs or not all(worker.busy for worker in workers):
                task = source()
                if task is None:
                    break
                idle = [worker for worker in workers if not worker.busy]
                if not idle:
                    idle = [_Worker(setup, memory)]
                    workers += idle
                idle[0].assign(task, limit(task))
            expected = [worker for worker in workers if worker.busy]
            if not expected:
                return
            pause = max(0.0, min(worker.deadline for worker in expected) - time.monotonic())
            connection.wait([worker.pipe for worker in expected], pause)
            for worker in expected:
                outcome = worker.poll()
                if outcome is not None:
                    yield outcome
    finally:
        for worker in workers:
            if not worker.stopped:
                worker.stop()


class _Worker:
    """One process: it starts, then is `busy` with one task after the other, each until `deadline` at most."""

    def __init__(self, setup: Callable[[], Callable[[Any], Any]], memory: int | None) -> None:
        self.log = tempfile.NamedTemporaryFile(prefix="worker-", suffix=".log")  # noqa: SIM115 (closed by `stop`)
        self.pipe, far = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(setup, far, self.log.name, memory), daemon=True)
        self.process.start()
        far.close()
        self.ready = self.busy = False
        self.began = time.monotonic()
        self.deadline = self.began + STARTUP_LIMIT
        self.task: Any = None
        self.limit = 0.0

    @property
    def stopped(self) -> bool:
        return self.pipe.closed

    def assign(self, task: Any, limit: float) -> None:
        """Hand out a task; its clock runs from when the worker has started."""
        self.task, self.limit, self.busy = task, limit, True
        if self.ready:
            self._start_clock()
        # A worker that has died meanwhile is found out by `poll`.
        with suppress(BrokenPipeError):
            self.pipe.send(task)

    def _start_clock(self) -> None:
        self.began = time.monotonic()
        self.deadline = self.began + self.limit

    def poll(self) -> Outcome | None:
        """What became of the task, once it is known. Raises what `serve` raises."""
        if self.pipe.poll():
            try:
                said, value = self.pipe.recv()
            except (EOFError, OSError):
                return self._ended()
            if said is Said.READY:
                self.ready = True
                self._start_clock()
                return None
            if said is Said.FULL:
                raise StorageError(value)
            self.busy = said is Said.PART
            return Outcome(self.task, value, time.monotonic() - self.began, last=not self.busy)
        if time.monotonic() < self.deadline:
            return None
        spent = time.monotonic() - self.began
        self.stop()
        if not self.ready:
            raise VerifierError(f"a worker process did not start within {STARTUP_LIMIT:g} s")
        return Outcome(self.task, None, spent, late=True)

    def _ended(self) -> Outcome:
        """The process is gone without an answer."""
        self.process.join()
        code, spent = self.process.exitcode, time.monotonic() - self.began
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        reason = f"the worker process {_death(code)}" + (f": {lines[-1]}" if lines else "")
        self.stop()
        if not self.ready:
            raise VerifierError(f"while it started, {reason}")
        return Outcome(self.task, None, spent, failure=reason)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.busy = False
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.log.close()


def _death(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"died with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}" + (", as when memory runs out" if -code == signal.SIGKILL else "")


def _serve(
    setup: Callable[[], Callable[[Any], Any]], pipe: connection.Connection, log: str, memory: int | None
) -> None:
    """What a worker process does. An unforeseen exception ends it: the parent reports the last line of the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent alone answers it
    Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported, by `setup`
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 2)
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    try:
        _answer_all(setup, pipe)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the ordinary way out may take longer than the next task


def _answer_all(setup: Callable[[], Callable[[Any], Any]], pipe: connection.Connection) -> None:
    answer = setup()
    # The parent closes the pipe when it needs no more, or when it is gone.
    with suppress(EOFError, BrokenPipeError):
        pipe.send((Said.READY, None))
        while True:
            try:
                value = answer(pipe.recv())
                if isinstance(value, Iterator):
                    for part in value:
                        pipe.send((Said.PART, part))
                    value = None
            except StorageError as error:
                pipe.send((Said.FULL, str(error)))
                return
            pipe.send((Said.DONE, value))


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on with its task, for nobody."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
