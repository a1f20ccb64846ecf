"""The hunt finds needles that restarts miss, and its points are of the region."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from verifier.attack.hunt import Hunt
from verifier.attack.pgd import Pgd
from verifier.types import Ball, Box

CENTRE = torch.full((1, 40), 0.5)
BOX = Box(torch.zeros(1, 40), torch.ones(1, 40))


def bumpy(x: Tensor) -> Tensor:
    """Every coordinate has a wide valley that ends at 0.1 above zero and a narrow one that ends at zero."""
    wide, narrow = (x - 0.2).abs() + 0.1, 3 * (x - 0.9).abs()
    return torch.minimum(wide, narrow).sum(1, keepdim=True)


def margin(outputs: Tensor) -> Tensor:
    return outputs[:, 0]


def after(rounds: int, region: Box, seed: int = 0) -> list[float]:
    pack = Hunt(seed=seed)(bumpy, region, [margin])
    found = [pack.round() for _ in range(rounds)]
    for result in found:
        assert bool(((result.point >= region.lower) & (result.point <= region.upper)).all())
        assert torch.equal(margin(bumpy(result.point)), result.margin)
    return [float(result.margin) for result in found]


def test_later_starts_inherit_what_earlier_descents_found() -> None:
    margins = after(30, BOX)
    assert margins == sorted(margins, reverse=True)
    restarts = Pgd(steps=30, step_size=0.2, restarts=30 * 32)(bumpy, BOX, margin)
    assert margins[-1] < 0.8 * float(restarts.margin)


def test_a_seed_means_the_same_points() -> None:
    assert after(5, BOX, 1) == after(5, BOX, 1) != after(5, BOX, 2)


def test_each_of_several_margins_has_its_own_points() -> None:
    """The distance from corners: 0 in all coordinates, 1 in all; what is no longer wanted is left out."""
    ends = (0.0, 1.0, 0.5)
    pack = Hunt()(lambda x: x, BOX, [lambda x, end=end: (x - end).abs().sum(1) for end in ends])
    first = pack.round()
    pack.keep([2, 1])
    later = [pack.round() for _ in range(10)][-1]
    for found, wanted in ((first, ends), (later, (0.5, 1.0))):
        distances = [(point - end).abs().sum() for point, end in zip(found.point, wanted, strict=True)]
        assert torch.equal(found.margin, torch.stack(distances))
        assert all(float(margin) < 0.1 * 40 for margin in found.margin)
    assert bool((later.margin <= first.margin[[2, 1]]).all())
    pack.keep([])
    assert not pack.best


@pytest.mark.parametrize("norm", [1, 2])
def test_points_stay_in_balls(norm: int) -> None:
    ball = Ball(BOX.lower, BOX.upper, CENTRE, torch.tensor([0.8]), norm)
    pack = Hunt()(bumpy, ball, [margin])
    for result in (pack.round() for _ in range(5)):
        distance = torch.linalg.vector_norm((result.point - CENTRE).double(), norm)
        assert float(distance) <= float(ball.eps)
        assert math.isfinite(float(result.margin))
