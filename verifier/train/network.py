"""The graph of a module that is being trained: its weights are the module's own parameters, so gradients reach them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

import verifier.ops  # noqa: F401  (fills the registry)
from verifier.errors import ModelError
from verifier.graph import Graph, GraphBuilder, Input, Node, Op
from verifier.ops.convolution import Conv2d
from verifier.ops.registry import MODULE, Call, find
from verifier.types import Shape

BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d)


class LiveBuilder(GraphBuilder):
    """A builder that keeps the weights as they are, in their own dtype, on their device, with their history."""

    def __init__(self, input_shape: Shape, like: Tensor) -> None:
        self.nodes = [Node("input", Input(), (), like.new_zeros(1, *input_shape))]

    def add(self, op: Op, *inputs: int, name: str = "") -> int:
        op = op.to(self.nodes[0].at_zero.dtype, self.nodes[0].at_zero.device)  # importers compute in float64
        if isinstance(op, Conv2d) and op.weight.is_contiguous(memory_format=torch.channels_last):
            op = replace(op, weight=_channels_last(op.weight))
        at_zero = op.forward(*(torch.zeros_like(self.nodes[i].at_zero) for i in inputs))
        self.nodes.append(Node(name, op, inputs, at_zero))
        return len(self.nodes) - 1


def _channels_last(weight: Tensor) -> Tensor:
    """The same tensor with strides that say channels last also where there is one channel.

    Of a single channel, other strides describe the same memory, and a convolution would compute in the other layout.
    """
    _, channels, _, width = weight.shape
    return weight.permute(0, 2, 3, 1).flatten(2).unflatten(2, (width, channels)).permute(0, 3, 1, 2)


def live_graph(model: nn.Sequential, x: Tensor) -> Graph:
    """The graph of a flat sequence of layers for inputs of the shape of x (batch, *input_shape).

    In training mode BatchNorm normalises by the statistics of the batch x, clean data, and updates its running ones
    once; the graph then holds them as constants of this step, the same in bounds and under attack (Shi et al. 2021).
    In evaluation mode it holds the running ones. Raises ModelError for a layer that is not in the registry.
    """
    builder = LiveBuilder(tuple(x.shape[1:]), next(model.parameters()))
    measured = model.training and any(isinstance(layer, BatchNorm) for layer in model)
    value, index = x, 0
    for position, layer in enumerate(model):
        kind, name = type(layer).__name__, f"{position}.{type(layer).__name__.lower()}"
        if isinstance(layer, nn.Dropout):
            raise ModelError(f"layer '{name}': dropout has no place in a network that bounds are computed of")
        tensors = dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))
        if measured and isinstance(layer, BatchNorm):
            axes = [axis for axis in range(value.dim()) if axis != 1]
            tensors["running_var"], tensors["running_mean"] = torch.var_mean(value, axes, correction=0)
        if measured:
            value = layer(value)
        weights = [tensors.get(key) for key in ("weight", "bias", "running_mean", "running_var")]
        attributes = {key: v for key, v in vars(layer).items() if not key.startswith("_") and key != "training"}
        result = find(MODULE, kind, name)(Call(builder, kind, name, [index, *weights], attributes))
        assert isinstance(result, int)
        index = result
    return builder.finish(index)
