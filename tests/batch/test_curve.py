"""Bisection by monotonicity: the same curve as asking everything, with few questions."""

from __future__ import annotations

import pytest

from verifier.batch.curve import Bisection, bisections, curve, parse_radii
from verifier.batch.records import ERROR, FALSIFIED, UNKNOWN, VERIFIED, Record
from verifier.errors import VerifierError


def answer(position: int, safe: int, broken: int) -> Record:
    """What is said of an input that can be proved below `safe` and broken from `broken` on."""
    verdict = VERIFIED if position < safe else FALSIFIED if position >= broken else UNKNOWN
    return Record(0, str(position), 0, 0, verdict, "", 0.0, point="x" if broken else None)


def placed(one: Bisection, safe: int, broken: int, weak: int | None) -> list[int]:
    """What is asked until an input is placed. weak: attacks alone break it from there on; None: none are made."""
    asked = []
    while weak is not None and (position := one.next_attack()) is not None:
        if position >= weak:
            one.tell(position, answer(position, safe, broken))
        else:
            one.resist(position)
    while (position := one.next()) is not None:
        asked.append(position)
        one.tell(position, answer(position, safe, broken))
    assert (one.verified, one.falsified) == (safe - 1, broken)
    assert len(asked) == len(set(asked))
    return asked


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
def test_every_input_is_placed_with_few_questions(count: int) -> None:
    for safe in range(count + 1):
        for broken in range(safe, count + 1):
            for weak in (None, *range(broken, count + 1)):
                assert len(placed(Bisection(count), safe, broken, weak)) <= 3 * count.bit_length() + 1


@pytest.mark.parametrize("broken", [0, 1, 17, 29, 30])
def test_where_attacks_find_the_limit_one_proof_below_it_is_all_that_is_asked(broken: int) -> None:
    assert placed(Bisection(30), broken, broken, broken) == ([broken - 1] if broken else [])


def test_an_error_is_not_asked_for_by_attacks_again() -> None:
    one = Bisection(2)
    one.tell(one.next_attack() or 0, Record(0, "1", -1, -1, ERROR, "", 0.0))
    assert one.next_attack() is None and one.next() == 0


def test_a_misclassified_input_is_broken_at_every_radius_by_one_question() -> None:
    one = Bisection(30)
    one.tell(one.next_attack() or 0, answer(15, 0, 0))
    assert one.falsified == 0 and one.next_attack() is None and one.next() is None


def test_contradictions_are_refused() -> None:
    one = Bisection(3)
    one.tell(1, answer(1, 2, 3))
    with pytest.raises(VerifierError):
        one.tell(0, answer(0, 0, 0))


def test_the_curve_counts_inputs() -> None:
    eps = ("1", "2", "3")
    records = [
        Record(0, "2", 0, 0, VERIFIED, "", 0.0), Record(0, "3", 0, 0, FALSIFIED, "", 0.0, point="x"),
        Record(1, "2", 0, 0, UNKNOWN, "", 0.0), Record(1, "1", 0, 0, VERIFIED, "", 0.0),
    ]  # fmt: skip
    points = curve(eps, bisections(eps, records))
    assert [(p.verified, p.falsified, p.undecided) for p in points] == [(2, 0, 0), (1, 0, 1), (0, 1, 1)]


@pytest.mark.parametrize(
    ("text", "radii"),
    [
        ("0.10", ("0.1",)),
        ("8/255", ("8/255",)),
        ("0.01:0.03:0.01", ("0.01", "0.02", "0.03")),
        ("0:0.1:0.04", ("0", "0.04", "0.08")),
        ("1/3:1:1/3", ("1/3", "2/3", "1")),
    ],
)
def test_radii(text: str, radii: tuple[str, ...]) -> None:
    assert parse_radii(text) == radii


@pytest.mark.parametrize("text", ["", "a", "0.1:0.2", "0.2:0.1:0.01", "0:1:0", "0:1:1e-9", "-1", "1:2:3:4", "nan"])
def test_bad_radii(text: str) -> None:
    with pytest.raises(VerifierError):
        parse_radii(text)
