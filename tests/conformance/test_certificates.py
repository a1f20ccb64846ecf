"""For every op, by both kinds of splits: a certificate is written, and the checker accepts it in exact arithmetic."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, OpCase
from nets import Native, samples

from verifier import strategy
from verifier.certificate.checker import check
from verifier.certified import verify_certified
from verifier.graph import Graph
from verifier.load.export import onnx_bytes
from verifier.ops.base import Smooth
from verifier.search.bab import BranchAndBound
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.strategy import Settings

SPLITS = {"neurons": BranchAndBound(input_limit=0, trial_limit=0), "inputs": BranchAndBound(input_limit=10**6)}
FEW = 4  # inputs; more are hopeless to split one by one


class Subject(Native):
    def onnx(self) -> bytes:
        return onnx_bytes(self.graph, double=True)


def claim(graph: Graph, share: float = 0.2) -> Property:
    """That a random form of the outputs stays above its least sampled value, less a share of what it spans."""
    generator = torch.Generator().manual_seed(3)
    center = torch.randn(graph.input_shape, generator=generator) / 2
    region = Region(exact((center - 0.3).numpy()), exact((center + 0.3).numpy()))
    row = torch.randn(1, torch.Size(graph.output_shape).numel(), generator=generator, dtype=torch.float64)
    box = region.box()
    values = graph(samples(box.lower, box.upper, 4000)[0]).flatten(1) @ row.T
    least, most = float(values.min()), float(values.max())
    return Property(region, (HalfSpaces(row, torch.tensor([share * (most - least) - least]).double()),))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_op_is_certified(case: OpCase, split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = case.graph()
    if split == "inputs" and graph.nodes[0].size > FEW:
        pytest.skip("too many inputs to be split")
    monkeypatch.setattr(strategy.stages, "BranchAndBound", lambda: SPLITS[split])
    found = verify_certified(Subject(graph), claim(graph), Settings(timeout=60, device="cpu"))
    assert found.certificate is not None, found.result.reason
    proved = found.certificate
    accepted = check(proved.content, proved.model, proved.statement, "exact")
    real = any(isinstance(node.op, Smooth) for node in graph.nodes) or b"Cast" in proved.model
    assert accepted.semantics == proved.accepted.semantics and accepted.margin >= 0
    assert (accepted.semantics == "real") == real
