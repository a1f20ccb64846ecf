"""Every registered op under every bound method."""

import pytest
import torch
from cases import CASES, OpCase, boxes, specs
from nets import samples

from verifier.bounds.alpha import Alpha
from verifier.bounds.crown import Crown
from verifier.bounds.interval import IntervalBounds
from verifier.bounds.lp import LpBounds
from verifier.bounds.methods import METHODS
from verifier.ops import registry
from verifier.types import Bounds

VARIANTS = {
    "interval": IntervalBounds(),
    "crown": Crown(),
    "crown parallel": Crown(slopes="parallel"),
    "alpha": Alpha(steps=5),
    "alpha intermediate": Alpha(steps=5, intermediate=True),
    "lp": LpBounds(),
}
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_method = pytest.mark.parametrize("method", VARIANTS.values(), ids=VARIANTS.keys())


def close(a: Bounds, b: Bounds, tolerance: float) -> None:
    torch.testing.assert_close(a.lower.double(), b.lower.double(), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(a.upper.double(), b.upper.double(), atol=tolerance, rtol=tolerance)


def test_every_registered_op_has_a_case() -> None:
    missing = [cls.__name__ for cls in registry.OPS if cls not in {case.op for case in CASES}]
    assert not missing, f"add these ops to tests/conformance/cases.py: {missing}"


@each_case
def test_a_case_holds_its_op(case: OpCase) -> None:
    assert case.op is None or any(type(node.op) is case.op for node in case.graph().nodes)


def test_every_bound_method_has_a_variant() -> None:
    assert set(METHODS.values()) == {type(method) for method in VARIANTS.values()}


@each_method
@each_case
def test_bounds_contain_samples_and_lie_in_the_intervals(case: OpCase, method) -> None:
    graph = case.graph()
    box, C = boxes(graph), specs(graph)
    bounds = method(graph, box, C)
    points = samples(box.lower, box.upper, 2000)
    for i in range(box.batch):
        values = graph.values(points[i])
        rows = values[-1].flatten(1) @ C[i].T
        assert (bounds.lower[i] <= rows.amin(0) + 1e-9).all() and (rows.amax(0) <= bounds.upper[i] + 1e-9).all()
        for node, z in bounds.nodes.items():
            assert (z.lower[i] <= values[node].amin(0) + 1e-9).all(), node
            assert (values[node].amax(0) <= z.upper[i] + 1e-9).all(), node
    loosest = IntervalBounds()(graph, box, C)
    assert (bounds.lower >= loosest.lower - 1e-9).all() and (bounds.upper <= loosest.upper + 1e-9).all()
    assert bounds.nodes.keys() == loosest.nodes.keys()
    for node, z in bounds.nodes.items():
        assert (z.lower >= loosest.nodes[node].lower - 1e-9).all()
        assert (z.upper <= loosest.nodes[node].upper + 1e-9).all()


@each_method
@each_case
def test_a_batch_equals_its_elements(case: OpCase, method) -> None:
    graph = case.graph()
    box, C = boxes(graph), specs(graph)
    together = method(graph, box, C)
    for i in range(box.batch):
        alone = method(graph, box.select(slice(i, i + 1)), C[i : i + 1])
        close(Bounds(together.lower[i : i + 1], together.upper[i : i + 1], {}), alone, 1e-7)


@pytest.mark.parametrize("name", ["interval", "crown", "lp"])
@each_case
def test_one_specification_serves_the_whole_batch(case: OpCase, name: str) -> None:
    graph, method = case.graph(), VARIANTS[name]
    box, C = boxes(graph), specs(graph)[:1]
    close(method(graph, box, C), method(graph, box, C.expand(2, -1, -1)), 1e-9)


@pytest.mark.parametrize("name", ["interval", "crown", "crown parallel", "alpha", "lp"])
@each_case
def test_float32_agrees_with_float64(case: OpCase, name: str) -> None:
    graph, method = case.graph(), VARIANTS[name]
    box, C = boxes(graph), specs(graph)
    single = method(graph.to(torch.float32), box.to(torch.float32), C.float())
    assert single.lower.dtype == torch.float32
    # The optimiser of alpha may take another path after a rounding error.
    close(single, method(graph, box, C), 1e-2 if name == "alpha" else 1e-4)


@pytest.mark.parametrize("memory", [1, 4096])
@each_case
def test_little_memory_changes_nothing(case: OpCase, memory: int) -> None:
    graph = case.graph()
    box, C = boxes(graph), specs(graph)
    close(Crown(memory=memory)(graph, box, C), Crown()(graph, box, C), 1e-12)


@pytest.mark.parametrize("name", ["interval", "crown", "lp"])
@each_case
def test_a_point_has_one_value(case: OpCase, name: str) -> None:
    graph, C, method = case.graph(), specs(case.graph()), VARIANTS[name]
    center = boxes(graph).center
    box = type(boxes(graph))(center, center)
    bounds, value = method(graph, box, C), (C @ graph(center).flatten(1).unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(bounds.lower, value, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(bounds.upper, value, atol=1e-7, rtol=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["interval", "crown", "crown parallel", "alpha", "lp"])
@each_case
def test_cuda_equals_cpu(case: OpCase, name: str) -> None:
    graph, method = case.graph(), VARIANTS[name]
    box, C = boxes(graph), specs(graph)
    there = method(graph.to(device="cuda"), box.to("cuda"), C.cuda())
    assert there.lower.is_cuda
    close(Bounds(there.lower.cpu(), there.upper.cpu(), {}), method(graph, box, C), 1e-7)
