"""The same step of a search, done for several batches of subdomains at once: by this process and by forks of it.

Threads inside one operation hardly pay on the small tensors of a search, and threads that search side by side wait for
Python's lock. A fork shares what the search has learned, and gets and gives only subdomains.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from verifier.search.domain import Domains
from verifier.search.record import Cut, Record
from verifier.search.splitting import Splitting

D = TypeVar("D", bound=Domains)


class Halved(NamedTuple, Generic[D]):
    """What became of a batch of subdomains.

    parts: its bounded halves, which stand in a tree of their own: `node` numbers those of `cut`. points: inputs to try.
    evaluations: bounds computed. seconds: for branching and for bounding.
    """

    parts: D
    cut: Cut
    points: Tensor
    evaluations: int
    seconds: dict[str, float]

    def placed(self, batch: D, record: Record | None) -> D:
        """The parts, standing below the batch in the record."""
        if record is not None:
            self.parts.node = record.split(batch.node, batch.unsafe, self.cut)[self.parts.node]
        return self.parts

    def compact(self) -> Halved[D]:
        """The same with tensors of their own: pickled, a view would take along all that it is a view of."""
        return self._replace(parts=self.parts.mapped(torch.clone), points=self.points.clone())


Step = Callable[[D], Halved[D]]


def helpers(jobs: int, device: torch.device) -> int:
    """How many forks make `jobs` processes; none where a fork cannot compute (on a GPU, and outside Linux)."""
    able = sys.platform == "linux" and device.type == "cpu" and not multiprocessing.current_process().daemon
    return jobs - 1 if able else 0


class Crew(Generic[D]):
    """This process and up to `count` forks, which know what it knew when `start` was called."""

    def __init__(self, step: Step[D], count: int) -> None:
        self.step, self.count = step, count
        self._forks: dict[Connection, multiprocessing.process.BaseProcess] = {}
        self._given: dict[Connection, D] = {}
        self._threads = torch.get_num_threads()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        torch.set_num_threads(self._threads)

    def start(self) -> None:
        """Fork, unless that is done."""
        if self._forks or not self.count:
            return
        torch.set_num_threads(1)
        context = multiprocessing.get_context("fork")
        for _ in range(self.count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(ours, theirs, self.step), daemon=True)
            process.start()
            theirs.close()
            self._forks[ours] = process

    def stop(self) -> list[D]:
        """Let go of all forks, until `start`; returns the batches that they have not answered."""
        unanswered = self.given
        self._given.clear()
        for connection in list(self._forks):
            self._end(connection)
        return unanswered

    def _end(self, connection: Connection) -> None:
        """Let go of a fork."""
        process = self._forks.pop(connection)
        process.kill()
        process.join()
        connection.close()

    @property
    def size(self) -> int:
        """How many processes there are."""
        return 1 + len(self._forks)

    @property
    def given(self) -> list[D]:
        """The batches that forks have not answered yet."""
        return list(self._given.values())

    @property
    def idle(self) -> int:
        """How many forks have nothing to do."""
        return len(self._forks) - len(self._given)

    def give(self, batch: D) -> None:
        """Hand a batch to an idle fork."""
        connection = next(c for c in self._forks if c not in self._given)
        self._given[connection] = batch
        with suppress(ConnectionError):  # `answers` will see it, too
            connection.send_bytes(pickle.dumps(batch))

    def answers(self, patience: float | None) -> Iterator[tuple[D, Halved[D]]]:
        """The batches that have been answered since, with their answers; waits for one, for so many seconds at most.

        Raises what the step raised. A fork that was killed (for its memory, say) is given nothing more, and the batch
        is done here.
        """
        ready = wait(list(self._given), patience) if self._given else []
        for connection in ready:
            assert isinstance(connection, Connection)
            batch = self._given.pop(connection)
            try:
                answer = pickle.loads(connection.recv_bytes())
            except (EOFError, OSError):  # before an answer, or in the middle of one
                self._end(connection)
                answer = self.step(batch)
            if isinstance(answer, Exception):
                raise answer
            yield batch, answer

    def all(self, batches: Iterable[D]) -> Iterator[tuple[D, Halved[D]]]:
        """Every batch with its answer, in any order; `batches` may stop early."""
        for batch in batches:
            if self.idle:
                self.give(batch)
            else:
                yield batch, self.step(batch)
                yield from self.answers(patience=0)
        while self._given:
            yield from self.answers(patience=None)


def _serve(others: Connection, connection: Connection, step: Step[D]) -> None:
    """A fork's life: answer batches until the other end is closed."""
    others.close()  # else nobody would see that this process's parent has died
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    torch.set_num_threads(1)
    while True:
        try:
            batch = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        answer: Halved[D] | Exception
        try:
            answer = step(batch).compact()
        except Exception as error:  # raised again by `answers`
            answer = error
        connection.send_bytes(pickle.dumps(answer))


def halved(splitting: Splitting[D], batch: D, deadline: float) -> Halved[D]:
    """The step itself: split a batch and bound its halves."""
    began, before = time.monotonic(), splitting.evaluations
    parts, cut = splitting.split(batch)
    split = time.monotonic()
    parts.node = torch.arange(len(parts), device=parts.node.device)
    parts, points = splitting.bound(parts, deadline)
    seconds = {"branching": split - began, "bounding": time.monotonic() - split}
    return Halved(parts, cut, points, splitting.evaluations - before, seconds)
