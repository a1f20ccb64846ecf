"""Rounded bounds where rounding is all that there is: on boxes that are points, or nearly, against exact evaluation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from certified import ARITHMETICS, Files, onnx_bytes, row_bounds
from nets import mlp

from verifier.attack.exact import exact_output
from verifier.certificate.exact import Exact, limbs
from verifier.certificate.reading import Network
from verifier.certificate.rounded import Rounded
from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.convolution import Conv2d
from verifier.ops.relu import ReLU
from verifier.ops.shape import Reshape
from verifier.spec.property import HalfSpaces, Property, Region, exact


def absorbing(generator: torch.Generator, size: int) -> Graph:
    """Layers whose sums cancel: large constants come in, and go out again."""
    builder, last = GraphBuilder((size,)), 0
    for scale in (1e8, 1e-6, 1e4):
        weight = torch.randn(size, size, generator=generator) * scale
        first = builder.add(Linear(torch.cat((weight, weight)), torch.full((2 * size,), 1e7 * scale)), last)
        hidden = builder.add(ReLU(), first)
        last = builder.add(Linear(torch.cat((torch.eye(size), -torch.eye(size)), dim=1), None), hidden)
    builder.add(Linear(torch.randn(2, size, generator=generator), None), last)
    return builder.finish()


def convolutional(generator: torch.Generator) -> Graph:
    builder = GraphBuilder((2, 6, 6))
    weight, bias = torch.randn(3, 2, 3, 3, generator=generator), torch.randn(3, generator=generator)
    first = builder.add(Conv2d(weight, bias, (2, 2), (1, 1), (1, 1), 1), 0)
    hidden = builder.add(ReLU(), first)
    flat = builder.add(Reshape((27,)), hidden)
    builder.add(Linear(torch.randn(2, 27, generator=generator), None), flat)
    return builder.finish()


@pytest.mark.parametrize("width", [0.0, 1e-14, 1e-9])
@pytest.mark.parametrize("seed", range(6))
def test_bounds_on_points_are_below_exact_values(seed: int, width: float) -> None:
    """Without any tolerance, and near them."""
    generator, draw = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    graph = (absorbing(generator, 12), mlp(generator, (7, 60, 60, 60, 2)))[seed % 2]
    x = torch.rand(graph.input_shape, generator=generator).numpy()
    unit = torch.eye(2, dtype=torch.float64)
    region = Region(exact(x) - exact(np.array(width)), exact(x) + exact(np.array(width)))
    files = Files.of(graph, Property(region, (HalfSpaces(unit, torch.zeros(2).double()),)))
    points = [exact(x) + exact(draw.uniform(-width, width, x.shape)) for _ in range(4)]
    for refine in (False, True):
        for arithmetic in ARITHMETICS:
            low = row_bounds(files.analysis(arithmetic, refine=refine), files.statements[0])
            for point in points:
                y = exact_output(graph, point)
                assert all(bound <= value for bound, value in zip(low, y, strict=True))
            if width == 0 and seed % 2:
                assert all(float(value - bound) < 1e-9 for bound, value in zip(low, y, strict=True))


def test_what_is_read_by_rows_is_what_is_read_by_products() -> None:
    """Backward products of windows and of dense layers, in exact arithmetic and in float64."""
    generator = torch.Generator().manual_seed(0)
    graph = convolutional(generator)
    network = Network(onnx_bytes(graph))
    for node in network.nodes:
        if node.op == "affine":
            rows = np.random.default_rng(0).standard_normal((5, node.size))
            read = np.eye(node.width) if node.index is None else np.eye(node.width)[:, node.index]
            dense = node.forward(read, node.weight.array).T
            found = [node.backward(rows, node.weight.array)]
            exactly = Exact().product(node.backward, rows, node.weight, node.shape[3] * node.repeats)
            found.append(np.array([[float(i) * 2.0 ** exactly[1] for i in row] for row in exactly[0]]))
            for product in found:
                counts = slice(1, None) if node.sources[0] == 0 else slice(None)  # of the constant zero, nothing counts
                assert np.allclose(product[:, counts], (rows @ dense)[:, counts], rtol=1e-12, atol=1e-12)


def test_limbs_add_up() -> None:
    x = np.array([0.0, 1.5, -3e-200, 2.0**-1074, 1e308])[None] * np.ones((2, 1))
    for bits in (7, 20, 60):
        pieces, low = limbs(x, bits)
        whole = sum(exact(piece) * (1 << i * bits) for i, piece in enumerate(pieces))
        assert (whole * Fraction(2) ** low == exact(x)).all()


def test_sums_of_any_order_stay_within_what_is_paid() -> None:
    """Costs that rounding is charged for, against exact sums."""
    draw, arithmetic = np.random.default_rng(0), Rounded(100)
    for scale in (1.0, 1e10, 1e-10):
        low = draw.standard_normal((3, 40)) * draw.choice([1.0, scale], (3, 40))
        high = low + np.abs(draw.standard_normal((3, 40)))
        v = draw.standard_normal((6, 40)) * draw.choice([1.0, scale], (6, 40))
        paid = arithmetic.least(v, arithmetic.plain(low, high, np.abs(low)))
        for i, row in enumerate(v):
            ends = (low[i // 2], high[i // 2])
            truth = sum(exact(np.array(c)) * exact(np.array(ends[int(c < 0)][j])) for j, c in enumerate(row))
            assert exact(np.array(paid[i])) <= truth
            assert float(truth - exact(np.array(paid[i]))) <= 1e-10 * np.abs(row) @ np.abs(ends).max(axis=0)
