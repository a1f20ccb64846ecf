"""Merged neurons against the network as it was, in exact arithmetic."""

import numpy as np
import pytest
import torch
from nets import linear, mlp

from verifier.attack.exact import exact_output
from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.relu import ReLU
from verifier.simplify import simplified
from verifier.spec.property import exact


def with_copies(seed: int) -> Graph:
    """4 inputs; hidden layers of 12 neurons, of which 7 read what another one reads, some with the other sign."""
    generator = torch.Generator().manual_seed(seed)
    builder = GraphBuilder((4,))
    x = 0
    for inputs in (4, 12):
        base = linear(generator, inputs, 5)
        assert base.bias is not None
        which = torch.cat((torch.arange(5), torch.randint(5, (7,), generator=generator)))[
            torch.randperm(12, generator=generator)
        ]
        sign = torch.randint(2, (12,), generator=generator) * 2.0 - 1
        x = builder.add(Linear(base.weight[which] * sign.unsqueeze(1), base.bias[which] * sign), x)
        x = builder.add(ReLU(), x)
    builder.add(linear(generator, 12, 3), x)
    return builder.finish()


@pytest.mark.parametrize("seed", range(10))
def test_the_function_stays_the_same_in_exact_arithmetic(seed: int) -> None:
    graph = with_copies(seed)
    small = simplified(graph)
    assert [n.size for n in small.nodes if isinstance(n.op, ReLU)] == [5, 5]
    for x in np.random.default_rng(seed).normal(size=(5, 4)).astype(np.float32):
        before, after = (exact_output(g, exact(x)) for g in (graph, small))
        assert max(abs(float(a - b)) for a, b in zip(before, after, strict=True)) < 1e-14


def test_a_network_without_copies_is_left_alone() -> None:
    graph = mlp(torch.Generator().manual_seed(0), (3, 5, 4, 2))
    assert simplified(graph) is graph


def test_dead_rows_and_signed_zeros_are_one_kind() -> None:
    builder = GraphBuilder((2,))
    weight = torch.tensor([[1.0, 0.0], [-1.0, -0.0], [0.0, 0.0], [-0.0, 0.0]])
    hidden = builder.add(ReLU(), builder.add(Linear(weight, torch.zeros(4)), 0))
    builder.add(Linear(torch.ones(1, 4), None), hidden)
    small = simplified(builder.finish())
    assert [n.size for n in small.nodes if isinstance(n.op, ReLU)] == [2]
    x = torch.tensor([[3.0, 1.0], [-2.0, 5.0]], dtype=torch.float64)
    assert small(x).flatten().tolist() == [3.0, 2.0]  # |x0|
