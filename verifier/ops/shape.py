"""Ops that move values about: reshaping, indexing, joining and padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.graph import Op
from verifier.ops.base import Affine
from verifier.ops.patches import Coefficients, dense
from verifier.ops.registry import Call, importer, register
from verifier.types import Shape


@register
@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """The same values in another shape (without the batch axis)."""

    mixing: ClassVar[bool] = False

    shape: Shape

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(-1, *self.shape)

    def transpose(self, A: Coefficients, *shapes: Shape) -> list[Coefficients]:
        A = dense(A)
        return [A.reshape(*A.shape[:2], *shapes[0])]

    def after(self, previous: Op) -> Op | None:
        return Reshape(self.shape) if isinstance(previous, Reshape) else None


@register
@dataclass(frozen=True, eq=False)
class Reindex(Affine):
    """`x.flatten()[index]`, index of any shape: transposition, slicing, splitting, gathering, expanding."""

    index: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].flatten(1)[:, self.index.flatten()].view(-1, *self.index.shape)

    def transpose(self, A: Coefficients, *shapes: Shape) -> list[Coefficients]:
        A = dense(A)
        A = A.reshape(*A.shape[:2], -1)  # a node of shape () has one value and no axis
        size = int(torch.Size(shapes[0]).numel())
        full = A.new_zeros(*A.shape[:2], size).index_add(2, self.index.flatten(), A)
        return [full.view(*A.shape[:2], *shapes[0])]

    def after(self, previous: Op) -> Op | None:
        return Reindex(previous.index.flatten()[self.index]) if isinstance(previous, Reindex) else None


@register
@dataclass(frozen=True, eq=False)
class Concat(Affine):
    """The inputs side by side along an axis (counted without the batch axis)."""

    axis: int

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, self.axis + 1)

    def transpose(self, A: Coefficients, *shapes: Shape) -> list[Coefficients]:
        return list(dense(A).split([shape[self.axis] for shape in shapes], self.axis + 2))


@register
@dataclass(frozen=True, eq=False)
class Pad(Affine):
    """Constant padding; `amounts` in the order of torch.nn.functional.pad (last axis first), none negative."""

    amounts: tuple[int, ...]
    value: float

    @cached_property
    def homogeneous(self) -> Affine:
        return replace(self, value=0.0)

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.pad(inputs[0], self.amounts, value=self.value)

    def transpose(self, A: Coefficients, *shapes: Shape) -> list[Coefficients]:
        return [F.pad(dense(A), tuple(-amount for amount in self.amounts))]


def reindexed(call: Call, x: int, move: Callable[[Tensor], Tensor]) -> int:
    """Append the op that moves values as `move` does, a function of a tensor with its batch axis.

    `move` is tried on the positions of two inputs at once and of one, which shows whether it keeps the batch apart.
    """
    shape = call.builder.shape(x)
    size = math.prod(shape)
    try:
        if call.batched:
            alone, moved = (move(torch.arange(n * size).view(n, *shape)) for n in (1, 2))
            apart = moved.dim() > 0 and len(moved) == 2 and torch.equal(moved[1], moved[0] + size)
            index = moved[0] if apart and torch.equal(alone, moved[:1]) else None
        else:
            index = move(torch.arange(size).view(shape))
    except (IndexError, RuntimeError, ValueError) as error:
        raise call.refusal(str(error).splitlines()[0]) from error
    if index is None or index.numel() == 0:
        raise call.refusal("it changes the batch axis (axis 0)" if index is None else "its output is empty")
    if torch.equal(index.flatten(), torch.arange(size)):
        return x if tuple(index.shape) == shape else call.add(Reshape(tuple(index.shape)), x)
    return call.add(Reindex(index.contiguous()), x)


ONNX_FLOATS = (1, 11)  # TensorProto.DataType: FLOAT, DOUBLE


@importer(
    onnx=["Identity", "Dropout", "Cast"],
    aten=["dropout", "feature_dropout", "alias", "clone", "contiguous", "detach", "lift_fresh_copy", "_to_copy",
          "to.dtype", "to.dtype_layout", "to.device"],
    module=["Identity", "Dropout", "Dropout1d", "Dropout2d", "AlphaDropout"],
)  # fmt: skip
def import_identity(call: Call) -> int:
    mask = call.constant(2) if call.operator == "Dropout" else None
    if call.attributes.get("train") or (mask is not None and bool(mask.any())):
        raise call.refusal("dropout in training mode is random; export the network in evaluation mode")
    dtype = call.attributes.get("dtype") or call.attributes.get("to")
    if dtype not in (None, torch.float32, torch.float64, *ONNX_FLOATS):  # shorter ones round by more than float32 does
        raise call.refusal("only conversions to float32 and float64 are supported")
    return call.node()


@importer(onnx=["Reshape"], aten=["view", "reshape", "_unsafe_view"])
def import_reshape(call: Call) -> int:
    x, target = call.node(), call.integers("size") or call.integers("shape", 1) or []
    full = [1] * call.batched + list(call.shape())
    if call.operator == "Reshape" and not call.attributes.get("allowzero"):
        target = [full[i] if n == 0 and i < len(full) else n for i, n in enumerate(target)]
    try:
        shape = torch.empty(full, device="meta").reshape(target).shape
    except RuntimeError as error:
        raise call.refusal(str(error).splitlines()[0]) from error
    if call.batched and (len(shape) == 0 or shape[0] != 1):
        raise call.refusal(f"reshaping to {target} changes the batch axis (axis 0)")
    return call.add(Reshape(tuple(shape[call.batched :])), x)


@importer(onnx=["Flatten"], aten=["flatten.using_ints"], module=["Flatten"])
def import_flatten(call: Call) -> int:
    if "start_dim" in call.attributes:  # torch
        start, end = call.attributes["start_dim"], call.attributes["end_dim"]
        return reindexed(call, call.node(), lambda t: t.flatten(start, end))
    axis = call.attributes.get("axis", 1)
    return reindexed(call, call.node(), lambda t: t.reshape(math.prod(t.shape[:axis]), -1))


@importer(aten=["unflatten.int"], module=["Unflatten"])
def import_unflatten(call: Call) -> int:
    sizes = call.attributes.get("sizes") or call.attributes["unflattened_size"]
    return reindexed(call, call.node(), lambda t: t.unflatten(call.attributes["dim"], tuple(sizes)))


@importer(onnx=["Squeeze"], aten=["squeeze", "squeeze.dim", "squeeze.dims"])
def import_squeeze(call: Call) -> int:
    axes, shape = call.integers("axes", 1) or call.integers("dim"), call.shape()
    if axes is None and call.batched:
        raise call.refusal("it removes the batch axis (axis 0); state the axes")
    chosen = range(len(shape)) if axes is None else [call.axis(axis, len(shape)) for axis in axes]
    return call.add(Reshape(tuple(n for i, n in enumerate(shape) if n != 1 or i not in chosen)), call.node())


@importer(onnx=["Unsqueeze"], aten=["unsqueeze"])
def import_unsqueeze(call: Call) -> int:
    axes = call.integers("axes", 1) or call.integers("dim") or [0]
    rank = len(call.shape()) + len(axes)
    added = {call.axis(axis, rank) for axis in axes}
    sizes = iter(call.shape())
    return call.add(Reshape(tuple(1 if i in added else next(sizes) for i in range(rank))), call.node())


@importer(onnx=["Transpose"], aten=["permute", "transpose.int"])
def import_transpose(call: Call) -> int:
    if "dim0" in call.attributes:
        return reindexed(call, call.node(), lambda t: t.transpose(call.attributes["dim0"], call.attributes["dim1"]))
    order = call.integers("perm") or call.integers("dims")
    return reindexed(call, call.node(), lambda t: t.permute(order or list(reversed(range(t.dim())))))


@importer(onnx=["Slice"], aten=["slice.Tensor"])
def import_slice(call: Call) -> int:
    if call.operator == "Slice":
        starts, ends = call.integers("starts", 1) or [], call.integers("ends", 2) or []
        axes = call.integers("axes", 3) or list(range(len(starts)))
        cuts = list(zip(axes, starts, ends, call.integers("steps", 4) or [1] * len(starts), strict=True))
    else:
        cuts = [tuple(call.attributes[key] for key in ("dim", "start", "end", "step"))]

    def move(t: Tensor) -> Tensor:
        for axis, start, end, step in cuts:  # torch slices know no negative steps, Python's do
            t = t.index_select(axis, torch.tensor(range(t.shape[axis])[start:end:step], dtype=torch.long))
        return t

    return reindexed(call, call.node(), move)


@importer(onnx=["Gather"], aten=["select.int", "index_select"])
def import_gather(call: Call) -> int:
    axis = call.attributes.get("dim", call.attributes.get("axis", 0))
    index = torch.tensor(call.attributes["index"]) if "index" in call.attributes else call.weight(1).long()

    def move(t: Tensor) -> Tensor:
        size = t.shape[axis]
        if not bool(((index >= -size) & (index < size)).all()):
            raise IndexError(f"an index is out of range for an axis of size {size}")
        taken = t.index_select(axis, (index % size).flatten())
        return taken.unflatten(axis, index.shape) if index.dim() else taken.squeeze(axis)

    return reindexed(call, call.node(), move)


@importer(onnx=["Split"], aten=["split.Tensor", "split_with_sizes", "chunk"])
def import_split(call: Call) -> list[int]:
    axis = call.attributes.get("dim", call.attributes.get("axis", 0))
    size = call.shape()[call.axis(axis, len(call.shape()))]
    parts = call.attributes.get("chunks") or call.attributes.get("num_outputs")
    sizes = call.integers("split", 1) or call.integers("split_sizes")
    if sizes is None:
        step = -(-size // parts) if parts else call.attributes["split_size"]
        sizes = [min(step, size - start) for start in range(0, size, step)]
    if sum(sizes) != size:
        raise call.refusal(f"parts of sizes {sizes} do not fill an axis of size {size}")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [reindexed(call, call.node(), partial(torch.narrow, dim=axis, start=start, length=length))
            for start, length in zip(starts, sizes, strict=True)]  # fmt: skip


@importer(onnx=["Expand"], aten=["expand"])
def import_expand(call: Call) -> int:
    target = [max(n, 1) for n in call.integers("size", 1) or []]  # -1 keeps a size, as does 1
    return reindexed(call, call.node(), lambda t: t.expand(np.broadcast_shapes(t.shape, target)))


@importer(onnx=["Tile"], aten=["repeat"])
def import_tile(call: Call) -> int:
    repeats = call.integers("repeats", 1) or []
    return reindexed(call, call.node(), lambda t: t.repeat(repeats))


@importer(onnx=["DepthToSpace", "SpaceToDepth"], aten=["pixel_shuffle", "pixel_unshuffle"])
def import_depth_to_space(call: Call) -> int:
    block = call.attributes.get("blocksize") or call.attributes.get(
        "upscale_factor", call.attributes.get("downscale_factor")
    )
    outwards = call.operator in ("DepthToSpace", "pixel_shuffle")

    def move(t: Tensor) -> Tensor:
        count, depth, height, width = t.shape
        if not outwards:
            apart = t.view(count, depth, height // block, block, width // block, block)
            order = (0, 3, 5, 1, 2, 4) if call.operator == "SpaceToDepth" else (0, 1, 3, 5, 2, 4)
            return apart.permute(order).reshape(count, -1, height // block, width // block)
        if call.attributes.get("mode", "DCR") == "DCR" and call.operator == "DepthToSpace":
            apart = t.view(count, block, block, -1, height, width).permute(0, 3, 4, 1, 5, 2)
        else:
            apart = t.view(count, -1, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
        return apart.reshape(count, -1, height * block, width * block)

    return reindexed(call, call.node(), move)


@importer(onnx=["Pad"], aten=["constant_pad_nd", "pad"])
def import_pad(call: Call) -> int:
    mode = call.attributes.get("mode") or "constant"
    if mode != "constant":
        raise call.refusal(f"mode '{mode}' (supported: constant)")
    rank = len(call.shape()) + call.batched
    value: Tensor | float | None = call.attributes.get("value")
    if call.operator == "Pad":
        pads, axes = call.integers("pads", 1) or [], call.integers("axes", 3) or list(range(rank))
        value = call.constant(2) if value is None else value
        around = {axis % rank: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    else:
        pads = call.integers("pad") or []
        around = {rank - 1 - i: (pads[2 * i], pads[2 * i + 1]) for i in range(len(pads) // 2)}
    if call.batched and around.pop(0, (0, 0)) != (0, 0):
        raise call.refusal("it pads the batch axis (axis 0)")
    return padded(call, call.node(), {axis - call.batched: pair for axis, pair in around.items()}, float(value or 0))


def padded(call: Call, x: int, around: Mapping[int, tuple[int, int]], value: float = 0.0) -> int:
    """Append ops that add entries before and after along axes of a node, or take some away where negative."""
    if not math.isfinite(value):
        raise call.refusal(f"padding with {value}")

    def crop(t: Tensor) -> Tensor:
        for axis, (before, after) in around.items():
            cut, axis = max(-before, 0), axis + call.batched
            t = t.narrow(axis, cut, t.shape[axis] - cut - max(-after, 0))
        return t

    x, rank = reindexed(call, x, crop), len(call.builder.shape(x))
    pairs = [around.get(axis, (0, 0)) for axis in reversed(range(rank))]
    amounts = tuple(max(amount, 0) for pair in pairs for amount in pair)
    return call.add(Pad(amounts, value), x) if any(amounts) else x
