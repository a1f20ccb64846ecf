"""Maps made larger or smaller, axis by axis: nearest neighbours and linear interpolation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from verifier.ops.affine import Linear
from verifier.ops.registry import Call, importer
from verifier.ops.shape import reindexed

COORDINATES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
ROUNDING = 2.0**-18  # relative: more than runtimes' rounding moves a place


@dataclass(frozen=True)
class Axis:
    """How an axis of `size` places becomes one of `wanted`, which are `scale` times as many but for rounding."""

    size: int
    wanted: int
    scale: float
    coordinates: str

    def read(self, dtype: torch.dtype) -> Tensor:
        """Where each new place lies among the old ones, (wanted,)."""
        x = torch.arange(self.wanted, dtype=dtype)
        scale = torch.tensor(self.scale, dtype=dtype)
        if self.coordinates == "asymmetric":
            return x / scale
        if self.coordinates == "align_corners":
            return x * (self.size - 1) / max(self.wanted - 1, 1)
        if self.coordinates == "pytorch_half_pixel" and self.wanted == 1:
            return torch.zeros_like(x)
        found = (x + 0.5) / scale - 0.5
        if self.coordinates == "half_pixel_symmetric":
            return found + self.size / 2 * (1 - self.wanted / (scale * self.size))
        return found

    def nearest(self, rule: str) -> Tensor | None:
        """The old place that each new one takes; None where that hangs on how a runtime rounds.

        Where the choice changes at a place, which is then a multiple of a half, all runtimes must meet it.
        """
        single, x = self.read(torch.float32).double(), self.read(torch.float64)
        room = ROUNDING * (1 + x.abs())
        apart = self._rounded(x - room, rule) == self._rounded(x + room, rule)
        met = (single == x) & (2 * x == (2 * x).round())
        sure = apart if self.coordinates == "half_pixel_symmetric" else apart | met
        return self._rounded(x, rule) if bool(sure.all()) else None

    def _rounded(self, x: Tensor, rule: str) -> Tensor:
        if rule == "round_prefer_floor":
            x = (x - 0.5).ceil()
        elif rule == "round_prefer_ceil":
            x = (x + 0.5).floor()
        else:
            x = x.ceil() if rule == "ceil" else x.floor()
        return x.long().clamp(0, self.size - 1)

    def linear(self) -> Tensor:
        """The weights (wanted, size) of linear interpolation."""
        x = self.read(torch.float64)
        below = x.floor().long()
        share = x - below
        one = torch.eye(self.size, dtype=torch.float64)
        low, high = (one[i.clamp(0, self.size - 1)] for i in (below, below + 1))
        return low * (1 - share).unsqueeze(1) + high * share.unsqueeze(1)


@importer(onnx=["Resize", "Upsample"])
def import_resize(call: Call) -> int:
    attributes = call.attributes
    early = call.operator == "Upsample" or len(call.inputs) == 2  # before operator set 11
    coordinates = "asymmetric" if early else attributes.get("coordinate_transformation_mode", "half_pixel")
    if attributes.get("antialias") or attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refusal("antialiasing, or a policy for the aspect ratio")
    full = [1] * call.batched + list(call.shape())
    scales = attributes.get("scales") or _numbers(call.constant(1 if early else 2))
    sizes = None if early else _numbers(call.constant(3))
    given = sizes or scales
    axes = call.integers("axes") or list(range(len(full)))
    if not given or len(given) != len(axes) or min(given) <= 0:
        raise call.refusal("neither scales nor sizes, or not one per axis")
    ways = {}
    for axis, value in zip(axes, given, strict=True):
        place = axis % len(full)
        n = full[place]
        wanted = int(value) if sizes else math.floor(n * value)
        if wanted == n and (sizes or value == 1):
            continue
        if wanted == n or not (sizes or wanted == int(np.float32(n) * np.float32(value))):
            raise call.refusal(f"scale {value:g}, whose result has a size that runtimes tell apart")
        if call.batched and place == 0:
            raise call.refusal("it changes the batch axis (axis 0)")
        ways[place] = Axis(n, wanted, wanted / n if sizes else value, coordinates)
    rule = "floor" if early else attributes.get("nearest_mode", "round_prefer_floor")
    if early and any(way.scale < 1 for way in ways.values()):
        raise call.refusal("scales below 1, which runtimes read differently")
    return _resized(call, ways, attributes.get("mode", "nearest"), rule)


@importer(aten=["upsample_nearest2d.vec", "upsample_bilinear2d.vec", "upsample_nearest1d.vec", "upsample_linear1d.vec"])
def import_upsample(call: Call) -> int:
    nearest = "nearest" in call.operator
    shape, wanted, factors = call.shape(), call.integers("output_size"), call.attributes.get("scale_factors") or ()
    coordinates = "align_corners" if call.attributes.get("align_corners") else "half_pixel"
    ways = {}
    for i, n in enumerate(shape[1:]):
        m = wanted[i] if wanted else math.floor(n * factors[i])
        scale = m / n if wanted else factors[i]
        ways[i + 1 + call.batched] = Axis(n, m, scale, "asymmetric" if nearest else coordinates)
    return _resized(call, ways, "nearest" if nearest else "linear", "floor")


def _numbers(constant: Tensor | None) -> list[float]:
    return [] if constant is None else constant.flatten().tolist()


def _resized(call: Call, ways: Mapping[int, Axis], mode: str, rule: str) -> int:
    """Append ops that change the axes, counted as the source counts them."""
    x = call.node()
    for axis, way in ways.items():
        if way.coordinates not in COORDINATES or rule not in NEAREST or mode not in ("nearest", "linear"):
            raise call.refusal(f"mode {mode}, {way.coordinates}, {rule} (supported: nearest and linear)")
        if way.wanted < 1:
            raise call.refusal("its output is empty")
        if mode == "nearest":
            places = way.nearest(rule)
            if places is None:
                raise call.refusal(f"scale {way.scale:g}, with which the nearest place hangs on rounding")
            x = reindexed(call, x, partial(torch.index_select, dim=axis, index=places))
        else:
            x = reindexed(call, x, partial(torch.movedim, source=axis, destination=-1))
            x = call.add(Linear(way.linear(), None), x)
            x = reindexed(call, x, partial(torch.movedim, source=-1, destination=axis))
    return x
