"""CROWN with optimised slopes (Xu et al. 2021), known as alpha-CROWN."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.backward import concretise, pull_back
from verifier.bounds.crown import DEFAULT_MEMORY, Crown, from_both_signs, refiner, unsqueezed
from verifier.bounds.interval import output_form, propagate
from verifier.graph import Graph
from verifier.ops.base import Activation, Relaxation
from verifier.types import Bounds, Box, Interval

Slopes = dict[tuple[int, int], Tensor]

TINY = 1e-8


@dataclass(frozen=True)
class Alpha:
    """Projected gradient ascent (Adam) on the free numbers of every relaxation, from CROWN's; never below CROWN.

    steps, rate, decay: iterations, step size and its factor per iteration. intermediate: also optimise the lines
    behind the bounds of the hidden neurons, shared by the neurons of a layer; about as much dearer as there are layers.
    enough, deadline: stop as soon as every lower bound exceeds this, or at this time.monotonic(). memory: as in Crown.
    Gradients do not pass through the optimisation; the bounds are those of the lines that it found.
    """

    steps: int = 20
    rate: float = 0.2
    decay: float = 0.95
    intermediate: bool = False
    enough: float = math.inf
    deadline: float = math.inf
    memory: int = DEFAULT_MEMORY

    def __call__(self, graph: Graph, box: Box, C: Tensor) -> Bounds:
        """Bounds of C . output, C (batch or 1, spec, outputs), over the input set `box`."""
        start = Crown(memory=self.memory)(graph, box, C)
        signed = torch.cat((C, -C), 1)
        best, nodes = self.improve(graph, box, signed, start.nodes, torch.cat((start.lower, -start.upper), 1))
        return Bounds(best[:, : C.shape[1]], -best[:, C.shape[1] :], nodes)

    def improve(
        self, graph: Graph, box: Box, C: Tensor, nodes: Mapping[int, Interval], lower: Tensor
    ) -> tuple[Tensor, Mapping[int, Interval]]:
        """The best lower bounds found of C . output, from bounds `lower` (batch, spec) and `nodes` already known.

        Raises nothing on NaN: a bound that is NaN never replaces a number.
        """
        best_lower, best_nodes = lower.detach(), nodes
        A = output_form(graph, C, box.batch)
        slopes = self._initial(graph, nodes, C.shape[1])
        if not slopes or not self.steps:
            return best_lower, best_nodes
        ascent = Ascent(list(slopes.values()), [(0.0, 1.0)] * len(slopes))
        for step in range(self.steps):
            if bool((best_lower > self.enough).all()) or time.monotonic() > self.deadline:
                break
            with torch.enable_grad():
                found_nodes = self._nodes(graph, box, slopes) if self.intermediate else nodes
                lines = _relaxations(graph, graph.output + 1, found_nodes, slopes)
                form, constant = pull_back(graph, {graph.output: A}, A.new_zeros(A.shape[:2]), lines)
                found = concretise(form, constant, box, {})
                gradients = torch.autograd.grad(found.sum(), list(slopes.values()), allow_unused=True)
            ascent.step(gradients, [self.rate * self.decay**step] * len(slopes))
            with torch.no_grad():
                best_lower = torch.where(found > best_lower, found, best_lower)
                if self.intermediate:
                    best_nodes = {i: _intersection(best_nodes[i], z) for i, z in found_nodes.items()}
        return best_lower, best_nodes

    def _initial(self, graph: Graph, nodes: Mapping[int, Interval], spec: int) -> Slopes:
        """CROWN's parameters, one set per specification row, and with `intermediate` one per bounded node."""
        slopes: Slopes = {}
        starts = [*(nodes if self.intermediate else ()), graph.output + 1]
        for index, node in enumerate(graph.nodes):
            if not isinstance(node.op, Activation):
                continue
            z = nodes[node.inputs[0]]
            first = node.op.initial(unsqueezed(Interval(z.lower.detach(), z.upper.detach())), "adaptive")
            for start in starts:
                if index <= start:
                    rows = spec if start > graph.output else 1
                    repeat = (1, 1, rows, *(1 for _ in node.shape))
                    slopes[start, index] = first.repeat(repeat).requires_grad_()
        return slopes

    def _nodes(self, graph: Graph, box: Box, slopes: Slopes) -> dict[int, Interval]:
        """Bounds of the hidden neurons under the current parameters, differentiable in them."""

        def relax(start: int, nodes: Mapping[int, Interval]) -> dict[int, Relaxation]:
            return _relaxations(graph, start, nodes, slopes)

        return propagate(graph, box, refiner(graph, box, from_both_signs(graph, box, relax), self.memory))[1]


class Ascent:
    """Adam (Kingma and Ba 2015), upwards, on values that each stay within limits (None: anywhere).

    torch.optim would do the same, but its first step imports the compiler, which costs a second of every run.
    """

    def __init__(
        self,
        values: list[Tensor],
        limits: Sequence[tuple[float, float] | None],
        beta1: float = 0.9,
        beta2: float = 0.999,
    ) -> None:
        self.values, self.limits, self.beta1, self.beta2, self.count = values, limits, beta1, beta2, 0
        self.mean = [torch.zeros_like(v) for v in values]
        self.square = [torch.zeros_like(v) for v in values]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], rates: Sequence[float]) -> None:
        """Move along the gradients (None: no influence) by a rate each, and project; NaN moves nothing."""
        self.count += 1
        scale1, scale2 = 1 - self.beta1**self.count, 1 - self.beta2**self.count
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
            self.mean[i].lerp_(gradient, 1 - self.beta1)
            self.square[i].mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
            denominator = (self.square[i] / scale2).sqrt_().add_(TINY)
            self.values[i].addcdiv_(self.mean[i], denominator, value=rates[i] / scale1)
            limit = self.limits[i]
            if limit is not None:
                self.values[i].clamp_(*limit)


def _relaxations(graph: Graph, start: int, nodes: Mapping[int, Interval], slopes: Slopes) -> dict[int, Relaxation]:
    """The lines of every activation up to `start`, by its parameters for that start."""
    lines = {}
    for index, node in enumerate(graph.nodes[: start + 1]):
        if isinstance(node.op, Activation):
            lines[index] = node.op.relax(unsqueezed(nodes[node.inputs[0]]), slopes[start, index])
    return lines


def _intersection(a: Interval, b: Interval) -> Interval:
    """The tighter of two bounds in each coordinate, without gradients."""
    lower, upper = b.lower.detach(), b.upper.detach()
    return Interval(torch.where(lower > a.lower, lower, a.lower), torch.where(upper < a.upper, upper, a.upper))
