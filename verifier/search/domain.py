"""Batches of subdomains, and the frontier of those still open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor


@dataclass(eq=False)
class Domains:
    """n subdomains: every field is a tensor with axis 0 of length n. A kind of split adds the fields that it needs.

    unsafe: (n,), index of the unsafe set. lower: (n,), the best proved margin bound, in float64. node: (n,), where they
    stand in the search's record.
    """

    unsafe: Tensor
    lower: Tensor
    node: Tensor

    def __len__(self) -> int:
        return len(self.lower)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same record with every tensor changed."""
        return replace(self, **{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def select(self, index: Tensor) -> Self:
        """The subdomains at `index` (positions or a mask), copied."""
        return self.mapped(lambda t: t[index])

    def nbytes(self) -> int:
        """What they take in memory."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))


D = TypeVar("D", bound=Domains)


def joined(parts: Sequence[D]) -> D:
    """All subdomains of several batches."""
    if len(parts) == 1:
        return parts[0]
    names = [f.name for f in fields(parts[0])]
    return replace(parts[0], **{name: torch.cat([getattr(p, name) for p in parts]) for name in names})


def outward(values: Tensor, towards: float) -> Tensor:
    """float32 numbers that are not on the wrong side of the values: rounded in the given direction, -inf or inf."""
    single = values.float()
    target = torch.full_like(single, towards)
    wrong = single.to(values) > values if towards < 0 else single.to(values) < values
    return torch.where(wrong, torch.nextafter(single, target), single)


class Frontier(Generic[D]):
    """The open subdomains, kept in batches; the batch with the worst bound comes first.

    When more than `limit` subdomains are open, the newest batch comes first instead: depth first, which shrinks it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._batches: list[D] = []
        self._worst: list[float] = []  # of each batch

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    @property
    def worst(self) -> float:
        """The least bound of an open subdomain; inf when none is open."""
        return min(self._worst, default=float("inf"))

    @property
    def open_sets(self) -> set[int]:
        """The unsafe sets with an open subdomain."""
        return {k for batch in self._batches for k in batch.unsafe.unique().tolist()}

    def push(self, domains: D) -> None:
        """Add open subdomains."""
        if len(domains):
            self._batches.append(domains)
            self._worst.append(float(domains.lower.min()))

    def pop(self, count: int) -> D:
        """Take out up to `count` subdomains."""
        taken, size = [], 0
        deep = len(self) > self.limit
        while self._batches and size < count:
            place = len(self._batches) - 1 if deep else self._worst.index(min(self._worst))
            batch = self._batches.pop(place)
            self._worst.pop(place)
            room = count - size
            if len(batch) > room:
                order = batch.lower.argsort()
                self.push(batch.select(order[room:]))
                batch = batch.select(order[:room])
            taken.append(batch)
            size += len(batch)
        return joined(taken)
