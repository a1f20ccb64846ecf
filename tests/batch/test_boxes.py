"""The verdict over several input boxes, and how they share the time: by scripted results in place of the cascade."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from verifier.batch.competition import decimal, word
from verifier.batch.query import Answer, answer
from verifier.spec.property import Property
from verifier.spec.vnnlib import parse
from verifier.strategy import Settings
from verifier.verdict import Result, Verdict

HEAD = "(declare-const X_0 Real) (declare-const Y_0 Real) (assert (>= X_0 0)) (assert (<= X_0 9))"
BOXES = "".join(f"(and (>= X_0 {k}) (<= X_0 {k}.5) (>= Y_0 {k}))" for k in range(3))
QUERY = parse(f"{HEAD}(assert (or {BOXES}))", "p.vnnlib")
SUBJECT = SimpleNamespace(graph=SimpleNamespace(input_shape=(1,), output_shape=(1,)))
Need = dict[int, tuple[float, Verdict]]


def box_of(prop: Property) -> int:
    return int(prop.region.lower[0])


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Need], tuple[Answer, list[tuple[int, float]]]]:
    """Answer QUERY in 10 s, where box k needs so many seconds for its verdict; also returns the calls (box, budget)."""

    def run(need: Need) -> tuple[Answer, list[tuple[int, float]]]:
        now, calls = [0.0], []

        def verify(subject: object, prop: Property, settings: Settings, progress: object) -> Result:
            k = box_of(prop)
            calls.append((k, settings.timeout))
            seconds, verdict = need[k]
            if seconds > settings.timeout:
                seconds, verdict = settings.timeout, Verdict.UNKNOWN
            now[0] += seconds
            broken = verdict is Verdict.FALSIFIED
            x = np.array([k + 0.25], dtype=np.float32) if broken else None
            y = np.array([k], dtype=np.float32) if broken else None
            proved = 1.0 + k if verdict is Verdict.VERIFIED else -math.inf
            return Result(verdict, prop.about, f"stage{k}", seconds, proved, math.inf, (), x, y, f"reason {k}")

        monkeypatch.setattr("verifier.batch.query.verify", verify)
        monkeypatch.setattr("verifier.batch.query.time", SimpleNamespace(monotonic=lambda: now[0]))
        return answer(SUBJECT, QUERY, Settings(timeout=10.0)), calls  # type: ignore[arg-type]

    return run


def test_all_boxes_must_be_verified(scripted) -> None:
    found, calls = scripted({k: (0.1, Verdict.VERIFIED) for k in range(3)})
    assert found.result.verdict is Verdict.VERIFIED and len(calls) == 3
    assert found.result.proved == 1.0 and found.result.about == "no input that p.vnnlib allows has a forbidden output"


def test_one_broken_box_is_enough_and_ends_the_search(scripted) -> None:
    found, calls = scripted({0: (0.1, Verdict.UNKNOWN), 1: (0.1, Verdict.FALSIFIED), 2: (0.1, Verdict.VERIFIED)})
    assert found.result.verdict is Verdict.FALSIFIED and [k for k, _ in calls] == [0, 1]
    assert found.point.tolist() == [Fraction(5, 4)]


def test_a_hard_box_does_not_starve_an_easy_one(scripted) -> None:
    found, calls = scripted({0: (9.0, Verdict.VERIFIED), 1: (100.0, Verdict.VERIFIED), 2: (0.5, Verdict.FALSIFIED)})
    assert found.result.verdict is Verdict.FALSIFIED
    assert [k for k, _ in calls] == [0, 1, 2] and found.result.seconds < 2.5


def test_what_ran_out_of_time_gets_the_rest(scripted) -> None:
    found, calls = scripted({0: (7.0, Verdict.VERIFIED), 1: (0.2, Verdict.VERIFIED), 2: (0.1, Verdict.VERIFIED)})
    assert found.result.verdict is Verdict.VERIFIED and [k for k, _ in calls] == [0, 1, 2, 0]
    assert calls[-1][1] >= 9.0


def test_what_gave_up_before_its_time_is_not_asked_again(scripted) -> None:
    found, calls = scripted({0: (0.1, Verdict.UNKNOWN), 1: (0.1, Verdict.VERIFIED), 2: (0.1, Verdict.VERIFIED)})
    assert found.result.verdict is Verdict.UNKNOWN and len(calls) == 3
    assert found.result.reason == "reason 0" and found.result.proved == -math.inf
    assert word(found.result, 10.0) == "unknown"


def test_out_of_time(scripted) -> None:
    found, _ = scripted({k: (100.0, Verdict.VERIFIED) for k in range(3)})
    assert found.result.verdict is Verdict.UNKNOWN
    assert found.result.reason == "the time limit of 10 s was reached"
    assert found.result.seconds == pytest.approx(10.0) and word(found.result, 10.0) == "timeout"


def test_no_time_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 1000, 20))
    monkeypatch.setattr("verifier.batch.query.time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    found = answer(SUBJECT, QUERY, Settings(timeout=10.0))  # type: ignore[arg-type]
    assert found.result.verdict is Verdict.UNKNOWN and found.cases == () and word(found.result, 10.0) == "timeout"
    assert found.result.reason == "the time limit of 10 s was reached"


def test_a_counterexample_of_the_rounded_property_alone_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    query = parse(HEAD + "(assert (<= Y_0 0.49999999999999999999))")  # as float64 that is 0.5

    def verify(subject: object, prop: Property, settings: Settings, progress: object) -> Result:
        y = np.array([0.5], dtype=np.float32)
        x = np.zeros(1, dtype=np.float32)
        assert prop.margin(torch.from_numpy(y).double().unsqueeze(0)) <= 0
        return Result(Verdict.FALSIFIED, "", "", 0.1, -math.inf, 0.0, (), x, y)

    monkeypatch.setattr("verifier.batch.query.verify", verify)
    found = answer(SUBJECT, query, Settings())  # type: ignore[arg-type]
    assert found.result.verdict is Verdict.UNKNOWN and found.point is None
    assert "rounded to float64" in found.result.reason


def test_a_fixed_decimal_is_printed_as_it_is() -> None:
    [prop] = parse(HEAD + "(assert (and (<= X_0 0.1) (>= X_0 0.1)))").properties((1,))
    [value] = prop.region.point(np.array([0.1], dtype=np.float32))
    assert decimal(value) == "0.1"
    assert decimal(Fraction(float(np.float32(0.1)))) == "0.100000001490116119384765625"
    assert decimal(Fraction(1, 3)).startswith("0.333333")
    smallest = Fraction(float(np.finfo(np.float32).smallest_subnormal))
    assert Fraction(decimal(smallest)) == smallest
