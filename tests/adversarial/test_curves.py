"""Smooth networks: no claim that a point refutes is verified by any way, and what is called a counterexample is one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from curves import Case, case

from verifier.certified import verify_certified
from verifier.errors import ModelError
from verifier.load import load
from verifier.strategy import Settings, verify
from verifier.verdict import Verdict

SAMPLE, MANY = 24, 1000
WAYS = ("certified", "auto", "interval", "crown", "alpha", "bab", "milp")


def judge(one: Case, way: str, folder: Path, timeout: float = 0.5) -> str:
    """The verdict; fails when it is wrong."""
    path = folder / "net.onnx"
    path.write_bytes(one.net.content())
    try:
        model = load(path)
    except ModelError:
        return "refused"
    assert one.excess(one.point) < 0
    settings = Settings("auto" if way == "certified" else way, timeout=timeout, device="cpu")
    result = (
        verify_certified(model, one.prop, settings).result if way == "certified" else verify(model, one.prop, settings)
    )
    if result.verdict is Verdict.VERIFIED:
        assert result.solver_word, f"a false claim is VERIFIED by {way}"
    if result.verdict is Verdict.FALSIFIED:
        assert result.counterexample is not None
        assert one.prop.region.admits(result.counterexample)
        assert one.excess(one.prop.region.point(result.counterexample)) <= 0, "safe in real arithmetic"
        assert float(model.native(result.counterexample[None]).ravel()[0]) <= one.floor, "safe in float32"
    return result.verdict.name


def test_what_a_point_refutes_is_not_verified(tmp_path: Path, seeds: range = range(SAMPLE)) -> None:
    answers: Counter[str] = Counter()
    for seed in seeds:
        one = case(seed)
        if one is not None:
            for way in ("certified", WAYS[1 + seed % 6]):
                answers[judge(one, way, tmp_path)] += 1
    assert answers["FALSIFIED"] and answers["UNKNOWN"], answers


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_what_many_points_refute_is_not_verified(way: str, tmp_path: Path) -> None:
    for seed in range(MANY):
        one = case(seed)
        if one is not None:
            judge(one, way, tmp_path)
