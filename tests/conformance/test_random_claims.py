"""Random ONNX networks with claims that a sampled input refutes: no bound, search or certificate may prove them.

The networks hold what exact values are not known of (`tests/adversarial/lines.py` knows them of fewer operators); the
refutation is what onnxruntime computes, by a gap far above rounding.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from random_onnx import Network

from verifier.certified import verify_certified
from verifier.errors import SolverError, SpecificationError
from verifier.graph import Graph
from verifier.load import Model
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.strategy import Settings, verify
from verifier.verdict import Verdict

SAMPLE, MANY, POINTS = 48, 10_000, 400
GAP = 1e-3  # of the output's range and size
WAYS = ("certified", "auto", "interval", "crown", "alpha", "bab", "lp", "milp")


def claim(net: Network, model: Model) -> Property | None:
    """A false claim about a box in which some inputs move; None where it would rest on rounding."""
    draw, shape = net.draw, model.graph.input_shape
    centre, reach = draw.normal(size=shape), draw.choice([0.01, 0.3, 2.0]) * draw.random(shape)
    reach[draw.random(shape) < draw.choice([0.0, 0.7])] = 0
    lower, upper = (exact(np.round(centre + sign * reach, 2)) for sign in (-1, 1))
    low, high = lower.astype(np.float64), upper.astype(np.float64)
    points = low + draw.choice([0.0, 1.0, 0.3, 0.6], (POINTS, *shape)) * (high - low)
    values = model.graph.stated(torch.from_numpy(points)).flatten(1).numpy()
    row = draw.integers(-2, 3, values.shape[1]).astype(np.float64)
    row[int(draw.integers(len(row)))] += 1
    with np.errstate(all="ignore"):
        scores = values @ row
    room = GAP * (np.ptp(scores) + np.abs(values).max() * np.abs(row).sum())
    single = points[scores.argmin()].astype(np.float32)
    native = model.native(single[None]).ravel().astype(np.float64)
    if not np.isfinite(values).all() or abs(native @ row - scores.min()) > room / 2 or room > 1e30:
        return None
    floor = float(scores.min() + room)
    unsafe = HalfSpaces(torch.from_numpy(row[None]), torch.tensor([-floor], dtype=torch.float64))
    return Property(Region(lower, upper), (unsafe,))


@dataclass(frozen=True, eq=False)
class Blind:
    """A model whose runs never violate a property, so that nothing is a counterexample and every way must go on."""

    model: Model
    prop: Property

    @property
    def graph(self) -> Graph:
        return self.model.graph

    def native(self, x: np.ndarray) -> np.ndarray:
        [unsafe] = self.prop.unsafe
        row = unsafe.C[0].numpy()
        safe = row * (1 - float(unsafe.d[0])) / (row @ row)
        return np.tile(safe.astype(np.float32), (len(x), 1))

    def onnx(self) -> bytes:
        return self.model.onnx()


def judge(seed: int, way: str, folder: Path, timeout: float = 0.2) -> str:
    """The verdict about the claim of network `seed`; fails when it is VERIFIED."""
    net = Network(seed)
    model = net.loaded(folder)
    if model is None:
        return "empty" if net.last == "x" else "refused"
    prop = claim(net, model)
    if prop is None:
        return "rounding"
    settings = Settings("auto" if way == "certified" else way, timeout=timeout, device="cpu", attacked=True)
    subject = Blind(model, prop)
    try:
        result = (
            verify_certified(subject, prop, settings).result if way == "certified" else verify(subject, prop, settings)
        )
    except (SolverError, SpecificationError):
        return "refused"
    assert result.verdict is not Verdict.VERIFIED or result.solver_word, f"{seed}: a false claim is VERIFIED by {way}"
    return result.verdict.name


def test_what_an_input_refutes_is_not_verified(tmp_path: Path) -> None:
    answers = Counter(judge(seed, WAYS[seed % len(WAYS)], tmp_path) for seed in range(SAMPLE))
    assert answers["UNKNOWN"] > SAMPLE // 5, answers


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_what_inputs_refute_is_not_verified(way: str, tmp_path: Path) -> None:
    for seed in range(SAMPLE, SAMPLE + MANY):
        judge(seed, way, tmp_path)
