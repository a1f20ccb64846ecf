"""What a batch is about, and what is known of each of its cases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from verifier.attack.replay import replay
from verifier.batch.balls import inner_box, outer_box
from verifier.batch.records import FALSIFIED, UNKNOWN, VERIFIED, Case, Record, encoded
from verifier.bounds.enclosure import forward_errors
from verifier.data import Dataset
from verifier.graph import Graph
from verifier.simplify import simplified
from verifier.spec.property import Property
from verifier.spec.robustness import local_robustness, parse_eps
from verifier.strategy import ALLOWANCE, Subject
from verifier.types import Interval


@dataclass(frozen=True)
class Problem:
    """What the cases of a run are about. norm: linf, l2 or l1. device: where tensors live."""

    subject: Subject
    data: Dataset
    norm: str = "linf"
    device: str = "cpu"

    @cached_property
    def graph(self) -> Graph:
        """The network as it is analysed, in float64."""
        return simplified(self.subject.graph).to(torch.float64, self.device)

    @cached_property
    def loaded(self) -> Graph:
        """The network as it was loaded, in float64."""
        return self.subject.graph.to(torch.float64, self.device)

    @cached_property
    def single(self) -> Graph:
        """The network for attacks, in float32."""
        return self.subject.graph.to(torch.float32, self.device)

    def property(self, case: Case) -> Property:
        """The case as `strategy.verify` takes it."""
        x, label = self.data.images[case.index], int(self.data.labels[case.index])
        shape, classes = self.subject.graph.input_shape, math.prod(self.subject.graph.output_shape)
        lower, upper = self.data.lower, self.data.upper
        centre = x.reshape(shape).numpy()
        return local_robustness(centre, label, case.eps, self.norm, classes=classes, lower=lower, upper=upper)


class Batch:
    """The state of one cascade over n cases, of which `open` (positions, shrinking) are not decided yet.

    lower: the best proved lower bounds (n, classes - 1) of the label's lead over each other class. allowance: how far
    one must lie above zero to count, (n, 1), as in `strategy.Question`. nodes: bounds of what activations read, of the
    cases `bounded`. found: the least margin seen at an allowed input (n,).
    """

    def __init__(self, problem: Problem, cases: Sequence[Case]) -> None:
        self.problem, self.cases = problem, cases
        subject, data = problem.subject, problem.data
        index, eps = torch.tensor([case.index for case in cases]), [parse_eps(case.eps) for case in cases]
        self.x = data.images[index].reshape(-1, *subject.graph.input_shape)
        self.labels = data.labels[index]
        span = (data.lower, data.upper)
        self.box = outer_box(self.x, eps, problem.norm, *span).to(problem.device)
        self.inner = inner_box(self.x, eps, problem.norm, *span).to(problem.device)
        self.C = lead_rows(self.labels, math.prod(subject.graph.output_shape)).to(problem.device)
        self.lower = torch.full(self.C.shape[:2], -math.inf, dtype=torch.float64)
        self.allowance = ALLOWANCE * self._rounding()
        self.open = list(range(len(cases)))
        self.nodes: dict[int, Interval] = {}
        self.bounded: list[int] = []
        self.found = torch.full((len(cases),), math.inf)
        self.predictions = [-1] * len(cases)
        self.seconds: list[dict[str, float]] = [{} for _ in cases]
        self.unstable: list[tuple[int, ...]] = [()] * len(cases)
        self.points: dict[int, np.ndarray] = {}

    def _rounding(self) -> Tensor:
        """The most (n, 1) that rounding may do to any lead, in the network as it was stated, loaded and analysed."""
        classes = self.C.shape[2]
        rows = lead_rows(torch.arange(classes), classes).flatten(0, 1).to(self.box.lower)
        loaded = self.problem.loaded
        graphs = {self.problem.graph, loaded, loaded.stated.to(device=loaded.device)}
        errors = [forward_errors(graph, self.box, rows, rows.new_zeros(len(rows))) for graph in graphs]
        return torch.stack(errors).amax((0, 2)).unsqueeze(1).cpu()

    def margin(self, position: int) -> float:
        return float(self.lower[position].min())

    def improve(self, lower: Tensor) -> None:
        """Take over lower bounds (open, classes - 1) of all rows of the open cases; NaN improves nothing."""
        known, found = self.lower[self.open], lower.detach().cpu().double()
        self.lower[self.open] = torch.where(found > known, found, known)

    def judge(self, position: int, x: np.ndarray) -> bool:
        """Replay a candidate (*input_shape); True when it is a counterexample."""
        graph = self.problem.subject.graph
        verdict = replay(self.problem.subject.native, graph, self.problem.property(self.cases[position]), x)
        if verdict.accepted:
            self.points[position] = x
        return verdict.accepted

    def try_points(self, points: Tensor, margins: Tensor) -> None:
        """Judge those points of the open cases (open, *input_shape) whose float32 margins are not positive."""
        margins = margins.detach().cpu()
        self.found[self.open] = torch.minimum(self.found[self.open], margins)
        for i, position in enumerate(self.open):
            if margins[i] <= 0:
                self.judge(position, points[i].cpu().numpy())

    def settle(self, stage: str, spent: float) -> Iterator[Record]:
        """The records of what the stage has decided; the rest stays open."""
        for position in self.open:
            self.seconds[position][stage] = spent / len(self.open)
        proved = (self.lower > self.allowance).all(1)
        assert not any(proved[i] for i in self.points), "an input is proved and broken"
        decided = [i for i in self.open if i in self.points or proved[i]]
        self.open = [i for i in self.open if i not in self.points and not proved[i]]
        for position in decided:
            yield self.record(position, FALSIFIED if position in self.points else VERIFIED, stage)

    def record(self, position: int, verdict: str, stage: str, reason: str = "") -> Record:
        case, point = self.cases[position], self.points.get(position)
        proved, found = self.margin(position), float(self.found[position])
        changed = point is not None and bool((point != self.x[position].numpy()).any())
        return Record(
            index=case.index,
            eps=case.eps,
            label=int(self.labels[position]),
            prediction=self.predictions[position],
            verdict=verdict,
            stage=stage,
            seconds=sum(self.seconds[position].values()),
            proved=proved if math.isfinite(proved) else None,
            found=found if math.isfinite(found) else None,
            reason=reason,
            stages=self.seconds[position],
            unstable=self.unstable[position],
            point=encoded(point) if point is not None and changed else None,
        )

    def undecided(self, position: int, method: str) -> Record:
        stage = list(self.seconds[position] or ("",))[-1]
        reason = f"the best bound that {method} reaches is {self.margin(position):.4g}, which is not above zero"
        return self.record(position, UNKNOWN, stage, reason)


def lead_rows(labels: Tensor, classes: int) -> Tensor:
    """C (batch, classes - 1, classes), float64: the score of each label (batch,) minus each other score."""
    unit = torch.eye(classes, dtype=torch.float64)
    others = torch.arange(classes - 1).expand(len(labels), -1)
    others = others + (others >= labels.unsqueeze(1))
    return unit[labels].unsqueeze(1) - unit[others]
