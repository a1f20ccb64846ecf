"""Products of a number with a gate that it opens itself: GELU, SiLU and the hard swish; and hard sigmoids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verifier.ops.affine import rescaled
from verifier.ops.curved import Curved
from verifier.ops.registry import Call, importer, register
from verifier.ops.relu import Clip
from verifier.types import Interval


@register
@dataclass(frozen=True, eq=False)
class Gelu(Curved):
    """z times the normal distribution function of z."""

    grain: ClassVar[float] = 1.0
    inflections: ClassVar[tuple[float, ...]] = (-math.sqrt(2), math.sqrt(2))
    turns: ClassVar[tuple[float, ...]] = (-0.7517915246935645,)

    @property
    def convex(self) -> tuple[bool, ...]:
        return (False, True, False)

    def forward(self, *inputs: Tensor) -> Tensor:
        return 0.5 * inputs[0] * torch.special.erfc(inputs[0] * -math.sqrt(0.5))

    def slope(self, z: Tensor) -> Tensor:
        return 0.5 * torch.special.erfc(z * -math.sqrt(0.5)) + z * (z * z / -2).exp() / math.sqrt(2 * math.pi)


@register
@dataclass(frozen=True, eq=False)
class Silu(Curved):
    """z times its sigmoid, also known as swish."""

    inflections: ClassVar[tuple[float, ...]] = (-2.399357280515468, 2.399357280515468)
    turns: ClassVar[tuple[float, ...]] = (-1.2784645427610738,)

    @property
    def convex(self) -> tuple[bool, ...]:
        return (False, True, False)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * inputs[0].sigmoid()

    def slope(self, z: Tensor) -> Tensor:
        s = z.sigmoid()
        return s * (1 + z * (1 - s))


@register
@dataclass(frozen=True, eq=False)
class HardSwish(Curved):
    """z * min(max(z / 6 + 1/2, 0), 1)."""

    grain: ClassVar[float] = 1.0
    inflections: ClassVar[tuple[float, ...]] = (-3.0, 3.0)
    turns: ClassVar[tuple[float, ...]] = (-1.5,)

    @property
    def convex(self) -> tuple[bool, ...]:
        return (True, True, True)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * (inputs[0] + 3).clamp(0, 6) / 6

    def slope(self, z: Tensor) -> Tensor:
        inside = (z > -3) & (z < 3)
        return torch.where(inside, (2 * z + 3) / 6, (z >= 3).to(z))

    def steepest(self, z: Interval) -> Tensor:
        return torch.full_like(z.lower, 1.5)


@importer(onnx=["Gelu"], aten=["gelu"], module=["GELU"])
def import_gelu(call: Call) -> int:
    if call.attributes.get("approximate", "none") != "none":
        raise call.refusal("the approximation by tanh; export the exact function")
    return call.add(Gelu(), call.node())


@importer(aten=["silu"], module=["SiLU"])
def import_silu(call: Call) -> int:
    return call.add(Silu(), call.node())


@importer(onnx=["HardSwish"], aten=["hardswish"], module=["Hardswish"])
def import_hard_swish(call: Call) -> int:
    return call.add(HardSwish(), call.node())


@importer(onnx=["HardSigmoid"], aten=["hardsigmoid"], module=["Hardsigmoid"])
def import_hard_sigmoid(call: Call) -> int:
    default = 0.2 if call.operator == "HardSigmoid" else 1 / 6
    a, b = call.attributes.get("alpha", default), call.attributes.get("beta", 0.5)
    return call.add(Clip(0.0, 1.0), rescaled(call, call.node(), a, b))
