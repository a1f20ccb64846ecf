"""The cascade that answers one property: cheap stages first, each under what is left of the time.

A stage reads and improves a `Question`; adding one means writing a function and naming it in `STAGES` and `CASCADE`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from verifier import solvers
from verifier.attack.pgd import Fgsm, Pgd
from verifier.attack.replay import replay
from verifier.bounds.alpha import Alpha
from verifier.bounds.crown import Crown
from verifier.bounds.enclosure import forward_error
from verifier.bounds.interval import IntervalBounds
from verifier.bounds.lp import LpBounds
from verifier.encoding import encode
from verifier.errors import InputError, SolverError, SpecificationError
from verifier.graph import Graph
from verifier.program import SolveOptions
from verifier.proof import Proof
from verifier.search.bab import BranchAndBound
from verifier.search.record import Records
from verifier.search.task import Task
from verifier.simplify import simplified
from verifier.spec.property import Property
from verifier.types import Bounds, Box, Interval
from verifier.verdict import Result, SearchStatistics, StageReport, Verdict

ALLOWANCE = 2
RESERVE = 1e-3
"""Of the least margin that was found, what a proof leaves to rounding in float32."""

SOLVER_TOLERANCE = 1e-6
TIGHTENING_SHARE = 0.25

METHODS = ("auto", "interval", "crown", "alpha", "bab", "lp", "milp")


class Subject(Protocol):
    """What is verified: a graph, and the original model run in float32 (see `verifier.load.Model`)."""

    @property
    def graph(self) -> Graph: ...

    def native(self, x: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Settings:
    """How to look for an answer.

    timeout: seconds for the whole cascade. device: auto, cpu, cuda or cuda:N. jobs: how many processes may search side
    by side, all but one of them forks (on Linux, and not on a GPU). proof: keep what proves a verdict, and use nothing
    that cannot be kept. slack: how far above zero a search must prove the margin, beyond what rounding may
    do; other bounds then do not count. attacked: whether attacks have failed before, and need not be repeated.
    """

    method: str = "auto"
    solver: str = "highs"
    timeout: float = 60.0
    device: str = "auto"
    seed: int = 0
    jobs: int = 1
    proof: bool = False
    slack: float = 0.0
    attacked: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"unknown method '{self.method}' (available: {', '.join(METHODS)})")
        if not self.timeout > 0:
            raise InputError(f"the timeout must be a positive number of seconds, not {self.timeout}")

    def torch_device(self) -> torch.device:
        """The device to compute on. Raises InputError when CUDA is asked for and absent."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"device '{self.device}' is not available here: use --device cpu")
        try:
            return torch.device(self.device)
        except RuntimeError:
            raise InputError(f"unknown device '{self.device}' (available: auto, cpu, cuda)") from None


@dataclass(eq=False)
class Question:
    """The state of one cascade.

    lower: the best proved lower bound of each half-space row (rows,). searched: by unsafe set, that of its margin, from
    branch and bound. claims: by unsafe set, a bound that rests on a solver's word alone. nodes: bounds of what
    activations read. found, nearest: the least margin seen at an allowed input, and that input. doubts: why candidates
    were not accepted. records: what branch and bound leaves behind, if proofs are wanted. by_interval: the unsafe sets
    that intervals alone prove.
    """

    subject: Subject
    prop: Property
    settings: Settings
    deadline: float
    graph: Graph
    lower: Tensor
    nodes: dict[int, Interval] = field(default_factory=dict)
    found: float = math.inf
    nearest: np.ndarray | None = None
    counterexample: np.ndarray | None = None
    outputs: np.ndarray | None = None
    doubts: list[str] = field(default_factory=list)
    claims: dict[int, float] = field(default_factory=dict)
    searched: dict[int, float] = field(default_factory=dict)
    remark: str = ""
    search: SearchStatistics | None = None
    progress: Callable[[str], None] | None = None
    records: Records | None = None
    by_interval: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.box = self.prop.region.box().to(self.graph.device)
        C, d, self.sets = self.prop.rows
        self.C, self.d = C.to(self.graph.device), d.to(self.graph.device)
        self.rounding = self._rounding_allowance()
        self.records = Records(self.graph) if self.settings.proof else None

    @property
    def allowance(self) -> float:
        """How far a bound must lie above zero to count.

        A proof that shall hold for float32 execution needs a little more than real arithmetic does.
        """
        room = RESERVE * self.found if self.settings.proof and 0 < self.found < math.inf else 0.0
        return self.rounding + self.settings.slack + room

    def _rounding_allowance(self) -> float:
        """Twice what rounding does to a forward pass in the region: huge values inside must not pass for proof.

        The network counts as stated, as loaded and as analysed: merging ops or neurons may cancel huge constants.
        """
        device = self.graph.device
        loaded = self.subject.graph
        graphs = {self.graph, loaded.to(torch.float64, device), loaded.stated.to(device=device)}
        return ALLOWANCE * max(forward_error(graph, self.box, self.C, self.d) for graph in graphs)

    @property
    def merged(self) -> bool:
        """Whether the network is analysed with mirrored neurons merged."""
        return sum(n.size for n in self.graph.nodes) != sum(n.size for n in self.subject.graph.nodes)

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return self.deadline - time.monotonic()

    @property
    def set_bounds(self) -> list[float]:
        """The best proved lower bound of every unsafe set's margin."""
        rows = [float(self.lower[self.sets == k].max()) for k in range(len(self.prop.unsafe))]
        return [max(bound, self.searched.get(k, -math.inf)) for k, bound in enumerate(rows)]

    @property
    def open_sets(self) -> list[int]:
        """The unsafe sets that are not yet proved unreachable; a bound that is NaN leaves its set open."""
        return [k for k, bound in enumerate(self.set_bounds) if not bound > self.allowance]

    @property
    def open_rows(self) -> Tensor:
        """A mask of the half-space rows of the open sets."""
        return torch.isin(self.sets, torch.tensor(self.open_sets))

    @property
    def decided(self) -> bool:
        return self.counterexample is not None or not self.open_sets

    def improve(self, rows: Tensor, bounds: Bounds) -> None:
        """Take over bounds of the rows (a mask), in float64 on the CPU."""
        found = bounds.lower[0].detach().to("cpu", torch.float64) + self.d.cpu()[rows]
        best = self.lower[rows]
        self.lower[rows] = torch.where(found > best, found, best)
        self.know(bounds.nodes)

    def know(self, nodes: Mapping[int, Interval]) -> None:
        """Take over bounds of what activations read."""
        self.nodes = {node: z.known() for node, z in nodes.items()}

    def judge(self, x: np.ndarray) -> None:
        """Replay a candidate (*input_shape) and keep it when it is a counterexample."""
        verdict = replay(self.subject.native, self.subject.graph, self.prop, x.astype(np.float32))
        if verdict.inside and verdict.margin < self.found:
            self.found, self.nearest = verdict.margin, x
        if verdict.accepted:
            self.counterexample, self.outputs = x.astype(np.float32), verdict.outputs
        elif verdict.float32 or verdict.real:
            self.doubts.append(verdict.reason)


Stage = Callable[[Question], None]


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
    """PGD with restarts, aimed at every unsafe set at once: dearer than the bounds that come first."""
    sets, region = question.prop.unsafe, question.prop.region.inner_box().to(question.graph.device)
    aimed = region.select(torch.zeros(len(sets), dtype=torch.long, device=question.graph.device))

    def each_set(outputs: Tensor) -> Tensor:
        return torch.cat([s.margin(outputs[i : i + 1]) for i, s in enumerate(sets)])

    _descend(question, (Pgd(steps=40, restarts=4, seed=question.settings.seed + 1),), aimed, each_set)


def _descend(
    question: Question, methods: Sequence[Fgsm | Pgd], region: Box, objective: Callable[[Tensor], Tensor]
) -> None:
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
        rows = question.open_rows
        with torch.no_grad():
            bounds = method(question)(question.graph, question.box, question.C[rows].unsqueeze(0))
        question.improve(rows, bounds)

    return stage


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


def bab(question: Question) -> None:
    """Branch and bound on the open unsafe sets, together; complete for piecewise-linear networks."""
    inner = question.prop.region.inner_box()

    def judge(points: Tensor) -> bool:
        for point in points.to("cpu", torch.float32):
            question.judge(inner.project(point.unsqueeze(0))[0].numpy())
            if question.counterexample is not None:
                return True
        return False

    if not question.nodes:
        with torch.no_grad():
            bounds = Crown()(question.graph, question.box, question.C[question.open_rows].unsqueeze(0))
        if question.settings.slack:  # the checker has not accepted what bounds alone proved: let the search prove it
            question.know(bounds.nodes)
        else:
            question.improve(question.open_rows, bounds)
    if question.decided:
        return
    unsafe = {k: question.prop.unsafe[k] for k in question.open_sets}
    graph, nodes, deadline = question.graph, question.nodes, question.deadline
    task = Task(graph, question.box, unsafe, nodes, question.allowance, deadline, judge, question.records)
    outcome = replace(BranchAndBound(), jobs=question.settings.jobs)(task, question.progress)
    question.searched.update(outcome.proved)
    question.search = SearchStatistics(outcome.nodes, outcome.evaluations, outcome.seconds)
    question.remark = f"{outcome.nodes} subdomains, worst bound {outcome.best:.4g}"
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
        if question.remaining <= 0:
            return
        one = Property(question.prop.region, (question.prop.unsafe[k],))
        encoding = encode(graph, box, question.nodes, one)
        options = SolveOptions(time_limit=question.remaining, cutoff=SOLVER_TOLERANCE, target=-SOLVER_TOLERANCE)
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
    "crown": bound_stage(lambda question: Crown()),
    "alpha": bound_stage(lambda question: Alpha(steps=50, enough=question.allowance, deadline=question.deadline)),
    "bab": bab,
    "lp": bound_stage(lambda question: LpBounds(solver=question.settings.solver, deadline=question.deadline)),
    "milp": milp,
}
CASCADE = ("predict", "interval", "attack", "crown", "restarts", "bab", "milp")
WITH_PROOF = ("predict", "attack", "interval", "crown", "restarts", "bab")
WITH_SLACK = ("predict", "attack", "bab")
ATTACKS = ("attack", "restarts")


def verify(
    subject: Subject, prop: Property, settings: Settings | None = None, progress: Callable[[str], None] | None = None
) -> Result:
    """Answer one property by the cascade, or by one method alone.

    progress: called with a line of text before each stage. Raises SpecificationError when property and network do not
    fit, InputError or SolverUnavailableError for impossible settings.
    """
    settings = settings or Settings()
    solvers.get(settings.solver)
    began = time.monotonic()
    graph = simplified(subject.graph).to(torch.float64, settings.torch_device())
    prop.check_fits(graph.input_shape, math.prod(graph.output_shape))
    lower = torch.full((len(prop.rows[1]),), -math.inf, dtype=torch.float64)
    question = Question(subject, prop, settings, began + settings.timeout, graph, lower, progress=progress)
    cascade = WITH_SLACK if settings.slack else WITH_PROOF if settings.proof else CASCADE
    names: tuple[str, ...] = cascade if settings.method == "auto" else ("predict", settings.method)
    if settings.attacked:
        names = tuple(name for name in names if name not in ATTACKS)
    reports: list[StageReport] = []
    for name in names:
        if question.decided or question.remaining <= 0:
            break
        if progress is not None:
            progress(f"{name} ({question.remaining:.1f} s left)")
        reports.append(_run(name, question))
    return _result(question, tuple(reports), time.monotonic() - began)


def _run(name: str, question: Question) -> StageReport:
    """Run one stage and report it; in the cascade, a stage that cannot treat the question is passed over."""
    began, question.remark, question.search = time.monotonic(), "", None
    try:
        STAGES[name](question)
    except (SolverError, SpecificationError) as error:
        if question.settings.method != "auto":
            raise
        question.remark = f"passed over: {error}"
    best = min(question.set_bounds)
    margin = best if math.isfinite(best) else None
    return StageReport(name, time.monotonic() - began, margin, question.remark, question.search)


def _result(question: Question, stages: tuple[StageReport, ...], seconds: float) -> Result:
    """The verdict that the evidence allows."""
    claimed = {k: bound for k, bound in question.claims.items() if bound > SOLVER_TOLERANCE}
    by_solver = bool(question.open_sets) and all(k in claimed for k in question.open_sets)
    bounds, reason = question.set_bounds, ""
    if question.counterexample is not None:
        verdict = Verdict.FALSIFIED
    elif not question.open_sets:
        verdict = Verdict.VERIFIED
    elif by_solver and question.settings.method == "milp":
        verdict = Verdict.VERIFIED
        bounds = [claimed.get(k, bound) for k, bound in enumerate(bounds)]
    else:
        verdict, reason = Verdict.UNKNOWN, _reason(question, by_solver)
    return Result(
        verdict=verdict,
        about=question.prop.about,
        stage=stages[-1].name if stages else "",
        seconds=seconds,
        proved=min(bounds),
        found=question.found,
        stages=stages,
        counterexample=question.counterexample,
        outputs=question.outputs,
        reason=reason,
        solver_word=verdict is Verdict.VERIFIED and bool(question.open_sets),
        proof=_proof(question) if verdict is Verdict.VERIFIED else None,
    )


def _proof(question: Question) -> Proof | None:
    """What proves that every set is unreachable: a search's trees, or the best row bounded over the whole region."""
    records = question.records
    if records is None or question.open_sets:
        return None
    as_loaded = len(question.by_interval) == len(question.prop.unsafe)  # what the intervals were computed on
    if as_loaded:
        records = Records(question.subject.graph)
    for k in range(len(question.prop.unsafe)):
        rows = question.lower[question.sets == k]
        if k not in records.sets and bool(rows.max() > question.allowance):
            weights = torch.nn.functional.one_hot(rows.argmax(), len(rows))
            records.sets[k] = records.unsplit(weights, flat=k in question.by_interval), 0
    return records.proof(len(question.prop.unsafe), question.merged and not as_loaded)


def _reason(question: Question, by_solver: bool) -> str:
    """Why there is no verdict."""
    if by_solver:
        claim = f"{question.settings.solver} claims that no counterexample exists"
        return f"{claim}, but a solver's word is no proof; --method milp accepts it"
    if question.doubts:
        return question.doubts[-1]
    if question.remaining <= 0:
        return f"the time limit of {question.settings.timeout:g} s was reached"
    best = min(question.set_bounds)
    return f"the best bound that {question.settings.method} reaches is {best:.4g}, which is not above zero"
