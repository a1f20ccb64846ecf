"""Descents that begin between the ends of earlier ones: for needles that restarts from random points miss.

Most coordinates of a good point are right for a better one as well: a start is one of the best points so far, with some
coordinates drawn anew, as in evolutionary search.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from verifier.attack.pgd import AttackResult, Forward, Objective, Pgd, project, random_point
from verifier.types import Box


@dataclass(frozen=True)
class Hunt:
    """An endless search for the point of a region with the smallest margin.

    descent: one descent. starts: how many in a round, `kept` the best points that the next ones start from. fresh: the
    share of coordinates that are drawn anew. seed: fixes the draws.
    """

    descent: Pgd = field(default_factory=lambda: Pgd(steps=20, step_size=0.2))
    starts: int = 32
    kept: int = 8
    fresh: float = 0.3
    seed: int = 0

    def __call__(self, forward: Forward, region: Box, objective: Objective) -> Iterator[AttackResult]:
        """After every round the best point so far, (1, *input_shape), and its margin, (1,); see `Pgd.__call__`.

        region: of batch one. objective: treats every row alike.
        """
        generator = torch.Generator().manual_seed(self.seed)
        device = region.lower.device
        regions = region.select(torch.zeros(self.starts, dtype=torch.long, device=device))
        start = project(regions, random_point(regions, generator))
        best = AttackResult(start[:0], regions.lower.new_zeros(0))
        while True:
            found = self.descent(forward, regions, objective, start)
            points, margins = torch.cat((best.point, found.point)), torch.cat((best.margin, found.margin))
            order = margins.argsort()[: self.kept]
            best = AttackResult(points[order], margins[order])
            yield AttackResult(best.point[:1], best.margin[:1])
            parents = best.point[torch.randint(len(order), (self.starts,), generator=generator).to(device)]
            fresh = torch.rand(parents.shape, generator=generator).to(device) < self.fresh
            start = project(regions, torch.where(fresh, random_point(regions, generator), parents))
