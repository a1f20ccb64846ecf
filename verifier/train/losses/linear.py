"""The exact robust loss of linear models, in closed form by the dual norm (Goodfellow et al. 2015; Xu et al. 2009)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.errors import InputError, ModelError
from verifier.graph import Graph
from verifier.ops.affine import Linear
from verifier.ops.shape import Reshape
from verifier.train.batch import Batch, cross_entropy
from verifier.train.intervals import label_rows

DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


@dataclass(frozen=True)
class LinearRobust:
    """The cross-entropy of the worst logits in the whole ball of radius eps (not cut off at the data range).

    The label's lead over class j is least at lead(x) - eps * ||w_y - w_j||_q, q dual to the ball's norm. norm: linf, l2
    or l1. Raises ModelError for a network that is not linear.
    """

    norm: str = "linf"

    def __post_init__(self) -> None:
        if self.norm not in DUAL:
            raise InputError(f"linear: norm must be one of {', '.join(DUAL)}, not {self.norm!r}")

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        return cross_entropy(self.worst(net, batch), batch.y)

    def worst(self, net: Graph, batch: Batch) -> Tensor:
        """The largest value (batch, classes) of every logit minus the label's, over the ball; zero at the label."""
        layers = [node.op for node in net.nodes[1:] if not isinstance(node.op, Reshape)]
        if len(layers) != 1 or not isinstance(layers[0], Linear):
            raise ModelError("method 'linear' is for one linear layer: choose the architecture 'linear'")
        logits = batch.logits(net, batch.x)
        rows = label_rows(batch.y, logits.shape[1], logits) @ layers[0].weight
        # The label's own row is zero, where the 2-norm has no derivative: vector_norm defines it as zero.
        dual = torch.linalg.vector_norm(rows, ord=DUAL[self.norm], dim=2)
        return logits - logits.gather(1, batch.y.unsqueeze(1)) + batch.eps * dual
