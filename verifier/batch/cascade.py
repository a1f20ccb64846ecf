"""The cascade for many inputs at once: every stage bounds or attacks, in one call, all inputs that are still open.

The stages are those of `verifier.strategy` in the order that pays for a batch: most inputs of a robust network are
proved by a cheap bound and need no attack, most inputs of another one are broken by a short attack and need no bound.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from verifier.attack.pgd import Pgd
from verifier.batch.problem import Batch, Problem
from verifier.batch.records import Case, Record
from verifier.bounds.alpha import Alpha
from verifier.bounds.crown import Crown, unstable_rows
from verifier.bounds.interval import IntervalBounds, read_by_activations
from verifier.bounds.parallel import Parallel, fits
from verifier.spec.robustness import label_margin
from verifier.types import Interval

SHORT_ATTACK = Pgd(steps=4, step_size=0.5, random_start=False)
ATTACKS = (Pgd(steps=20), Pgd(steps=40, restarts=4, seed=1))
ALPHA_STEPS = 30
TOGETHER = 4  # inputs that backward bounds treat at once on a processor


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
            points, margins = attack(
                batch.problem.single, batch.inner.select(torch.tensor(still)), label_margin(labels)
            )
            batch.try_points(points, margins)
            batch.open = known

    return stage


def interval(batch: Batch) -> None:
    index = torch.tensor(batch.open)
    batch.improve(IntervalBounds()(batch.problem.loaded, batch.box.select(index), batch.C[index]).lower)


def parallel(batch: Batch) -> None:
    """CROWN by parallel lines, at half the cost, where every activation has them."""
    if fits(batch.problem.graph):
        bound(batch, Parallel())


def crown(batch: Batch) -> None:
    bound(batch, Crown())


def bound(batch: Batch, method: Crown) -> None:
    """Bounds of the open cases, which leave those of the hidden neurons for the stages after them.

    Few cases a call: their coefficients then stay in the processor's cache, and need no rows of padding.
    """
    readers = read_by_activations(batch.problem.graph)
    parts = []
    for index in torch.tensor(batch.open).split(TOGETHER if batch.problem.device == "cpu" else len(batch.open)):
        parts.append(method.lower(batch.problem.graph, batch.box.select(index), batch.C[index]))
        counts = [unstable_rows(z, readers[node])[1].sum(1).tolist() for node, z in parts[-1][1].items()]
        for position, *each in zip(index.tolist(), *counts, strict=True):
            batch.unstable[position] = tuple(each)
    batch.nodes = {}
    for node in parts[0][1]:
        sides = [torch.cat([getattr(nodes[node], side) for _, nodes in parts]) for side in ("lower", "upper")]
        batch.nodes[node] = Interval(*sides)
    batch.bounded = list(batch.open)
    batch.improve(torch.cat([lower for lower, _ in parts]))


def alpha(batch: Batch) -> None:
    """Optimised slopes for the rows of the output that are open, on CROWN's bounds of the hidden neurons."""
    if not batch.bounded:
        crown(batch)
    known = {position: place for place, position in enumerate(batch.bounded)}
    place, index = torch.tensor([known[i] for i in batch.open]), torch.tensor(batch.open)
    nodes = {node: z.select(place) for node, z in batch.nodes.items()}
    lower, allowance = batch.lower[index], batch.allowance[index]
    count = int((~(lower > allowance)).sum(1).max())
    least, rows = lower.topk(count, 1, largest=False)  # some inputs have fewer open rows: then proved ones as well
    C = batch.C[index].gather(1, rows.unsqueeze(2).expand(-1, -1, batch.C.shape[2]).to(batch.C.device))
    method = Alpha(steps=ALPHA_STEPS, enough=float(allowance.max()))
    found, _ = method.improve(batch.problem.graph, batch.box.select(index), C, nodes, least.to(C))
    batch.improve(lower.scatter(1, rows, found.cpu().double()))


STAGES: dict[str, Stage] = {
    "predict": predict,
    "interval": interval,
    "glance": attacked(SHORT_ATTACK),
    "parallel": parallel,
    "crown": crown,
    "attack": attacked(*ATTACKS),
    "alpha": alpha,
}

ATTACKING = ("predict", "glance", "attack")
"""Stages that prove nothing."""

DEARER = ("attack", "alpha")
"""Stages that few cases need: for those that chunks leave open, many together."""

METHODS = {"auto": tuple(STAGES), **{name: ("predict", name) for name in ("interval", "crown", "alpha")}}


def cascade(
    problem: Problem, cases: Sequence[Case], method: str, deadline: float, stages: Mapping[str, Stage] | None = None
) -> Iterator[list[Record]]:
    """The records of the cases, stage by stage as they are decided; at last those that are left, UNKNOWN.

    method: one of METHODS. deadline: a time.monotonic() after which no stage is begun. stages: by name, if not those of
    the method.
    """
    began = time.monotonic()
    batch = Batch(problem, cases)
    for name, stage in (stages or {name: STAGES[name] for name in METHODS[method]}).items():
        if not batch.open or time.monotonic() > deadline:
            break
        with torch.no_grad():
            stage(batch)
        now = time.monotonic()
        if decided := list(batch.settle(name, now - began)):
            yield decided
        began = now
    if batch.open:
        yield [batch.undecided(position, method) for position in batch.open]
