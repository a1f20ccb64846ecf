"""One or more small networks for every registered op, in which its input and its output are not trivial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from nets import conv, linear, mlp, residual
from torch import Tensor

from verifier.graph import Graph, GraphBuilder, Node, Op
from verifier.ops import affine, convolution, exponential, gates, powers, product, relu, shape, smooth, waves
from verifier.ops.affine import Linear
from verifier.ops.pooling import add_max_pool
from verifier.ops.relu import ReLU
from verifier.ops.shape import Reshape
from verifier.types import Box

Make = Callable[[torch.Generator], Graph]


@dataclass(frozen=True)
class OpCase:
    """A network that holds the op (None: a composite of several)."""

    name: str
    op: type[Op] | None
    make: Make

    def graph(self) -> Graph:
        return self.make(torch.Generator().manual_seed(len(self.name)))


def wrapped(size: tuple[int, ...], make: Callable[[torch.Generator], Op], copies: int = 1) -> Make:
    """dense layer, ReLU, the op (reading `copies` nodes of shape `size`), dense layer, ReLU, dense layer."""

    def build(generator: torch.Generator) -> Graph:
        builder = GraphBuilder(size)
        sources = []
        for _ in range(copies):
            mixed = builder.add(linear(generator, size[-1], size[-1]), 0)
            sources.append(builder.add(ReLU(), mixed))
        return headed(builder, builder.add(make(generator), *sources), generator)

    return build


def headed(builder: GraphBuilder, x: int, generator: torch.Generator) -> Graph:
    """Flatten, then dense layer, ReLU, dense layer with three outputs."""
    flat = torch.Size(builder.shape(x)).numel()
    x = builder.add(Reshape((flat,)), x)
    x = builder.add(ReLU(), builder.add(linear(generator, flat, 4), x))
    builder.add(linear(generator, 4, 3), x)
    return builder.finish()


def max_pool(generator: torch.Generator) -> Graph:
    builder = GraphBuilder((1, 4, 4))
    x = builder.add(linear(generator, 4, 4), 0)
    return headed(builder, add_max_pool(builder, x, (2, 2), (2, 2), [(0, 0), (0, 0)], (1, 1), False), generator)


def batch_norm(generator: torch.Generator) -> Graph:
    """A scaling between convolution and ReLU, which is folded into the convolution."""
    builder = GraphBuilder((1, 4, 4))
    x = builder.add(conv2d(2, 1, 3, (1, 1), (1, 1))(generator), 0)
    x = builder.add(rescale((2, 1, 1))(generator), x)
    return headed(builder, builder.add(ReLU(), x), generator)


def conv_residual(generator: torch.Generator) -> Graph:
    """Two branches of convolutions with different windows, added, behind a first convolution."""
    builder = GraphBuilder((1, 5, 5))
    x = builder.add(ReLU(), builder.add(conv2d(2, 1, 3, (2, 2), (1, 1))(generator), 0))
    left = builder.add(ReLU(), builder.add(conv2d(2, 2, 3, (1, 1), (1, 1))(generator), x))
    left = builder.add(conv2d(2, 2, 3, (1, 1), (1, 1))(generator), left)
    right = builder.add(conv2d(2, 2, 1, (1, 1), (0, 0))(generator), x)
    return headed(builder, builder.add(ReLU(), builder.add(affine.Add((1, 1)), left, right)), generator)


def branches_of_input(generator: torch.Generator) -> Graph:
    """The input is read twice, once by the sum right before the output; one node is read by two activations."""
    builder = GraphBuilder((3,))
    x = builder.add(linear(generator, 3, 3), 0)
    total = builder.add(affine.Add((1, -1, 1)), builder.add(ReLU(), x), builder.add(relu.Abs(), x), 0)
    y = builder.add(ReLU(), builder.add(linear(generator, 3, 3), total))
    builder.add(affine.Add((1, 1)), y, 0)
    return builder.finish()


def same_node_twice(generator: torch.Generator) -> Graph:
    builder = GraphBuilder((3,))
    x = builder.add(ReLU(), builder.add(linear(generator, 3, 3), 0))
    twice = builder.add(affine.Add((1, 1)), x, x)
    return headed(builder, builder.add(shape.Concat(0), twice, twice), generator)


def activation_output(generator: torch.Generator) -> Graph:
    """The output is an activation, and the input is read by one."""
    builder = GraphBuilder((3,))
    x = builder.add(linear(generator, 3, 3), builder.add(relu.Abs(), 0))
    builder.add(ReLU(), x)
    return builder.finish()


def activation_of_activation(generator: torch.Generator) -> Graph:
    """Activations that read activations, with no affine op between them."""
    builder = GraphBuilder((3,))
    x = builder.add(smooth.Tanh(), builder.add(linear(generator, 3, 3), 0))
    return headed(builder, builder.add(relu.LeakyReLU(0.25), x), generator)


def affine_only(generator: torch.Generator) -> Graph:
    builder = GraphBuilder((3,))
    builder.add(linear(generator, 3, 2), 0)
    return builder.finish()


def conv2d(out: int, inputs: int, kernel: int, stride: tuple[int, int], padding: tuple[int, int],
           dilation: tuple[int, int] = (1, 1), groups: int = 1) -> Callable[[torch.Generator], Op]:  # fmt: skip
    def make(generator: torch.Generator) -> Op:
        weight = torch.randn(out, inputs // groups, kernel, kernel, generator=generator) * 0.7
        return convolution.Conv2d(weight, torch.randn(out, generator=generator), stride, padding, dilation, groups)

    return make


def transposed(generator: torch.Generator) -> Op:
    weight = torch.randn(2, 1, 2, 3, generator=generator) * 0.7
    bias = torch.randn(2, generator=generator)
    return convolution.ConvTranspose2d(weight, bias, (2, 1), (0, 1), (1, 0), (1, 1), 2)


def rescale(size: tuple[int, ...]) -> Callable[[torch.Generator], Op]:
    def make(generator: torch.Generator) -> Op:
        return affine.Rescale(torch.randn(size, generator=generator), torch.randn(size, generator=generator))

    return make


def constant(op: Op) -> Callable[[torch.Generator], Op]:
    return lambda generator: op


def activation(op: Op) -> Make:
    return lambda generator: mlp(generator, (3, 4, 4, 3), lambda: op)  # type: ignore[arg-type, return-value]


def once(make: Callable[[torch.Generator], Op], positive: bool = False) -> Make:
    """The op between dense layers; positive: it reads values above a half."""

    def build(generator: torch.Generator) -> Graph:
        builder = GraphBuilder((3,))
        x = builder.add(linear(generator, 3, 4), 0)
        if positive:
            half = torch.full((1,), 0.5)
            x = builder.add(affine.Rescale(torch.ones(1), half), builder.add(ReLU(), x))
        return headed(builder, builder.add(make(generator), x), generator)

    return build


def multiplied(generator: torch.Generator) -> Graph:
    """A product of two layers, which are scaled differently, element by element."""
    builder = GraphBuilder((3,))
    x, y = (builder.add(linear(generator, 3, 4), 0) for _ in range(2))
    both = builder.add(product.SumDifference(torch.rand(4, generator=generator) + 0.5), x, y)
    squares = builder.add(powers.Square(), both)
    return headed(builder, builder.add(product.QuarterDifference(), squares), generator)


BARE_LINEAR = lambda generator: Linear(torch.randn(2, 3, generator=generator), None)  # noqa: E731

CASES = [
    OpCase("linear", Linear, lambda generator: mlp(generator, (3, 5, 4, 3))),
    OpCase("linear without bias", Linear, wrapped((3,), BARE_LINEAR)),
    OpCase("linear over last axis", Linear, wrapped((2, 3), BARE_LINEAR)),
    OpCase("rescale", affine.Rescale, wrapped((2, 3), rescale((2, 3)))),
    OpCase("rescale broadcast", affine.Rescale, wrapped((2, 3, 3), rescale((2, 1, 1)))),
    OpCase("add", affine.Add, wrapped((3,), constant(affine.Add((1, 1))), copies=2)),
    OpCase("subtract", affine.Add, wrapped((2, 2), constant(affine.Add((-1, 1))), copies=2)),
    OpCase("reduce", affine.Reduce, wrapped((2, 3), constant(affine.Reduce((1,), False, 0.5)))),
    OpCase("reduce keepdim", affine.Reduce, wrapped((2, 3), constant(affine.Reduce((0, 1), True, -1.0)))),
    OpCase("reshape", shape.Reshape, wrapped((2, 3), constant(shape.Reshape((3, 2))))),
    OpCase("reindex", shape.Reindex, wrapped((2, 2), constant(shape.Reindex(torch.tensor([[3, 0, 0], [1, 3, 3]]))))),
    OpCase("concat", shape.Concat, wrapped((2, 2), constant(shape.Concat(1)), copies=2)),
    OpCase("pad", shape.Pad, wrapped((2, 2), constant(shape.Pad((1, 0, 0, 2), 0.5)))),
    OpCase("conv", convolution.Conv2d, lambda generator: conv(generator, 3)),
    OpCase("conv strided", convolution.Conv2d, wrapped((2, 5, 4), conv2d(3, 2, 3, (2, 1), (1, 1)))),
    OpCase("conv dilated", convolution.Conv2d, wrapped((1, 5, 5), conv2d(2, 1, 2, (1, 2), (0, 1), dilation=(2, 3)))),
    OpCase("conv grouped", convolution.Conv2d, wrapped((4, 3, 3), conv2d(4, 4, 2, (1, 1), (0, 0), groups=2))),
    OpCase("conv with remainder", convolution.Conv2d, wrapped((1, 6, 6), conv2d(2, 1, 3, (2, 2), (0, 0)))),
    OpCase("conv residual", convolution.Conv2d, conv_residual),
    OpCase("conv transposed", convolution.ConvTranspose2d, wrapped((2, 2, 3), transposed)),
    OpCase("average pool", convolution.AvgPool2d,
           wrapped((1, 4, 4), constant(convolution.AvgPool2d((2, 2), (2, 2), (0, 0), False, True)))),
    OpCase("average pool padded", convolution.AvgPool2d,
           wrapped((2, 3, 5), constant(convolution.AvgPool2d((2, 3), (2, 2), (1, 1), True, False)))),
    OpCase("relu", relu.ReLU, activation(relu.ReLU())),
    OpCase("leaky relu", relu.LeakyReLU, activation(relu.LeakyReLU(0.1))),
    OpCase("leaky relu falling", relu.LeakyReLU, activation(relu.LeakyReLU(-0.5))),
    OpCase("leaky relu concave", relu.LeakyReLU, activation(relu.LeakyReLU(2.5))),
    OpCase("abs", relu.Abs, activation(relu.Abs())),
    OpCase("clip", relu.Clip, activation(relu.Clip(-0.5, 0.75))),
    OpCase("clip narrow", relu.Clip, activation(relu.Clip(0.25, 0.5))),
    OpCase("sigmoid", smooth.Sigmoid, activation(smooth.Sigmoid())),
    OpCase("tanh", smooth.Tanh, activation(smooth.Tanh())),
    OpCase("cube", powers.Power, once(constant(powers.Power(3)))),
    OpCase("square", powers.Square, once(constant(powers.Square()))),
    OpCase("exp", exponential.Exp, once(constant(exponential.Exp()))),
    OpCase("log", exponential.Log, once(constant(exponential.Log()), positive=True)),
    OpCase("sqrt", powers.Sqrt, once(constant(powers.Sqrt()), positive=True)),
    OpCase("reciprocal", powers.Reciprocal, once(constant(powers.Reciprocal()), positive=True)),
    OpCase("softplus", exponential.Softplus, activation(exponential.Softplus())),
    OpCase("elu", exponential.Elu, activation(exponential.Elu(1.5))),
    OpCase("gelu", gates.Gelu, activation(gates.Gelu())),
    OpCase("silu", gates.Silu, activation(gates.Silu())),
    OpCase("hard swish", gates.HardSwish, activation(gates.HardSwish())),
    OpCase("sin", waves.Sin, activation(waves.Sin())),
    OpCase("cos", waves.Sin, activation(waves.Sin(cosine=True))),
    OpCase("erf", smooth.Erf, activation(smooth.Erf())),
    OpCase("atan", smooth.Atan, activation(smooth.Atan())),
    OpCase("softsign", smooth.Softsign, activation(smooth.Softsign())),
    OpCase("product", product.SumDifference, multiplied),
    OpCase("difference of squares", product.QuarterDifference, multiplied),
    OpCase("max pool", None, max_pool),
    OpCase("batch norm folded", None, batch_norm),
    OpCase("residual", None, lambda generator: residual(generator, 3, 4, 3)),
    OpCase("input read twice", None, branches_of_input),
    OpCase("node read twice by one op", None, same_node_twice),
    OpCase("activation as output", None, activation_output),
    OpCase("activation of an activation", None, activation_of_activation),
    OpCase("affine only", None, affine_only),
]  # fmt: skip


def boxes(graph: Graph, batch: int = 2, radius: float = 0.4) -> Box:
    """Boxes of different sizes around random points."""
    generator = torch.Generator().manual_seed(7)
    center = torch.randn(batch, *graph.input_shape, generator=generator, dtype=torch.float64) / 2
    size = radius * torch.rand(batch, *graph.input_shape, generator=generator, dtype=torch.float64)
    size = size * torch.linspace(0.5, 1.5, batch, dtype=torch.float64).view(-1, *(1 for _ in graph.input_shape))
    return Box(center - size, center + size)


def specs(graph: Graph, batch: int = 2) -> Tensor:
    """Different specification rows for every input, (batch, 4, outputs)."""
    generator = torch.Generator().manual_seed(8)
    outputs = torch.Size(graph.output_shape).numel()
    return torch.randn(batch, 4, outputs, generator=generator, dtype=torch.float64)


def rebuilt(graph: Graph, weights: dict[tuple[int, str], Tensor]) -> Graph:
    """The same network with these weights, by node and field."""
    nodes: list[Node] = [graph.nodes[0]]
    for index, node in enumerate(graph.nodes[1:], start=1):
        op = replace(node.op, **{name: w for (i, name), w in weights.items() if i == index})
        at_zero = op.forward(*(torch.zeros_like(nodes[i].at_zero) for i in node.inputs))
        nodes.append(replace(node, op=op, at_zero=at_zero))
    return Graph(tuple(nodes))


def weights_of(graph: Graph) -> dict[tuple[int, str], Tensor]:
    """Every floating-point weight by node and field."""
    return {
        (index, name): tensor.clone()
        for index, node in enumerate(graph.nodes)
        for name, tensor in node.op.tensors().items()
        if tensor.is_floating_point()
    }
