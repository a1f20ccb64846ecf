"""Many properties bounded together, against samples and against each by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nets import Native, mlp

from verifier.batch.query import answer, certified_answer
from verifier.batch.screen import Screen
from verifier.load.export import onnx_bytes
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.spec.vnnlib import parse
from verifier.strategy import Settings
from verifier.verdict import Verdict


class Subject(Native):
    def onnx(self) -> bytes:
        return onnx_bytes(self.graph)


def subject(seed: int = 0) -> Subject:
    return Subject(mlp(torch.Generator().manual_seed(seed), (2, 12, 12, 2)))


def properties(net: Subject, count: int, slack: float) -> list[Property]:
    """Boxes in a row, each with one or two sets that samples miss by `slack`."""
    made = []
    for k in range(count):
        low, high = np.array([k / count - 0.5, -0.25]), np.array([(k + 1) / count - 0.5, 0.25])
        y = net.graph(torch.from_numpy(low) + torch.rand(2000, 2).double() * torch.from_numpy(high - low))
        above = HalfSpaces(torch.tensor([[1.0, -0.5]]).double(), slack - (y[:, :1] - y[:, 1:] / 2).amin(0))
        below = HalfSpaces(
            torch.tensor([[-1.0, 0.0], [0.0, 1.0]]).double(), slack - torch.stack((-y[:, 0], y[:, 1])).amin(1)
        )
        made.append(Property(Region(exact(low), exact(high)), (above, below)[: 1 + k % 2]))
    return made


def sampled(net: Subject, prop: Property) -> float:
    box = prop.region.box()
    return float(prop.margin(net.graph(box.lower + torch.rand(5000, 2).double() * (box.upper - box.lower))).min())


@pytest.mark.parametrize("seed", range(4))
def test_margins_hold_and_halves_have_better_ones(seed: int) -> None:
    net = subject(seed)
    props = properties(net, 24, 0.05)
    screen = Screen(net, props, torch.device("cpu"))
    whole = screen.whole(math.inf)
    halved = screen.halved(whole, math.inf)
    assert (halved >= whole).all() and screen.evaluations > len(props)
    assert int((halved > screen.allowance).sum()) > int((whole > screen.allowance).sum())
    for margin, prop in zip(halved.tolist(), props, strict=True):
        assert margin <= sampled(net, prop) + 1e-9


def test_unsafe_properties_are_never_proved() -> None:
    net = subject()
    props = properties(net, 24, -0.01)
    screen = Screen(net, props, torch.device("cpu"))
    assert not bool((screen.halved(screen.whole(math.inf), math.inf) > screen.allowance).any())


def test_without_time_nothing_is_known() -> None:
    net = subject()
    screen = Screen(net, properties(net, 9, 0.05), torch.device("cpu"))
    assert bool(screen.whole(0.0).isneginf().all()) and screen.evaluations == 0


def query(net: Subject, slack: float) -> str:
    """VNN-LIB of boxes, each with the output row that samples stay above by `slack`."""
    lines = [f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1")]
    cases = []
    for prop in properties(net, 20, slack)[::2]:
        low, high = ([float(v) for v in side] for side in (prop.region.lower, prop.region.upper))
        box = " ".join(f"(>= X_{i} {low[i]!r}) (<= X_{i} {high[i]!r})" for i in range(2))
        cases.append(f"(and {box} (<= (+ Y_0 (* -0.5 Y_1)) {-float(prop.unsafe[0].d[0])!r}))")
    return "\n".join([*lines, f"(assert (or {' '.join(cases)}))"])


@pytest.mark.parametrize(("slack", "verdict"), [(0.3, Verdict.VERIFIED), (-0.01, Verdict.FALSIFIED)])
def test_queries_of_many_boxes(slack: float, verdict: Verdict) -> None:
    net = subject()
    text = query(net, slack)
    found = answer(net, parse(text, "many.vnnlib"), Settings(timeout=60, device="cpu"))
    assert found.result.verdict is verdict
    if verdict is Verdict.VERIFIED:
        assert len(found.cases) == 10 and "together" in found.result.stages[0].remark
        proved, certified = certified_answer(net, parse(text, "many.vnnlib"), text.encode(), Settings(device="cpu"))
        assert proved.result.certified and certified.certificate is not None
