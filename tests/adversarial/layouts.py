"""ONNX networks of odd but legal layouts: constants wider than what they meet, axes of size 1, rare attributes.

As onnxruntime takes them; what it refuses is left out. Ops that `tests/conformance/random_onnx.py` leaves out as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from growing import Growing, Operators, Shape

Make = Callable[["Net", str, Shape], str]
SHAPES: tuple[Shape, ...] = ((1, 1), (1, 3), (1, 1, 2), (1, 2, 1), (1, 2, 3, 3), (1, 4, 2, 2), (1, 1, 4, 4), (3,), (1,),
                             (1, 1, 1, 1), (1, 3, 1, 2), (1, 2, 2, 2, 2))  # fmt: skip
OPSETS = range(7, 23)
OPERATORS: list[tuple[Make, range]] = []


class Net(Growing):
    """Network `seed`."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng([seed, 77])
        opset, shape = OPSETS[int(draw.integers(len(OPSETS)))], SHAPES[int(draw.integers(len(SHAPES)))]
        super().__init__(draw, opset, shape, steps=int(draw.integers(1, 5)))

    @property
    def operators(self) -> Operators:
        return OPERATORS

    def fits(self, y: np.ndarray) -> bool:
        return super().fits(y) and y.ndim <= 6 and bool(np.isfinite(y).all())

    # --- What operators are made of. ---
    def chance(self, share: float) -> bool:
        return bool(self.draw.random() < share)

    def some(self, count: int, fewest: int = 1) -> list[int]:
        """Some axes of so many, in any order."""
        return self.draw.permutation(count)[: int(self.draw.integers(fewest, count + 1))].tolist()

    def from_end(self, axes: Sequence[int], rank: int) -> list[int]:
        """Axes of which some are counted from the end, where the operator set allows it."""
        return [axis - rank if self.opset >= 11 and self.chance(0.4) else axis for axis in axes]

    def weight(self, *shape: int) -> str:
        return self.store(self.draw.normal(size=shape), np.float32)

    def wider(self, shape: Shape) -> list[int]:
        """A shape that broadcasts with this one, and perhaps makes it larger."""
        sizes = [self.pick(n, 1) if n > 1 else self.pick(1, 1, 2, 3) for n in shape]
        sizes = sizes[int(self.draw.integers(len(sizes) + 1)) :] if self.chance(0.4) else sizes
        return [self.pick(1, 2), *sizes] if self.chance(0.1) else sizes


def made_for(ranks: range = range(7), weight: int = 1) -> Callable[[Make], Make]:
    """Function decorator: use it on values of these ranks, so many times as often as others."""

    def listed(make: Make) -> Make:
        OPERATORS.extend([(make, ranks)] * weight)
        return make

    return listed


MAPS = range(3, 6)


@made_for(weight=3)
def elementwise(net: Net, x: str, shape: Shape) -> str:
    kind, size = net.pick("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Pow", "PRelu"), net.wider(shape)
    if kind in ("Pow", "PRelu"):
        number = net.pick(2.0, 3.0, 1.0) if kind == "Pow" else 0.25
        return net.add(kind, [x, net.store(np.full(size, number), np.float32)])
    inputs = [x, net.weight(*size)][:: net.pick(1, -1)]
    more = [net.weight(*net.wider(shape))] if kind in ("Max", "Min", "Sum") and net.chance(0.5) else []
    return net.add(kind, inputs + more)


@made_for(weight=2)
def of_two(net: Net, x: str, shape: Shape) -> str:
    kind, other = net.pick("Add", "Sub", "Mul", "Max", "Min", "Sum", "Concat"), net.pick(*net.values)
    axis = {"axis": int(net.draw.integers(-len(shape), len(shape) + 1))} if kind == "Concat" else {}
    return net.add(kind, [x, other], **axis)


@made_for(weight=2)
def reshaped(net: Net, x: str, shape: Shape) -> str:
    size = int(np.prod(shape))
    part = net.pick(*(n for n in range(1, size + 1) if size % n == 0))
    free = list(shape)
    free[int(net.draw.integers(len(free)))] = -1
    sizes = net.pick(
        [net.pick(0, n) for n in shape], free, [*shape, 1], [1, part, -1], [part, -1], [1, -1], [0, -1], [-1]
    )
    return net.add(
        "Reshape", [x, net.store(sizes)], **({"allowzero": 1} if net.opset >= 14 and net.chance(0.2) else {})
    )


@made_for(range(2, 3), 4)
def gemm(net: Net, x: str, shape: Shape) -> str:
    first, second, outer = net.pick(0, 0, 0, 1), net.pick(0, 1), int(net.draw.integers(1, 4))
    height, width = shape[::-1] if first else shape
    inputs = [x, net.weight(*((outer, width) if second else (width, outer)))]
    if net.opset < 11 or net.chance(0.8):
        inputs.append(net.weight(*net.pick((), (1,), (outer,), (1, outer), (height, outer), (height, 1), (1, 1))))
    scales = {name: net.pick(0.5, -2.0, 0.0, 1.0) for name in ("alpha", "beta") if net.chance(0.5)}
    return net.add("Gemm", inputs, transA=first, transB=second, **scales)


@made_for(range(1, 6), 2)
def product(net: Net, x: str, shape: Shape) -> str:
    outer, kind = int(net.draw.integers(1, 4)), int(net.draw.integers(5))
    before = net.pick((1,), (2,), shape[:-2])
    if kind == 0:
        return net.add("MatMul", [net.weight(outer, shape[-2:][0]), x])
    if kind == 1:
        return net.add("MatMul", [net.weight(*before, outer, shape[-2:][0]), x])
    return net.add(
        "MatMul", [x, net.weight(*((shape[-1],), (shape[-1], outer), (*before, shape[-1], outer))[kind - 2])]
    )


def moving(net: Net, spatial: int, dilated: bool) -> dict[str, Any]:
    """How windows move over maps."""
    how = {}
    if net.chance(0.6):
        how["pads"] = net.whole(0, 2, 2 * spatial)
    elif net.chance(0.5):
        how["auto_pad"] = net.pick("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")
    if net.chance(0.5):
        how["strides"] = net.whole(1, 3, spatial)
    if dilated and net.chance(0.4):
        how["dilations"] = net.whole(1, 3, spatial)
    return how


@made_for(MAPS, 2)
def convolved(net: Net, x: str, shape: Shape) -> str:
    spatial, channels = len(shape) - 2, shape[1]
    groups, kernel = net.pick(1, channels, *([2] if channels % 2 == 0 else [])), net.whole(1, 3, len(shape) - 2)
    outer, how = groups * int(net.draw.integers(1, 3)), moving(net, spatial, dilated=True)
    bias = net.pick([], [net.weight(outer)])
    if net.chance(0.6):
        how |= net.pick({}, {"kernel_shape": kernel})
        return net.add("Conv", [x, net.weight(outer, channels // groups, *kernel), *bias], group=groups, **how)
    how |= net.pick({}, {"output_padding": net.whole(0, 1, spatial)})
    return net.add("ConvTranspose", [x, net.weight(channels, outer // groups, *kernel), *bias], group=groups, **how)


@made_for(MAPS, 2)
def pooled(net: Net, x: str, shape: Shape) -> str:
    kind = net.pick("MaxPool", "AveragePool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
    if kind[0] == "G":
        return net.add(kind, [x])
    how = moving(net, len(shape) - 2, dilated=net.opset >= (10 if kind == "MaxPool" else 19))
    how |= {"ceil_mode": 1} if net.opset >= 10 and net.chance(0.4) else {}
    how |= net.pick({}, {"count_include_pad": 0}, {"count_include_pad": 1}) if kind == "AveragePool" else {}
    how |= {"storage_order": 1} if kind == "MaxPool" and net.opset >= 8 and net.chance(0.1) else {}
    return net.add(kind, [x], kernel_shape=net.whole(1, 3, len(shape) - 2), **how)


@made_for(range(2, 6), 2)
def normalised(net: Net, x: str, shape: Shape) -> str:
    parts = [net.weight(shape[1]) for _ in range(3)]
    spread = net.store(net.draw.uniform(1e-6, 2, shape[1]), np.float32)
    how = net.pick({}, {"epsilon": 0.0}, {"epsilon": 1e-2}, {"momentum": 0.5})
    how |= net.pick({}, {"spatial": 1} if net.opset < 9 else {"training_mode": 0} if net.opset >= 14 else {})
    return net.add("BatchNormalization", [x, *parts, spread], **how)
