"""The verifier itself as the last step of an evaluation: attack, bounds, branch and bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from verifier.data import Dataset
from verifier.graph import Graph
from verifier.load import from_module
from verifier.load.torch import TorchRunner
from verifier.spec.robustness import local_robustness
from verifier.strategy import Settings, verify
from verifier.train.evaluate import Complete
from verifier.verdict import Verdict

ROBUST = {Verdict.VERIFIED: True, Verdict.FALSIFIED: False}


@dataclass(frozen=True, eq=False)
class Trained:
    """A module as the verifier sees it: see `strategy.Subject`."""

    graph: Graph
    runner: TorchRunner

    def native(self, x: np.ndarray) -> np.ndarray:
        return self.runner(x)


def complete(model: nn.Module, data: Dataset, eps: float, timeout: float) -> Complete:
    """What decides whether image number i of `data` is robust at linf radius eps, each within `timeout` seconds."""
    subject = Trained(from_module(model.eval(), data.shape), TorchRunner(model, None, None))
    settings = Settings(timeout=timeout)

    def decide(index: int) -> bool | None:
        x, label = data.images[index].numpy(), int(data.labels[index])
        prop = local_robustness(x, label, eps, classes=data.classes, lower=data.lower, upper=data.upper)
        result = verify(subject, prop, settings)
        return ROBUST.get(result.verdict)

    return decide
