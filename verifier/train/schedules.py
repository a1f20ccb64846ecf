"""How radius and learning rate change over a run. Time is counted in epochs, with fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence


def growth(epoch: float, warm_up: float, ramp: float) -> float:
    """The radius as a share of the full one: 0 during the warm-up, then linearly to 1 over the ramp."""
    if epoch < warm_up:
        return 0.0
    return min(1.0, (epoch - warm_up) / ramp) if ramp > 0 else 1.0


def cosine(epoch: float, epochs: float, rise: float) -> float:
    """The learning rate as a share of the full one: a linear rise, under a cosine that falls to 0 at the end."""
    risen = min(1.0, epoch / rise) if rise > 0 else 1.0
    return risen * 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / epochs)))


def steps(epoch: float, milestones: Sequence[float], factor: float) -> float:
    """The learning rate as a share of the full one: times `factor` at every milestone passed."""
    return float(factor ** sum(epoch >= milestone for milestone in milestones))
