"""Products of two nodes, and what is made of them: quotients, matrix products, softmax.

A product is a difference of squares, x y = ((x + y)^2 - (x - y)^2) / 4, so that every bound, split and encoding that
treats activations treats it. With x and y scaled to equal widths the lines around the squares are McCormick's planes
(1976) where these are parallel; `bounds/balance.py` scales them for a region.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.ops.affine import Linear, Reduce, Rescale, product, rescaled, together
from verifier.ops.base import Affine
from verifier.ops.exponential import Exp, Log
from verifier.ops.gates import Gelu, Silu
from verifier.ops.patches import Coefficients, dense
from verifier.ops.powers import Reciprocal, Square
from verifier.ops.registry import Call, importer, register
from verifier.ops.shape import reindexed
from verifier.ops.smooth import Erf, Sigmoid
from verifier.types import Shape

MOST_CLASSES = 64  # of a softmax, whose exponentials are as many as pairs of classes


@register
@dataclass(frozen=True, eq=False)
class SumDifference(Affine):
    """`a x + y / a` and `a x - y / a` of two inputs of equal shape, that of a > 0, stacked along a new first axis."""

    a: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        x, y = inputs[0] * self.a, inputs[1] / self.a
        return torch.stack((x + y, x - y), 1)

    def magnitude(self, *radii: Tensor) -> Tensor:
        total = radii[0] * self.a + radii[1] / self.a
        return torch.stack((total, total), 1)

    def transpose(self, A: Coefficients, *shapes: Shape) -> list[Coefficients]:
        plus, minus = dense(A).unbind(2)
        return [(plus + minus) * self.a, (plus - minus) / self.a]


@register
@dataclass(frozen=True, eq=False)
class QuarterDifference(Affine):
    """A quarter of the difference of the two halves of its input along the first axis."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return (inputs[0][:, 0] - inputs[0][:, 1]) / 4

    def magnitude(self, *radii: Tensor) -> Tensor:
        return radii[0].sum(1) / 4

    def transpose(self, A: Coefficients, *shapes: Shape) -> list[Coefficients]:
        quarter = dense(A) / 4
        return [torch.stack((quarter, -quarter), 2)]


def multiplied(call: Call, left: int, right: int) -> int:
    """Append the elementwise product of two nodes, which broadcast."""
    if left == right:
        return call.add(Square(), left)
    if (known := _gate(call, left, right)) is not None:
        return known
    x, y = together(call, left, right)
    both = call.add(SumDifference(torch.ones(call.builder.shape(x))), x, y)
    return call.add(QuarterDifference(), call.add(Square(), both))


def _gate(call: Call, left: int, right: int) -> int | None:
    """x sigmoid(x), and x (1 + erf(k x)), which exporters write for SiLU and GELU, as one activation; else None."""
    nodes = call.builder.nodes
    for x, gate in ((left, right), (right, left)):
        node = nodes[gate]
        if isinstance(node.op, Sigmoid) and node.inputs == (x,):
            return call.add(Silu(), x)
        if not (isinstance(node.op, Rescale) and bool((node.op.scale == 1).all() & (node.op.shift == 1).all())):
            continue
        erf = nodes[node.inputs[0]]
        scaled = nodes[erf.inputs[0]] if isinstance(erf.op, Erf) else None
        if scaled is None or scaled.inputs != (x,) or not isinstance(scaled.op, Rescale) or scaled.has_constant:
            continue
        k = scaled.op.scale.unique()
        if len(k) == 1 and k > 0:
            k = math.sqrt(2) * float(k)
            return rescaled(call, call.add(Gelu(), rescaled(call, x, k, 0.0)), 2 / k, 0.0)
    return None


@importer(onnx=["Mul"], aten=["mul.Tensor", "mul.Scalar"])
def import_mul(call: Call) -> int:
    left, right = call.inputs
    if isinstance(left, int) and isinstance(right, int):
        return multiplied(call, left, right)
    return rescaled(call, left, right, 0.0) if isinstance(left, int) else rescaled(call, right, left, 0.0)


@importer(onnx=["Div"], aten=["div.Tensor", "div.Scalar"])
def import_div(call: Call) -> int:
    left, right = call.inputs
    if not isinstance(right, int):
        return rescaled(call, call.node(), 1 / call.weight(1).double(), 0.0)
    inverse = call.add(Reciprocal(), right)
    return multiplied(call, left, inverse) if isinstance(left, int) else rescaled(call, inverse, left, 0.0)


@importer(onnx=["MatMul"], aten=["matmul", "mm", "bmm"])
def import_matmul(call: Call) -> int:
    left, right = call.inputs
    if isinstance(left, int) and isinstance(right, int):
        return _matrix_product(call, left, right)
    if isinstance(left, int):
        return product(call, left, right)
    x, turned = call.node(1), left.mT if left.dim() > 1 else left
    if len(call.builder.shape(x)) == 1 and not call.batched:
        return product(call, x, turned)
    if len(call.builder.shape(x)) < 2:
        raise call.refusal("a constant times a node sums over the batch axis (axis 0)")
    y = product(call, reindexed(call, x, lambda t: t.transpose(-1, -2)), turned)
    return y if left.dim() == 1 else reindexed(call, y, lambda t: t.transpose(-1, -2))


def _matrix_product(call: Call, left: int, right: int) -> int:
    """Append the product of two nodes that are matrices, or stacks of them."""
    shapes = call.builder.shape(left), call.builder.shape(right)
    if min(map(len, shapes)) < 2 or shapes[0][-1] != shapes[1][-2]:
        raise call.refusal(f"a product of two nodes of shapes {shapes[0]} and {shapes[1]}")
    rows = reindexed(call, left, lambda t: t.unsqueeze(-2))
    columns = reindexed(call, right, lambda t: t.transpose(-1, -2).unsqueeze(-3))
    terms = multiplied(call, rows, columns)
    return call.add(Reduce((len(call.builder.shape(terms)) - 1,), False, 1.0), terms)


@importer(onnx=["Softmax", "LogSoftmax"], aten=["softmax.int", "log_softmax.int"], module=["Softmax", "LogSoftmax"])
def import_softmax(call: Call) -> int:
    """1 / sum_j exp(x_j - x_i), or minus the logarithm of that sum."""
    x, axis = call.node(), call.attributes.get("dim", call.attributes.get("axis", -1))
    if axis is None:
        raise call.refusal("it states no axis")
    place = call.axis(axis, len(call.shape())) + call.batched
    if call.attributes.get("flattened"):  # ONNX before operator set 13: over this axis and all behind it
        moved = reindexed(call, x, lambda t: t.flatten(place))
    else:
        moved = reindexed(call, x, lambda t: t.movedim(place, -1))
    found = _softmax(call, moved, "log" in call.operator.lower())
    if call.attributes.get("flattened"):
        behind = call.shape()[place - call.batched :]
        return reindexed(call, found, lambda t: t.unflatten(-1, behind))
    return reindexed(call, found, lambda t: t.movedim(-1, place))


def _softmax(call: Call, x: int, log: bool) -> int:
    """Append the softmax over the last axis."""
    n = call.builder.shape(x)[-1]
    if n > MOST_CLASSES:
        way_out = "a statement about the largest output holds for the logits: export the network without it"
        raise call.refusal(f"over {n} values (at most {MOST_CLASSES} are supported); {way_out}")
    one = torch.eye(n, dtype=torch.float64)
    differences = (one.unsqueeze(0) - one.unsqueeze(1)).reshape(n * n, n)  # row (i, j): x_j - x_i
    terms = call.add(Exp(), call.add(Linear(differences, None), x))
    total = call.add(Linear(one.repeat_interleave(n, 1), None), terms)
    return rescaled(call, call.add(Log(), total), -1.0, 0.0) if log else call.add(Reciprocal(), total)
