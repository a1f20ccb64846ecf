"""What linear functions below the rows of an unsafe set leave of a box: only where none of them is positive."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 8
RATE = 2.0


def best_combination(linear: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The convex combination of rows whose minimum over t in [-1, 1]^k is largest, by multiplicative weights.

    linear: (n, 1 + k, rows). Returns the minimum (n,), the combined linear function (n, 1 + k), the weights (n, rows).
    """
    least = linear[:, 0] - linear[:, 1:].abs().sum(1)
    best, row = least.max(1)
    size = linear.abs().sum(1).amax(1, keepdim=True).clamp(min=torch.finfo(linear.dtype).tiny)
    form = linear.gather(2, row.view(-1, 1, 1).expand(-1, linear.shape[1], 1)).squeeze(2)
    chosen = torch.nn.functional.one_hot(row, linear.shape[2]).to(linear)
    if linear.shape[2] == 1:
        return best, form, chosen
    rounding = torch.finfo(linear.dtype).eps * (linear.shape[1] + linear.shape[2]) * size
    weights = (least / size).softmax(1)
    for _ in range(STEPS):
        combined = (linear @ weights.unsqueeze(2)).squeeze(2)
        combined[:, :1] -= rounding
        value = combined[:, 0] - combined[:, 1:].abs().sum(1)
        better = value > best
        best = torch.where(better, value, best)
        form = torch.where(better.unsqueeze(1), combined, form)
        chosen = torch.where(better.unsqueeze(1), weights, chosen)
        gradient = linear[:, 0] - (linear[:, 1:] * combined[:, 1:].sign().unsqueeze(2)).sum(1)
        weights = (weights.log() + RATE * gradient / size).softmax(1)
    return best, form, chosen


def clipped(linear: Tensor, enough: float) -> tuple[Tensor, Tensor]:
    """The least box (n, k), (n, k) within [-1, 1]^k around what the rows leave, one row after the other.

    linear: (n, 1 + k, rows); nothing is left where a row exceeds `enough`. Where start > end, nothing is left at all.
    NaN cuts nothing off.
    """
    start = -torch.ones_like(linear[:, 1:, 0])
    end = -start
    for row in linear.unbind(2):
        constant, a = row[:, :1], row[:, 1:]
        least = torch.minimum(a * start, a * end)
        rounding = 2 * row.shape[1] * torch.finfo(row.dtype).eps * row.abs().sum(1, keepdim=True)
        limit = (enough - constant + rounding - least.sum(1, keepdim=True) + least) / a
        end = torch.where(a > 0, torch.fmin(end, limit), end)
        start = torch.where(a < 0, torch.fmax(start, limit), start)
    return start, end
