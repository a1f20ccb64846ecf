"""Radius and learning rate over a run, and the augmentation."""

import pytest
import torch

from verifier.train import schedules
from verifier.train.augment import shifted


def test_schedules():
    assert [schedules.growth(e, 1, 4) for e in (0, 0.9, 1, 3, 5, 9)] == [0, 0, 0, 0.5, 1, 1]
    assert schedules.growth(0, 0, 0) == 1
    assert schedules.cosine(5, 10, 1) == pytest.approx(0.5)
    assert schedules.cosine(0.5, 10, 1) == pytest.approx(0.5 * schedules.cosine(0.5, 10, 0))
    assert schedules.cosine(10, 10, 1) == 0
    assert [schedules.steps(e, (2, 4), 0.5) for e in (1, 2, 3, 5)] == [1, 0.5, 0.5, 0.25]


def test_shifts_move_whole_images():
    x = torch.zeros(50, 1, 6, 6)
    x[:, 0, 2, 3] = 1
    moved = shifted(x, 2, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape and (moved.sum((1, 2, 3)) == 1).all()
    at = {(int(p[2]), int(p[3])) for p in moved.nonzero()}
    assert len(at) > 15 and all(abs(row - 2) <= 2 and abs(column - 3) <= 2 for row, column in at)
    assert shifted(x, 0, torch.Generator()) is x
