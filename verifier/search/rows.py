"""The half-spaces of several unsafe sets as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from verifier.spec.property import HalfSpaces


@dataclass(frozen=True, eq=False)
class Rows:
    """C (sets, rows, outputs) and d (sets, rows); sets with fewer rows than others repeat their last."""

    C: Tensor
    d: Tensor

    @classmethod
    def of(cls, unsafe: Sequence[HalfSpaces], like: Tensor) -> Self:
        """The rows of unsafe sets, with the dtype and device of `like`."""
        most = max(len(s.C) for s in unsafe)
        fill = [torch.arange(most).clamp(max=len(s.C) - 1) for s in unsafe]
        C = torch.stack([s.C[i] for s, i in zip(unsafe, fill, strict=True)]).to(like)
        return cls(C, torch.stack([s.d[i] for s, i in zip(unsafe, fill, strict=True)]).to(like))

    def combined(self, weights: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
        """One half-space per subdomain, (n, outputs) and (n,), by weights (n, rows)."""
        c = (weights.unsqueeze(1) @ self.C[sets]).squeeze(1)
        return c, (weights * self.d[sets]).sum(1)

    def values(self, outputs: Tensor, sets: Tensor) -> Tensor:
        """Every row's value (n, rows) at outputs (n, outputs)."""
        return (self.C[sets] @ outputs.unsqueeze(2)).squeeze(2) + self.d[sets]

    def to(self, dtype: torch.dtype) -> Rows:
        """The same in another precision."""
        return Rows(self.C.to(dtype), self.d.to(dtype))
