"""Max pooling, written as a tree of ReLUs: max(a, b) = b + relu(a - b)."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from verifier.errors import ModelError
from verifier.graph import GraphBuilder
from verifier.ops.affine import Add, reduced_axes, rescaled, summed, together
from verifier.ops.convolution import Maps, Pads
from verifier.ops.registry import Call, importer
from verifier.ops.relu import ReLU
from verifier.ops.shape import Reindex, reindexed

Pair = tuple[int, int]


def add_maximum(builder: GraphBuilder, left: int, right: int, sign: int = 1) -> int:
    """Append nodes for the elementwise maximum of two nodes of equal shape (sign -1: the minimum)."""
    difference = builder.add(Add((sign, -sign)), left, right)
    return builder.add(Add((1, sign)), right, builder.add(ReLU(), difference))


def add_max_pool(
    builder: GraphBuilder, x: int, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair, ceil_mode: bool
) -> int:
    """Append nodes for max pooling of (channels, height, width) maps; returns the last one's index.

    pads: for each spatial axis the padding before and after. Each kernel position becomes a gather. Positions in the
    padding repeat one of the window's own, which leaves the maximum unchanged.
    """
    shape = builder.shape(x)
    if len(shape) != 3:
        raise ModelError(f"max pooling reads (channels, height, width) maps, not shape {shape}")
    positions = torch.arange(shape[0] * shape[1] * shape[2]).view(shape)
    axes = [_positions(shape[i + 1], kernel[i], stride[i], pads[i], dilation[i], ceil_mode) for i in range(2)]
    level = [
        builder.add(Reindex(positions[:, rows.unsqueeze(1), columns.unsqueeze(0)]), x)
        for rows in axes[0]
        for columns in axes[1]
    ]
    return add_greatest(builder, level)


def add_greatest(builder: GraphBuilder, level: list[int], sign: int = 1) -> int:
    """Append nodes for the greatest of nodes of equal shape (sign -1: the least), neighbours first."""
    while len(level) > 1:
        pairs = [add_maximum(builder, level[i], level[i + 1], sign) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def _positions(size: int, kernel: int, stride: int, pad: Pair, dilation: int, ceil_mode: bool) -> list[Tensor]:
    """For each kernel position along one axis, the input positions that the windows read."""
    span = size + sum(pad) - dilation * (kernel - 1) - 1
    windows = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (windows - 1) * stride >= size + pad[0]:  # a window must start inside the map or its padding
        windows -= 1
    starts = torch.arange(windows) * stride - pad[0]
    reads = starts.unsqueeze(0) + dilation * torch.arange(kernel).unsqueeze(1)
    inside = (reads >= 0) & (reads < size)
    if windows < 1 or not inside.any(0).all():
        raise ModelError("a max-pooling window lies wholly in the padding")
    fallback = torch.where(inside, reads, size).amin(0)
    return list(torch.where(inside, reads, fallback))


@importer(onnx=["MaxPool"], aten=["max_pool1d", "max_pool2d"], module=["MaxPool1d", "MaxPool2d"])
def import_max_pool(call: Call) -> int:
    maps = Maps.of_pool(call)
    kernel = maps.pair("kernel_size", "kernel_shape", default=1)
    stride = maps.pair("stride", "strides", default=kernel if "kernel_size" in call.attributes else 1)
    dilation = maps.pair("dilation", "dilations", default=1)
    if call.attributes.get("return_indices"):
        raise call.refusal("return_indices")
    pads, ceil_mode = maps.pads(kernel, stride, dilation), bool(call.attributes.get("ceil_mode", False))
    return maps.lower(add_max_pool(call.builder, maps.x, kernel, stride, pads, dilation, ceil_mode))


@importer(onnx=["ReduceMax", "ReduceMin", "GlobalMaxPool"], aten=["amax", "amin"])
def import_greatest(call: Call) -> int:
    """The greatest or least value along axes, by a tree of maxima."""
    if (axes := reduced_axes(call)) is None:
        return call.node()
    chosen, keepdim, shape = axes
    kept = [axis for axis in range(len(shape)) if axis not in chosen]

    def place(t: Tensor, index: int) -> Tensor:
        first = int(call.batched)
        order = [*range(first), *(axis + first for axis in (*kept, *chosen))]
        picked = t.permute(order).flatten(first + len(kept)).select(-1, index)
        for axis in chosen if keepdim else ():
            picked = picked.unsqueeze(axis + first)
        return picked.unsqueeze(-1) if alone else picked

    alone = not kept and not keepdim  # a single number: activations read nodes that have an axis
    count = math.prod(shape[axis] for axis in chosen)
    level = [reindexed(call, call.node(), partial(place, index=i)) for i in range(count)]
    found = add_greatest(call.builder, level, -1 if "Min" in call.operator or call.operator == "amin" else 1)
    return reindexed(call, found, lambda t: t.squeeze(-1)) if alone else found


@importer(onnx=["Max"], aten=["maximum"])
def import_maximum(call: Call) -> int:
    """max(a, b) = b + relu(a - b)."""
    return _extreme(call, 1)


@importer(onnx=["Min"], aten=["minimum"])
def import_minimum(call: Call) -> int:
    """min(a, b) = b - relu(b - a)."""
    return _extreme(call, -1)


def _extreme(call: Call, sign: int) -> int:
    result, *others = sorted(call.inputs, key=lambda value: isinstance(value, Tensor))  # nodes first
    for other in others:
        if isinstance(other, Tensor):
            difference = rescaled(call, result, sign, -sign * other)
        else:
            result, other = together(call, result, other)
            difference = call.add(Add((sign, -sign)), result, other)
        result = summed(call, [other, call.add(ReLU(), difference)], sign)
    return result
