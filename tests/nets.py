"""Seeded random networks, small enough for brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.interval import IntervalBounds
from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Add, Linear
from verifier.ops.base import Activation
from verifier.ops.convolution import Conv2d
from verifier.ops.relu import Abs, Clip, LeakyReLU, ReLU
from verifier.ops.shape import Reshape
from verifier.spec.property import HalfSpaces, Property, Region, exact

Act = Callable[[], Activation]
KINDS = ("mlp", "residual", "conv")
ACTIVATIONS: tuple[Act, ...] = (
    ReLU,
    ReLU,
    ReLU,
    ReLU,
    lambda: LeakyReLU(0.125),
    lambda: LeakyReLU(-0.5),
    Abs,
    lambda: Clip(-0.5, 0.75),
)


@dataclass(frozen=True, eq=False)
class Native:
    """A graph with its float32 twin as the original model: what `verify` calls a subject."""

    graph: Graph

    def native(self, x: np.ndarray) -> np.ndarray:
        return self.graph.to(torch.float32)(torch.from_numpy(x)).numpy()


def linear(generator: torch.Generator, inputs: int, outputs: int, scale: float = 1.5) -> Linear:
    """A dense layer with float32 weights."""
    weight = torch.randn(outputs, inputs, generator=generator) * scale / inputs**0.5
    return Linear(weight, torch.randn(outputs, generator=generator) * 0.3)


def mlp(generator: torch.Generator, sizes: tuple[int, ...], activation: Act = ReLU) -> Graph:
    """Dense layers of the given sizes with an activation between any two."""
    builder = GraphBuilder(sizes[:1])
    x = 0
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        x = builder.add(linear(generator, inputs, outputs), builder.add(activation(), x) if i else x)
    return builder.finish()


def residual(generator: torch.Generator, inputs: int, width: int, classes: int, activation: Act = ReLU) -> Graph:
    """A dense layer, then a block `x + act(W act(x))`, then a dense layer."""
    builder = GraphBuilder((inputs,))
    x = builder.add(activation(), builder.add(linear(generator, inputs, width), 0))
    inner = builder.add(activation(), builder.add(linear(generator, width, width), x))
    total = builder.add(Add((1, 1)), x, builder.add(linear(generator, width, width), inner))
    builder.add(linear(generator, width, classes), builder.add(activation(), total))
    return builder.finish()


def conv(generator: torch.Generator, classes: int, activation: Act = ReLU) -> Graph:
    """Two convolutions of a 1 x 4 x 4 image, then a dense layer."""
    builder = GraphBuilder((1, 4, 4))
    weights = [torch.randn(shape, generator=generator) * 0.7 for shape in ((2, 1, 3, 3), (2, 2, 2, 2))]
    biases = [torch.randn(2, generator=generator) * 0.3 for _ in range(2)]
    x = builder.add(Conv2d(weights[0], biases[0], (2, 2), (1, 1), (1, 1), 1), 0)
    x = builder.add(Conv2d(weights[1], biases[1], (1, 1), (0, 0), (1, 1), 1), builder.add(activation(), x))
    x = builder.add(Reshape((2,)), builder.add(activation(), x))
    builder.add(linear(generator, 2, classes), x)
    return builder.finish()


@dataclass(frozen=True, eq=False)
class Case:
    """A network and a property whose region leaves at most `most` breakpoints undecided by intervals."""

    graph: Graph
    prop: Property
    unstable: int

    @property
    def C(self) -> Tensor:
        return self.prop.rows[0]


def random_case(seed: int, most: int = 16) -> Case:
    """Network number `seed`: kind, activation, size, box and property vary with it."""
    generator = torch.Generator().manual_seed(seed)

    def pick(count: int) -> int:
        return int(torch.randint(count, (1,), generator=generator))

    kind, activation = KINDS[seed % 3], ACTIVATIONS[pick(len(ACTIVATIONS))]
    classes = 2 + pick(3)
    if kind == "mlp":
        hidden = tuple(3 + pick(4) for _ in range(1 + pick(3)))
        graph = mlp(generator, (2 + pick(2), *hidden, classes), activation)
    elif kind == "residual":
        graph = residual(generator, 2 + pick(2), 3 + pick(3), classes, activation)
    else:
        graph = conv(generator, classes, activation)
    x = torch.rand(graph.input_shape, generator=generator).numpy()
    free = torch.ones(graph.input_shape, dtype=torch.bool)
    if kind == "conv":  # few free pixels keep the number of activation patterns small
        free = (torch.randperm(16, generator=generator) < 3).view(graph.input_shape)
    step = Fraction(1)
    while True:
        move = np.where(free.numpy(), step, Fraction(0))
        region = Region(exact(x) - move, exact(x) + move)
        unstable = count_unstable(graph, region)
        if unstable <= most:
            return Case(graph, random_property(generator, graph, region, x, pick(3)), unstable)
        step /= 2


def count_unstable(graph: Graph, region: Region) -> int:
    """How many breakpoints of activations intervals leave undecided."""
    C = torch.eye(graph.output_shape[0], dtype=torch.float64).unsqueeze(0)
    nodes = IntervalBounds()(graph, region.box(), C).nodes
    total = 0
    for node in graph.nodes:
        if isinstance(node.op, Activation):
            z = nodes[node.inputs[0]]
            total += sum(int(((z.lower < p) & (z.upper > p)).sum()) for p in node.op.breakpoints)  # type: ignore[attr-defined]
    return total


def random_property(generator: torch.Generator, graph: Graph, region: Region, x: np.ndarray, form: int) -> Property:
    """form 0: the prediction stays; 1: a target is not reached; 2: two conjunctions of random half-spaces."""
    classes = graph.output_shape[0]
    output = graph(torch.from_numpy(x).double().unsqueeze(0))[0]
    unit, label = torch.eye(classes, dtype=torch.float64), int(output.argmax())
    if form == 0:
        sets = [HalfSpaces((unit[label] - unit[k]).unsqueeze(0), torch.zeros(1)) for k in range(classes) if k != label]
        return Property(region, tuple(HalfSpaces(s.C, s.d.double()) for s in sets))
    if form == 1:
        target = int(output.argmin())
        rivals = [k for k in range(classes) if k != target]
        return Property(region, (HalfSpaces(unit[rivals] - unit[target], torch.zeros(len(rivals)).double()),))
    rows = torch.randn(3, classes, generator=generator).double()
    d = torch.randn(3, generator=generator).double()
    return Property(region, (HalfSpaces(rows[:2], d[:2]), HalfSpaces(rows[2:], d[2:])))


def samples(lower: Tensor, upper: Tensor, count: int, seed: int = 0) -> Tensor:
    """Points (batch, count, *shape) of boxes (batch, *shape): uniform ones and corners in equal parts."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(lower.shape[0], count, *lower.shape[1:], generator=generator, dtype=lower.dtype)
    uniform[:, ::2] = uniform[:, ::2].round()
    low, high = lower.unsqueeze(1), upper.unsqueeze(1)
    return torch.minimum(torch.maximum(low + uniform * (high - low), low), high)
