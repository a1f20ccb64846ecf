"""Coefficients of neurons with a small receptive field, held as windows instead of dense maps.

A row over a convolution's input is nonzero only in a window, and the windows of a layer's neurons lie on a grid.
Keeping the windows alone cuts time and memory by the ratio of the map's size to the window's, about a hundred on the
first layers of an image network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.types import Shape

Pair = tuple[int, int]


@dataclass(frozen=True)
class Patches:
    """Coefficients (batch, groups * spec) over a map of shape (channels, height, width), zero outside a window.

    values: (batch, groups, spec, window height, window width, channels), channels last so that gathers are contiguous;
    rows of different groups share their windows. cell: (batch, spec), each row's flat position in the grid of windows.
    grid: its height and width. The window of cell (y, x) has its top left corner at (y, x) * step + corner, which may
    lie over the map's border. clean: whether the entries over the border are zero; if not, they are meaningless.
    """

    values: Tensor
    cell: Tensor
    grid: Pair
    step: Pair
    corner: Pair
    map_shape: Shape
    clean: bool = False

    @property
    def window(self) -> Pair:
        """Height and width of the windows."""
        return (self.values.shape[3], self.values.shape[4])

    def over(self, values: Tensor, clean: bool = True) -> Patches:
        """The same windows with other values."""
        return replace(self, values=values, clean=clean)

    def masked(self) -> Patches:
        """The same coefficients with zeros over the border."""
        if self.clean:
            return self
        return self.over(self.values * self.windows(self.values.new_ones(1, *self.map_shape)))

    def windows(self, maps: Tensor) -> Tensor:
        """Cut each row's window from maps (batch or 1, *map_shape), zero over the border; one group, like `values`."""
        (top, left), (bottom, right) = self._overhang()
        padded = F.pad(maps, (left, right, top, bottom)).permute(0, 2, 3, 1)
        cut = padded[:, self.corner[0] + top :, self.corner[1] + left :]
        table = cut.unfold(1, self.window[0], self.step[0]).unfold(2, self.window[1], self.step[1])
        table = table[:, : self.grid[0], : self.grid[1]].permute(0, 1, 2, 4, 5, 3)
        flat = table.reshape(-1, math.prod(self.values.shape[3:]))
        index = self.cell
        if len(maps) > 1:
            first = torch.arange(len(maps), device=index.device) * math.prod(self.grid)
            index = index + first.unsqueeze(1)
        return flat.index_select(0, index.flatten()).view(len(index), 1, index.shape[1], *self.values.shape[3:])

    def _overhang(self) -> tuple[Pair, Pair]:
        """How far the windows reach over the top and left border, and over the bottom and right one."""
        before, after = [], []
        for size, window, grid, step, corner in zip(
            self.map_shape[1:], self.window, self.grid, self.step, self.corner, strict=True
        ):
            before.append(max(0, -corner))
            after.append(max(0, corner + (grid - 1) * step + window - size))
        return (before[0], before[1]), (after[0], after[1])

    def dot(self, maps: Tensor) -> Tensor:
        """Inner products (batch, groups * spec) with maps (batch or 1, *map_shape)."""
        return (self.values * self.windows(maps)).sum((3, 4, 5)).flatten(1)

    def dense(self) -> Tensor:
        """The same coefficients as a tensor (batch, groups * spec, *map_shape)."""
        (top, left), (bottom, right) = self._overhang()
        channels, height, width = self.map_shape
        batch, groups, spec = self.values.shape[:3]
        padded_height, padded_width = height + top + bottom, width + left + right
        y = self.cell // self.grid[1] * self.step[0] + self.corner[0] + top
        x = self.cell % self.grid[1] * self.step[1] + self.corner[1] + left
        rows = y.unsqueeze(2) + torch.arange(self.window[0], device=y.device)
        columns = x.unsqueeze(2) + torch.arange(self.window[1], device=y.device)
        index = (rows.unsqueeze(3) * padded_width + columns.unsqueeze(2)).view(batch, 1, spec, -1, 1)
        values = self.values.flatten(3, 4)
        full = values.new_zeros(batch, groups, spec, padded_height * padded_width, channels)
        full = full.scatter(3, index.expand_as(values), values).unflatten(3, (padded_height, padded_width))
        inner = full[:, :, :, top : top + height, left : left + width]
        return inner.permute(0, 1, 2, 5, 3, 4).reshape(batch, groups * spec, *self.map_shape)


Coefficients = Tensor | Patches


def unit_patches(index: Tensor, dtype: torch.dtype, shape: Shape) -> Patches:
    """Rows with a one at the flat position `index` (batch, spec) in `shape`, as 1 x 1 windows."""
    channels, height, width = shape
    values = F.one_hot(index // (height * width), channels).to(dtype)[:, None, :, None, None]
    return Patches(values, index % (height * width), (height, width), (1, 1), (0, 0), shape, clean=True)


def add(A: Coefficients, B: Coefficients) -> Coefficients:
    """The sum of coefficients of the same rows over the same node; windows stay windows when they are on one grid."""
    if isinstance(A, Patches) and isinstance(B, Patches) and A.step == B.step and A.grid == B.grid:
        corner = [min(a, b) for a, b in zip(A.corner, B.corner, strict=True)]
        end = [max(a + n, b + m) for a, n, b, m in zip(A.corner, A.window, B.corner, B.window, strict=True)]
        parts = []
        for part in (A, B):
            before = [c - o for c, o in zip(part.corner, corner, strict=True)]
            after = [e - c - w for e, c, w in zip(end, part.corner, part.window, strict=True)]
            parts.append(F.pad(part.values, (0, 0, before[1], after[1], before[0], after[0])))
        return replace(A, values=parts[0] + parts[1], corner=(corner[0], corner[1]), clean=A.clean and B.clean)
    return dense(A) + dense(B)


def negated(A: Coefficients) -> Coefficients:
    """-A."""
    return A.over(-A.values, A.clean) if isinstance(A, Patches) else -A


def with_negative(A: Coefficients) -> Coefficients:
    """The rows of A, then those of -A."""
    if isinstance(A, Patches):
        return A.over(torch.cat((A.values, -A.values), 1), A.clean)
    return torch.cat((A, -A), 1)


def dense(A: Coefficients) -> Tensor:
    """The coefficients as a tensor (batch, spec, *shape)."""
    return A.dense() if isinstance(A, Patches) else A


def dot(A: Coefficients, maps: Tensor) -> Tensor:
    """Inner products (batch, spec) of coefficients with values (batch or 1, *shape)."""
    if isinstance(A, Patches):
        return A.dot(maps)
    return (A.flatten(2) @ maps.flatten(1).unsqueeze(2)).squeeze(2)
