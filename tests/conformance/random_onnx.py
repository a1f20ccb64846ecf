"""Random ONNX networks, operator by operator; what onnxruntime does not run is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from growing import Growing, Operators, Shape
from onnx import TensorProto, numpy_helper

SHAPES: tuple[Shape, ...] = ((1, 5), (1, 2, 5, 4), (1, 3, 6), (4,), (1, 2, 2, 4, 4), (1, 1, 3, 3))
OPSETS = range(7, 22)


class Network(Growing):
    """Network `seed`."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        opset, shape = int(draw.choice(OPSETS)), SHAPES[int(draw.integers(len(SHAPES)))]
        super().__init__(draw, opset, shape, steps=int(draw.integers(1, 7)))

    @property
    def operators(self) -> Operators:
        return OPERATORS

    def fits(self, y: np.ndarray) -> bool:
        return super().fits(y) and y.ndim <= 5

    # --- What operators are made of. ---
    def weight(self, *shape: int) -> str:
        """Random numbers, stored plainly or computed from what is stored."""
        values = self.draw.normal(size=shape).astype(np.float32)
        kind = int(self.draw.integers(12))
        if kind == 0:
            return self.add("Neg", [self.store(values, np.float32)])
        if kind < 3:
            return self.add("Cast", [self.store(values, (np.float16, np.float64)[kind - 1])], to=TensorProto.FLOAT)
        if kind < 6:
            return self.add("Constant", [], value=numpy_helper.from_array(values))
        return self.store(values, np.float32)

    def broadcasting(self, shape: Shape) -> Shape:
        """A shape that broadcasts to this one, mostly."""
        some = tuple(n if self.draw.random() < 0.6 else 1 for n in shape)
        return self.pick((), (1,), some, some[int(self.draw.integers(len(some) + 1)) :], (1, *some))

    def axes(self, rank: int, fewest: int = 0) -> list[int]:
        chosen = self.draw.choice(rank, int(self.draw.integers(fewest, rank + 1)), replace=False).tolist()
        return [axis - rank if self.opset >= 11 and self.draw.random() < 0.3 else axis for axis in chosen]

    def maps(self, spatial: int, pooling: bool) -> tuple[list[int], dict[str, Any]]:
        """A kernel, and how it moves over maps."""
        kernel, given = self.whole(1, 3, spatial), {}
        if self.draw.random() < 0.5:
            given["strides"] = self.whole(1, 3, spatial)
        if self.draw.random() < 0.3:
            given["dilations"] = self.whole(1, 2, spatial)
        padding = self.pick("", "pads", "pads", "auto_pad")
        if padding == "pads":
            given["pads"] = [int(self.draw.integers(k if pooling else 3)) for k in kernel * 2]
        elif padding:
            given["auto_pad"] = self.pick("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")
        return kernel, given


Make = Callable[[Network, str, Shape], str]
OPERATORS: list[tuple[Make, range]] = []


def made_for(ranks: range, weight: int = 1) -> Callable[[Make], Make]:
    """Function decorator: use it on values of these ranks, so many times as often as others."""

    def listed(make: Make) -> Make:
        OPERATORS.extend([(make, ranks)] * weight)
        return make

    return listed


ANY, MAPS = range(1, 6), range(3, 6)


@made_for(ANY, 2)
def activation(net: Network, x: str, shape: Shape) -> str:
    kind = net.pick("Relu", "Abs", "Neg", "Sigmoid", "Tanh", "LeakyRelu", "PRelu", "Clip", "Cast")
    if kind == "LeakyRelu":
        return net.add(kind, [x], **net.pick({}, {"alpha": net.pick(0.5, -0.5, 1.5)}))
    if kind == "PRelu":
        return net.add(kind, [x, net.store(np.full(net.broadcasting(shape), net.pick(0.25, -0.5)), np.float32)])
    if kind == "Clip" and net.opset < 11:
        return net.add(kind, [x], **net.pick({"min": -0.5, "max": 0.5}, {"min": 0.1}, {"max": 0.3}, {}))
    if kind == "Clip":
        low, high = net.store(-0.5, np.float32), net.store(net.pick(0.5, -0.5), np.float32)
        return net.add(kind, [x, *net.pick([low, high], [low], ["", high], [])])
    if kind == "Cast":
        short = net.add(kind, [x], to=net.pick(TensorProto.DOUBLE, TensorProto.FLOAT16))
        return net.add(kind, [short], to=TensorProto.FLOAT)
    return net.add(kind, [x])


@made_for(ANY, 2)
def curved(net: Network, x: str, shape: Shape) -> str:
    kind = net.pick("Exp", "Sin", "Cos", "Erf", "Atan", "Softsign", "Softplus", "Elu", "Selu", "HardSigmoid", "Gelu",
                    "HardSwish", "Pow", "Log", "Sqrt", "Reciprocal", "Softmax", "LogSoftmax", "Celu")  # fmt: skip
    if kind in ("Log", "Sqrt", "Reciprocal"):
        return net.add(kind, [net.add("Exp", [net.add("Tanh", [x])])])
    if kind == "Pow":
        return net.add(kind, [x, net.store(net.pick(2, 3, 1, 4), np.float32)])
    if kind == "Exp":
        return net.add(kind, [net.add("Softsign", [x])])
    if kind.endswith("Softmax"):
        return net.add(kind, [x], **net.pick({}, {"axis": net.pick(-1, len(shape) - 1, 1)}))
    return net.add(kind, [x], **net.pick({}, {"alpha": 0.5}) if kind in ("Elu", "Selu", "Celu") else {})


@made_for(ANY, 2)
def of_two(net: Network, x: str, shape: Shape) -> str:
    """Products and quotients of nodes."""
    other = net.pick(x, *net.values)
    kind = net.pick("Mul", "Div", "MatMul")
    if kind == "Div":
        other = net.add("Exp", [net.add("Tanh", [other])])
    if kind == "MatMul":
        turned = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        other = net.add("Transpose", [net.add("Tanh", [x])], perm=turned)
    return net.add(kind, [x, other])


@made_for(range(4, 5), 2)
def resized(net: Network, x: str, shape: Shape) -> str:
    scales = net.store([1, 1, *(net.pick(1.0, 2.0, 1.5, 3.0, 0.5) for _ in range(2))], np.float32)
    mode = net.pick("nearest", "linear")
    if net.opset < 11:
        return net.add("Upsample" if net.opset == 9 else "Resize", [x, scales], mode=mode)
    way = net.pick("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    rule = net.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    how = {"mode": mode, "coordinate_transformation_mode": way, "nearest_mode": rule}
    return net.add("Resize", [x, net.store([], np.float32), scales], **how)


@made_for(ANY, 2)
def arithmetic(net: Network, x: str, shape: Shape) -> str:
    pair = [x, net.weight(*net.broadcasting(shape))]
    return net.add(net.pick("Add", "Sub", "Mul", "Div"), pair[:: net.pick(1, -1)])


@made_for(ANY, 2)
def of_several(net: Network, x: str, shape: Shape) -> str:
    others = [net.pick(*net.values), x, net.weight(*net.broadcasting(shape))]
    inputs = [x, *(others[i] for i in net.whole(0, 2, int(net.draw.integers(3))))]
    net.draw.shuffle(inputs)
    return net.add(net.pick("Max", "Min", "Sum"), inputs)


@made_for(ANY)
def joined(net: Network, x: str, shape: Shape) -> str:
    inputs = [x, net.pick(x, *net.values)]
    if net.draw.random() < 0.3:
        inputs.append(net.weight(*shape))
    net.draw.shuffle(inputs)
    axis = int(net.draw.integers(-len(shape), len(shape)))
    return net.add("Concat", inputs, axis=axis) if net.draw.random() < 0.5 else net.add("Sub", inputs[:2])


@made_for(ANY, 2)
def reshaped(net: Network, x: str, shape: Shape) -> str:
    kind, rank = net.pick("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand"), len(shape)
    if kind == "Reshape":
        first = net.add("Gather", [net.add("Shape", [x]), net.store([0])], axis=0)
        rest = net.add("Concat", [first, net.store([-1])], axis=0)
        return net.add(kind, [x, net.pick(rest, net.store([1, -1]), net.store([0, -1]), net.store([*shape[::-1]]))])
    if kind == "Flatten":
        return net.add(kind, [x], **net.pick({}, {"axis": int(net.draw.integers(rank + 1))}))
    if kind == "Transpose":
        return net.add(kind, [x], **net.pick({}, {"perm": [0, *(net.draw.permutation(rank - 1) + 1).tolist()]}))
    if kind == "Expand":
        longer = [net.pick(n, 1, 3) if n == 1 else n for n in shape]
        return net.add(kind, [x, net.store(net.pick(longer, [2, *longer], longer[1:]))])
    alone = [i for i, n in enumerate(shape) if n == 1 and net.draw.random() < 0.5]
    axes = alone if kind == "Squeeze" else [int(net.draw.integers(rank + 1))]
    if not axes:
        return net.add(kind, [x])
    return net.add(kind, [x, net.store(axes)]) if net.opset >= 13 else net.add(kind, [x], axes=axes)


@made_for(ANY, 2)
def taken(net: Network, x: str, shape: Shape) -> str:
    rank = len(shape)
    axis = int(net.draw.integers(-rank, rank))
    if net.draw.random() < 0.5:
        index = net.draw.integers(-shape[axis] if net.opset >= 11 else 0, shape[axis], net.pick((), (2,), (2, 2)))
        return net.add("Gather", [x, net.store(index)], axis=axis)
    axes = net.axes(rank, 1)
    starts, steps = [net.whole(-shape[a] - 1, shape[a], 1)[0] for a in axes], net.whole(1, 2, len(axes))
    ends = [net.pick(shape[a], 2**31 - 1, -1) for a in axes]
    if net.opset < 10:
        return net.add("Slice", [x], starts=starts, ends=ends, axes=axes)
    steps = [net.pick(step, -step) for step in steps]
    return net.add("Slice", [x, *(net.store(v) for v in (starts, ends, axes, steps)[: net.pick(2, 3, 4)])])


@made_for(ANY)
def padded(net: Network, x: str, shape: Shape) -> str:
    pads = net.whole(-1 if net.draw.random() < 0.3 else 0, 2, 2 * len(shape))
    pads[0] = pads[len(shape)] = 0
    if net.opset < 11:
        return net.add("Pad", [x], pads=pads, **net.pick({"value": 1.5}, {}))
    return net.add("Pad", [x, net.store(pads), *net.pick([], [net.store(1.5, np.float32)])])


@made_for(ANY)
def reduced(net: Network, x: str, shape: Shape) -> str:
    kind = net.pick("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin")
    axes, how = net.axes(len(shape)), net.pick({}, {"keepdims": 0})
    if net.opset >= (13 if kind == "ReduceSum" else 18):
        how = {**how, **net.pick({}, {"noop_with_empty_axes": 1})}
        return net.add(kind, [x, net.store(axes)], **how)
    return net.add(kind, [x], **how, **({"axes": axes} if axes else {}))


@made_for(ANY, 3)
def product(net: Network, x: str, shape: Shape) -> str:
    outer = int(net.draw.integers(1, 5))
    if len(shape) == 2 and net.draw.random() < 0.5:
        turned, by = net.pick(0, 1), net.pick({}, {"alpha": -0.5, "beta": 0.3})
        inputs = [x, net.weight(*((outer, shape[1]) if turned else (shape[1], outer)))]
        if net.opset < 11 or net.draw.random() < 0.7:
            inputs.append(net.weight(*net.pick((outer,), (1, outer), (1,), ())))
        return net.add("Gemm", inputs, transB=turned, **by)
    if net.draw.random() < 0.3:
        return net.add("MatMul", [net.weight(*net.pick((outer, shape[-2:][0]), (shape[-2:][0],))), x])
    return net.add("MatMul", [x, net.weight(*net.pick((shape[-1], outer), (shape[-1],), (1, shape[-1], 2)))])


@made_for(range(2, 6), 2)
def normalised(net: Network, x: str, shape: Shape) -> str:
    scale, shift, mean = (net.weight(shape[1]) for _ in range(3))
    spread = net.store(net.draw.uniform(0.01, 2, shape[1]), np.float32)
    return net.add("BatchNormalization", [x, scale, shift, mean, spread], **net.pick({}, {"epsilon": 1e-3}))


@made_for(MAPS, 4)
def convolved(net: Network, x: str, shape: Shape) -> str:
    kernel, how = net.maps(len(shape) - 2, pooling=False)
    groups, outer = net.pick(1, shape[1]), int(net.draw.integers(1, 3))
    if net.draw.random() < 0.7:
        weight = net.weight(outer * groups, shape[1] // groups, *kernel)
        return net.add("Conv", [x, weight, *net.pick([], [net.weight(outer * groups)])], group=groups, **how)
    more = net.pick({}, {}, {"output_padding": [1] * len(kernel)}, {"output_shape": net.whole(2, 8, len(kernel))})
    return net.add("ConvTranspose", [x, net.weight(shape[1], outer, *kernel)], group=groups, **how, **more)


@made_for(MAPS, 4)
def pooled(net: Network, x: str, shape: Shape) -> str:
    kind = net.pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
    if kind[0] == "G":
        return net.add(kind, [x])
    kernel, how = net.maps(len(shape) - 2, pooling=True)
    more = net.pick({}, {"ceil_mode": 1}) if net.opset >= 10 else {}
    more |= net.pick({}, {"count_include_pad": 1}) if kind[0] == "A" else {}
    return net.add(kind, [x], kernel_shape=kernel, **how, **more)
