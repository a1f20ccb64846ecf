"""Graphs -> ONNX files, by our own writer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verifier.errors import ModelError
from verifier.graph import Graph, Op
from verifier.ops.affine import Add, Linear, Reduce, Rescale
from verifier.ops.convolution import AvgPool2d, Conv2d, ConvTranspose2d
from verifier.ops.exponential import Elu, Exp, Log, Softplus
from verifier.ops.gates import Gelu, HardSwish, Silu
from verifier.ops.powers import Power, Reciprocal, Sqrt, Square
from verifier.ops.product import QuarterDifference, SumDifference
from verifier.ops.relu import Abs, Clip, LeakyReLU, ReLU
from verifier.ops.shape import Concat, Pad, Reindex, Reshape
from verifier.ops.smooth import Atan, Erf, Sigmoid, Softsign, Tanh
from verifier.ops.waves import Sin
from verifier.types import Shape

OPSET, IR_VERSION = 17, 8
NEWER = 20, 9  # which has Gelu


def export_onnx(graph: Graph, path: str | Path, *, rounded: bool = False) -> None:
    """Write a graph as an ONNX file; see `onnx_bytes`."""
    Path(path).write_bytes(onnx_bytes(graph, rounded=rounded))


def onnx_bytes(graph: Graph, *, rounded: bool = False, double: bool = False) -> bytes:
    """A graph as an ONNX model with float32 weights and a free batch size; equal graphs give equal bytes.

    rounded: whether weights that float32 cannot hold (folding makes such) may be rounded to it. double: whether their
    ops may be float64, between casts, which not every runtime can run. Else they raise ModelError, because the file
    would hold another network.
    """
    from onnx import TensorProto, helper

    writer = _Writer()
    names = ["input"]
    products = _products(graph)
    inner = {i for within, _ in products.values() for i in within}
    for index, node in enumerate(graph.nodes[1:], start=1):
        writer.node, writer.shape = node.name, node.shape
        output = "output" if index == graph.output else f"{node.name}:{index}"
        if index in inner:
            names.append("")
            continue
        if index in products:
            names.append(writer.emit("Mul", [names[i] for i in products[index][1]], output))
            continue
        sources = [names[i] for i in node.inputs]
        wide = not rounded and not all(map(_fits, _numbers(node.op)))
        writer.double = wide and double
        if wide and not double:
            raise ModelError(
                f"the weights of node '{node.name}' are no float32 numbers; export with rounding, or reload"
            )
        if writer.double:
            sources = [writer.emit("Cast", [source], to=TensorProto.DOUBLE) for source in sources]
            writer.write(node.op, sources, f"{output}~double")
            writer.emit("Cast", [f"{output}~double"], output, to=TensorProto.FLOAT)
        else:
            writer.write(node.op, sources, output)
        names.append(output)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("input", graph.input_shape), ("output", graph.output_shape))
    ]
    body = helper.make_graph(writer.nodes, "network", ends[:1], ends[1:], writer.initializers)
    opset, version = NEWER if any(isinstance(node.op, Gelu) for node in graph.nodes) else (OPSET, IR_VERSION)
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", opset)], ir_version=version, producer_name="verifier"
    )
    return model.SerializeToString(deterministic=True)


def _products(graph: Graph) -> dict[int, tuple[tuple[int, int], tuple[int, ...]]]:
    """By the last node of a product of two nodes, the nodes within it, which nothing else reads, and its factors."""
    found = {}
    for index, node in enumerate(graph.nodes):
        if isinstance(node.op, QuarterDifference):
            square = node.inputs[0]
            both = next(iter(graph.nodes[square].inputs), 0)
            made = isinstance(graph.nodes[square].op, Square) and isinstance(graph.nodes[both].op, SumDifference)
            if made and graph.consumers[square] == [index] and graph.consumers[both] == [square]:
                found[index] = ((both, square), graph.nodes[both].inputs)
    return found


def _numbers(op: Op) -> Iterator[Tensor]:
    """The weights and parameters of an op that are no integers."""
    for value in vars(op).values():
        if isinstance(value, float | Tensor) and torch.as_tensor(value).is_floating_point():
            yield torch.as_tensor(value, dtype=torch.float64)


def _fits(tensor: Tensor) -> bool:
    """Whether float32 holds every number."""
    return torch.equal(tensor.float().to(tensor.dtype), tensor)


class _Writer:
    """Collects ONNX nodes and initializers. `node` and `shape` are those of the op at hand, computed as `double`."""

    def __init__(self) -> None:
        self.double = False
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.node = ""
        self.shape: Shape = ()

    def constant(self, value: Tensor | Sequence[int] | float) -> str:
        """Store a constant, integers as int64 and all else as float32 or `double`; returns its name."""
        from onnx import numpy_helper

        tensor = torch.as_tensor(value)
        array = tensor.cpu().numpy()
        if tensor.is_floating_point() or isinstance(value, float):
            array = array.astype(np.float64 if self.double else np.float32)
        name = f"{self.node}.{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def emit(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Append a node; returns the name of its output, made up when none is given."""
        from onnx import helper

        output = output or f"{self.node}~{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    @singledispatchmethod
    def write(self, op: Op, x: list[str], output: str) -> None:
        """Append the ONNX nodes of `op`, reading `x` and writing `output`."""
        raise ModelError(f"node '{self.node}': {type(op).__name__} has no ONNX form here")

    @write.register
    def _(self, op: Linear, x: list[str], output: str) -> None:
        if len(self.shape) == 1:
            weights = [self.constant(w) for w in (op.weight, op.bias) if w is not None]
            self.emit("Gemm", [*x, *weights], output, transB=1)
            return
        product = self.emit("MatMul", [*x, self.constant(op.weight.T)], output if op.bias is None else "")
        if op.bias is not None:
            self.emit("Add", [product, self.constant(op.bias)], output)

    @write.register
    def _(self, op: Rescale, x: list[str], output: str) -> None:
        scaled = self.emit("Mul", [*x, self.constant(op.scale)])
        self.emit("Add", [scaled, self.constant(op.shift)], output)

    @write.register
    def _(self, op: Add, x: list[str], output: str) -> None:
        total = x[0] if op.signs[0] > 0 else self.emit("Neg", x[:1])
        for sign, value in zip(op.signs[1:], x[1:], strict=True):
            total = self.emit("Add" if sign > 0 else "Sub", [total, value])
        self.emit("Identity", [total], output)

    @write.register
    def _(self, op: Reduce, x: list[str], output: str) -> None:
        axes = self.constant([axis + 1 for axis in op.axes])
        total = self.emit("ReduceSum", [*x, axes], keepdims=int(op.keepdim))
        self.emit("Mul", [total, self.constant(op.factor)], output)

    @write.register
    def _(self, op: Conv2d, x: list[str], output: str) -> None:
        self._convolution("Conv", op, x, output)

    @write.register
    def _(self, op: ConvTranspose2d, x: list[str], output: str) -> None:
        self._convolution("ConvTranspose", op, x, output, output_padding=op.output_padding)

    def _convolution(self, operator: str, op: Any, x: list[str], output: str, **attributes: Any) -> None:
        weights = [self.constant(w) for w in (op.weight, op.bias) if w is not None]
        self.emit(operator, [*x, *weights], output, kernel_shape=op.weight.shape[2:], strides=op.stride,
                  pads=[*op.padding, *op.padding], dilations=op.dilation, group=op.groups, **attributes)  # fmt: skip

    @write.register
    def _(self, op: AvgPool2d, x: list[str], output: str) -> None:
        self.emit("AveragePool", x, output, kernel_shape=op.kernel, strides=op.stride,
                  pads=[*op.padding, *op.padding], ceil_mode=int(op.ceil_mode),
                  count_include_pad=int(op.count_padding))  # fmt: skip

    @write.register
    def _(self, op: LeakyReLU, x: list[str], output: str) -> None:
        self.emit("PRelu", [*x, self.constant(float(op.slope))], output)

    @write.register
    def _(self, op: Clip, x: list[str], output: str) -> None:
        self.emit("Clip", [*x, self.constant(float(op.low)), self.constant(float(op.high))], output)

    @write.register(ReLU)
    @write.register(Abs)
    @write.register(Sigmoid)
    @write.register(Tanh)
    @write.register(Atan)
    @write.register(Erf)
    @write.register(Exp)
    @write.register(HardSwish)
    @write.register(Log)
    @write.register(Reciprocal)
    @write.register(Softplus)
    @write.register(Softsign)
    @write.register(Sqrt)
    def _(self, op: Op, x: list[str], output: str) -> None:
        self.emit("Relu" if isinstance(op, ReLU) else type(op).__name__, x, output)

    @write.register
    def _(self, op: Sin, x: list[str], output: str) -> None:
        self.emit("Cos" if op.cosine else "Sin", x, output)

    @write.register
    def _(self, op: Square, x: list[str], output: str) -> None:
        self.emit("Mul", [*x, *x], output)

    @write.register
    def _(self, op: Power, x: list[str], output: str) -> None:
        self.emit("Pow", [*x, self.constant(float(op.exponent))], output)

    @write.register
    def _(self, op: Elu, x: list[str], output: str) -> None:
        self.emit("Elu", x, output, alpha=op.a)

    @write.register
    def _(self, op: Silu, x: list[str], output: str) -> None:
        self.emit("Mul", [*x, self.emit("Sigmoid", x)], output)

    @write.register
    def _(self, op: Gelu, x: list[str], output: str) -> None:
        self.emit("Gelu", x, output)

    @write.register
    def _(self, op: SumDifference, x: list[str], output: str) -> None:
        scaled = self.emit("Mul", [x[0], self.constant(op.a)]), self.emit("Div", [x[1], self.constant(op.a)])
        axis = self.constant([1])
        both = [self.emit("Unsqueeze", [self.emit(operator, scaled), axis]) for operator in ("Add", "Sub")]
        self.emit("Concat", both, output, axis=1)

    @write.register
    def _(self, op: QuarterDifference, x: list[str], output: str) -> None:
        halves = [self.emit("Gather", [*x, self.constant(torch.tensor(i))], axis=1) for i in (0, 1)]
        self.emit("Mul", [self.emit("Sub", halves), self.constant(0.25)], output)

    @write.register
    def _(self, op: Reshape, x: list[str], output: str) -> None:
        self.emit("Reshape", [*x, self.constant([-1, *op.shape])], output)

    @write.register
    def _(self, op: Reindex, x: list[str], output: str) -> None:
        flat = self.emit("Flatten", x)
        self.emit("Gather", [flat, self.constant(op.index)], output, axis=1)

    @write.register
    def _(self, op: Concat, x: list[str], output: str) -> None:
        self.emit("Concat", x, output, axis=op.axis + 1)

    @write.register
    def _(self, op: Pad, x: list[str], output: str) -> None:
        rank = len(self.shape) + 1
        pads = [0] * (2 * rank)
        for i in range(len(op.amounts) // 2):
            pads[rank - 1 - i], pads[2 * rank - 1 - i] = op.amounts[2 * i : 2 * i + 2]
        self.emit("Pad", [*x, self.constant(pads), self.constant(float(op.value))], output)
