"""Plain training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verifier.graph import Graph
from verifier.train.batch import Batch, cross_entropy


@dataclass(frozen=True)
class Standard:
    """The cross-entropy of clean inputs."""

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        return cross_entropy(batch.logits(net, batch.x), batch.y)
