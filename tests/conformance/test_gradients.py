"""Gradients of the differentiable bounds against finite differences, in float64 and away from kinks."""

from collections.abc import Callable

import pytest
import torch
from cases import CASES, OpCase, boxes, rebuilt, specs, weights_of
from torch import Tensor

from verifier.bounds.backward import concretise, pull_back
from verifier.bounds.crown import Crown, unsqueezed
from verifier.bounds.interval import IntervalBounds, output_form
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.types import Ball, Box

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
METHODS = {"interval": IntervalBounds(), "crown": Crown(), "crown parallel": Crown(slopes="parallel")}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def gradients_agree(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    inputs = tuple(t.detach().clone().requires_grad_() for t in inputs)
    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True)


@each_method
@each_case
def test_with_respect_to_the_box(case: OpCase, method) -> None:
    graph = case.graph()
    box, C = boxes(graph), specs(graph)

    def bounds(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        found = method(graph, Box(lower, upper), C)
        return found.lower, found.upper

    gradients_agree(bounds, box.lower, box.upper)


@each_method
@each_case
def test_with_respect_to_the_weights(case: OpCase, method) -> None:
    graph = case.graph()
    box, C, weights = boxes(graph), specs(graph), weights_of(graph)

    def bounds(*values: Tensor) -> tuple[Tensor, Tensor]:
        found = method(rebuilt(graph, dict(zip(weights, values, strict=True))), box, C)
        return found.lower, found.upper

    gradients_agree(bounds, *weights.values())


@each_case
def test_of_optimised_relaxations(case: OpCase) -> None:
    """The bound as a function of alpha, the box and the weights, with one alpha per specification row."""
    graph = case.graph()
    box, C, weights = boxes(graph), specs(graph), weights_of(graph)
    generator = torch.Generator().manual_seed(3)
    alphas = {}
    for index, node in enumerate(graph.nodes):
        if isinstance(node.op, Activation):
            size = (node.op.parameters, box.batch, C.shape[1], *node.shape)
            alphas[index] = 0.1 + 0.8 * torch.rand(size, generator=generator, dtype=torch.float64)

    def bound(lower: Tensor, upper: Tensor, *rest: Tensor) -> Tensor:
        chosen = dict(zip(alphas, rest[: len(alphas)], strict=True))
        net = rebuilt(graph, dict(zip(weights, rest[len(alphas) :], strict=True)))
        return lower_bound(net, Box(lower, upper), C, chosen)

    gradients_agree(bound, box.lower, box.upper, *alphas.values(), *weights.values())


def lower_bound(graph: Graph, box: Box, C: Tensor, alphas: dict[int, Tensor]) -> Tensor:
    nodes = IntervalBounds()(graph, box, C).nodes
    lines = {i: graph.nodes[i].op.relax(unsqueezed(nodes[graph.nodes[i].inputs[0]]), a) for i, a in alphas.items()}
    A = output_form(graph, C, box.batch)
    form, constant = pull_back(graph, {graph.output: A}, A.new_zeros(A.shape[:2]), lines)
    return concretise(form, constant, box, {})


@pytest.mark.parametrize("norm", [1, 2])
def test_of_balls(norm: int) -> None:
    """With respect to the centre, the radius and the coefficients; l1 away from the water line's jumps."""
    generator = torch.Generator().manual_seed(norm)
    A = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    origin = torch.rand(2, 6, generator=generator, dtype=torch.float64)

    def minimum(A: Tensor, origin: Tensor, eps: Tensor) -> Tensor:
        return Ball(origin - 0.2, origin + 0.25, origin, eps, norm).minimum(A)

    gradients_agree(minimum, A, origin, torch.tensor([0.31, 0.47], dtype=torch.float64))
