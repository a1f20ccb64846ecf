"""Searches shared by several processes decide what one process decides, and leave the same proofs."""

import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np
import pytest
import torch
from nets import mlp, random_case
from test_bab import search, shifted
from test_certified import Subject

from verifier import strategy
from verifier.bounds.crown import Crown
from verifier.certificate.checker import check
from verifier.certified import verify_certified
from verifier.errors import InputError
from verifier.search import loop, tighten
from verifier.search.bab import BranchAndBound
from verifier.search.crew import Crew, Halved
from verifier.search.domain import Domains
from verifier.search.record import Cut
from verifier.search.tighten import Tightening
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.strategy import Settings

SPLITS = {"neurons": BranchAndBound(input_limit=0, trial_limit=0), "inputs": BranchAndBound(input_limit=10**6)}


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A search that asks for help at once; the sizes of the batches that it hands out."""
    before = torch.get_num_threads()
    monkeypatch.setattr(loop, "ALONE", 0.0)
    monkeypatch.setattr(loop, "SHARED", 1)
    handed: list[int] = []
    give = Crew.give

    def noted(crew: Crew[Domains], batch: Domains) -> None:
        handed.append(len(batch))
        give(crew, batch)

    monkeypatch.setattr(Crew, "give", noted)
    yield handed
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("margin", [1e-2, -1e-2])
@pytest.mark.parametrize("seed", range(4))
def test_two_processes_decide_like_one(seed: int, margin: float, split: str, helped: list[int]) -> None:
    case = random_case(seed, most=7)
    outcome, margins = search(case, shifted(case, margin), replace(SPLITS[split], batch=4, jobs=2))
    assert outcome.found == (margin < 0)
    if margin > 0:
        assert 0 < min(outcome.proved.values()) <= 1e-2 + 1e-9
    else:
        assert min(margins) <= 0


@pytest.mark.parametrize("split", SPLITS)
def test_their_proof_is_accepted(split: str, helped: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy.stages, "BranchAndBound", lambda: replace(SPLITS[split], batch=4))
    generator = torch.Generator().manual_seed(1)
    graph = mlp(generator, (4, 20, 20, 1))
    outputs = graph(torch.rand(20000, 4, generator=generator).double())
    room = 0.1 * float(outputs.max() - outputs.min())
    above = HalfSpaces(torch.ones(1, 1).double(), (room - outputs.min()).view(1))
    prop = Property(Region(exact(np.zeros(4)), exact(np.ones(4))), (above,))
    found = verify_certified(Subject(graph), prop, Settings(timeout=30, device="cpu", jobs=2))
    assert found.certificate is not None, found.result.reason
    proved = found.certificate
    assert check(proved.content, proved.model, proved.statement, "exact").margin >= 0
    assert helped  # they did take part


def test_hidden_bounds_tightened_by_two_processes_hold(helped: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tighten, "SHARED", 1)
    generator = torch.Generator().manual_seed(2)
    graph = mlp(generator, (4, 20, 20, 20, 1))
    box = Region(exact(np.zeros(4)), exact(np.ones(4))).box()
    nodes = Crown()(graph, box, torch.ones(1, 1, 1).double()).nodes
    better, _ = Tightening(rounds=5, seconds=math.inf, jobs=2)(graph, box, nodes, time.monotonic() + 60)
    values = graph.values(torch.rand(20000, 4, generator=generator).double())
    for index, z in better.items():
        assert (z.lower >= nodes[index].lower).all() and (z.upper <= nodes[index].upper).all()
        assert (values[index] >= z.lower - 1e-9).all() and (values[index] <= z.upper + 1e-9).all()
    widths = [sum(float((z.upper - z.lower).sum()) for z in bounds.values()) for bounds in (nodes, better)]
    assert helped and widths[1] < 0.9 * widths[0]


def doubled(batch: Domains) -> Halved[Domains]:
    """A step that splits nothing, and treats some batches badly."""
    if float(batch.lower[0]) == -1 and os.getpid() != PARENT:
        os.kill(os.getpid(), signal.SIGKILL)
    if float(batch.lower[0]) == -3 and os.getpid() != PARENT:
        os.kill(os.getpid(), signal.SIGSTOP)
    if float(batch.lower[0]) == -2:
        raise InputError("a bad batch")
    parts = replace(batch, lower=2 * batch.lower)
    return Halved(parts, Cut(batch.node, batch.lower), batch.lower, len(batch), {})


PARENT = os.getpid()


def batches(*numbers: float) -> list[Domains]:
    zero = torch.zeros(1, dtype=torch.long)
    return [Domains(zero, torch.tensor([k], dtype=torch.float64), zero) for k in numbers]


def answered(*numbers: float) -> list[tuple[float, float]]:
    with Crew(doubled, 2) as crew:
        crew.start()
        found = [(float(b.lower), float(a.parts.lower)) for b, a in crew.all(batches(*numbers))]
        assert crew.given == []
    return sorted(found)


def test_every_batch_is_answered_once() -> None:
    assert answered(*range(20)) == [(k, 2 * k) for k in range(20)]


def test_what_a_killed_fork_had_is_done_here() -> None:
    assert answered(-1, 1, 2, 3, 4) == [(-1, -2), (1, 2), (2, 4), (3, 6), (4, 8)]


def test_what_a_fork_began_to_say_when_it_was_killed_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    receive, cut = Connection.recv_bytes, [True]

    def torn(connection: Connection) -> bytes:
        content = receive(connection)
        if cut and os.getpid() == PARENT:
            cut.clear()
            raise OSError("got end of file during message")
        return content

    monkeypatch.setattr(Connection, "recv_bytes", torn)
    assert answered(1, 2, 3) == [(1, 2), (2, 4), (3, 6)] and not cut


def test_a_search_has_work_for_more_processes_than_subdomains(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine of many cores."""
    handed: list[int] = []

    class Many(Crew[Domains]):
        """Idle forks without end, whose work is done here."""

        idle, given = 200, ()

        def give(self, batch: Domains) -> None:
            handed.append(len(batch))
            waiting.append(batch)

        def answers(self, patience: float | None) -> Iterator[tuple[Domains, Halved[Domains]]]:
            while waiting:
                batch = waiting.pop()
                yield batch, self.step(batch)

    waiting: list[Domains] = []
    monkeypatch.setattr(loop, "Crew", Many)
    monkeypatch.setattr(loop, "SHARED", 1)
    for seed in range(4):
        case = random_case(seed, most=7)
        outcome, _ = search(case, shifted(case, 1e-4), replace(SPLITS["inputs"], batch=4))
        assert min(outcome.proved.values()) > 0
    assert handed and min(handed) >= 1


def test_what_a_step_raises_is_raised_here() -> None:
    with pytest.raises(InputError, match="a bad batch"):
        answered(1, -2, 3)


def test_a_fork_that_hangs_is_not_waited_for() -> None:
    with Crew(doubled, 1) as crew:
        crew.start()
        (stuck,) = batches(-3)
        crew.give(stuck)
        assert list(crew.answers(patience=0.2)) == []
        assert crew.given == [stuck]  # as open as before
        (process,) = crew._forks.values()
    assert not process.is_alive()


def test_forks_die_with_the_crew() -> None:
    with Crew(doubled, 2) as crew:
        crew.start()
        processes = list(crew._forks.values())
        assert all(process.is_alive() for process in processes)
    assert not any(process.is_alive() for process in processes)
