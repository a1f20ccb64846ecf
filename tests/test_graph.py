"""Graphs: values, folding, pruning, errors."""

import math

import pytest
import torch
from nets import conv, mlp, residual
from torch.nn import functional as F

from verifier.errors import ModelError
from verifier.graph import GraphBuilder
from verifier.ops.affine import Add, Linear, Rescale
from verifier.ops.convolution import Conv2d
from verifier.ops.pooling import add_max_pool, add_maximum
from verifier.ops.relu import ReLU
from verifier.ops.shape import Concat, Reindex, Reshape


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_mlp_computes_what_torch_computes() -> None:
    graph = mlp(torch.Generator().manual_seed(0), (3, 5, 2))
    first, last = graph.nodes[1].op, graph.nodes[3].op
    assert isinstance(first, Linear) and isinstance(last, Linear)
    x = rand(7, 3)
    expected = F.linear(F.relu(F.linear(x, first.weight, first.bias)), last.weight, last.bias)
    assert torch.equal(graph(x), expected)
    assert torch.equal(graph.values(x)[2], F.relu(F.linear(x, first.weight, first.bias)))


def test_shapes_sizes_and_readers() -> None:
    graph = residual(torch.Generator().manual_seed(0), 3, 4, 2)
    assert graph.input_shape == (3,) and graph.output_shape == (2,) and graph.output == len(graph.nodes) - 1
    assert graph.consumers[2] == [3, 6] and graph.consumers[graph.output] == []
    assert graph.input_shapes(6) == [(4,), (4,)] and graph.nodes[6].size == 4
    assert graph.dtype == torch.float64


def test_at_zero_is_the_value_for_zero_inputs() -> None:
    graph = conv(torch.Generator().manual_seed(0), 3)
    for node in graph.nodes[1:]:
        zeros = (torch.zeros_like(graph.nodes[i].at_zero) for i in node.inputs)
        assert torch.equal(node.at_zero, node.op.forward(*zeros))


def test_conversion_moves_weights_and_leaves_indices() -> None:
    builder = GraphBuilder((3,))
    x = builder.add(Linear(rand(3, 3), rand(3)), 0)
    builder.add(ReLU(), builder.add(Reindex(torch.tensor([2, 0])), x))
    graph = builder.finish()
    single = graph.to(torch.float32)
    assert single.dtype == torch.float32 and single(torch.ones(1, 3)).dtype == torch.float32
    assert single.nodes[2].op.tensors()["index"].dtype == torch.int64
    assert graph.to(torch.float64) is graph


def test_unused_nodes_are_dropped() -> None:
    builder = GraphBuilder((2,))
    kept = builder.add(Linear(rand(2, 2), None), 0)
    builder.add(Linear(rand(5, 2), None), 0)
    used = builder.add(ReLU(), kept)
    builder.add(ReLU(), used)
    graph = builder.finish(used)
    assert len(graph.nodes) == 3 and graph.output_shape == (2,)


@pytest.mark.parametrize("order", ["before", "after", "both"])
def test_scaling_folds_into_dense_layers(order: str) -> None:
    builder, weight, bias = GraphBuilder((3,)), rand(2, 3), rand(2, seed=1)
    scales = [Rescale(rand(n, seed=n), rand(n, seed=n + 5)) for n in (3, 2)]
    x = builder.add(scales[0], 0) if order != "after" else 0
    x = builder.add(Linear(weight, bias), x)
    if order != "before":
        builder.add(scales[1], x)
    graph, points = builder.finish(), rand(6, 3, seed=9)
    expected = scales[0].forward(points) if order != "after" else points
    expected = F.linear(expected, weight, bias)
    expected = scales[1].forward(expected) if order != "before" else expected
    assert len(graph.nodes) == 2
    torch.testing.assert_close(graph(points), expected)


@pytest.mark.parametrize(("padding", "scale", "nodes"), [
    ((0, 0), (2, 1, 1), 2),  # per channel, without padding: folded
    ((1, 1), (2, 1, 1), 3),  # the padding is not scaled
    ((0, 0), (2, 4, 4), 3),  # a scale per pixel
    ((1, 1), (1, 4, 4), 3),
])  # fmt: skip
def test_scaling_before_a_convolution(padding: tuple[int, int], scale: tuple[int, ...], nodes: int) -> None:
    builder = GraphBuilder((2, 4, 4))
    normalise = Rescale(rand(*scale), rand(*scale, seed=1))
    op = Conv2d(rand(3, 2, 3, 3), rand(3), (1, 1), padding, (1, 1), 1)
    builder.add(op, builder.add(normalise, 0))
    graph, x = builder.finish(), rand(2, 2, 4, 4, seed=3)
    assert len(graph.nodes) == nodes
    torch.testing.assert_close(graph(x), op.forward(normalise.forward(x)))


@pytest.mark.parametrize("scale", [(3, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_folds_into_the_convolution_before(scale: tuple[int, ...], bias: bool) -> None:
    builder = GraphBuilder((2, 4, 4))
    op = Conv2d(rand(3, 2, 3, 3), rand(3) if bias else None, (2, 1), (1, 0), (1, 1), 1)
    after = Rescale(rand(*scale), rand(*scale, seed=1))
    builder.add(after, builder.add(op, 0))
    graph, x = builder.finish(), rand(2, 2, 4, 4, seed=3)
    assert len(graph.nodes) == 2
    torch.testing.assert_close(graph(x), after.forward(op.forward(x)))


def test_a_node_with_two_readers_is_not_folded() -> None:
    builder, scale = GraphBuilder((3,)), Rescale(rand(3), rand(3, seed=1))
    op = Linear(rand(3, 3), rand(3))
    x = builder.add(op, 0)
    builder.add(Add((1, -1)), x, builder.add(scale, x))
    graph, points = builder.finish(), rand(4, 3, seed=2)
    assert [type(node.op) for node in graph.nodes[1:]] == [Linear, Rescale, Add]
    torch.testing.assert_close(graph(points), op.forward(points) - scale.forward(op.forward(points)))


def test_reshapes_and_gathers_merge() -> None:
    builder = GraphBuilder((2, 3))
    x = builder.add(Reshape((3, 2)), builder.add(Reshape((6,)), 0))
    x = builder.add(Reindex(torch.tensor([5, 4, 0])), x)
    builder.add(Reindex(torch.tensor([[2, 0]])), x)
    graph = builder.finish()
    assert graph(torch.arange(6.0, dtype=torch.float64).view(1, 2, 3)).tolist() == [[[0.0, 5.0]]]
    assert len(graph.nodes) <= 3


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [
    ((2, 2), (2, 2), (0, 0), (1, 1)),
    ((3, 2), (2, 1), (1, 1), (1, 1)),
    ((3, 3), (2, 3), (1, 0), (1, 1)),
    ((2, 2), (1, 1), (0, 0), (2, 2)),
])  # fmt: skip
def test_max_pooling_is_torchs(kernel: tuple, stride: tuple, padding: tuple, dilation: tuple, ceil_mode: bool) -> None:
    builder = GraphBuilder((2, 6, 7))
    pads = [(p, p) for p in padding]
    add_max_pool(builder, 0, kernel, stride, pads, dilation, ceil_mode)
    x = rand(3, 2, 6, 7) - 5.0  # negative everywhere, so that padding with zeros would show
    expected = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
    torch.testing.assert_close(builder.finish()(x), expected)


def test_maximum() -> None:
    builder = GraphBuilder((4,))
    left, right = (builder.add(Reindex(torch.tensor(i)), 0) for i in ([0, 1], [2, 3]))
    add_maximum(builder, left, right)
    assert builder.finish()(torch.tensor([[1.0, -2.0, 0.5, 7.0]]).double()).tolist() == [[1.0, 7.0]]


def test_nodes_of_huge_size_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=f"node 'x' has {2**62} values, more than {2**25}; use a smaller network"):
        GraphBuilder((2**31, 2**31), "x")
    monkeypatch.setattr("verifier.graph.MOST_VALUES", 10)
    builder = GraphBuilder((5,))
    assert builder.shape(builder.add(Concat(0), 0, 0)) == (10,)
    with pytest.raises(ModelError, match="node 'three' has 15 values, more than 10"):
        builder.add(Concat(0), 0, 0, 0, name="three")


def test_errors_name_the_node() -> None:
    builder = GraphBuilder((3,))
    with pytest.raises(ModelError, match=r"node 'fc1' \(Linear\) does not fit its input \(3,\)"):
        builder.add(Linear(rand(2, 4), None), 0, name="fc1")
    for bad in (math.nan, math.inf):
        with pytest.raises(ModelError, match="the weights of node 'fc2' hold NaN or Inf"):
            builder.add(Linear(torch.full((2, 3), bad), None), 0, name="fc2")
    with pytest.raises(ModelError, match="computes nothing"):
        builder.finish()
    graph = mlp(torch.Generator().manual_seed(0), (3, 2))
    with pytest.raises(ModelError, match=r"reads inputs of shape \(3,\), not \(2,\)"):
        graph(rand(1, 2))
