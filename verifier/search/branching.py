"""Which neuron, or which input, to split, and where.

A cheap score ranks every candidate; a bound of the real children chooses among the best (filtered smart branching,
De Palma et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from verifier.bounds.interval import read_by_activations
from verifier.graph import Graph
from verifier.ops.base import Activation, PiecewiseLinear
from verifier.ops.patches import Coefficients, dense
from verifier.search.domain import Domains
from verifier.types import Interval


def neuron_scores(graph: Graph, domains: Domains, coefficients: dict[int, Coefficients]) -> dict[int, Tensor]:
    """For every node that is read by activations, how much its neurons' relaxation may cost the bound, (n, *shape).

    coefficients: those of every activation's output, from the bound of the subdomains. The cost is the coefficient
    times the widest gap between the activation and the line that its sign picks (after Bunel et al. 2020).
    """
    scores: dict[int, Tensor] = {}
    for index, A in coefficients.items():
        op, read = graph.nodes[index].op, graph.nodes[index].inputs[0]
        assert isinstance(op, Activation)
        z = domains.bounds[read]
        a = dense(A).squeeze(1)
        below, above = _gaps(op, z, domains.slopes[index].transpose(0, 1).squeeze(2))
        cost = torch.where(a >= 0, a * below, -a * above)
        cost = torch.where(op.unstable(z), cost, torch.zeros_like(cost))
        scores[read] = scores[read] + cost if read in scores else cost
    return scores


def _gaps(op: Activation, z: Interval, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The widest gaps between the activation and its lower and upper line, looked for at its ends and bends."""
    lines = op.relax(z, alpha)
    below, above = torch.zeros_like(z.lower), torch.zeros_like(z.lower)
    for point in (z.lower, z.upper, *_bends(op, z)):
        value = op.forward(point)
        low, high = lines.lower_slope * point, lines.upper_slope * point
        low = low if lines.lower_offset is None else low + lines.lower_offset
        high = high if lines.upper_offset is None else high + lines.upper_offset
        below, above = torch.maximum(below, value - low), torch.maximum(above, high - value)
    return below, above


def _bends(op: Activation, z: Interval) -> list[Tensor]:
    """Where to look for the widest gap, and to split: breakpoints inside the interval, else its middle."""
    if not isinstance(op, PiecewiseLinear):
        return [z.center]
    return [z.lower.clamp(min=point).minimum(z.upper) for point in op.breakpoints]


Points = Callable[[int, Tensor, Interval], Tensor]


def split_points(graph: Graph) -> Points:
    """Where to split: `(node, positions (k,), the node's bounds (k, *shape)) -> points (k,)`.

    An input and a smooth activation's neuron in the middle; else at the breakpoint inside that is nearest the middle.
    """
    readers = read_by_activations(graph)

    def points(node: int, position: Tensor, z: Interval) -> Tensor:
        l, u = (side.flatten(1).gather(1, position.unsqueeze(1)).squeeze(1) for side in (z.lower, z.upper))
        middle = (l + u) / 2
        op = readers[node][0] if node else None
        if not isinstance(op, PiecewiseLinear):
            return middle
        bends = torch.tensor(op.breakpoints, dtype=l.dtype, device=l.device)
        inside = (bends > l.unsqueeze(1)) & (bends < u.unsqueeze(1))
        distance = torch.where(inside, (bends - middle.unsqueeze(1)).abs(), math.inf)
        return torch.where(inside.any(1), bends[distance.argmin(1)], middle)

    return points


def children(domains: Domains, node: Tensor, position: Tensor, points: Points) -> Domains:
    """Both halves of every subdomain: first all with `z <= point`, then all with `z >= point`.

    node, position: (n,), the node and the flat position that each subdomain is split on.
    """
    n = len(domains)
    both = domains.select(torch.arange(n, device=domains.lower.device).repeat(2))
    for index in node.unique().tolist():
        rows = (node == index).nonzero().squeeze(1)
        at = position[rows]
        z = domains.bounds[index].select(rows)
        value = points(index, at, z).to(domains.lower)
        for side, first in (("upper", 0), ("lower", n)):
            getattr(both.bounds[index], side).flatten(1)[rows + first, at] = value
        if index in both.split:
            both.split[index].flatten(1)[rows, at] = True
            both.split[index].flatten(1)[rows + n, at] = True
    return both


def candidates(scores: dict[int, Tensor], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best of all scores: node, flat position and score, each (n, count)."""
    nodes = list(scores)
    flat = [scores[node].flatten(1) for node in nodes]
    sizes = torch.tensor([f.shape[1] for f in flat], device=flat[0].device)
    best = torch.cat(flat, 1).topk(min(count, int(sizes.sum())), 1)
    ends = sizes.cumsum(0)
    which = torch.searchsorted(ends, best.indices, right=True)
    node = torch.tensor(nodes, device=flat[0].device)[which]
    return node, best.indices - (ends - sizes)[which], best.values


def best_of(
    domains: Domains,
    node: Tensor,
    position: Tensor,
    score: Tensor,
    points: Points,
    bound: Callable[[Domains], Tensor],
) -> tuple[Tensor, Tensor]:
    """Among candidates (n, count), the one whose worse child has the best bound; returns node and position (n,)."""
    worst = torch.full_like(score, -math.inf)
    for k in range(node.shape[1]):
        trial = children(domains, node[:, k], position[:, k], points)
        lower = bound(trial)
        low, high = lower.chunk(2)
        # The worse child counts; the better one breaks ties between candidates that leave the worse one as it is.
        value = torch.minimum(low, high) + 1e-3 * torch.maximum(low, high)
        worst[:, k] = torch.where(score[:, k] > 0, value.nan_to_num(-math.inf), worst[:, k])
    choice = worst.argmax(1, keepdim=True)
    return node.gather(1, choice).squeeze(1), position.gather(1, choice).squeeze(1)
