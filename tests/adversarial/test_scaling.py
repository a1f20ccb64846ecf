"""Networks that compute the same function with numbers of other sizes: no verdict may change to a wrong one.

The truth is known by construction: brute force decides a tame twin. Layers are rescaled by powers of two, and some
neurons are lifted by a constant that the next layer takes back, both exactly; the constants absorb the function's
values in floating point (Zombori et al. 2021).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import brute_force
import numpy as np
import pytest
import torch
from nets import Native
from torch import Tensor

from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.relu import ReLU
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.strategy import Settings, verify
from verifier.verdict import Verdict

TAME = 8.0  # above anything that a lifted neuron can reach
SIZES = (2, 4, 3, 2)
GAPS = (1e-2, 1e-5, 1e-8)


def coarse(generator: torch.Generator, *shape: int) -> Tensor:
    """Multiples of 1/16 in [-1.5, 1.5]: their products and sums are exact, with much room."""
    return torch.randint(-24, 25, shape, generator=generator).double() / 16


def network(seed: int, scale: float, lift: float) -> Graph:
    """Network number `seed`: its first layer times `scale`, which the second takes back, and some neurons lifted."""
    generator = torch.Generator().manual_seed(seed)
    layers = [(coarse(generator, n, m), coarse(generator, n)) for m, n in pairwise(SIZES)]
    (first, b), (second, c), last = layers
    lifted = torch.rand(len(b), generator=generator) < 0.5
    b = torch.where(lifted, lift, b)
    c = c - second @ (lifted.double() * lift)
    builder, x = GraphBuilder((SIZES[0],)), 0
    for weight, bias in ((first * scale, b * scale), (second / scale, c)):
        x = builder.add(ReLU(), builder.add(Linear(weight, bias), x))
    builder.add(Linear(*last), x)
    return builder.finish()


def question(seed: int, margin: float) -> Property:
    """A property whose worst margin is the given one."""
    C = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    region = Region(exact(-np.ones(2)), exact(np.ones(2)))
    prop = Property(region, (HalfSpaces(C, torch.zeros(1, dtype=torch.float64)),))
    worst = brute_force.worst(network(seed, 1.0, TAME), prop).margin
    return replace(prop, unsafe=(HalfSpaces(C, torch.tensor([margin - worst], dtype=torch.float64)),))


def check(seed: int, method: str) -> Verdict:
    generator = torch.Generator().manual_seed(seed)
    scale = 2.0 ** int(torch.randint(-20, 21, (1,), generator=generator))
    lift = 2.0 ** int(torch.randint(3, 41, (1,), generator=generator))
    safe = seed % 2 == 0
    margin = GAPS[seed // 2 % len(GAPS)] * (1 if safe else -1)
    result = verify(Native(network(seed, scale, lift)), question(seed, margin), Settings(method=method, timeout=1))
    assert result.verdict is not (Verdict.FALSIFIED if safe else Verdict.VERIFIED)
    return result.verdict


@pytest.mark.parametrize("method", ["auto", "bab"])
def test_no_verdict_is_wrong(method: str) -> None:
    verdicts = [check(seed, method) for seed in range(12)]
    assert {Verdict.VERIFIED, Verdict.FALSIFIED} <= set(verdicts)


@pytest.mark.long
@pytest.mark.parametrize("method", ["interval", "crown", "alpha", "lp", "bab", "auto"])
def test_no_verdict_of_many_is_wrong(method: str) -> None:
    for seed in range(12, 512):
        check(seed, method)
