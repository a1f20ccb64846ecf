"""Points that differ in what hidden neurons read, for descents to begin from.

Where a network is flat, or slopes the same way, at nearly all points of a region, descents from random points all end
alike. Output diversification (Tashiro, Song and Ermon 2020) lets every start first follow a random direction of the
outputs; followed here are random directions of what an activation reads, in which deep networks differ far more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.attack.pgd import project, random_point, steepest
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.types import Box


@dataclass(frozen=True)
class Diversification:
    """steps, step_size: of the ascent, as for `Pgd`, but without decay. seed: fixes first points and directions."""

    steps: int = 10
    step_size: float = 0.5
    seed: int = 0

    def __call__(self, graph: Graph, region: Box) -> Tensor:
        """Points (batch, *input_shape) of a region; the activations take turns at leading one each."""
        generator = torch.Generator().manual_seed(self.seed)
        x = project(region, random_point(region, generator))
        read = [node.inputs[0] for node in graph.nodes if isinstance(node.op, Activation)]
        rows = torch.arange(region.batch, device=x.device)
        led = [(node, rows[i :: len(read)]) for i, node in enumerate(read)]
        sizes = [graph.nodes[node].size for node, _ in led]
        directions = [torch.rand((len(own), n), generator=generator) for (_, own), n in zip(led, sizes, strict=True)]
        weights = [(2 * w - 1).to(x) for w in directions]
        for _ in range(self.steps if led else 0):
            with torch.enable_grad():
                x = x.detach().requires_grad_(True)
                values = graph.values(x)
                pairs = zip(led, weights, strict=True)
                total = torch.stack([(w * values[node].flatten(1)[own]).sum() for (node, own), w in pairs]).sum()
                (gradient,) = torch.autograd.grad(total, x)
            gradient = torch.where(gradient.isfinite(), gradient, torch.zeros_like(gradient))
            x = project(region, x.detach() + steepest(region, x.detach(), gradient, self.step_size))
        return x
