"""ONNX operators as affine ops and activations. One part of the stand-alone checker; it needs only numpy and onnx.

Functions of an operator that computes take the network in the making, the operator's name, its inputs (tensors of
scalars, constants, None where left out) and its attributes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

if __package__:
    from verifier.certificate.building import Building, Wire
    from verifier.certificate.nodes import GREATEST, MOST_VALUES, UNIT, Array, need
    from verifier.certificate.products import matmul, product, softmax
    from verifier.certificate.resizing import resize
else:  # run as a file, with the others beside it
    from building import Building, Wire  # type: ignore
    from nodes import GREATEST, MOST_VALUES, UNIT, Array, need  # type: ignore
    from products import matmul, product, softmax  # type: ignore
    from resizing import resize  # type: ignore

SELU = (1.6732632423543772848, 1.0507009873554804934)  # alpha and gamma, which ONNX holds in float32
SMOOTH = ("Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Erf", "Atan", "Softplus", "Softsign",
          "HardSwish")  # fmt: skip
Attributes = dict[str, Any]


def reference(opsets: Any, op: str, arrays: Sequence[Any], a: Attributes, outputs: int = 1) -> list[Array]:
    """ONNX's own definition of an operator."""
    names = [[f"{letter}{i}" for i in range(count)] for letter, count in (("x", len(arrays)), ("y", outputs))]
    feed = {name: np.asarray(value) for name, value in zip(names[0], arrays, strict=True) if value is not None}
    node = helper.make_node(op, [name * (name in feed) for name in names[0]], names[1], **a)
    ends: Any = [[helper.make_value_info(name, onnx.TypeProto()) for name in some] for some in (feed, names[1])]
    model = helper.make_model(helper.make_graph([node], op, *ends), opset_imports=opsets)
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feed)]


def activation(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    if op == "Relu" and net.merge:
        return net.merged_relu(inputs[0])
    return net.activation(op, inputs[0], -1.0 if op == "Abs" else 0.0)


def smooth(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    return net.smooth(op, inputs[0])


def elu(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    """Elu, Selu, which is a multiple of it, and Celu, which is a elu(z / a)."""
    alpha, gamma = (float(np.float32(x)) for x in (SELU if op == "Selu" else (1.0, 1.0)))
    alpha, gamma = a.get("alpha", alpha), a.get("gamma", gamma)
    need(0 < alpha < 1e30 and math.isfinite(gamma), f"{op} with these parameters is not supported")
    if op == "Celu":
        return net.scaled(net.smooth("Elu", net.scaled(inputs[0], 1 / alpha, 0.0, 1, UNIT), 1.0), alpha, 0.0, 1)
    y = net.smooth("Elu", inputs[0], alpha)
    return y if op == "Elu" else net.scaled(y, gamma, 0.0, 1)


def gelu(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    need(a.get("approximate", b"none") == b"none", "Gelu by an approximation is not supported")
    return net.smooth(op, inputs[0])


def power(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    x, exponent = inputs[0], uniform(op, inputs[0], inputs[1])
    if exponent == 1:
        return x
    if exponent in (-1, 0.5):
        return net.smooth("Sqrt" if exponent > 0 else "Reciprocal", x)
    need(exponent in range(2, 65), "this exponent of Pow is not supported")
    return net.smooth("Power", x, exponent)


def leaky_relu(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    x, y = inputs[:2]
    slope = a.get("alpha", float(np.float32(0.01))) if op == "LeakyRelu" else uniform(op, x, y)
    return net.activation("LeakyRelu", x, slope)


def uniform(op: str, x: Any, y: Array) -> float:
    """The only value of a constant with which broadcasting leaves x its shape."""
    values = np.unique(y)
    plain = len(values) == 1 and np.broadcast_shapes(x.shape, np.shape(y)) == x.shape
    need(plain, f"{op} with several numbers, or axes of its own, is not supported")
    return float(values[0])


def clip(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    x, low, high = inputs[:3]
    low = max(float(a.get("min", -GREATEST) if low is None else low), -GREATEST)
    high = min(float(a.get("max", GREATEST) if high is None else high), GREATEST)
    return net.activation(op, x, 1.0, low, high)


def combination(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    """Sums, differences and extremes of any number of inputs, some of them constant."""
    combine = net.extreme if op in ("Max", "Min") else net.sum
    given = [value for value in inputs if value is not None]
    sign, terms = -1 if op in ("Min", "Sub") else 1, () if op in ("Max", "Min") else (len(given),)  # in any order
    return functools.reduce(lambda one, two: combine(one, two, sign, *terms), given)


def negative(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    return net.scaled(inputs[0], -1.0, 0.0, 0)


def batch_normalization(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    x = inputs[0]
    need(not a.get("training_mode") and a.get("spatial", 1) == 1, "BatchNormalization in training mode")
    scale, shift, mean, variance = (np.reshape(v, (-1,) + (1,) * (x.ndim - 2)) for v in inputs[1:5])
    factor = scale / np.sqrt(variance + a.get("epsilon", float(np.float32(1e-5))))
    return net.scaled(net.sum(x, mean, -1), factor, shift, 8, 8 * UNIT)


def reduction(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    """Means, sums and extremes over axes."""
    x, y = inputs[:2]
    given = range(2, x.ndim) if op[0] == "G" else a.get("axes", range(x.ndim)) if y is None else y.tolist()
    axes = {i % x.ndim for i in given}
    need(axes and not a.get("noop_with_empty_axes"), f"{op} over no axes is not supported")
    kept = [i for i in range(x.ndim) if i not in axes]
    read = x.transpose(*kept, *axes).reshape(*(x.shape[i] for i in kept), -1)
    shape = [1 if i in axes else n for i, n in enumerate(x.shape) if i in kept or a.get("keepdims", 1)]
    if "M" in op and "Mean" not in op:
        return extreme(net, [read[..., i] for i in range(read.shape[-1])], -1 if "Min" in op else 1).reshape(shape)
    return net.mean(read, np.ones(read.shape), op != "ReduceSum").reshape(shape)


def extreme(net: Building, level: list[Any], sign: int) -> Any:
    """The greatest, or least, of tensors of one shape, by a tree, neighbours first."""
    while len(level) > 1:
        pairs = [net.extreme(level[i], level[i + 1], sign) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def hard_sigmoid(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    alpha, beta = a.get("alpha", float(np.float32(0.2))), a.get("beta", 0.5)
    return net.activation("Clip", net.scaled(inputs[0], alpha, beta, 3), 1.0, 0.0, 1.0)


def gemm(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    x, y, z = inputs[:3]
    x, weight = x.T if a.get("transA") else x, y.T if a.get("transB") else y
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    if alpha == beta == 1:
        return net.affine(x[None], weight[None], 0.0 if z is None else z, len(weight) + 2)[0]
    # Before they are scaled, products may overflow, and lose digits to underflow.
    product = net.scaled(net.affine(x[None], weight[None], 0.0, len(weight))[0], alpha, 0.0, 1)
    need(z is None or np.array_equal(z, np.float32(z)), "Gemm with a scaled float64 bias")
    return product if z is None else net.scaled(product, 1.0, beta * z, 3)


# --- Windows. ---
def windows(net: Building, x: Any, kernel: Sequence[int], a: Attributes, op: str = "Conv") -> tuple[Any, Array]:
    """The windows of one map (1, channels, *space): (channels, *places, kernel size), and what is no padding."""
    a = {name: a[name] for name in ("strides", "pads", "dilations", "auto_pad", "output_padding") if name in a}
    sizes, count = [n for value in a.values() if isinstance(value, list) for n in value], math.prod(kernel)
    need(len(x) == 1 and max(sizes, default=1) < 256 and x.size * count < MOST_VALUES, f"{op} is too large")
    units = np.eye(count).reshape((count, 1, *kernel) if op == "Conv" else (1, count, *kernel))
    read = np.moveaxis(reference(net.opsets, op, [x[0][:, None] + 1.0, units], a)[0], 1, -1).astype(np.int64)
    return np.maximum(read - 1, 0), read > 0


def convolution(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    x, y, z = inputs[:3]
    plain = op == "Conv" or not (a.get("output_shape") or a.get("auto_pad", b"NOTSET")[:4] == b"SAME")
    need(plain, "ConvTranspose in padding of its own choice is not supported")
    G, kernel = a.get("group", 1), y.shape[2:]
    y = y.reshape(G, len(y) // G, *y.shape[1:])
    y = y if op == "Conv" else y.swapaxes(1, 2)
    read, _ = windows(net, x, kernel, a, op)
    places, read = read.shape[1:-1], read.reshape(G, len(read) // G, -1, read.shape[-1]).transpose(0, 2, 1, 3)
    weight, bias = y.reshape(*y.shape[:2], -1).swapaxes(1, 2), 0.0 if z is None else z.reshape(G, 1, -1)
    values = net.affine(read.reshape(*read.shape[:2], -1), weight, bias, weight.shape[1])
    return values.swapaxes(1, 2).reshape(1, -1, *places)


def pooling(net: Building, op: str, inputs: list[Any], a: Attributes) -> Any:
    x, kernel = inputs[0], a["kernel_shape"]
    plain = a.get("auto_pad", b"NOTSET")[:4] != b"SAME" or max(a.get("dilations", [1])) == 1
    need(plain, "pooling with dilations in padding of its own choice is not supported")
    if a.get("ceil_mode"):
        need(not a.get("count_include_pad"), "pooling in ceil mode that counts padding is not supported")
        a = {**a, "pads": up_to_the_end(x.shape[2:], kernel, a)}
    read, inside = windows(net, x, kernel, a)
    if op == "AveragePool":
        inside = np.ones_like(inside) if a.get("count_include_pad") else inside
        return net.mean(read, inside.astype(float), True)[None]
    need(inside.any(-1).all(), "a window lies wholly in the padding")  # which else repeats the first entry
    read = np.where(inside, read, np.take_along_axis(read, inside.argmax(-1)[..., None], -1)).view(Wire)
    return extreme(net, [read[..., i] for i in range(read.shape[-1])], 1)[None]


def up_to_the_end(space: Sequence[int], kernel: Sequence[int], a: Attributes) -> list[int]:
    """The pads with which ceil mode's windows, which may stand out at the end but begin before, are whole."""
    need(a.get("auto_pad", b"NOTSET") == b"NOTSET", "pooling in ceil mode in padding of its own choice")
    n = len(kernel)
    pads, strides = a.get("pads", [0] * 2 * n), a.get("strides", [1] * n)
    ends = []
    for i, dilation in enumerate(a.get("dilations", [1] * n)):
        reach, size = (kernel[i] - 1) * dilation + 1, space[i] + pads[i]
        last = min(-(-(size + pads[n + i] - reach) // strides[i]), (size - 1) // strides[i]) * strides[i]
        need(last >= 0, "a kernel is larger than the map")
        ends.append(max(last + reach - size, 0))
    return [*pads[:n], *ends]


def padded(net: Building, inputs: list[Any], a: Attributes) -> Any:
    """What `Pad` makes of a tensor of scalars: they are moved, and a constant other than 0 is added where room is."""
    x, others, value = inputs[0], inputs[1:], a.get("value", 0.0)
    a = {name: a[name] for name in a if name != "value"}
    if len(others) > 1:
        value, others = 0.0 if others[1] is None else float(others[1]), [others[0], None, *others[2:]]
    moved = reference(net.opsets, "Pad", [x, *others], a)[0].view(Wire)
    if not value or a.get("mode", b"constant") != b"constant":
        return moved
    room = reference(net.opsets, "Pad", [np.ones(x.shape, np.int64), *others], a)[0] == 0
    return net.scaled(moved, 1.0, np.where(room, value, 0.0), 0)


COMPUTED: dict[str, Callable[[Building, str, list[Any], Attributes], Any]] = {
    **dict.fromkeys(("Relu", "Abs"), activation),
    **dict.fromkeys(SMOOTH, smooth),
    **dict.fromkeys(("Elu", "Selu", "Celu"), elu),
    "Pow": power,
    "Gelu": gelu,
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("LeakyRelu", "PRelu"), leaky_relu),
    "Clip": clip,
    **dict.fromkeys(("Max", "Min", "Add", "Sum", "Sub"), combination),
    "Neg": negative,
    **dict.fromkeys(("Mul", "Div"), product),
    "BatchNormalization": batch_normalization,
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), reduction),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), reduction),
    "HardSigmoid": hard_sigmoid,
    **dict.fromkeys(("Resize", "Upsample"), resize),
    **dict.fromkeys(("AveragePool", "MaxPool"), pooling),
    "Gemm": gemm,
    "MatMul": matmul,
    **dict.fromkeys(("Conv", "ConvTranspose"), convolution),
}
