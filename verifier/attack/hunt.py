"""Descents that begin between the ends of earlier ones: for needles that restarts from random points miss.

Most coordinates of a good point are right for a better one as well: a start is one of the best points so far, with some
coordinates drawn anew, as in evolutionary search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verifier.attack.pgd import AttackResult, Forward, Objective, Pgd, project, random_point
from verifier.types import Box


@dataclass(frozen=True)
class Hunt:
    """An endless search for the points of a region with the smallest margins.

    descent: one descent. starts: how many in a round, for one margin. kept: how many of the best points the next ones
    start from. fresh: the share of coordinates that are drawn anew. seed: fixes the draws.
    """

    descent: Pgd = field(default_factory=lambda: Pgd(steps=20, step_size=0.2))
    starts: int = 32
    kept: int = 8
    fresh: float = 0.3
    seed: int = 0

    def __call__(self, forward: Forward, region: Box, objectives: Sequence[Objective]) -> Pack:
        """Hunt for several margins side by side, which costs small networks hardly more than one; see `Pgd.__call__`.

        region: of batch one. objectives: each treats every row alike.
        """
        return Pack(self, forward, region, list(objectives))


class Pack:
    """Hunts for several margins in one region, round by round."""

    def __init__(self, hunt: Hunt, forward: Forward, region: Box, objectives: list[Objective]) -> None:
        self.hunt, self.forward, self.region, self.objectives = hunt, forward, region, objectives
        self.generator = torch.Generator().manual_seed(hunt.seed)
        none = AttackResult(region.lower[:0], region.lower.new_zeros(0))
        self.best = [none for _ in objectives]

    def round(self) -> AttackResult:
        """The best points so far, (objectives, *input_shape), and their margins, (objectives,)."""
        count = self.hunt.starts
        every = torch.zeros(len(self.objectives) * count, dtype=torch.long, device=self.region.lower.device)
        regions = self.region.select(every)

        def margins(outputs: Tensor) -> Tensor:
            parts = zip(self.objectives, outputs.split(count), strict=True)
            return torch.cat([objective(part) for objective, part in parts])

        found = self.hunt.descent(self.forward, regions, margins, project(regions, self._starts(regions)))
        ends = zip(self.best, found.point.split(count), found.margin.split(count), strict=True)
        self.best = [self._best(*both) for both in ends]
        return AttackResult(*(torch.cat([own[:1] for own in side]) for side in zip(*self.best, strict=True)))

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the objectives at some places."""
        self.objectives = [self.objectives[i] for i in places]
        self.best = [self.best[i] for i in places]

    def _starts(self, regions: Box) -> Tensor:
        """Where the next descents begin: anywhere at first."""
        fresh = random_point(regions, self.generator)
        if not all(len(best.margin) for best in self.best):
            return fresh
        draws = [torch.randint(len(b.margin), (self.hunt.starts,), generator=self.generator) for b in self.best]
        parents = torch.cat([b.point[draw.to(fresh.device)] for b, draw in zip(self.best, draws, strict=True)])
        anew = torch.rand(parents.shape, generator=self.generator).to(fresh.device) < self.hunt.fresh
        return torch.where(anew, fresh, parents)

    def _best(self, known: AttackResult, points: Tensor, margins: Tensor) -> AttackResult:
        points, margins = torch.cat((known.point, points)), torch.cat((known.margin, margins))
        order = margins.argsort()[: self.hunt.kept]
        return AttackResult(points[order], margins[order])
