"""The only judge of a counterexample: it must lie in the region and violate the property, in two arithmetics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from verifier.attack.exact import exact_output
from verifier.bounds.enclosure import enclose
from verifier.graph import Graph
from verifier.spec.property import Property, exact
from verifier.types import Box

Native = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Replay:
    """What became of a candidate.

    inside: the point that it stands for lies in the region, by exact comparison. float32: the original model, run in
    float32, gives an unsafe output. real: so does exact arithmetic on the weights, at that point; None when that is too
    close to call, which only smooth activations can be.
    outputs: what the original model answered. margin: its margin.
    """

    inside: bool
    float32: bool
    real: bool | None
    outputs: np.ndarray
    margin: float

    @property
    def accepted(self) -> bool:
        """Whether the candidate is a counterexample."""
        return self.inside and self.float32 and self.real is True

    @property
    def reason(self) -> str:
        """Why it is not, in words."""
        if not self.inside:
            return "the candidate lies outside the allowed inputs"
        arithmetic = {True: "violates", False: "is safe", None: "is too close to call"}
        single = "violates" if self.float32 else "is safe"
        return f"a candidate {single} in float32 and {arithmetic[self.real]} in real arithmetic"


def replay(native: Native, graph: Graph, prop: Property, x: np.ndarray) -> Replay:
    """Judge the float32 candidate x (*input_shape).

    native: runs the original model bytes in float32 on a batch. graph: the same network, which as it was stated gives a
    rigorous enclosure of the exact margins.
    """
    outputs = native(x[np.newaxis])[0]
    values = torch.from_numpy(outputs.astype(np.float64)).unsqueeze(0)
    margin = float(prop.margin(values)[0])
    unsafe = margin <= 0 and bool(np.isfinite(outputs).all()) and holds(prop, exact(outputs.ravel()))
    inside = prop.region.admits(x)
    sides = prop.region.sides(x) if inside else (x.astype(np.float64),) * 2
    low, high = (torch.from_numpy(side).unsqueeze(0) for side in sides)
    C, d, sets = prop.rows
    margins, above = enclose(graph.stated, Box(low, high), C, d), torch.cat([s.above for s in prop.unsafe])
    upper = (margins if torch.equal(above, d) else enclose(graph.stated, Box(low, high), C, above)).upper
    tops = [float(upper[0, sets == k].max()) for k in range(len(prop.unsafe))]
    bottoms = [float(margins.lower[0, sets == k].max()) for k in range(len(prop.unsafe))]
    violates, safe = min(tops) <= 0, min(bottoms) > 0
    real = True if violates else False if safe else None
    if real is None and unsafe and inside:
        y = exact_output(graph.stated, prop.region.point(x))  # None for smooth networks
        real = None if y is None else holds(prop, y)
    return Replay(inside, unsafe, real, outputs, margin)


def holds(prop: Property, y: np.ndarray) -> bool:
    """Whether a flat output of Fractions lies in an unsafe set."""
    return any(one.holds(y) for one in prop.unsafe)
