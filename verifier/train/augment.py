"""Random shifts of images, the augmentation that keeps a digit what it is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def shifted(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Every image of x (batch, channels, height, width) moved by up to `most` pixels along both axes, zeros behind."""
    if most == 0:
        return x
    batch, _, height, width = x.shape
    by = torch.randint(0, 2 * most + 1, (2, batch, 1), generator=generator).to(x.device)
    rows = (by[0] + torch.arange(height, device=x.device)).unsqueeze(2)
    columns = (by[1] + torch.arange(width, device=x.device)).unsqueeze(1)
    images = torch.arange(batch, device=x.device).view(-1, 1, 1)
    return F.pad(x, (most,) * 4)[images, :, rows, columns].permute(0, 3, 1, 2)
