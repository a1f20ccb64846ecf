"""The stages: each reads a `Question` and improves it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from verifier import solvers
from verifier.attack.diversify import Diversification
from verifier.attack.pgd import AttackResult, Fgsm, Pgd
from verifier.bounds.alpha import Alpha
from verifier.bounds.crown import Crown
from verifier.bounds.interval import IntervalBounds, propagate
from verifier.bounds.lp import LpBounds
from verifier.bounds.symbolic import forward_bounds, moving
from verifier.encoding import encode
from verifier.graph import Graph
from verifier.program import SolveOptions
from verifier.search.bab import BranchAndBound
from verifier.search.task import Task
from verifier.spec.property import Property
from verifier.strategy.question import Question
from verifier.types import Ball, Bounds, Box
from verifier.verdict import SearchStatistics

SOLVER_TOLERANCE = 1e-6
TIGHTENING_SHARE = 0.25
CROWN_SHARE = 0.75
FEW_INPUTS = 50
SPARE = 2.0  # times what has been spent (1 s at least): how long what is proved is searched for the sake of float32
FORWARD_MEMORY = 1 << 32

Stage = Callable[[Question], None]
Attack = Callable[[Graph, Box, Callable[[Tensor], Tensor]], AttackResult]


def predict(question: Question) -> None:
    """The centre of the region (the given input itself, for a ball)."""
    inner = question.prop.region.inner_box()
    origin = question.prop.region.origin
    centre = inner.project(inner.center if origin is None else torch.from_numpy(origin.astype(np.float32)).unsqueeze(0))
    question.judge(centre[0].numpy())


def attack(question: Question) -> None:
    """FGSM and PGD on the property's margin."""
    region = question.prop.region.inner_box().to(question.graph.device)
    _descend(question, (Fgsm(), Pgd(steps=20, seed=question.settings.seed)), region, question.prop.margin)


def restarts(question: Question) -> None:
    """PGD with restarts, aimed at every unsafe set at once: dearer than the bounds that come first.

    From random points, then from such as differ in what hidden neurons read.
    """
    sets, region = question.prop.unsafe, question.prop.region.inner_box().to(question.graph.device)
    aimed = region.select(torch.zeros(len(sets), dtype=torch.long, device=question.graph.device))

    def each_set(outputs: Tensor) -> Tensor:
        return torch.cat([s.margin(outputs[i : i + 1]) for i, s in enumerate(sets)])

    attack = Pgd(steps=40, restarts=4, seed=question.settings.seed + 1)
    _descend(question, (attack,), aimed, each_set)
    if not question.decided and question.remaining > 0:
        rows = torch.arange(len(sets), device=question.graph.device).repeat(attack.restarts)
        start = Diversification(seed=attack.seed)(question.graph.to(torch.float32), aimed.select(rows))
        _descend(question, (partial(replace(attack, steps=20), start=start),), aimed, each_set)


def _descend(question: Question, methods: Sequence[Attack], region: Box, objective: Callable[[Tensor], Tensor]) -> None:
    """Judge the best point of every attack, as long as the question is open."""
    graph = question.graph.to(torch.float32)
    for method in methods:
        points, margins = method(graph, region, objective)
        question.judge(points[int(margins.argmin())].cpu().numpy())
        if question.decided or question.remaining <= 0:
            break
    question.remark = f"least margin found {question.found:.4g}"


def bound_stage(method: Callable[[Question], Callable[..., Bounds]]) -> Stage:
    """A stage that runs a bound method on the rows of the open sets."""

    def stage(question: Question) -> None:
        _intervals_apart(question)
        if question.decided:
            return
        rows = question.open_rows
        with torch.no_grad():
            bounds = method(question)(question.graph, question.box, question.C[rows].unsqueeze(0))
        question.improve(rows, bounds)

    return stage


def few_inputs(question: Question) -> bool:
    """Whether so few inputs vary that linear bounds are better pushed forward."""
    return len(moving(question.box)) <= FEW_INPUTS and not isinstance(question.box, Ball)


def forward(question: Question) -> None:
    """Linear bounds pushed forward: where few inputs vary, far cheaper than backwards on wide or deep networks."""
    box, rows = question.box, question.open_rows
    with torch.no_grad():
        _, nodes = propagate(question.graph, box)
        C = question.C[rows].unsqueeze(0)
        deadline = time.monotonic() + CROWN_SHARE * question.remaining
        lower, nodes = forward_bounds(question.graph, box, nodes, C, FORWARD_MEMORY, deadline)
    question.improve(rows, Bounds(lower, torch.full_like(lower, math.inf), nodes))


def _crown(question: Question) -> Crown:
    """CROWN that sets out from what is known; in the cascade, the later stages need time as well."""
    share = CROWN_SHARE if question.settings.method == "auto" else 1.0
    return Crown(known=question.nodes, deadline=time.monotonic() + share * question.remaining)


def crown(question: Question) -> None:
    """CROWN. What it proves by less than float32 execution may cost is left to a search by neurons, if that comes."""
    bound_stage(_crown)(question)
    if question.settings.method == "auto" and not few_inputs(question):
        question.weigh()


def interval(question: Question) -> None:
    """Intervals of the network as it was loaded: `simplified` may loosen them, and nothing else."""
    rows, graph = question.open_rows, question.subject.graph.to(torch.float64, question.graph.device)
    with torch.no_grad():
        bounds = IntervalBounds()(graph, question.box, question.C[rows].unsqueeze(0))
    before = set(question.open_sets)
    question.improve(rows, replace(bounds, nodes=question.nodes))
    question.by_interval |= before - set(question.open_sets)
    if question.records is not None:
        question.records.flat = bool(question.by_interval)


def _intervals_apart(question: Question) -> None:
    """Methods return the better of their own bounds and of intervals; a proof must know which it was."""
    if question.records is not None and not question.nodes and not question.settings.slack:
        interval(question)


def bab(question: Question) -> None:
    """Branch and bound on the open unsafe sets, together; complete for piecewise-linear networks."""
    inner = question.prop.region.inner_box()

    def judge(points: Tensor) -> bool:
        for point in points.to("cpu", torch.float32):
            question.judge(inner.project(point.unsqueeze(0))[0].numpy())
            if question.counterexample is not None:
                return True
        return False

    _intervals_apart(question)
    if not question.nodes and not question.decided:
        with torch.no_grad():
            bounds = _crown(question)(question.graph, question.box, question.C[question.open_rows].unsqueeze(0))
        if question.settings.slack:  # the checker has not accepted what bounds alone proved: let the search prove it
            question.know(bounds.nodes)
        else:
            question.improve(question.open_rows, bounds)
    unsafe = {k: question.prop.unsafe[k] for k in question.open_sets}
    question.wish = 0.0
    graph, nodes, deadline = question.graph, question.nodes, question.deadline
    if question.decided:  # but for what was wished for
        deadline = min(deadline, time.monotonic() + SPARE * max(1.0, question.settings.timeout - question.remaining))
    if not unsafe or question.counterexample is not None:
        return
    enough, records = question.allowance, question.records
    task = Task(graph, question.box, unsafe, nodes, enough, deadline, judge, records, price=question.price)
    outcome = replace(BranchAndBound(), jobs=question.settings.jobs)(task, question.progress)
    question.searched.update(outcome.proved)
    question.search = SearchStatistics(outcome.nodes, outcome.evaluations, outcome.seconds)
    question.remark = f"{outcome.nodes} subdomain{'s' * (outcome.nodes != 1)}, worst bound {outcome.best:.4g}"
    if outcome.stuck:
        question.remark += f", {outcome.stuck} beyond float64"


def milp(question: Question) -> None:
    """The exact MILP, one unsafe set after the other, after LPs have tightened the bounds of the hidden neurons.

    A point of the solver's is a candidate for replay; its bound is its word, and is kept apart as such.
    """
    graph, box = question.graph.to(torch.float64, "cpu"), question.box.to("cpu", torch.float64)
    share = time.monotonic() + TIGHTENING_SHARE * question.remaining
    method = LpBounds(solver=question.settings.solver, deadline=share)
    rows = question.open_rows
    with torch.no_grad():
        question.improve(rows, method(graph, box, question.C[rows].unsqueeze(0).to("cpu", torch.float64)))
    solver = solvers.get(question.settings.solver)
    inner = question.prop.region.inner_box()
    for k in sorted(question.open_sets, key=lambda k: question.set_bounds[k]):
        one = Property(question.prop.region, (question.prop.unsafe[k],))
        encoding = encode(graph, box, question.nodes, one)
        left = question.remaining
        if left <= 0:
            return
        options = SolveOptions(time_limit=left, cutoff=SOLVER_TOLERANCE, target=-SOLVER_TOLERANCE)
        start = None if question.nearest is None else encoding.start(question.nearest)
        solution = solver.solve(encoding.program, options, start)
        if solution.x is not None:
            point = torch.from_numpy(encoding.input(solution.x).astype(np.float32)).unsqueeze(0)
            question.judge(inner.project(point)[0].numpy())
            if question.decided:
                return
        if solution.bound < math.inf:  # runs of the network satisfy the program: "infeasible" is an error of the solver
            question.claims[k] = solution.bound
        if not SOLVER_TOLERANCE < solution.bound < math.inf:
            question.remark = f"{question.settings.solver}: {solution.status.value}"


STAGES: dict[str, Stage] = {
    "predict": predict,
    "attack": attack,
    "restarts": restarts,
    "interval": interval,
    "forward": forward,
    "crown": crown,
    "alpha": bound_stage(lambda question: Alpha(steps=50, enough=question.allowance, deadline=question.deadline)),
    "bab": bab,
    "lp": bound_stage(lambda question: LpBounds(solver=question.settings.solver, deadline=question.deadline)),
    "milp": milp,
}
