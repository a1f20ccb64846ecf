"""Which unit to split.

A cheap score ranks every candidate; a bound of the real children chooses among the best (filtered smart branching,
De Palma et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from verifier.search.ascent import Patterns
from verifier.search.units import Lines, Units

P = TypeVar("P", bound=Patterns)

LITTLE = 1e-3  # the least share of what is missing that a child counts as gaining
TOGETHER = 512  # children that are bounded at once, about: small batches cost by the call


def scores(units: Units, l: Tensor, u: Tensor, lines: Lines, v: Tensor) -> Tensor:
    """How much each unit's relaxation may cost the bound, (n, units); zero for units that are decided.

    The coefficient over the activation's output times the widest gap between the activation and the line that its sign
    picks (after Bunel et al. 2020). A coefficient of zero does not say that a unit is idle: undecided ones score more.
    """
    below, above = units.gaps(l, u, lines)
    cost = torch.where(v >= 0, v * below, -v * above).clamp(min=torch.finfo(v.dtype).tiny)
    return cost * units.unstable(l, u)


def children(units: Units, domains: P, unit: Tensor) -> P:
    """Both halves of every subdomain, split on `unit` (n,): first all with `z <= point`, then all with `z >= point`."""
    row = torch.arange(len(domains), device=unit.device)
    point = units.split_point(unit, domains.l[row, unit], domains.u[row, unit]).unsqueeze(1)
    both = domains.select(row.repeat(2))
    low, high = slice(0, len(row)), slice(len(row), None)
    same = units.neuron == units.neuron[unit].unsqueeze(1)
    both.u[low] = torch.where(same, torch.minimum(both.u[low], point), both.u[low])
    both.l[high] = torch.where(same, torch.maximum(both.l[high], point), both.l[high])
    both.split |= same.repeat(2, 1)
    return both


def best_of(
    units: Units,
    domains: Patterns,
    shortlist: Tensor,
    score: Tensor,
    enough: float,
    bound: Callable[[Patterns], Tensor],
) -> tuple[Tensor, Tensor]:
    """Among the units of the shortlist (n, count), the one whose children gain most, (n,), and all gains (n, count).

    A gain is the geometric mean of both children's, each at most what is missing to `enough` and at least a little: the
    product rule of integer programming (Achterberg et al. 2005). The worse child alone would make candidates equal that
    leave it as it is.
    """
    n, count = shortlist.shape
    lower = domains.lower.to(score).unsqueeze(1)
    missing = (enough - lower).clamp(min=torch.finfo(score.dtype).tiny)
    gains = torch.zeros_like(score)
    for some in torch.arange(count, device=score.device).split(max(1, TOGETHER // (2 * n))):
        every = domains.select(torch.arange(n, device=score.device).repeat(len(some)))
        halves = bound(children(units, every, shortlist[:, some].T.flatten())).to(score).view(2, len(some), n)
        first, second = (((side.T - lower).nan_to_num(0.0) / missing).clamp(LITTLE, 1) for side in halves)
        gains[:, some] = torch.where(score[:, some] > 0, (first * second).sqrt() * missing, 0)
    return shortlist.gather(1, gains.argmax(1, keepdim=True)).squeeze(1), gains
