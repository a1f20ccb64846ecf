"""The cascade for many inputs at once: every stage bounds or attacks, in one call, all inputs that are still open.

The stages are those of `verifier.strategy` in the order that pays for a batch: most inputs of a robust network are
proved by a cheap bound and need no attack, most inputs of another one are broken by a short attack and need no bound.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from verifier.attack.pgd import Pgd
from verifier.attack.replay import replay
from verifier.batch.balls import inner_box, outer_box
from verifier.batch.records import FALSIFIED, UNKNOWN, VERIFIED, Case, Record, encoded
from verifier.bounds.alpha import Alpha
from verifier.bounds.crown import Crown, unstable_rows
from verifier.bounds.enclosure import forward_error
from verifier.bounds.interval import IntervalBounds, read_by_activations
from verifier.bounds.parallel import Parallel, fits
from verifier.data import Dataset
from verifier.errors import SolverError, SpecificationError
from verifier.graph import Graph
from verifier.simplify import simplified
from verifier.spec.property import Property
from verifier.spec.robustness import label_margin, local_robustness, parse_eps
from verifier.strategy import ALLOWANCE, Question, Settings, Subject
from verifier.strategy import STAGES as SINGLE_STAGES
from verifier.types import Bounds, Box, Interval

SHORT_ATTACK = Pgd(steps=4, step_size=0.5, random_start=False)
ATTACKS = (Pgd(steps=20), Pgd(steps=40, restarts=4, seed=1))
HUNTS = tuple(Pgd(steps=100, restarts=32, step_size=size) for size in (0.2, 0.5, 0.1, 0.3))
HUNT_SHARE = 0.2
ALPHA_STEPS = 30
TOGETHER = 4  # inputs that backward bounds treat at once on a processor

BackwardBounds = Callable[[Graph, Box, Tensor], Bounds]


@dataclass(frozen=True)
class Problem:
    """What the cases of a run are about. norm: linf, l2 or l1. device: where tensors live."""

    subject: Subject
    data: Dataset
    norm: str = "linf"
    device: str = "cpu"

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
    one must lie above zero to count, as in `strategy.Question`. nodes: bounds of what activations read, of the
    cases `bounded`. found: the least margin seen at an allowed input (n,).
    """

    def __init__(self, problem: Problem, cases: Sequence[Case]) -> None:
        self.problem, self.cases = problem, cases
        subject, data = problem.subject, problem.data
        self.graph = simplified(subject.graph).to(torch.float64, problem.device)
        self.loaded = subject.graph.to(torch.float64, problem.device)
        self.single = subject.graph.to(torch.float32, problem.device)
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

    def _rounding(self) -> float:
        """The most that rounding may do to any lead of any label, for every input of the batch."""
        classes = self.C.shape[2]
        rows = lead_rows(torch.arange(classes), classes).flatten(0, 1).to(self.box.lower)
        return forward_error(self.graph, self.box, rows, rows.new_zeros(len(rows)))

    def margin(self, position: int) -> float:
        return float(self.lower[position].min())

    def improve(self, bounds: Bounds) -> None:
        """Take over bounds of all rows of the open cases; NaN improves nothing."""
        known, found = self.lower[self.open], bounds.lower.detach().cpu().double()
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


def predict(batch: Batch) -> None:
    """The inputs themselves."""
    scores = torch.from_numpy(np.asarray(batch.problem.subject.native(batch.x.numpy()))).flatten(1)
    for position, prediction in enumerate(scores.argmax(1).tolist()):
        batch.predictions[position] = prediction
    batch.try_points(batch.x, label_margin(batch.labels)(scores).float())


class Stage(Protocol):
    """Improves the bounds of a batch's open cases, or finds counterexamples to them."""

    def __call__(self, batch: Batch) -> None: ...


def attacked(*attacks: Pgd) -> Stage:
    def stage(batch: Batch) -> None:
        for attack in attacks:
            still = [i for i in batch.open if i not in batch.points]
            if not still:
                return
            batch.open, known = still, batch.open
            labels = batch.labels[still].to(batch.problem.device)
            points, margins = attack(batch.single, batch.inner.select(torch.tensor(still)), label_margin(labels))
            batch.try_points(points, margins)
            batch.open = known

    return stage


def interval(batch: Batch) -> None:
    index = torch.tensor(batch.open)
    batch.improve(IntervalBounds()(batch.loaded, batch.box.select(index), batch.C[index]))


def parallel(batch: Batch) -> None:
    """CROWN by parallel lines, at half the cost, where every activation has them."""
    if fits(batch.graph):
        bound(batch, Parallel())


def crown(batch: Batch) -> None:
    bound(batch, Crown())


def bound(batch: Batch, method: BackwardBounds) -> None:
    """Bounds of the open cases, which leave those of the hidden neurons for the stages after them.

    Few cases a call: their coefficients then stay in the processor's cache, and need no rows of padding.
    """
    readers = read_by_activations(batch.graph)
    parts = []
    for index in torch.tensor(batch.open).split(TOGETHER if batch.problem.device == "cpu" else len(batch.open)):
        bounds = method(batch.graph, batch.box.select(index), batch.C[index])
        parts.append(bounds)
        counts = [unstable_rows(z, readers[node])[1].sum(1).tolist() for node, z in bounds.nodes.items()]
        for position, *each in zip(index.tolist(), *counts, strict=True):
            batch.unstable[position] = tuple(each)
    batch.nodes = {}
    for node in parts[0].nodes:
        sides = [torch.cat([getattr(part.nodes[node], side) for part in parts]) for side in ("lower", "upper")]
        batch.nodes[node] = Interval(*sides)
    batch.bounded = list(batch.open)
    lower, upper = (torch.cat([getattr(part, side) for part in parts]) for side in ("lower", "upper"))
    batch.improve(Bounds(lower, upper, batch.nodes))


def alpha(batch: Batch) -> None:
    """Optimised slopes for the output, on CROWN's bounds of the hidden neurons."""
    if not batch.bounded:
        crown(batch)
    known = {position: place for place, position in enumerate(batch.bounded)}
    place, index = torch.tensor([known[i] for i in batch.open]), torch.tensor(batch.open)
    nodes = {node: z.select(place) for node, z in batch.nodes.items()}
    box, C = batch.box.select(index), batch.C[index]
    method = Alpha(steps=ALPHA_STEPS, enough=batch.allowance)
    lower, _ = method.improve(batch.graph, box, C, nodes, batch.lower[batch.open].to(C))
    batch.improve(Bounds(lower, lower, nodes))


STAGES: dict[str, Stage] = {
    "predict": predict,
    "interval": interval,
    "glance": attacked(SHORT_ATTACK),
    "parallel": parallel,
    "crown": crown,
    "attack": attacked(*ATTACKS),
    "alpha": alpha,
}


def hunt(question: Question) -> None:
    """Many restarts of a slow descent towards every open unsafe set, the nearest first, for a share of the time.

    What a short search leaves open is close to the limit on either side; a tree of splits seldom meets a needle.
    """
    until = time.monotonic() + HUNT_SHARE * question.remaining
    graph, region = question.graph.to(torch.float32), question.prop.region.inner_box().to(question.graph.device)
    nearest = sorted(question.open_sets, key=lambda k: question.set_bounds[k])
    for attempt in itertools.count():
        attack = replace(HUNTS[attempt % len(HUNTS)], seed=question.settings.seed + attempt)
        for k in nearest:
            if question.decided or time.monotonic() > until:
                return
            points, margins = attack(graph, region, question.prop.unsafe[k].margin)
            question.judge(points[int(margins.argmin())].cpu().numpy())


SEARCH = {"crown": SINGLE_STAGES["crown"], "bab": SINGLE_STAGES["bab"], "milp": SINGLE_STAGES["milp"]}
THOROUGH = {"crown": SINGLE_STAGES["crown"], "hunt": hunt, **SEARCH}
METHODS = {"auto": tuple(STAGES), **{name: ("predict", name) for name in ("interval", "crown", "alpha")}}


def cascade(problem: Problem, cases: Sequence[Case], method: str, deadline: float) -> Iterator[list[Record]]:
    """The records of the cases, stage by stage as they are decided; at last those that are left, UNKNOWN.

    method: one of METHODS. deadline: a time.monotonic() after which no stage is begun.
    """
    began = time.monotonic()
    batch = Batch(problem, cases)
    for name in METHODS[method]:
        if not batch.open or time.monotonic() > deadline:
            break
        with torch.no_grad():
            STAGES[name](batch)
        now = time.monotonic()
        if decided := list(batch.settle(name, now - began)):
            yield decided
        began = now
    if batch.open:
        yield [batch.undecided(position, method) for position in batch.open]


def search(problem: Problem, case: Case, settings: Settings, thorough: bool = False) -> Record:
    """The record of one case that the cascade has left open, by branch and bound and what follows it.

    thorough: whether a search has failed before, so that the time goes into a longer attack as well.
    """
    began = time.monotonic()
    prop, graph = problem.property(case), simplified(problem.subject.graph).to(torch.float64, problem.device)
    lower = torch.full((len(prop.rows[1]),), -math.inf, dtype=torch.float64)
    question = Question(problem.subject, prop, settings, began + settings.timeout, graph, lower)
    seconds: dict[str, float] = {}
    reason = ""
    for name, stage in (THOROUGH if thorough else SEARCH).items():
        if question.decided or question.remaining <= 0:
            break
        started = time.monotonic()
        try:
            stage(question)
        except (SolverError, SpecificationError) as error:
            reason = f"{name} was passed over: {error}"
        seconds[name] = time.monotonic() - started
    if question.remaining <= 0:
        reason = f"the time limit of {settings.timeout:g} s was reached"
    best, point = min(question.set_bounds), question.counterexample
    verdict = FALSIFIED if point is not None else UNKNOWN if question.open_sets else VERIFIED
    return Record(
        index=case.index,
        eps=case.eps,
        label=int(problem.data.labels[case.index]),
        prediction=-1,
        verdict=verdict,
        stage=list(seconds)[-1],
        seconds=time.monotonic() - began,
        proved=best if math.isfinite(best) else None,
        found=question.found if math.isfinite(question.found) else None,
        reason=reason if verdict == UNKNOWN else "",
        stages=seconds,
        point=None if point is None else encoded(point),
    )
