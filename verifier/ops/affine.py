"""Matrix products, sums and elementwise arithmetic with constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.graph import Op
from verifier.ops.base import Affine
from verifier.ops.patches import Coefficients, Patches, dense, negated
from verifier.ops.registry import Call, importer, register
from verifier.ops.shape import Concat, Reindex, reindexed
from verifier.types import Shape

LARGE = 1 << 14
"""The fewest weights for which a sparse product can be worth its overhead."""

SPARSE = 200
"""Products are sparse where fewer than one weight in this many is nonzero."""


@register
@dataclass(frozen=True, eq=False)
class Linear(Affine):
    """`x @ weight.T + bias` over the last axis; weight (out, in), bias (out,) or None."""

    weight: Tensor
    bias: Tensor | None

    @cached_property
    def is_sparse(self) -> bool:
        """Whether products with the few nonzero weights alone are cheaper."""
        weight = self.weight
        return (
            not weight.requires_grad
            and weight.numel() >= LARGE
            and int(weight.count_nonzero()) * SPARSE < weight.numel()
        )

    @cached_property
    def _compressed(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weight, its absolute value and its transpose as sparse tensors."""
        weight = self.weight.to_sparse()
        return weight, weight.abs(), weight.t().coalesce()

    def forward(self, *inputs: Tensor) -> Tensor:
        if not self.is_sparse:
            return F.linear(inputs[0], self.weight, self.bias)
        out = _product(self._compressed[0], inputs[0])
        return out if self.bias is None else out + self.bias

    def magnitude(self, *radii: Tensor) -> Tensor:
        if self.is_sparse:
            return _product(self._compressed[1], radii[0])
        return F.linear(radii[0], self.weight.abs())

    def transpose(self, A: Coefficients, *shapes: Shape) -> list[Coefficients]:
        return [_product(self._compressed[2], dense(A)) if self.is_sparse else dense(A) @ self.weight]

    def rows(self, index: Tensor, dtype: torch.dtype, shape: Shape, *shapes: Shape) -> list[Coefficients]:
        if len(shape) > 1:
            return super().rows(index, dtype, shape, *shapes)
        return [self.weight[index]]

    def after(self, previous: Op) -> Op | None:
        if isinstance(previous, Rescale) and _along_last_axis(previous.scale) and _along_last_axis(previous.shift):
            inputs = self.weight.shape[1]
            shift = self.weight @ previous.shift.flatten().expand(inputs)
            bias = shift if self.bias is None else self.bias + shift
            return Linear(self.weight * previous.scale.flatten().expand(inputs), bias)
        return None

    def rescaled(self, scale: Tensor, shift: Tensor) -> Op | None:
        if not (_along_last_axis(scale) and _along_last_axis(shift)):
            return None
        scale, shift = (t.flatten().expand(self.weight.shape[0]) for t in (scale, shift))
        bias = shift if self.bias is None else self.bias * scale + shift
        weight = self.weight if bool((scale == 1).all()) else self.weight * scale.unsqueeze(1)
        return Linear(weight, bias)


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """`x @ matrix.T` over the last axis, for a sparse matrix."""
    columns = x.reshape(-1, x.shape[-1]).t().contiguous()  # with others the product takes ten times as long
    return (matrix @ columns).t().reshape(*x.shape[:-1], matrix.shape[0])


def _along_last_axis(constant: Tensor) -> bool:
    """Whether a constant varies along its last axis alone."""
    return constant.dim() > 0 and constant.numel() == constant.shape[-1]


@register
@dataclass(frozen=True, eq=False)
class Rescale(Affine):
    """`x * scale + shift` elementwise: arithmetic with constants, normalisation and BatchNorm at inference.

    scale and shift, without a batch axis, have the rank of a node's shape and broadcast to it.
    """

    mixing: ClassVar[bool] = False

    scale: Tensor
    shift: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * self.scale + self.shift

    def magnitude(self, *radii: Tensor) -> Tensor:
        return radii[0] * self.scale.abs()

    def transpose(self, A: Coefficients, *shapes: Shape) -> list[Coefficients]:
        if isinstance(A, Patches):
            scale = self.scale.expand(shapes[0]).unsqueeze(0)
            return [A.over(A.values * A.windows(scale))]
        return [A * self.scale]

    def after(self, previous: Op) -> Op | None:
        if isinstance(previous, Rescale):
            return Rescale(self.scale * previous.scale, self.scale * previous.shift + self.shift)
        return previous.rescaled(self.scale, self.shift) if isinstance(previous, Affine) else None


@register
@dataclass(frozen=True, eq=False)
class Add(Affine):
    """The sum of inputs of equal shape, each with a sign: `signs[0] * x0 + signs[1] * x1 + ...`."""

    signs: tuple[int, ...]

    def forward(self, *inputs: Tensor) -> Tensor:
        total = inputs[0] if self.signs[0] > 0 else -inputs[0]
        for sign, value in zip(self.signs[1:], inputs[1:], strict=True):
            total = total + value if sign > 0 else total - value
        return total

    def magnitude(self, *radii: Tensor) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*radii)).sum(0)

    def transpose(self, A: Coefficients, *shapes: Shape) -> list[Coefficients]:
        return [A if sign > 0 else negated(A) for sign in self.signs]


@register
@dataclass(frozen=True, eq=False)
class Reduce(Affine):
    """The sum over some axes (counted without the batch axis), times a factor: ReduceSum, and ReduceMean by 1/n."""

    axes: tuple[int, ...]
    keepdim: bool
    factor: float

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].sum([axis + 1 for axis in self.axes], self.keepdim) * self.factor

    def magnitude(self, *radii: Tensor) -> Tensor:
        return radii[0].sum([axis + 1 for axis in self.axes], self.keepdim) * abs(self.factor)


@importer(aten=["linear"], module=["Linear"])
def import_linear(call: Call) -> int:
    return call.add(Linear(call.weight(1), call.constant(2)), call.node())


def product(call: Call, x: int, matrix: Tensor) -> int:
    """Append the product of a node with a constant matrix (in, out) or vector (in,) from the right."""
    if not call.builder.shape(x):
        raise call.refusal("a node times a constant sums over the batch axis (axis 0)")
    while matrix.dim() > 2 and matrix.shape[0] == 1 and matrix.dim() <= len(call.builder.shape(x)) + call.batched:
        matrix = matrix[0]
    if matrix.dim() > 2:
        raise call.refusal(f"a stack of matrices, of shape {tuple(matrix.shape)}")
    y = call.add(Linear(matrix.T.contiguous() if matrix.dim() == 2 else matrix.unsqueeze(0), None), x)
    return y if matrix.dim() == 2 else reindexed(call, y, lambda t: t.squeeze(-1))


@importer(onnx=["Gemm"])
def import_gemm(call: Call) -> int:
    if call.attributes.get("transA"):
        raise call.refusal("transA on a value with a batch axis")
    weight = call.weight(1)
    if weight.dim() != 2:
        raise call.refusal(f"a weight of shape {tuple(weight.shape)} is not a matrix; export the network again")
    weight = weight if call.attributes.get("transB") else weight.T.contiguous()
    bias, beta = call.constant(2), call.attributes.get("beta", 1.0)
    y = call.add(Linear(weight * call.attributes.get("alpha", 1.0), None), call.node())
    return y if bias is None else rescaled(call, y, 1.0, bias * beta)


@importer(aten=["addmm"])
def import_addmm(call: Call) -> int:
    y = product(call, call.node(1), call.weight(2))
    return rescaled(call, y, call.attributes["alpha"], call.weight(0) * call.attributes["beta"])


def rescaled(call: Call, x: int, scale: Tensor | float, shift: Tensor | float) -> int:
    """Append `x * scale + shift` for constants with the source's axes, broadcasting as numpy does."""
    shape = call.builder.shape(x)
    constants = [torch.as_tensor(c, dtype=torch.float64) for c in (scale, shift)]
    rank = len(shape) if call.batched else max(len(shape), *(c.dim() for c in constants))
    for i, c in enumerate(constants):
        if call.batched and c.dim() > rank:
            if c.dim() > rank + 1 or c.shape[0] != 1:
                raise call.refusal(f"a constant of shape {tuple(c.shape)} changes the batch axis (axis 0)")
            c = c[0]
        constants[i] = c.reshape((1,) * (rank - c.dim()) + tuple(c.shape))
    try:
        target = np.broadcast_shapes(shape, *(c.shape for c in constants))
    except ValueError as error:
        raise call.refusal(str(error).splitlines()[0]) from error
    return call.add(Rescale(*constants), _expanded(call, x, target))


def _expanded(call: Call, x: int, shape: Shape) -> int:
    return reindexed(call, x, lambda t: t.expand(*t.shape[: call.batched], *shape))


def constant_node(call: Call, value: Tensor) -> int:
    """Append nodes whose value is always `value` (with its batch axis, of size 1, where the source has one)."""
    if call.batched and (value.dim() == 0 or value.shape[0] != 1):
        raise call.refusal(f"a constant of shape {tuple(value.shape)} has no batch axis of size 1")
    value = value[0] if call.batched else value
    anything = call.add(Reindex(torch.zeros(value.shape, dtype=torch.long)), 0)
    return call.add(Rescale(torch.zeros_like(value), value), anything)


@importer(onnx=["Concat"], aten=["cat"])
def import_concat(call: Call) -> int:
    nodes = [value if isinstance(value, int) else constant_node(call, value) for value in call.inputs]
    axis = call.attributes.get("dim", call.attributes.get("axis", 0))
    return call.add(Concat(call.axis(axis, len(call.builder.shape(nodes[0])))), *nodes)


@importer(onnx=["Add", "Sum"], aten=["add.Tensor", "add.Scalar"])
def import_add(call: Call) -> int:
    if call.operator == "Sum":
        return summed(call, sorted(call.inputs, key=lambda value: isinstance(value, Tensor)), 1)  # nodes first
    return summed(call, call.inputs, 1, call.attributes.get("alpha", 1))


@importer(onnx=["Sub"], aten=["sub.Tensor", "sub.Scalar"])
def import_sub(call: Call) -> int:
    return summed(call, call.inputs, -1, call.attributes.get("alpha", 1))


@importer(aten=["rsub.Tensor", "rsub.Scalar"])
def import_rsub(call: Call) -> int:
    return summed(call, call.inputs[::-1], -1, call.attributes.get("alpha", 1))


def summed(call: Call, inputs: Sequence[int | Tensor], sign: int, factor: float = 1.0) -> int:
    """Append `first + sign * factor * second`, or the sum of more inputs, nodes and constants mixed."""
    total = inputs[0]
    for value in inputs[1:]:
        if isinstance(value, Tensor):
            assert isinstance(total, int)  # operators on constants alone are folded by the loaders
            total = rescaled(call, total, 1.0, value.double() * (sign * factor))
        elif isinstance(total, Tensor):
            total = rescaled(call, value, sign * factor, total)
        else:
            scaled = value if factor == 1 else rescaled(call, value, factor, 0.0)
            total = call.add(Add((1, sign)), *together(call, total, scaled))
    assert isinstance(total, int)
    return total


def together(call: Call, left: int, right: int) -> tuple[int, int]:
    """Two nodes expanded to their common shape."""
    shapes = call.builder.shape(left), call.builder.shape(right)
    if call.batched and len(shapes[0]) != len(shapes[1]):
        raise call.refusal(f"shapes {shapes[0]} and {shapes[1]} do not line up behind the batch axis")
    try:
        target = np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise call.refusal(str(error).splitlines()[0]) from error
    return _expanded(call, left, target), _expanded(call, right, target)


@importer(onnx=["Neg"], aten=["neg"])
def import_neg(call: Call) -> int:
    return rescaled(call, call.node(), -1.0, 0.0)


@importer(onnx=["ReduceSum"], aten=["sum", "sum.dim_IntList"])
def import_sum(call: Call) -> int:
    return reduced(call, mean=False)


@importer(onnx=["ReduceMean", "GlobalAveragePool"], aten=["mean", "mean.dim"])
def import_mean(call: Call) -> int:
    return reduced(call, mean=True)


def reduced(call: Call, mean: bool) -> int:
    """Append the sum or mean over the axes that the call names."""
    if (found := reduced_axes(call)) is None:
        return call.node()
    chosen, keepdim, shape = found
    count = torch.Size(shape[axis] for axis in chosen).numel()
    return call.add(Reduce(chosen, keepdim, 1 / count if mean else 1.0), call.node())


def reduced_axes(call: Call) -> tuple[tuple[int, ...], bool, Shape] | None:
    """The axes that a reduction names, ascending, whether they are kept, and the input's shape; None: it does nothing.

    Global pooling names all after the channels'.
    """
    shape = call.shape()
    axes = call.integers("dim") or call.integers("axes", 1)
    if call.operator.startswith("Global"):
        axes = list(range(2, len(shape) + call.batched))
    elif not axes and call.attributes.get("noop_with_empty_axes"):
        return None
    chosen = tuple(sorted({call.axis(a, len(shape)) for a in axes or range(len(shape) + call.batched)}))
    keepdim = bool(call.attributes.get("keepdim", call.attributes.get("keepdims", call.operator[0].isupper())))
    return chosen, keepdim, shape


@importer(
    onnx=["BatchNormalization"],
    aten=["batch_norm", "_native_batch_norm_legit_no_training"],
    module=["BatchNorm1d", "BatchNorm2d"],
)
def import_batch_norm(call: Call) -> int | list[int]:
    """Normalisation by stored statistics: `weight * (x - mean) / sqrt(variance + eps) + bias` per channel."""
    if call.attributes.get("training_mode") or call.attributes.get("training"):
        raise call.refusal("it is in training mode; export the network in evaluation mode")
    if call.constant(3) is None or call.constant(4) is None:
        raise call.refusal("it keeps no running statistics, so that its output depends on the batch")
    mean, variance = call.weight(3), call.weight(4)
    eps = call.attributes.get("eps", call.attributes.get("epsilon", 1e-5))
    deviation = (variance + eps).sqrt()
    weight, bias = call.constant(1), call.constant(2)
    scale = 1 / deviation if weight is None else weight / deviation
    shift = torch.zeros_like(scale) if bias is None else bias
    behind = (1,) * (len(call.shape()) + call.batched - 2)
    centred = rescaled(call, call.node(), 1.0, -mean.view(-1, *behind))  # merged later: what rounds shall be seen
    y = rescaled(call, centred, scale.view(-1, *behind), shift.view(-1, *behind))
    return [y] if call.operator.startswith("_native") else y
