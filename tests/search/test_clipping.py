"""Clipping against sampling, and combinations of rows against a linear program."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from verifier.search.clipping import best_combination, clipped


def linear_functions(seed: int, n: int = 50, inputs: int = 3, rows: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1 + inputs, rows, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("seed", range(5))
def test_every_point_that_no_row_excludes_is_left(seed: int) -> None:
    linear = linear_functions(seed)
    start, end = clipped(linear, 0.1)
    t = 2 * torch.rand(2000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1
    values = linear[:, 0].unsqueeze(1) + t @ linear[:, 1:]
    kept = (values <= 0.1).all(2)
    inside = ((t >= start.unsqueeze(1)) & (t <= end.unsqueeze(1))).all(2)
    assert (inside | ~kept).all()
    assert kept.any() and not inside.all()


def test_a_single_row_is_clipped_to_the_box_around_its_half_space() -> None:
    # t1 + t2 <= -1 within [-1, 1]^2 leaves t1, t2 <= 0.
    start, end = clipped(torch.tensor([[[1.0], [1.0], [1.0]]]), 0.0)
    assert start.tolist() == [[-1.0, -1.0]]
    assert (end >= 0).all() and (end < 1e-5).all()  # never less, by rounding, than what is left


def test_nan_cuts_nothing_off() -> None:
    start, end = clipped(torch.tensor([[[torch.nan], [1.0]]]), 0.0)
    assert not (start > end).any()
    best, *_ = best_combination(torch.full((1, 2, 2), torch.nan))
    assert not (best > 0).any()


@pytest.mark.parametrize("seed", range(20))
def test_the_combination_is_valid_and_not_far_from_the_best(seed: int) -> None:
    linear = linear_functions(seed, n=1, rows=3)
    best, form, _ = best_combination(linear)
    assert best.item() == pytest.approx(float(form[0, 0] - form[0, 1:].abs().sum()))
    # min over t of the greatest row, by linear programming over (t, s): the duality theorem says that it is the best.
    a = linear[0].numpy()
    found = linprog([0, 0, 0, 1], np.c_[a[1:].T, -np.ones(3)], -a[0], bounds=[(-1, 1)] * 3 + [(None, None)])
    assert best.item() <= found.fun + 1e-9
    single = float((linear[0, 0] - linear[0, 1:].abs().sum(0)).max())
    assert best.item() >= single - 1e-12
    assert best.item() >= found.fun - 0.1 * float(linear.abs().sum(1).max())
