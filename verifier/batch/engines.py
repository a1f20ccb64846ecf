"""Where tasks run: in processes of this machine (`verifier.batch.workers.serve`), or on a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from verifier.batch.workers import STARTUP_LIMIT, Outcome, Task, Value
from verifier.errors import InputError, VerifierError


def ray_serve(
    setup: Callable[[], Callable[[Task], Value | Iterator[Value]]],
    source: Callable[[], Task | None],
    limit: Callable[[Task], float],
    jobs: int = 1,
    memory: int | None = None,
) -> Iterator[Outcome[Task, Value]]:
    """As `workers.serve`, in `jobs` actors of one core on the cluster that RAY_ADDRESS names, else on this machine.

    Raises InputError when Ray is not installed, VerifierError when actors cannot start.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'verifier[ray]'") from None

    class Actor:
        """A worker: it is set up once, and answers one task at a time."""

        def __init__(self) -> None:
            self.answer = setup()

        def ready(self) -> None:
            """Answered once it is set up."""

        def call(self, task: Any) -> list[Any]:
            value = self.answer(task)
            return list(value) if isinstance(value, Iterator) else [value]

    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    actors = ray.remote(num_cpus=1, **({} if memory is None else {"memory": memory}))(Actor)
    idle: list[Any] = []
    running: dict[Any, _Call] = {}
    try:
        while True:
            while len(running) < jobs and (task := source()) is not None:
                if idle:
                    _begin(running, idle.pop(), task, limit(task))
                else:
                    actor = actors.remote()
                    running[actor.ready.remote()] = _Call(actor, task, STARTUP_LIMIT, starting=True)
            if not running:
                return
            pause = max(0.0, min(call.deadline for call in running.values()) - time.monotonic())
            for reference in ray.wait(list(running), timeout=pause)[0]:
                call = running.pop(reference)
                try:
                    values = ray.get(reference)
                except ray.exceptions.RayError as error:
                    ray.kill(call.actor)
                    if call.starting:
                        raise VerifierError(f"while a Ray worker started: {_reason(error)}") from error
                    yield Outcome(call.task, None, call.spent, failure=_reason(error))
                    continue
                if call.starting:
                    _begin(running, call.actor, call.task, limit(call.task))
                    continue
                idle.append(call.actor)
                for value in values:
                    yield Outcome(call.task, value, call.spent, last=False)
                yield Outcome(call.task, None, call.spent)
            for reference in [r for r, call in running.items() if time.monotonic() >= call.deadline]:
                call = running.pop(reference)
                ray.kill(call.actor)
                if call.starting:
                    raise VerifierError(f"a Ray worker did not start within {STARTUP_LIMIT:g} s; is there room for it?")
                yield Outcome(call.task, None, call.spent, late=True)
    finally:
        for actor in [*idle, *(call.actor for call in running.values())]:
            ray.kill(actor)
        if started:
            ray.shutdown()


class _Call:
    """A task with an actor that answers it, or is only starting, until `deadline`."""

    def __init__(self, actor: Any, task: Any, limit: float, starting: bool = False) -> None:
        self.actor, self.task, self.starting = actor, task, starting
        self.began = time.monotonic()
        self.deadline = self.began + limit

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began


def _begin(running: dict[Any, _Call], actor: Any, task: Any, limit: float) -> None:
    running[actor.call.remote(task)] = _Call(actor, task, limit)


def _reason(error: Exception) -> str:
    """The last line of what Ray says, which names the exception."""
    lines = str(error).strip().splitlines()
    return f"the Ray worker failed: {lines[-1]}" if lines else "the Ray worker died"
