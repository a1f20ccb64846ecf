"""Local robustness: the prediction does not change within a ball around an input."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch

from verifier.errors import SpecificationError
from verifier.spec.property import NORMS, HalfSpaces, Property, Region, exact

SMALLEST_EPS, LARGEST_EPS = 1e-300, 1e300


def parse_eps(text: str | float | Fraction) -> Fraction:
    """The radius as an exact number; a float stands for its shortest decimal, so 0.1 is one tenth.

    Raises SpecificationError for anything but zero or a number between 1e-300 and 1e300, such as 0.1 or 8/255.
    """
    refusal = SpecificationError(f"eps must be a finite number >= 0, not '{text}'")
    if isinstance(text, Fraction):
        return _in_range(text, refusal)
    parts = str(text).split("/")
    try:
        # Looked at as floats first: the exact value of 1e-40000000 would take a long time to write down.
        sizes = [float(part) for part in parts]
    except ValueError:
        raise refusal from None
    if sizes[0] == 0 and len(parts) == 1 and not set("123456789") & set(parts[0].lower().partition("e")[0]):
        return Fraction(0)
    if not all(SMALLEST_EPS <= size <= LARGEST_EPS for size in sizes):
        raise refusal
    try:
        return _in_range(Fraction(str(text)), refusal)
    except (ValueError, ZeroDivisionError):
        raise refusal from None


def _in_range(eps: Fraction, refusal: SpecificationError) -> Fraction:
    if eps != 0 and not SMALLEST_EPS <= eps <= LARGEST_EPS:
        raise refusal
    return eps


def ball(
    x: np.ndarray, eps: Fraction, norm: str = "linf", lower: float | None = 0.0, upper: float | None = 1.0
) -> Region:
    """The ball of radius eps around x in the norm linf, l2 or l1, intersected with the data range (None: unbounded).

    x: floats of the input's shape, inside the data range. Raises SpecificationError otherwise.
    """
    if norm not in NORMS:
        raise SpecificationError(f"unknown norm '{norm}' (available: {', '.join(NORMS)})")
    if not np.isfinite(x).all():
        raise SpecificationError("the input holds NaN or Inf")
    if (lower is not None and (x < lower).any()) or (upper is not None and (x > upper).any()):
        raise SpecificationError(f"the input leaves the data range [{lower}, {upper}]: scale it to data units first")
    values, place = np.unique(x, return_inverse=True)  # an image has few different ones, and exact numbers take long
    origin, place = exact(values), place.reshape(x.shape)
    low, high = origin - eps, origin + eps
    if lower is not None:
        low = np.maximum(low, exact(lower))
    if upper is not None:
        high = np.minimum(high, exact(upper))
    return Region(low[place], high[place], origin[place], eps, NORMS[norm])


def local_robustness(
    x: np.ndarray,
    label: int,
    eps: str | float | Fraction,
    norm: str = "linf",
    target: int | None = None,
    *,
    classes: int,
    lower: float | None = 0.0,
    upper: float | None = 1.0,
) -> Property:
    """The prediction within the ball around x: without a target it stays `label`, with one it cannot become `target`.

    Ties count against the claim: it must be proved that `label` scores strictly more than every other class, or that
    some class scores strictly more than `target`.
    """
    for name, value in (("label", label), ("target", target)):
        if value is not None and not 0 <= value < classes:
            raise SpecificationError(f"{name} {value} is out of range: the network has classes 0 to {classes - 1}")
    if target == label:
        raise SpecificationError(f"the target {target} is the label itself: choose another class, or none")
    region = ball(x, parse_eps(eps), norm, lower, upper)
    unit = torch.eye(classes, dtype=torch.float64)
    if target is None:
        others = [k for k in range(classes) if k != label]
        unsafe = tuple(HalfSpaces((unit[label] - unit[k]).unsqueeze(0), unit.new_zeros(1)) for k in others)
        return Property(region, unsafe, f"the prediction stays {label}")
    rivals = [label] + [k for k in range(classes) if k not in (label, target)]
    reached = HalfSpaces(unit[rivals] - unit[target], unit.new_zeros(len(rivals)))
    return Property(region, (reached,), f"the prediction cannot become {target}")


def label_margin(label: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """An attack objective (batch,) for labels (batch,): the label's score minus the best other score."""

    def margin(outputs: torch.Tensor) -> torch.Tensor:
        own = outputs.gather(1, label.unsqueeze(1)).squeeze(1)
        others = outputs.scatter(1, label.unsqueeze(1), -math.inf)
        return own - others.amax(1)

    return margin
