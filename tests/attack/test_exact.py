"""The exact forward pass against float64 and against ties that only exact arithmetic can call."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from nets import Native, random_case

from verifier.attack.exact import exact_output
from verifier.attack.replay import replay
from verifier.graph import GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.relu import ReLU
from verifier.ops.smooth import Tanh
from verifier.spec.property import HalfSpaces, Property, Region, exact


@pytest.mark.parametrize("seed", range(24))
def test_it_agrees_with_float64(seed: int) -> None:
    case = random_case(seed, most=16)
    x = case.prop.region.box().center[0].numpy()
    output = exact_output(case.graph, exact(x))
    assert output is not None
    assert output.astype(np.float64) == pytest.approx(case.graph(torch.from_numpy(x)[None])[0].numpy(), abs=1e-12)


def test_a_sum_that_float64_cannot_hold() -> None:
    builder = GraphBuilder((3,))
    builder.add(Linear(torch.tensor([[1e17, 1.0, -1e17]], dtype=torch.float64), None), 0)
    one = np.array([Fraction(1), Fraction(1, 3), Fraction(1)], dtype=object)
    output = exact_output(builder.finish(), one)
    assert output is not None and output[0] == Fraction(1, 3)


def test_a_smooth_network_has_no_exact_value() -> None:
    builder = GraphBuilder((1,))
    builder.add(Tanh(), 0)
    assert exact_output(builder.finish(), np.array([Fraction(1)], dtype=object)) is None


@pytest.mark.parametrize("excess, real", [(0.0, True), (2.0**-60, False), (-(2.0**-60), True)])
def test_a_tie_counts_against_the_claim(excess: float, real: bool) -> None:
    """relu(x) - 0.5 + excess at x = 0.5: float32 sees a tie in every case, exact arithmetic does not."""
    builder = GraphBuilder((1,))
    hidden = builder.add(ReLU(), builder.add(Linear(torch.ones(1, 1), None), 0))
    builder.add(Linear(torch.ones(1, 1), None), hidden)
    graph, x = builder.finish(), np.array([0.5], np.float32)
    unsafe = HalfSpaces(torch.ones(2, 1).double(), torch.tensor([-0.5, -0.5], dtype=torch.float64))
    wide = builder.add(Linear(torch.ones(1, 1), torch.tensor([excess], dtype=torch.float64)), hidden)
    shifted = builder.finish(wide)
    prop = Property(Region(exact(x), exact(x)), (unsafe,))
    assert replay(Native(graph).native, shifted, prop, x).real is real
