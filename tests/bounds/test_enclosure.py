"""The rigorous enclosure against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from nets import mlp, residual

from verifier.bounds.enclosure import enclose
from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Add, Linear
from verifier.ops.relu import LeakyReLU, ReLU
from verifier.types import Box


def dot(weights: list[float], values: list[Fraction]) -> Fraction:
    return sum((Fraction(w) * v for w, v in zip(weights, values, strict=True)), Fraction(0))


def exact_output(graph: Graph, x: np.ndarray) -> list[Fraction]:
    """The network in rational arithmetic."""
    values = [[Fraction(v) for v in x.tolist()]]
    for node in graph.nodes[1:]:
        read = [values[i] for i in node.inputs]
        op = node.op
        if isinstance(op, Linear):
            assert op.bias is not None
            rows = zip(op.weight.tolist(), op.bias.tolist(), strict=True)
            values.append([dot(row, read[0]) + Fraction(b) for row, b in rows])
        elif isinstance(op, Add):
            values.append([a + b for a, b in zip(*read, strict=True)])
        elif isinstance(op, LeakyReLU):
            values.append([v if v > 0 else Fraction(op.slope) * v for v in read[0]])
        else:
            assert isinstance(op, ReLU)
            values.append([max(v, Fraction(0)) for v in read[0]])
    return values[-1]


@pytest.mark.parametrize("scale", [1.0, 1e-150, 1e12])
@pytest.mark.parametrize("kind", ["mlp", "leaky", "residual"])
def test_points(kind: str, scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    if kind == "residual":
        graph = residual(generator, 3, 6, 2)
    else:
        graph = mlp(generator, (3, 8, 6, 2), ReLU if kind == "mlp" else lambda: LeakyReLU(0.1))
    C = torch.tensor([[1.0, -1.0], [0.1, 0.3]], dtype=torch.float64)
    d = torch.tensor([0.1, -1.0 / 3], dtype=torch.float64)
    for seed in range(10):
        x = scale * torch.randn(1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        output = exact_output(graph, x[0].numpy())
        rows = [dot(row, output) + Fraction(k) for row, k in zip(C.tolist(), d.tolist(), strict=True)]
        found = enclose(graph, Box(x, x), C, d)
        for row, low, high in zip(rows, found.lower[0].tolist(), found.upper[0].tolist(), strict=True):
            assert Fraction(low) <= row <= Fraction(high)
            assert high - low < 1e-11 * max(1.0, scale)


def test_boxes_contain_their_corners() -> None:
    graph = residual(torch.Generator().manual_seed(2), 2, 5, 2)
    lower, upper = torch.tensor([[0.1, -0.7]]).double(), torch.tensor([[0.3, 0.9]]).double()
    found = enclose(graph, Box(lower, upper), torch.eye(2).double(), torch.zeros(2).double())
    for a in (lower[0, 0], upper[0, 0]):
        for b in (lower[0, 1], upper[0, 1]):
            output = exact_output(graph, np.array([float(a), float(b)]))
            for y, low, high in zip(output, found.lower[0].tolist(), found.upper[0].tolist(), strict=True):
                assert Fraction(low) <= y <= Fraction(high)


def test_cancellation_is_covered() -> None:
    """Sums of many large terms that nearly cancel, where each order of summation gives another answer."""
    builder = GraphBuilder((200,))
    half = torch.randn(5, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e8
    weight = torch.cat((half, -half), 1) + torch.randn(5, 200, generator=torch.Generator().manual_seed(1)) * 1e-6
    builder.add(Linear(weight, torch.zeros(5)), 0)
    graph, x = builder.finish(), torch.full((1, 200), 1 / 3, dtype=torch.float64)
    found = enclose(graph, Box(x, x), torch.eye(5).double(), torch.zeros(5).double())
    for y, low, high in zip(
        exact_output(graph, x[0].numpy()), found.lower[0].tolist(), found.upper[0].tolist(), strict=True
    ):
        assert Fraction(low) <= y <= Fraction(high)
