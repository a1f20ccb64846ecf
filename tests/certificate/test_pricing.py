"""What float32 is said to cost before it is claimed, against what the checker then takes for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from certified import Files, bounds, onnx_bytes, random_files, row_bounds
from nets import mlp

from verifier.certificate.pricing import price
from verifier.certificate.rounded import Rounded
from verifier.ops.smooth import Sigmoid


def prices(files: Files) -> tuple[float, float]:
    """Estimated for the first unsafe set, and what its rows' bounds lose in truth."""
    statement, network = files.statements[0], files.network
    real = files.analysis(Rounded)
    z = bounds(real, statement).z
    known = {i: z[j] for i, j in enumerate(network.activations)}
    found = price(files.model, statement.region.box, known, statement.rows.astype(np.float64))
    pairs = zip(row_bounds(real, statement), row_bounds(files.analysis(Rounded, single=True), statement), strict=True)
    return found, max(float(a - b) for a, b in pairs)


def test_the_price_is_about_what_float32_takes() -> None:
    ratios = []
    for seed in range(60):
        found, lost = prices(random_files(seed))
        assert 0 <= found < math.inf
        ratios.append(found / lost if lost > 0 else 1.0)
    assert 0.8 < np.median(ratios) < 1.25 and np.mean([0.3 < ratio < 3 for ratio in ratios]) > 0.9


def test_what_has_no_claim_about_float32_has_no_price() -> None:
    graph = mlp(torch.Generator().manual_seed(0), (2, 3, 1), Sigmoid)
    box = np.zeros((1, 2)), np.ones((1, 2))
    assert price(onnx_bytes(graph), box, {}, np.ones((1, 1))) == math.inf


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_none_have_no_price(number: float) -> None:
    graph, box = mlp(torch.Generator().manual_seed(0), (2, 3, 1)), (np.zeros((1, 2)), np.full((1, 2), number))
    assert price(onnx_bytes(graph), box, {}, np.ones((1, 1))) == math.inf
