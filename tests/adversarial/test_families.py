"""No verdict is wrong on networks that are made to mislead floating point, solvers and attacks."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from families import FAMILIES
from puzzles import Puzzle, judged, output
from valleys import bent, least, valley

from verifier.spec.property import exact
from verifier.strategy import METHODS
from verifier.verdict import Verdict

HOW = (*METHODS, "certified")
SAMPLE, MANY = 16, 1000
EASY = {
    "scaled": "bab",
    "huge": "lp",
    "absorbing": "lp",
    "tiny": "bab",
    "close": "auto",
    "needle": "milp",
    "single_only": "crown",
    "edge": "milp",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_verdict_is_wrong(family: str) -> None:
    """Each method on two cases, one safe and one not; certificates on four."""
    for seed in range(SAMPLE):
        judged(FAMILIES[family](seed), HOW[seed // 2 % len(HOW)], timeout=0.3)
    for seed in range(SAMPLE, SAMPLE + 2):
        judged(FAMILIES[family](seed), "certified", timeout=0.3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cases_are_no_riddles(family: str) -> None:
    """Some method decides several of them, so that a verdict is at stake."""
    verdicts = Counter(judged(FAMILIES[family](seed), EASY[family], timeout=0.3) for seed in range(10))
    assert verdicts[Verdict.VERIFIED] + verdicts[Verdict.FALSIFIED] >= 2


ONCE_WRONG = [
    ("absorbing", 163, "auto"),
    ("absorbing", 77, "interval"),
    ("edge", 12, "bab"),
    ("huge", 9, "bab"),
    ("huge", 197, "bab"),
]


@pytest.mark.parametrize(("family", "seed", "method"), ONCE_WRONG)
def test_what_was_once_wrong(family: str, seed: int, method: str) -> None:
    assert judged(FAMILIES[family](seed), method, timeout=0.3) is not Verdict.VERIFIED


@pytest.mark.long
@pytest.mark.parametrize("method", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_verdict_of_many_is_wrong(family: str, method: str) -> None:
    for seed in range(SAMPLE, SAMPLE + MANY):
        judged(FAMILIES[family](seed), method, timeout=0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_truth_is_as_constructed(family: str) -> None:
    """Sampled exactly: no point of a safe case violates, and the named point of an unsafe one does."""
    draw = np.random.default_rng(0)
    for seed in range(8):
        puzzle = FAMILIES[family](seed)
        assert puzzle.safe == (seed % 2 == 0) or family == "edge"
        assert (puzzle.margin(puzzle.lowest) <= 0) == (not puzzle.safe)
        if puzzle.safe:
            assert min(puzzle.margin(point) for point in points(draw, puzzle)) > 0


def points(draw: np.random.Generator, puzzle: Puzzle) -> list[np.ndarray]:
    """Points of the box and points close to the lowest."""
    shares = [exact(draw.random(len(puzzle.lower))) for _ in range(8)]
    anywhere = [puzzle.lower + share * (puzzle.upper - puzzle.lower) for share in shares]
    return anywhere + [puzzle.lowest + (point - puzzle.lowest) / 2**k for point in anywhere for k in (4, 12)]


@pytest.mark.parametrize("seed", range(4))
def test_the_least_value_of_a_deep_network_of_one_input(seed: int) -> None:
    """It is reached, and nothing on a fine grid is below."""
    layers, value, place = valley(np.random.default_rng(seed), [1.0], hidden=(4, 3), extra=0)
    low, high = Fraction(-1), Fraction(1)
    assert least(layers, low, high) == (value, place[0])
    grid = [np.array([Fraction(i, 256)], dtype=object) for i in range(-256, 257)]
    values = [output(layers, x)[0] for x in grid]
    assert output(layers, place)[0] == value <= min(values) < value + Fraction(1, 2)
    bends, _ = bent([low, high], [exact(layers[0][0]) @ np.array([x]) + exact(layers[0][1]) for x in (low, high)])
    assert bends[0] == low and bends[-1] == high and bends == sorted(set(bends))
