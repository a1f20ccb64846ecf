"""Worker processes that can be killed: each answers one task at a time and keeps what it has loaded.

The parent holds the clock. A worker that outlives its task's limit, or dies, costs that task alone. What a worker
writes to its standard error is kept, and its last line tells why it died.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any, Generic, TypeVar

from verifier.errors import VerifierError

STARTUP_LIMIT = 300.0  # seconds; importing torch from a cold disk takes many
SPAWN = get_context("spawn")  # a fork of a process that runs threads may hang

Task = TypeVar("Task")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Outcome(Generic[Task, Value]):
    """What became of a task. value: the worker's answer; None when it was killed (`late`) or died (`failure`).

    seconds: from handing the task out until the answer, or the end.
    """

    task: Task
    value: Value | None
    seconds: float
    late: bool = False
    failure: str = ""


def run(
    setup: Callable[[], Callable[[Task], Value]], tasks: Sequence[Task], limit: Callable[[Task], float], jobs: int = 1
) -> Generator[Outcome[Task, Value], None, None]:
    """Answer the tasks in `jobs` processes of one thread each; outcomes come as they are ready.

    setup: called once in every worker, returns what answers a task; like tasks and answers it must be picklable.
    limit: after how many seconds a worker is killed. Raises VerifierError when workers cannot start.
    """
    waiting = deque(tasks)
    workers = [_Worker(setup) for _ in range(min(jobs, len(tasks)))]
    try:
        while waiting or any(worker.busy for worker in workers):
            for worker in workers:
                if waiting and worker.ready and not worker.busy and not worker.stopped:
                    task = waiting.popleft()
                    worker.assign(task, limit(task))
            expected = [worker for worker in workers if not worker.stopped and (worker.busy or not worker.ready)]
            pause = max(0.0, min(worker.deadline for worker in expected) - time.monotonic())
            connection.wait([worker.pipe for worker in expected], pause)
            for worker in expected:
                outcome = worker.poll()
                if outcome is not None:
                    yield outcome
                if worker.stopped and waiting:
                    workers[workers.index(worker)] = _Worker(setup)
    finally:
        for worker in workers:
            if not worker.stopped:
                worker.stop()


class _Worker:
    """One process: it starts, is `ready`, then is `busy` with one task after the other until `deadline` at most."""

    def __init__(self, setup: Callable[[], Callable[[Any], Any]]) -> None:
        self.log = tempfile.NamedTemporaryFile(prefix="worker-", suffix=".log")  # noqa: SIM115 (closed by `stop`)
        self.pipe, far = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(setup, far, self.log.name), daemon=True)
        self.process.start()
        far.close()
        self.ready = self.busy = False
        self.began = time.monotonic()
        self.deadline = self.began + STARTUP_LIMIT
        self.task: Any = None

    @property
    def stopped(self) -> bool:
        return self.pipe.closed

    def assign(self, task: Any, limit: float) -> None:
        self.task, self.busy, self.began = task, True, time.monotonic()
        self.deadline = self.began + limit
        # A worker that has died meanwhile is found out by `poll`.
        with suppress(BrokenPipeError):
            self.pipe.send(task)

    def poll(self) -> Outcome | None:
        """What became of the task, once it is known. Raises VerifierError when the process failed to start."""
        if self.pipe.poll():
            try:
                value = self.pipe.recv()
            except EOFError:
                return self._ended()
            if not self.ready:
                self.ready = True
                return None
            self.busy = False
            return Outcome(self.task, value, time.monotonic() - self.began)
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


def _serve(setup: Callable[[], Callable[[Any], Any]], pipe: connection.Connection, log: str) -> None:
    """What a worker process does. An unforeseen exception ends it: the parent reports the last line of the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent alone answers it
    os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported, by `setup`
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 2)
    answer = setup()
    pipe.send(None)
    # The parent closes the pipe when it needs no more, or when it is gone.
    with suppress(EOFError):
        while True:
            pipe.send(answer(pipe.recv()))
