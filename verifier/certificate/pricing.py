"""What a claim about float32 execution costs, estimated before it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from verifier.certificate.analysis import Analysis
from verifier.certificate.nodes import Refused
from verifier.certificate.pulling import Domains
from verifier.certificate.reading import Network
from verifier.certificate.refining import undecided
from verifier.certificate.relaxation import Sides
from verifier.certificate.rounded import Rounded
from verifier.certificate.writer import read_model

SAMPLE = 16  # neurons of every layer
ONE = np.zeros(1, dtype=np.int64)


@dataclass(eq=False)
class Estimating(Analysis):
    """Float32 bounds of a region whose bounds in real arithmetic are known: by what a sample of neurons loses.

    real: how these are computed, and the region.
    """

    real: tuple[Analysis, Domains] | None = None

    def refine(self, j: int, l: np.ndarray, u: np.ndarray, d: Domains) -> None:
        assert self.real is not None
        analysis, known = self.real
        node = self.network.nodes[j]
        places = np.flatnonzero(undecided(node, l, u))
        places = places[:: max(1, len(places) // SAMPLE)]
        if not len(places):
            return
        rows = np.zeros((1, len(places), node.size))
        rows[0, np.arange(len(places)), places] = 1
        exact, single = (one.sides(node, rows, of, ONE, False, None) for one, of in ((analysis, known), (self, d)))
        low, high = (np.maximum(x - y, 0).mean() for x, y in zip(exact, single, strict=True))
        l -= low
        u += high


def estimated(analysis: Analysis, box: Sides, known: Mapping[int, Sides]) -> tuple[Estimating, Domains]:
    """A region in float32, by analysis in real arithmetic. known: bounds (1, n) of what activations read, by node."""
    own = analysis.network, analysis.kind
    real = Analysis(*own, False, analysis.hints, analysis.ball)
    estimating = Estimating(*own, True, analysis.hints, analysis.ball, (real, real.bounds(box, known)))
    return estimating, estimating.bounds(box, known)


def price(model: bytes, box: Sides, known: Mapping[int, Sides], rows: np.ndarray, merge: bool = False) -> float:
    """How much more a margin in real arithmetic must be, of rows (k, outputs) over a box, to be one in float32.

    model: ONNX. known: bounds (1, n) of what activations read, by their numbers. merge: see `Proof`. Infinite where the
    checker makes no claim about float32.
    """
    try:
        with np.errstate(all="ignore"):
            network = read_model(model, merge)
            if network.double or any(node.curve is not None for node in network.nodes):
                return math.inf
            hints = {"refine": [0] * len(network.activations), "slots": np.zeros((3, 0), dtype=np.int64)}
            analysis = Analysis(network, Rounded, False, hints)
            single, d = estimated(analysis, box, by_node(network, known))
            assert single.real is not None
            found = [one.least(network.output, rows[None], of, ONE) for one, of in (single.real, (single, d))]
            lost = float((found[0] - found[1]).max())
    except Refused:
        return math.inf
    return lost if lost < math.inf else math.inf


def by_node(network: Network, known: Mapping[int, Sides]) -> dict[int, Sides]:
    """Bounds (1, n) of what every activation reads, by node, from some by the numbers of activations."""
    nothing = np.full((1, 1), -math.inf), np.full((1, 1), math.inf)
    return {j: known.get(i, nothing) for i, j in enumerate(network.activations)}
