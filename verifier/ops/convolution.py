"""Convolutions and average pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.graph import Op
from verifier.ops.affine import Rescale
from verifier.ops.base import Affine
from verifier.ops.patches import Coefficients, Patches, unit_patches
from verifier.ops.registry import Call, importer, register
from verifier.ops.shape import Reshape, padded
from verifier.types import Shape

Pair = tuple[int, int]

MATRIX_GROWTH = 10
"""Up to which ratio of window to kernel area the windows of a layer are multiplied by one dense matrix."""


@register
@dataclass(frozen=True, eq=False)
class Conv2d(Affine):
    """Cross-correlation of (channels, height, width) maps; weight (out, in / groups, kernel height, kernel width)."""

    weight: Tensor
    bias: Tensor | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.conv2d(inputs[0], self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return F.conv2d(radii[0], self.weight.abs(), None, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, A: Coefficients, *shapes: Shape) -> list[Coefficients]:
        if not isinstance(A, Patches):
            flat = self._spread(A.flatten(0, 1), self.padding, shapes[0][1:])
            return [flat.unflatten(0, A.shape[:2])]
        A = A.masked()
        values = self._spread_windows(A.values.flatten(0, 2)).unflatten(0, A.values.shape[:3])
        return [self._read_by(A, values, shapes[0])]

    def rows(self, index: Tensor, dtype: torch.dtype, shape: Shape, *shapes: Shape) -> list[Coefficients]:
        A = unit_patches(index, dtype, shape)
        channels = torch.eye(shape[0], dtype=dtype, device=index.device).view(shape[0], 1, 1, shape[0])
        by_channel = self._spread_windows(channels)
        return [self._read_by(A, by_channel[index // math.prod(shape[1:])].unsqueeze(1), shapes[0])]

    def _read_by(self, A: Patches, values: Tensor, shape: Shape) -> Coefficients:
        """The windows of the input, of the given shape, that windows A of the output read; dense when no smaller."""
        step = (A.step[0] * self.stride[0], A.step[1] * self.stride[1])
        corner = tuple(c * s - p for c, s, p in zip(A.corner, self.stride, self.padding, strict=True))
        read = Patches(values, A.cell, A.grid, step, (corner[0], corner[1]), shape)
        return read.dense() if math.prod(read.window) >= math.prod(shape[1:]) else read

    def _spread_windows(self, values: Tensor) -> Tensor:
        """The transposed convolution of windows (n, height, width, out channels), channels last."""
        count, height, width, channels = values.shape
        size, kernel = width * channels, self.weight.shape[2:]
        reach = [
            (n - 1) * s + d * (k - 1) + 1
            for n, k, s, d in zip((height, width), kernel, self.stride, self.dilation, strict=True)
        ]
        if height * count > 4 * size and reach[1] <= MATRIX_GROWTH * kernel[1]:
            # Many small windows: one matrix product beats many small convolutions, though it multiplies zeros. It
            # spreads every line of the windows; what the lines reach overlaps and adds up.
            units = torch.eye(size, dtype=values.dtype, device=values.device).view(size, 1, width, channels)
            matrix = self._spread(units.permute(0, 3, 1, 2), (0, 0), None).permute(0, 2, 3, 1)
            lines = (values.reshape(-1, size) @ matrix.flatten(1)).view(count, height, *matrix.shape[1:])
            spread = values.new_zeros(count, reach[0], *matrix.shape[2:])
            for place, line in enumerate(lines.unbind(1)):
                top = place * self.stride[0]
                spread[:, top : top + matrix.shape[1]] += line
            return spread
        return self._spread(values.permute(0, 3, 1, 2), (0, 0), None).permute(0, 2, 3, 1)

    def _spread(self, flat: Tensor, padding: Pair, size: Shape | None) -> Tensor:
        """The transposed convolution of maps (n, out channels, ...), onto maps of `size` where that is ambiguous."""
        extra = (0, 0)
        if size is not None:
            full = [
                (flat.shape[i + 2] - 1) * self.stride[i]
                - 2 * padding[i]
                + self.dilation[i] * (self.weight.shape[i + 2] - 1)
                + 1
                for i in range(2)
            ]
            extra = (size[0] - full[0], size[1] - full[1])
        if all(0 <= e < max(s, d) for e, s, d in zip(extra, self.stride, self.dilation, strict=True)):
            return F.conv_transpose2d(flat, self.weight, None, self.stride, padding, extra, self.groups, self.dilation)
        maps = F.conv_transpose2d(flat, self.weight, None, self.stride, (0, 0), 0, self.groups, self.dilation)
        assert size is not None
        below, beside = (size[i] + padding[i] - maps.shape[i + 2] for i in range(2))
        return F.pad(maps, (-padding[1], beside, -padding[0], below))

    def after(self, previous: Op) -> Op | None:
        foldable = self.padding == (0, 0) and self.groups == 1
        if foldable and isinstance(previous, Rescale) and _per_channel(previous.scale) and _per_channel(previous.shift):
            channels = self.weight.shape[1]
            scale, shift = (t.flatten().expand(channels).view(1, -1, 1, 1) for t in (previous.scale, previous.shift))
            moved = (self.weight * shift).sum((1, 2, 3))
            return replace(self, weight=self.weight * scale, bias=moved if self.bias is None else self.bias + moved)
        return None

    def rescaled(self, scale: Tensor, shift: Tensor) -> Op | None:
        if not (_per_channel(scale) and _per_channel(shift)):
            return None
        scale, shift = (t.flatten().expand(self.weight.shape[0]) for t in (scale, shift))
        bias = shift if self.bias is None else self.bias * scale + shift
        return replace(self, weight=self.weight * scale.view(-1, 1, 1, 1), bias=bias)


def _per_channel(constant: Tensor) -> bool:
    """Whether a constant of rank 3 varies along its channel axis alone."""
    return constant.dim() == 3 and constant.shape[1] == constant.shape[2] == 1


@register
@dataclass(frozen=True, eq=False)
class ConvTranspose2d(Affine):
    """Transposed convolution; weight (in, out / groups, kernel height, kernel width)."""

    weight: Tensor
    bias: Tensor | None
    stride: Pair
    padding: Pair
    output_padding: Pair
    dilation: Pair
    groups: int

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._apply(inputs[0], self.weight, self.bias)

    def magnitude(self, *radii: Tensor) -> Tensor:
        return self._apply(radii[0], self.weight.abs(), None)

    def _apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv_transpose2d(
            x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


@register
@dataclass(frozen=True, eq=False)
class AvgPool2d(Affine):
    """Average pooling of (channels, height, width) maps."""

    kernel: Pair
    stride: Pair
    padding: Pair
    ceil_mode: bool
    count_padding: bool

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.avg_pool2d(inputs[0], self.kernel, self.stride, self.padding, self.ceil_mode, self.count_padding)


Pads = list[Pair]  # for each spatial axis, how much before and how much after


@importer(onnx=["Conv"], aten=["conv1d", "conv2d", "conv1d.padding", "conv2d.padding"], module=["Conv1d", "Conv2d"])
def import_conv(call: Call) -> int:
    weight, bias = call.weight(1), call.constant(2)
    maps = Maps(call, weight.dim() - 2)
    stride, dilation = maps.pair("stride", "strides", default=1), maps.pair("dilation", "dilations", default=1)
    weight = weight.view(*weight.shape[:2], *maps.lift(weight.shape[2:], 1))
    pads = maps.pads((weight.shape[2], weight.shape[3]), stride, dilation)
    groups = call.attributes.get("groups", call.attributes.get("group", 1))
    x, padding = maps.symmetric(pads)
    return maps.lower(call.add(Conv2d(weight, bias, stride, padding, dilation, groups), x))


@importer(onnx=["ConvTranspose"], aten=["conv_transpose1d", "conv_transpose2d.input"],
          module=["ConvTranspose1d", "ConvTranspose2d"])  # fmt: skip
def import_conv_transpose(call: Call) -> int:
    weight, bias = call.weight(1), call.constant(2)
    maps = Maps(call, weight.dim() - 2)
    if "output_shape" in call.attributes or call.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise call.refusal("output_shape and auto_pad (state pads and output_padding instead)")
    stride, dilation = maps.pair("stride", "strides", default=1), maps.pair("dilation", "dilations", default=1)
    weight = weight.view(*weight.shape[:2], *maps.lift(weight.shape[2:], 1))
    pads = maps.pads((weight.shape[2], weight.shape[3]), stride, dilation)
    groups = call.attributes.get("groups", call.attributes.get("group", 1))
    extra = maps.pair("output_padding", default=0)
    (top, bottom), (left, right) = pads
    common = (min(top, bottom), min(left, right))
    y = call.add(ConvTranspose2d(weight, bias, stride, common, extra, dilation, groups), maps.x)
    cut = {i + 1: (common[i] - before, common[i] - after) for i, (before, after) in enumerate(pads)}
    return maps.lower(padded(call, y, cut))


@importer(onnx=["AveragePool"], aten=["avg_pool1d", "avg_pool2d"], module=["AvgPool1d", "AvgPool2d"])
def import_avg_pool(call: Call) -> int:
    maps = Maps.of_pool(call)
    kernel = maps.pair("kernel_size", "kernel_shape", default=1)
    stride = maps.pair("stride", "strides", default=kernel if "kernel_size" in call.attributes else 1)
    count_padding = bool(call.attributes.get("count_include_pad", call.operator != "AveragePool"))
    pads = maps.pads(kernel, stride, (1, 1))
    if call.attributes.get("divisor_override") or maps.pair("dilations", default=1) != (1, 1):
        raise call.refusal("dilation and divisor_override are not supported")
    ceil_mode = bool(call.attributes.get("ceil_mode", False))
    if any(before != after for before, after in pads) and (ceil_mode or not count_padding):
        raise call.refusal("uneven padding that does not count in the average, or in ceil mode")
    x, padding = maps.symmetric(pads)
    return maps.lower(call.add(AvgPool2d(kernel, stride, padding, ceil_mode, count_padding), x))


@importer(aten=["adaptive_avg_pool1d", "adaptive_avg_pool2d"], module=["AdaptiveAvgPool1d", "AdaptiveAvgPool2d"])
def import_adaptive_avg_pool(call: Call) -> int:
    maps = Maps.of_pool(call)
    size = call.builder.shape(maps.x)[1:]
    target = maps.pair("output_size", default=1)
    if any(n % t for n, t in zip(size, target, strict=True)):
        raise call.refusal(f"output size {target} does not divide the map's size {size}")
    kernel = (size[0] // target[0], size[1] // target[1])
    return maps.lower(call.add(AvgPool2d(kernel, kernel, (0, 0), False, False), maps.x))


class Maps:
    """The input of a convolution or pooling over one or two spatial axes, as (channels, height, width) maps.

    One spatial axis is lifted to a map of height 1.
    """

    def __init__(self, call: Call, spatial: int) -> None:
        shape = call.shape()
        if spatial not in (1, 2) or len(shape) != spatial + 1:
            raise call.refusal(f"{spatial} spatial axes on an input of shape {shape}; 1 and 2 are supported")
        self.call, self.spatial = call, spatial
        self.x = call.add(Reshape((shape[0], 1, shape[1])), call.node()) if spatial == 1 else call.node()

    @classmethod
    def of_pool(cls, call: Call) -> Maps:
        """Pooling layers tell the spatial axes by their name or, in ONNX, by the kernel."""
        kernel = call.attributes.get("kernel_shape")
        return cls(call, len(kernel) if kernel else int(call.operator[-2]))

    def lift(self, values: Sequence[int], missing: int) -> Pair:
        """One number per axis of the lifted map."""
        values = [*values] if len(values) == self.spatial else [*values] * self.spatial
        return (missing, values[0]) if self.spatial == 1 else (values[0], values[1])

    def pair(self, *names: str, default: int | Pair) -> Pair:
        """The attribute by the first name that is given, lifted."""
        for name in names:
            if values := self.call.integers(name):
                return self.lift(values, int(default != 0))
        return default if isinstance(default, tuple) else (default, default)

    def pads(self, kernel: Pair, stride: Pair, dilation: Pair) -> Pads:
        """The padding, from ONNX's `pads` or `auto_pad` or from torch's `padding`."""
        attributes = self.call.attributes
        if attributes.get("padding_mode", "zeros") != "zeros":
            raise self.call.refusal(f"padding mode '{attributes['padding_mode']}' (supported: zeros)")
        rule = attributes.get("padding") if isinstance(attributes.get("padding"), str) else attributes.get("auto_pad")
        if rule in ("same", "SAME_UPPER", "SAME_LOWER"):
            if "Pool" in self.call.operator and dilation != (1, 1):
                raise self.call.refusal(f"auto_pad {rule} with dilations, which runtimes read differently")
            pads = []
            for n, k, s, d in zip(self.call.builder.shape(self.x)[1:], kernel, stride, dilation, strict=True):
                total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
                small, large = total // 2, total - total // 2
                pads.append((large, small) if rule == "SAME_LOWER" else (small, large))
            return pads
        if rule in ("valid", "VALID"):
            return [(0, 0), (0, 0)]
        if given := attributes.get("pads"):
            return list(zip(self.lift(given[: self.spatial], 0), self.lift(given[self.spatial :], 0), strict=True))
        even = self.pair("padding", default=0)
        return [(even[0], even[0]), (even[1], even[1])]

    def symmetric(self, pads: Pads) -> tuple[int, Pair]:
        """The input, padded where the padding is uneven, and the padding that is left to the op."""
        (top, bottom), (left, right) = pads
        if top == bottom and left == right:
            return self.x, (top, left)
        return padded(self.call, self.x, {1: pads[0], 2: pads[1]}), (0, 0)

    def lower(self, y: int) -> int:
        """The result with as many spatial axes as the source has."""
        channels, _, width = self.call.builder.shape(y)
        return self.call.add(Reshape((channels, width)), y) if self.spatial == 1 else y
