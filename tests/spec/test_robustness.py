"""Local robustness as a property."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from verifier.errors import SpecificationError
from verifier.spec.robustness import ball, label_margin, local_robustness, parse_eps

X = np.array([0.25, 0.5], np.float32)


@pytest.mark.parametrize(("text", "value"), [
    ("0.1", Fraction(1, 10)),
    (0.1, Fraction(1, 10)),
    (1, Fraction(1)),
    ("8/255", Fraction(8, 255)),
    ("1e-3", Fraction(1, 1000)),
    (1e-30, Fraction(1, 10**30)),
    (Fraction(1, 3), Fraction(1, 3)),
    ("0", Fraction(0)),
])  # fmt: skip
def test_eps_is_exact(text: object, value: Fraction) -> None:
    assert parse_eps(text) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "abc", "nan", "inf", "-0.1", "1/0", "0.1.2", math.nan, math.inf, -1, Fraction(-1, 2)]
)
def test_eps_that_is_no_number_is_refused(text: object) -> None:
    with pytest.raises(SpecificationError, match="eps must be a finite number >= 0, not"):
        parse_eps(text)  # type: ignore[arg-type]


def test_the_ball_is_cut_by_the_data_range() -> None:
    region = ball(X, Fraction(3, 10))
    assert region.lower.tolist() == [0, Fraction(1, 5)] and region.upper.tolist() == [Fraction(11, 20), Fraction(4, 5)]
    free = ball(X, Fraction(3, 10), lower=None, upper=None)
    assert free.lower.tolist()[0] == Fraction(-1, 20)


@pytest.mark.parametrize(("x", "norm", "message"), [
    ([0.5, np.nan], "linf", "NaN or Inf"),
    ([0.5, np.inf], "linf", "NaN or Inf"),
    ([0.5, 1.5], "linf", r"leaves the data range \[0.0, 1.0\]"),
    ([-0.5, 0.5], "linf", "leaves the data range"),
    ([0.5, 0.5], "l7", "unknown norm 'l7' .available: linf, l2, l1"),
])  # fmt: skip
def test_malformed_balls(x: list, norm: str, message: str) -> None:
    with pytest.raises(SpecificationError, match=message):
        ball(np.array(x, np.float32), Fraction(1, 10), norm)


def test_without_a_target_every_other_class_is_an_unsafe_set() -> None:
    prop = local_robustness(X, 1, "0.1", classes=3)
    assert len(prop.unsafe) == 2 and prop.about == "the prediction stays 1"
    scores = torch.tensor([[0.0, 2.0, 1.5], [3.0, 2.0, 0.0], [2.0, 2.0, 0.0]])
    assert prop.margin(scores).tolist() == [0.5, -1.0, 0.0]


def test_with_a_target_the_target_must_beat_every_class() -> None:
    prop = local_robustness(X, 1, "0.1", target=2, classes=3)
    assert len(prop.unsafe) == 1 and prop.about == "the prediction cannot become 2"
    scores = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 2.0, 2.0], [0.0, 3.0, 1.0]])
    assert prop.margin(scores).tolist() == [-1.0, 1.0, 0.0, 2.0]


def test_the_two_claims_agree_with_the_prediction() -> None:
    """The margin is negative exactly when the arg max is another class, or the target."""
    scores = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    stays, reached = (local_robustness(X, 1, "0.1", target=t, classes=4).margin(scores) for t in (None, 3))
    assert torch.equal(stays > 0, scores.argmax(1) == 1)
    assert torch.equal(reached < 0, scores.argmax(1) == 3)


@pytest.mark.parametrize(("label", "target", "message"), [
    (3, None, "label 3 is out of range: the network has classes 0 to 2"),
    (-1, None, "label -1 is out of range"),
    (0, 3, "target 3 is out of range"),
    (0, -1, "target -1 is out of range"),
    (1, 1, "target 1 is the label itself"),
])  # fmt: skip
def test_impossible_classes(label: int, target: int | None, message: str) -> None:
    with pytest.raises(SpecificationError, match=message):
        local_robustness(X, label, "0.1", target=target, classes=3)


def test_label_margin() -> None:
    scores = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]])
    assert label_margin(torch.tensor([1, 2]))(scores).tolist() == [2.0, -2.0]  # type: ignore[operator]
