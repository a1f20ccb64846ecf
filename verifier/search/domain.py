"""Batches of subdomains, and the frontier of those still open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.types import Interval


@dataclass(eq=False)
class Domains:
    """n subdomains as tensors with axis 0 of length n, whatever they were split on.

    bounds: by node, what activations read and (node 0) the input box, splits included, each (n, *shape).
    slopes: by activation, its relaxation's parameters (n, parameters, 1, *shape).
    gamma: by node, signed multipliers of `lower <= z <= upper` (n, *shape): positive ones press on the upper bound.
    split: by node, a mask of the neurons that were split, (n, *shape).
    weights: (n, rows), how the rows of the subdomain's unsafe set are combined, nonnegative with sum one.
    unsafe: (n,), index of the unsafe set. lower: (n,), the best proved margin bound.
    """

    bounds: dict[int, Interval]
    slopes: dict[int, Tensor]
    gamma: dict[int, Tensor]
    split: dict[int, Tensor]
    weights: Tensor
    unsafe: Tensor
    lower: Tensor

    def __len__(self) -> int:
        return len(self.lower)

    def select(self, index: Tensor) -> Domains:
        """The subdomains at `index` (positions or a mask), copied."""
        return Domains(
            bounds={n: z.select(index) for n, z in self.bounds.items()},
            slopes={n: t[index] for n, t in self.slopes.items()},
            gamma={n: t[index] for n, t in self.gamma.items()},
            split={n: t[index] for n, t in self.split.items()},
            weights=self.weights[index],
            unsafe=self.unsafe[index],
            lower=self.lower[index],
        )

    def take_better(self, other: Domains, found: Tensor) -> None:
        """Take over the multipliers of `other`, the same subdomains, wherever they gave a better bound `found` (n,)."""
        better = found > self.lower
        self.lower = torch.where(better, found, self.lower)
        for mine, theirs in ((self.slopes, other.slopes), (self.gamma, other.gamma)):
            for n, value in mine.items():
                mask = better.view(-1, *(1 for _ in value.shape[1:]))
                mine[n] = torch.where(mask, theirs[n].detach(), value)
        self.weights = torch.where(better.unsqueeze(1), other.weights.detach(), self.weights)


def joined(parts: Sequence[Domains]) -> Domains:
    """All subdomains of several batches."""
    if len(parts) == 1:
        return parts[0]

    def cat(tensors: Callable[[Domains], Mapping[int, Tensor]]) -> dict[int, Tensor]:
        return {n: torch.cat([tensors(p)[n] for p in parts]) for n in tensors(parts[0])}

    lower = cat(lambda p: {n: z.lower for n, z in p.bounds.items()})
    upper = cat(lambda p: {n: z.upper for n, z in p.bounds.items()})
    return Domains(
        bounds={n: Interval(lower[n], upper[n]) for n in lower},
        slopes=cat(lambda p: p.slopes),
        gamma=cat(lambda p: p.gamma),
        split=cat(lambda p: p.split),
        weights=torch.cat([p.weights for p in parts]),
        unsafe=torch.cat([p.unsafe for p in parts]),
        lower=torch.cat([p.lower for p in parts]),
    )


class Frontier:
    """The open subdomains, kept in batches; the batch with the worst bound comes first.

    When more than `limit` subdomains are open, the newest batch comes first instead: depth first, which shrinks it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._batches: list[Domains] = []

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    @property
    def worst(self) -> float:
        """The least bound of an open subdomain; inf when none is open."""
        return min((float(batch.lower.min()) for batch in self._batches), default=float("inf"))

    @property
    def open_sets(self) -> set[int]:
        """The unsafe sets with an open subdomain."""
        return {k for batch in self._batches for k in batch.unsafe.tolist()}

    def push(self, domains: Domains) -> None:
        """Add open subdomains."""
        if len(domains):
            self._batches.append(domains)

    def pop(self, count: int) -> Domains:
        """Take out up to `count` subdomains."""
        taken, size = [], 0
        deep = len(self) > self.limit
        while self._batches and size < count:
            place = len(self._batches) - 1
            if not deep:
                place = min(range(len(self._batches)), key=lambda i: float(self._batches[i].lower.min()))
            batch = self._batches.pop(place)
            room = count - size
            if len(batch) > room:
                order = batch.lower.argsort()
                self._batches.append(batch.select(order[room:]))
                batch = batch.select(order[:room])
            taken.append(batch)
            size += len(batch)
        return joined(taken)
