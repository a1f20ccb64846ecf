"""More operators for the networks of `layouts.py`: what moves, picks, reduces and resizes values; activations."""

from __future__ import annotations

import numpy as np
from growing import Shape
from layouts import MAPS, Net, made_for
from onnx import numpy_helper

FAR = 2**31 - 1


@made_for(range(1, 7), 2)
def sliced(net: Net, x: str, shape: Shape) -> str:
    axes = net.some(len(shape))
    starts = [net.pick(0, 1, -1, n - 1, n, -n, -n - 3, 100) for n in (shape[a] for a in axes)]
    ends = [net.pick(n, 0, 1, -1, -n - 1, FAR, -FAR) for n in (shape[a] for a in axes)]
    if net.opset < 10:
        return net.add("Slice", [x], starts=starts, ends=ends, axes=axes)
    steps, axes = [net.pick(1, -1, 2, -2, 3) for _ in axes], net.from_end(axes, len(shape))
    dtype = net.pick(np.int64, np.int32)
    return net.add("Slice", [x, *(net.store(values, dtype) for values in (starts, ends, axes, steps))])


@made_for(range(1, 7), 2)
def split(net: Net, x: str, shape: Shape) -> str:
    axis = int(net.draw.integers(len(shape)))
    count = int(net.draw.integers(1, shape[axis] + 1))
    parts = [shape[axis] // count] * count
    parts[-1] += shape[axis] - sum(parts)
    [place] = net.from_end([axis], len(shape))
    if net.chance(0.3):
        even = {"num_outputs": count} if net.opset >= 18 else {}
        return net.add("Split", [x], outputs=count, axis=place, **even)
    if net.opset >= 13:
        return net.add("Split", [x, net.store(parts)], count, axis=place)
    return net.add("Split", [x], count, axis=place, split=parts)


@made_for(range(1, 7), 2)
def padded(net: Net, x: str, shape: Shape) -> str:
    rank, mode = len(shape), net.pick("constant", "constant", "reflect", "edge", "wrap")
    pads = np.array(net.whole(-1 if net.chance(0.2) else 0, 2, 2 * rank)).reshape(2, rank)
    if mode != "constant" or net.chance(0.8):
        pads[:, 0] = 0
    if net.opset < 11:
        return net.add("Pad", [x], pads=pads.ravel().tolist(), mode=mode, **net.pick({}, {"value": 0.5}))
    value = net.pick("", net.store(net.pick(0.5, [-0.5]), np.float32))
    if net.opset < 18 or net.chance(0.5):
        return net.add("Pad", [x, net.store(pads.ravel()), value], mode=mode)
    axes = net.some(rank)
    return net.add("Pad", [x, net.store(pads[:, axes].ravel()), value, net.store(net.from_end(axes, rank))], mode=mode)


@made_for(range(1, 7))
def gathered(net: Net, x: str, shape: Shape) -> str:
    axis = int(net.draw.integers(len(shape)))
    index = net.draw.integers(-shape[axis] if net.opset >= 11 else 0, shape[axis], net.pick((), (1,), (2,), (2, 1)))
    return net.add(
        "Gather", [x, net.store(index, net.pick(np.int64, np.int32))], axis=net.from_end([axis], len(shape))[0]
    )


@made_for(weight=2)
def moved(net: Net, x: str, shape: Shape) -> str:
    rank, kind = len(shape), net.pick("Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile", "Dropout", "Flatten")
    if kind == "Transpose":
        return net.add(kind, [x], **net.pick({}, {"perm": net.draw.permutation(rank).tolist()}))
    if kind == "Expand":
        return net.add(kind, [x, net.store(net.wider(shape))])
    if kind == "Tile":
        return net.add(kind, [x, net.store([net.pick(1, 1, 2) for _ in shape])])
    if kind == "Dropout":
        return net.add(kind, [x], **({"ratio": 0.5} if net.opset < 12 else {}))
    if kind == "Flatten":
        return net.add(kind, [x], axis=net.from_end([int(net.draw.integers(rank + 1))], rank)[0])
    if kind == "Squeeze" and net.chance(0.4):
        return net.add(kind, [x])
    if kind == "Squeeze":
        axes = net.from_end([i for i, n in enumerate(shape) if n == 1 and net.chance(0.6)], rank)
    else:
        more = net.pick(1, 2)
        axes = net.from_end(net.draw.permutation(rank + more)[:more].tolist(), rank + more)
    return net.add(kind, [x, net.store(axes)]) if net.opset >= 13 else net.add(kind, [x], axes=axes)


@made_for(range(4, 5))
def in_blocks(net: Net, x: str, shape: Shape) -> str:
    if net.chance(0.5):
        return net.add("SpaceToDepth", [x], blocksize=net.pick(1, 2))
    mode = {"mode": net.pick("DCR", "CRD")} if net.opset >= 11 else {}
    return net.add("DepthToSpace", [x], blocksize=net.pick(1, 2), **mode)


@made_for(range(1, 7), 2)
def reduced(net: Net, x: str, shape: Shape) -> str:
    kind, axes = net.pick("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"), net.some(len(shape), 0)
    axes, how = net.from_end(axes, len(shape)), net.pick({}, {"keepdims": 0}, {"keepdims": 1})
    if net.opset < (13 if kind == "ReduceSum" else 18):
        return net.add(kind, [x], **how, **({"axes": axes} if axes else {}))
    how |= net.pick({}, {"noop_with_empty_axes": 0}, {"noop_with_empty_axes": 1})
    return net.add(kind, [x, *net.pick([], [net.store(axes)], [net.store(axes)])], **how)


@made_for(weight=3)
def activation(net: Net, x: str, shape: Shape) -> str:
    kind = net.pick("Relu", "Relu", "Abs", "Neg", "LeakyRelu", "Clip", "Clip", "HardSigmoid", "Elu", "Selu", "Celu",
                    "Softsign", "HardSwish", "Softplus", "Sigmoid", "Softmax", "LogSoftmax")  # fmt: skip
    if kind == "LeakyRelu":
        return net.add(kind, [x], **net.pick({}, *({"alpha": a} for a in (0.5, -0.25, 0.0, 2.0))))
    if kind == "HardSigmoid":
        return net.add(kind, [x], **net.pick({}, {"alpha": 0.5}, {"beta": -0.25}, {"alpha": -0.5, "beta": 0.1}))
    if kind in ("Elu", "Celu", "Selu"):
        return net.add(kind, [x], **net.pick({}, {"alpha": 0.5}, {"alpha": 2.0}))
    if kind.endswith("Softmax"):
        axis = int(net.draw.integers(-len(shape) if net.opset >= 11 else 0, len(shape)))
        return net.add(kind, [x], **net.pick({}, {"axis": axis}))
    if kind == "Clip" and net.opset < 11:
        return net.add(kind, [x], **net.pick({}, {"min": 0.0}, {"max": 0.5}, {"min": -0.5, "max": 0.5}))
    if kind == "Clip":
        low, high = (net.store(net.pick(*ends), np.float32) for ends in ((0.0, -0.5, -np.inf), (0.25, np.inf, 6.0)))
        return net.add(kind, [x, *net.pick([], [low], ["", high], [low, high], [low, ""])])
    return net.add(kind, [x])


@made_for()
def of_shapes(net: Net, x: str, shape: Shape) -> str:
    """Constants that are computed from shapes."""
    kind = net.pick("size", "filled", "plain")
    if kind == "size":
        sizes = net.add("Shape", [x], **({"start": net.pick(0, 1, -1)} if net.opset >= 15 and net.chance(0.5) else {}))
        return net.add("Reshape", [x, net.add("ReduceProd", [sizes], keepdims=1)])
    half = {"value": numpy_helper.from_array(np.array([0.5], np.float32))}
    if kind == "filled":
        return net.add("Add", [x, net.add("ConstantOfShape", [net.add("Shape", [x])], **net.pick({}, half))])
    value = net.pick({"value_float": 0.5}, {"value_floats": [0.5]}, half) if net.opset >= 12 else half
    return net.add(net.pick("Add", "Mul", "Sub"), [x, net.add("Constant", [], **value)])


@made_for(MAPS)
def resized(net: Net, x: str, shape: Shape) -> str:
    rank, mode = len(shape), net.pick("nearest", "linear")
    scales = [1.0, 1.0, *(net.pick(1.0, 2.0, 0.5, 1.5, 3.0, 2 / 3) for _ in range(rank - 2))]
    if net.opset < 9:
        return net.add("Upsample", [x], scales=scales, mode=mode)
    if net.opset < 11:
        return net.add("Upsample" if net.opset == 9 else "Resize", [x, net.store(scales, np.float32)], mode=mode)
    ways = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    how = {"mode": mode, "coordinate_transformation_mode": net.pick(*ways[: 5 if net.opset >= 19 else 4])}
    how |= {"nearest_mode": net.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")}
    none = "" if net.opset >= 13 else net.store([], np.float32)
    sizes, axes = [*shape[:2], *net.whole(1, 6, rank - 2)], [*range(rank)]
    if net.opset >= 18 and net.chance(0.4):
        axes = net.draw.permutation(rank)[: net.pick(rank - 2, rank)].tolist()
        how |= {"axes": net.from_end(axes, rank)}
    if net.chance(0.4):
        return net.add("Resize", [x, none, none, net.store([sizes[i] for i in axes])], **how)
    return net.add("Resize", [x, none, net.store([scales[i] for i in axes], np.float32)], **how)
