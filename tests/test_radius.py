"""The bisection of `radius`. `tests/adversarial/test_planes.py` compares its ends with the exact radius."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from nets import Native, random_case

from verifier import radius as module
from verifier.radius import Radius, radius
from verifier.spec.property import Property
from verifier.strategy import Settings
from verifier.verdict import Result, Verdict


def found(monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[float, float]], **said: Any) -> Radius:
    """The radius where verdicts are given by ranges of eps (UNKNOWN elsewhere); said: more of every result."""

    def verify(_: object, prop: Property, settings: Settings) -> Result:
        eps = prop.region.eps
        assert isinstance(eps, Fraction) and settings.timeout > 0
        verdict = next((Verdict[name] for name, (low, high) in answers.items() if low <= eps < high), Verdict.UNKNOWN)
        return Result(verdict, "", "", 0.0, 0.0, 0.0, (), np.zeros(3, np.float32), **said)

    monkeypatch.setattr(module, "verify", verify)
    graph = random_case(0, most=7).graph
    return radius(Native(graph), np.full(graph.input_shape, 0.5, np.float32), 0, settings=Settings(timeout=20))


def test_the_ends_meet_to_about_one_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    result = found(monkeypatch, {"VERIFIED": (0.0, 0.3), "FALSIFIED": (0.3, 2.0)})
    assert 0.29 < result.proved < 0.3 <= result.broken < 0.31
    assert not result.solver_word


def test_what_is_unknown_lies_between_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    result = found(monkeypatch, {"VERIFIED": (0.0, 0.2), "FALSIFIED": (0.4, 2.0)})
    assert 0.19 < result.proved < 0.2 and 0.4 <= result.broken < 0.41


def test_a_solvers_word_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, {"VERIFIED": (0.0, 0.3)}, solver_word=True).solver_word


def test_an_input_that_is_broken_has_no_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    result = found(monkeypatch, {"FALSIFIED": (0.0, 2.0)})
    assert result.proved == -np.inf and result.broken == 0 and len(result.steps) == 1
