"""Robust self-training (Carmon et al. 2019): pseudo-labels let unlabelled inputs take part in robust training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.errors import InputError
from verifier.graph import Graph
from verifier.train.batch import Batch
from verifier.train.losses.trades import Trades


@dataclass(frozen=True)
class SelfTraining:
    """The TRADES loss of the labelled inputs + weight * that of the unlabelled ones.

    The network itself labels them, as it is at this step, where it gives the class at least `confidence`; the first
    stage of the paper, a plainly trained teacher, is the warm-up of the schedule. beta, steps, step_size: of TRADES.
    """

    weight: float = 1.0
    confidence: float = 0.9
    beta: float = 6.0
    steps: int = 7
    step_size: float = 0.5

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and 0 <= self.confidence <= 1):
            raise InputError("self_training: weight must be >= 0 and confidence in [0, 1]")
        self.trades()  # refuses what is out of range

    def trades(self) -> Trades:
        return Trades(self.beta, self.steps, self.step_size)

    def __call__(self, net: Graph, batch: Batch) -> Tensor:
        trades = self.trades()
        loss = trades(net, batch)
        if batch.unlabelled is None:
            return loss
        with torch.no_grad():
            certainty, guess = batch.logits(net, batch.unlabelled).softmax(1).max(1)
        sure = certainty >= self.confidence
        if not bool(sure.any()):
            return loss
        guessed = replace(batch, x=batch.unlabelled[sure], y=guess[sure], unlabelled=None)
        return loss + self.weight * trades(net, guessed) * sure.double().mean().to(loss)
