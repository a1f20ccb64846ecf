"""Powers, whole ones and the square root and the reciprocal of positive numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verifier.ops.base import Activation
from verifier.ops.curved import POSITIVE, Curved, positive
from verifier.ops.registry import Call, importer, register


@register
@dataclass(frozen=True, eq=False)
class Square(Curved):
    """z * z."""

    turns: ClassVar[tuple[float, ...]] = (0.0,)

    @property
    def convex(self) -> tuple[bool, ...]:
        return (True,)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * inputs[0]

    def slope(self, z: Tensor) -> Tensor:
        return 2 * z

    def touch(self, m: Tensor, a: Tensor, b: Tensor, convex: Tensor) -> Tensor:
        return m / 2


@register
@dataclass(frozen=True, eq=False)
class Power(Curved):
    """z to a whole power, at least 3."""

    turns: ClassVar[tuple[float, ...]] = (0.0,)
    inflections: ClassVar[tuple[float, ...]] = (0.0,)

    exponent: int

    @property
    def convex(self) -> tuple[bool, ...]:
        return (self.exponent % 2 == 0, True)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].pow(self.exponent)

    def slope(self, z: Tensor) -> Tensor:
        return self.exponent * z.pow(self.exponent - 1)


@register
@dataclass(frozen=True, eq=False)
class Sqrt(Curved):
    """The square root of z > 0."""

    domain: ClassVar[tuple[float, float]] = POSITIVE

    @property
    def convex(self) -> tuple[bool, ...]:
        return (False,)

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].sqrt()

    def slope(self, z: Tensor) -> Tensor:
        return 0.5 / z.sqrt()

    def touch(self, m: Tensor, a: Tensor, b: Tensor, convex: Tensor) -> Tensor:
        return (0.5 / positive(m)).square()


@register
@dataclass(frozen=True, eq=False)
class Reciprocal(Curved):
    """1 / z, bounded for z > 0."""

    domain: ClassVar[tuple[float, float]] = POSITIVE

    @property
    def convex(self) -> tuple[bool, ...]:
        return (True,)

    def forward(self, *inputs: Tensor) -> Tensor:
        return 1 / inputs[0]

    def slope(self, z: Tensor) -> Tensor:
        return -1 / (z * z)

    def touch(self, m: Tensor, a: Tensor, b: Tensor, convex: Tensor) -> Tensor:
        return 1 / positive(-m).sqrt()


SPECIAL: dict[float, Callable[[], Activation]] = {-1.0: Reciprocal, 0.5: Sqrt, 2.0: Square}


@importer(onnx=["Sqrt"], aten=["sqrt"])
def import_sqrt(call: Call) -> int:
    return call.add(Sqrt(), call.node())


@importer(onnx=["Reciprocal"], aten=["reciprocal"])
def import_reciprocal(call: Call) -> int:
    return call.add(Reciprocal(), call.node())


@importer(onnx=["Pow"], aten=["pow.Tensor_Scalar", "square"])
def import_power(call: Call) -> int:
    given = 2.0 if call.operator == "square" else call.attributes.get("exponent")
    exponents = call.distinct(1) if given is None else torch.tensor([float(given)])
    if len(exponents) != 1:
        raise call.refusal("an exponent that is not one constant")
    exponent = float(exponents)
    if exponent == 1:
        return call.node()
    if exponent in SPECIAL:
        return call.add(SPECIAL[exponent](), call.node())
    if not (exponent >= 3 and exponent.is_integer()):
        raise call.refusal(f"exponent {exponent:g} (supported: -1, 0.5 and whole numbers from 1)")
    return call.add(Power(int(exponent)), call.node())
