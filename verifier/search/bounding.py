"""Bounds of subdomains: CROWN with optimised slopes and split multipliers (Wang et al. 2021), warm-started."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.bounds.alpha import Ascent
from verifier.bounds.backward import concretise, pull_back
from verifier.bounds.crown import Crown, unsqueezed
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.ops.patches import Coefficients, dense
from verifier.search.domain import Domains
from verifier.types import Box, Interval

FLOOR = 0.02  # the least weight with which a row enters the ascent, so that it can still gain


@dataclass(frozen=True, eq=False)
class Bounding:
    """How the margins of subdomains are bounded.

    C: (sets, rows, outputs) and d: (sets, rows), the half-spaces of every unsafe set, filled up with copies of its last
    row. region: the whole input set, batch one. steps, rate, decay: of the ascent. enough: no bound need exceed this.
    """

    graph: Graph
    region: Box
    C: Tensor
    d: Tensor
    steps: int
    enough: float
    rate: float = 0.1
    decay: float = 0.97

    def bound(self, domains: Domains, coefficients: dict[int, Coefficients] | None = None) -> Tensor:
        """Lower bounds (n,) of the combined rows under the subdomains' own multipliers; differentiable in these."""
        return self._bound(domains, domains.weights.unsqueeze(1), coefficients).squeeze(1)

    def rows(self, domains: Domains) -> Tensor:
        """Lower bounds (n, rows) of every row by itself, under the same slopes and multipliers."""
        rows = self.C.shape[1]
        single = torch.eye(rows, dtype=self.C.dtype, device=self.C.device).expand(len(domains), rows, rows)
        return self._bound(domains, single, None)

    def choose_rows(self, domains: Domains) -> None:
        """Turn the weights of the subdomains, in place, towards the row that is bounded best."""
        rows = self.C.shape[1]
        with torch.no_grad():
            best = self.rows(domains).argmax(1)
        domains.weights = torch.nn.functional.one_hot(best, rows).to(self.C)

    def _bound(self, domains: Domains, weights: Tensor, coefficients: dict[int, Coefficients] | None) -> Tensor:
        """Lower bounds (n, k) of k combinations of rows, weights (n, k, rows).

        Valid for any of them: gamma presses on bounds that hold inside the subdomain, whatever its sign.
        `coefficients` collects the linear forms over every activation's output and over the input (node 0).
        """
        graph, n = self.graph, len(domains)
        A = (weights @ self.C[domains.unsafe]).view(n, weights.shape[1], *graph.output_shape)
        constant = (weights @ self.d[domains.unsafe].unsqueeze(2)).squeeze(2)
        form: dict[int, Coefficients] = {graph.output: A}
        for read, gamma in domains.gamma.items():
            z = domains.bounds[read]
            paid = gamma.clamp(min=0) * z.upper + gamma.clamp(max=0) * z.lower
            constant = constant - torch.where(gamma == 0, torch.zeros_like(paid), paid).flatten(1).sum(1, keepdim=True)
            extra = gamma.unsqueeze(1).expand(-1, weights.shape[1], *gamma.shape[1:])
            form[read] = extra
        lines = {}
        for index, node in enumerate(graph.nodes):
            if isinstance(node.op, Activation):
                z = unsqueezed(domains.bounds[node.inputs[0]])
                lines[index] = node.op.relax(z, domains.slopes[index].transpose(0, 1))
        sources, constant = pull_back(graph, form, constant, lines, outputs=coefficients)
        if coefficients is not None:
            coefficients.update(sources)
        return concretise(sources, constant, self.inputs(domains), {})

    def inputs(self, domains: Domains) -> Box:
        """The input sets of the subdomains."""
        if 0 in domains.bounds:
            return Box(domains.bounds[0].lower, domains.bounds[0].upper)
        return self.region.select(torch.zeros(len(domains), dtype=torch.long, device=domains.lower.device))

    def improve(self, domains: Domains) -> None:
        """Ascend the bounds in place, from the multipliers that the subdomains have; keeps each one's best."""
        with torch.no_grad():
            domains.take_better(domains, self.bound(domains))
        if not self.steps:
            return
        parts = [domains.slopes, domains.gamma]
        combined = domains.weights.shape[1] > 1
        free = [t.clone().requires_grad_() for part in parts for t in part.values()]
        free += [domains.weights.clamp(min=FLOOR).log().detach().requires_grad_()] * combined
        limits: list[tuple[float, float] | None] = [(0.0, 1.0)] * len(domains.slopes) + [None] * len(domains.gamma)
        masks = [None] * len(domains.slopes) + list(domains.split.values())
        ascent, rates = Ascent(free, limits + [None] * combined), self._rates(domains) + [self.rate] * combined
        for step in range(self.steps + 1):
            with torch.enable_grad():
                trial = self._trial(domains, free, combined)
                found = self.bound(trial)
            domains.take_better(trial, found.detach())
            if step == self.steps or bool((domains.lower > self.enough).all()):
                return
            gradients = list(torch.autograd.grad(found.sum(), free, allow_unused=True))
            for i, mask in enumerate(masks):
                gradient = gradients[i]
                if mask is not None and gradient is not None:
                    gradients[i] = gradient * mask
            ascent.step(gradients, [rate * self.decay**step for rate in rates])

    def _trial(self, domains: Domains, free: list[Tensor], combined: bool) -> Domains:
        """The subdomains with other multipliers."""
        values = iter(free)
        slopes = {n: next(values) for n in domains.slopes}
        gamma = {n: next(values) for n in domains.gamma}
        weights = next(values).softmax(1) if combined else domains.weights
        return replace(domains, slopes=slopes, gamma=gamma, weights=weights)

    def _rates(self, domains: Domains) -> list[float]:
        """Step sizes: `rate` for slopes, and for gamma `rate` in units of the coefficients that it is added to."""
        coefficients: dict[int, Coefficients] = {}
        with torch.no_grad():
            self.bound(domains, coefficients)
        sizes: dict[int, float] = {}
        for index, A in coefficients.items():
            if index:
                read = self.graph.nodes[index].inputs[0]
                sizes[read] = max(float(dense(A).abs().mean()), sizes.get(read, 0.0))
        return [self.rate] * len(domains.slopes) + [self.rate * sizes.get(node, 1.0) for node in domains.gamma]

    def refresh(self, domains: Domains) -> None:
        """Recompute, in place, the hidden bounds of subdomains with boxes of their own, and reset the slopes."""
        C = self.C.new_zeros(1, 1, self.C.shape[2])
        with torch.no_grad():
            known = Crown()(self.graph, self.inputs(domains), C).nodes
        for node, z in known.items():
            old = domains.bounds[node]
            domains.bounds[node] = Interval(torch.maximum(z.lower, old.lower), torch.minimum(z.upper, old.upper))
        for index in domains.slopes:
            op = self.graph.nodes[index].op
            assert isinstance(op, Activation)
            domains.slopes[index] = initial_slopes(op, domains.bounds[self.graph.nodes[index].inputs[0]])


def initial_slopes(op: Activation, z: Interval) -> Tensor:
    """CROWN's parameters for z (n, *shape), as (n, parameters, 1, *shape)."""
    return op.initial(unsqueezed(z), "adaptive").transpose(0, 1)
