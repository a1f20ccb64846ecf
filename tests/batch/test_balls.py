"""Balls in floats against the exact region: the outer set holds it, the inner set lies in it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from verifier.batch.balls import inner_box, outer_box
from verifier.spec.property import exact
from verifier.spec.robustness import ball
from verifier.types import Ball

EPS = ("0", "0.1", "8/255", "1e-9", "0.7")


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_outer_holds_the_region_and_inner_lies_in_it(norm: str) -> None:
    x = torch.rand(len(EPS), 1, 3, 4, generator=torch.Generator().manual_seed(0))
    x[:, 0, 0, :2] = torch.tensor([0.0, 1.0])
    eps = [Fraction(text) for text in EPS]
    outer, inner = outer_box(x, eps, norm, 0.0, 1.0), inner_box(x, eps, norm, 0.0, 1.0)
    assert outer.lower.dtype == torch.float64 and inner.lower.dtype == torch.float32
    for i, radius in enumerate(eps):
        region = ball(x[i].numpy(), radius, norm)
        assert (exact(outer.lower[i].numpy()) <= region.lower).all()
        assert (exact(outer.upper[i].numpy()) >= region.upper).all()
        assert np.allclose(outer.lower[i].numpy(), region.lower.astype(float), atol=1e-15)
        assert (exact(inner.lower[i].numpy()) >= region.lower).all()
        assert (exact(inner.upper[i].numpy()) <= region.upper).all()
        assert np.allclose(inner.lower[i].numpy(), region.lower.astype(float), atol=1e-6)
        if norm != "linf":
            assert isinstance(outer, Ball) and isinstance(inner, Ball)
            assert Fraction(float(outer.eps[i])) >= radius >= Fraction(float(inner.eps[i]))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_region_admits_points_of_the_inner_set(norm: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(40, 1, 3, 3, generator=generator)
    inner = inner_box(x, [Fraction("0.1")] * 40, norm, 0.0, 1.0)
    points = inner.project(x + torch.randn(x.shape, generator=generator))
    for i in range(40):
        assert ball(x[i].numpy(), Fraction("0.1"), norm).admits(points[i].numpy())
