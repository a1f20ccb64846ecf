"""Where tasks run: in processes of this machine (`verifier.batch.workers.serve`), or on a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from verifier.batch.workers import STARTUP_LIMIT, Outcome, Task, Value
from verifier.errors import InputError, StorageError, VerifierError


def ray_serve(
    setup: Callable[[], Callable[[Task], Value | Iterator[Value]]],
    source: Callable[[], Task | None],
    limit: Callable[[Task], float],
    jobs: int = 1,
    memory: int | None = None,
) -> Iterator[Outcome[Task, Value]]:
    """As `workers.serve`, in `jobs` actors of one core on the cluster that RAY_ADDRESS names, else on this machine.

    Raises InputError when Ray is not installed, VerifierError when actors cannot start, StorageError when one cannot
    write what it found.
    """
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    pool = _Pool(ray, setup, limit, memory)
    try:
        while True:
            while len(pool.running) < jobs and (task := source()) is not None:
                pool.take(task)
            if not pool.running:
                return
            yield from pool.outcomes()
    finally:
        pool.close()
        if started:
            ray.shutdown()


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'verifier[ray]'") from None


class _Actor:
    """A worker: it is set up once, and answers one task at a time."""

    def __init__(self, setup: Callable[[], Callable[[Any], Any]]) -> None:
        self.answer = setup()

    def ready(self) -> None:
        """Answered once it is set up."""

    def call(self, task: Any) -> list[Any]:
        """All parts of the answer."""
        value = self.answer(task)
        return list(value) if isinstance(value, Iterator) else [value]


class _Pool:
    """The actors: those that are idle, and the calls by what Ray promises for them."""

    def __init__(
        self, ray: Any, setup: Callable[[], Callable[[Any], Any]], limit: Callable[[Any], float], memory: int | None
    ) -> None:
        self.ray, self.setup, self.limit = ray, setup, limit
        self.actors = ray.remote(num_cpus=1, **({} if memory is None else {"memory": memory}))(_Actor)
        self.idle: list[Any] = []
        self.running: dict[Any, _Call] = {}

    def take(self, task: Any) -> None:
        """Have an idle actor answer, or a new one once it has started."""
        if self.idle:
            self._begin(self.idle.pop(), task)
        else:
            actor = self.actors.remote(self.setup)
            self.running[actor.ready.remote()] = _Call(actor, task, STARTUP_LIMIT, starting=True)

    def _begin(self, actor: Any, task: Any) -> None:
        self.running[actor.call.remote(task)] = _Call(actor, task, self.limit(task))

    def outcomes(self) -> Iterator[Outcome[Any, Any]]:
        """Wait until a call ends or is late, and tell what became of it. Raises what `ray_serve` raises."""
        pause = max(0.0, min(call.deadline for call in self.running.values()) - time.monotonic())
        for reference in self.ray.wait(list(self.running), timeout=pause)[0]:
            yield from self._ended(self.running.pop(reference), reference)
        for reference in [r for r, call in self.running.items() if time.monotonic() >= call.deadline]:
            call = self.running.pop(reference)
            self.ray.kill(call.actor)
            if call.starting:
                raise VerifierError(f"a Ray worker did not start within {STARTUP_LIMIT:g} s; is there room for it?")
            yield Outcome(call.task, None, call.spent, late=True)

    def _ended(self, call: _Call, reference: Any) -> Iterator[Outcome[Any, Any]]:
        try:
            values = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self.ray.kill(call.actor)
            if isinstance(cause := getattr(error, "cause", None), StorageError):
                raise StorageError(str(cause)) from None
            if call.starting:
                raise VerifierError(f"while a Ray worker started: {_reason(error)}") from error
            yield Outcome(call.task, None, call.spent, failure=_reason(error))
            return
        if call.starting:
            self._begin(call.actor, call.task)
            return
        self.idle.append(call.actor)
        for value in values:
            yield Outcome(call.task, value, call.spent, last=False)
        yield Outcome(call.task, None, call.spent)

    def close(self) -> None:
        """End all actors, whatever they are doing."""
        for actor in [*self.idle, *(call.actor for call in self.running.values())]:
            self.ray.kill(actor)


class _Call:
    """A task with an actor that answers it, or is only starting, until `deadline`."""

    def __init__(self, actor: Any, task: Any, limit: float, starting: bool = False) -> None:
        self.actor, self.task, self.starting = actor, task, starting
        self.began = time.monotonic()
        self.deadline = self.began + limit

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began


def _reason(error: Exception) -> str:
    """The last line of what Ray says, which names the exception."""
    lines = str(error).strip().splitlines()
    return f"the Ray worker failed: {lines[-1]}" if lines else "the Ray worker died"
