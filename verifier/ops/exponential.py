"""The exponential function, the logarithm, and what is built from them: softplus, ELU and its kin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from verifier.ops.affine import rescaled
from verifier.ops.curved import POSITIVE, Curved, positive
from verifier.ops.registry import Call, importer, register
from verifier.types import Interval

SELU = (1.6732632423543772848, 1.0507009873554804934)  # alpha and gamma


@register
@dataclass(frozen=True, eq=False)
class Exp(Curved):
    """e to the power of z."""

    @property
    def convex(self) -> tuple[bool, ...]:
        return (True,)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].exp()

    def slope(self, z: Tensor) -> Tensor:
        return z.exp()

    def touch(self, m: Tensor, a: Tensor, b: Tensor, convex: Tensor) -> Tensor:
        return positive(m).log()


@register
@dataclass(frozen=True, eq=False)
class Log(Curved):
    """The natural logarithm of z > 0."""

    domain: ClassVar[tuple[float, float]] = POSITIVE

    @property
    def convex(self) -> tuple[bool, ...]:
        return (False,)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].log()

    def slope(self, z: Tensor) -> Tensor:
        return 1 / z

    def touch(self, m: Tensor, a: Tensor, b: Tensor, convex: Tensor) -> Tensor:
        return 1 / positive(m)


@register
@dataclass(frozen=True, eq=False)
class Softplus(Curved):
    """log(1 + exp(z))."""

    @property
    def convex(self) -> tuple[bool, ...]:
        return (True,)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].clamp(min=0) + inputs[0].abs().neg().exp().log1p()

    def slope(self, z: Tensor) -> Tensor:
        return z.sigmoid()


@register
@dataclass(frozen=True, eq=False)
class Elu(Curved):
    """z for z > 0, a (exp(z) - 1) below, a > 0."""

    inflections: ClassVar[tuple[float, ...]] = (0.0,)

    a: float

    @property
    def convex(self) -> tuple[bool, ...]:
        return (True, True)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].clamp(min=0) + self.a * inputs[0].clamp(max=0).expm1()

    def slope(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, 1.0, self.a * z.clamp(max=0).exp())

    def steepest(self, z: Interval) -> Tensor:
        return super().steepest(z).clamp(min=1.0)


@importer(onnx=["Exp"], aten=["exp"])
def import_exp(call: Call) -> int:
    return call.add(Exp(), call.node())


@importer(onnx=["Log"], aten=["log"])
def import_log(call: Call) -> int:
    return call.add(Log(), call.node())


@importer(onnx=["Softplus"], aten=["softplus"], module=["Softplus"])
def import_softplus(call: Call) -> int:
    beta = call.attributes.get("beta", 1.0)
    if not beta > 0:
        raise call.refusal(f"beta {beta}")
    if call.attributes.get("threshold", 20.0) < 20:  # beyond it torch answers z, which 20 makes equal in float32
        raise call.refusal("a threshold below 20")
    return rescaled(call, call.add(Softplus(), rescaled(call, call.node(), beta, 0.0)), 1 / beta, 0.0)


@importer(onnx=["Elu", "Celu", "Selu"], aten=["elu", "celu", "selu"], module=["ELU", "CELU", "SELU"])
def import_elu(call: Call) -> int:
    default = SELU if call.operator.upper() == "SELU" else (1.0, 1.0)
    if call.operator == "Selu":
        default = float(np.float32(SELU[0])), float(np.float32(SELU[1]))  # ONNX attributes are float32
    a = call.attributes.get("alpha", default[0])
    scale = call.attributes.get("gamma", call.attributes.get("scale", default[1]))
    if call.attributes.get("input_scale", 1.0) != 1 or not (a > 0 and math.isfinite(a) and math.isfinite(scale)):
        raise call.refusal(f"alpha {a}, scale {scale}")
    if call.operator.upper() == "CELU":  # a elu(z / a)
        return rescaled(call, call.add(Elu(1.0), rescaled(call, call.node(), 1 / a, 0.0)), a, 0.0)
    return rescaled(call, call.add(Elu(a), call.node()), scale, 0.0)
