"""The protocol of a solver: what every solver shares, around the one method each of them writes.

`Solver` rescales the program exactly, lets the solver answer, translates the answer back and checks it against the
original program: a point must be feasible and a bound of an LP must follow from its multipliers.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from verifier.errors import SolverError
from verifier.program import (
    LinearProgram,
    Solution,
    SolveOptions,
    Status,
    dual_bound,
    power_of_two,
    rescaled,
    violation,
    without_small,
)

ACCEPTED_VIOLATION = 1e-6
"""The largest `violation`, in the rescaled program, of a point that is passed on as feasible."""


@contextmanager
def silenced() -> Iterator[None]:
    """What packages print on stdout by themselves, from C, is lost: commands print JSON there that others read."""
    try:
        stdout = os.dup(1)
    except OSError:  # closed by whoever started this process: nothing can be printed
        yield
        return
    library = ctypes.CDLL(None if os.name == "posix" else "msvcrt")
    library.fflush(None)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        library.fflush(None)  # while what it holds still goes nowhere
        os.dup2(stdout, 1)
        os.close(stdout)


class Solver(ABC):
    """A linear or mixed-integer solver; capabilities are class attributes.

    milp: takes integer columns. duals: multipliers of LPs. hot_start: `minimise_many` reuses the basis. mip_start: uses
    `start`. cutoff, target, time_limit: honours the option. write_model: has `write`. smallest: coefficients of at most
    this size are dropped by the package, so they are relaxed away first (`program.without_small`).
    """

    name: ClassVar[str]
    milp: ClassVar[bool] = False
    duals: ClassVar[bool] = False
    hot_start: ClassVar[bool] = False
    mip_start: ClassVar[bool] = False
    cutoff: ClassVar[bool] = False
    target: ClassVar[bool] = False
    time_limit: ClassVar[bool] = False
    write_model: ClassVar[bool] = False
    smallest: ClassVar[float] = 1e-12

    def solve(
        self, program: LinearProgram, options: SolveOptions | None = None, start: np.ndarray | None = None
    ) -> Solution:
        """Minimise. `start` (n,) is a point, feasible or not, that a solver with `mip_start` may begin from.

        Raises `SolverError` on a malformed start, or when the package refuses the program or an option.
        """
        if start is not None:
            start = np.asarray(start, dtype=np.float64)
            if start.shape != program.cost.shape or not np.isfinite(start).all():
                raise SolverError(f"the start must be a finite point of shape {program.cost.shape}")
        [solution] = self._minimise(program, [program.cost], options or SolveOptions(), start)
        return solution

    def minimise_many(
        self, program: LinearProgram, costs: Iterable[np.ndarray], options: SolveOptions | None = None
    ) -> list[Solution]:
        """Minimise each of the costs, rows of a (k, n) array, over the constraints of `program`; each has its offset.

        Raises `SolverError` on a cut-off or a target, which belong to one objective.
        """
        options = options or SolveOptions()
        if options.cutoff is not None or options.target is not None:
            raise SolverError("minimise_many takes no cutoff and no target: solve the programs one by one")
        return list(self._minimise(program, costs, options, None))

    def write(self, program: LinearProgram, path: Path) -> None:
        """Write the program to a .mps or .lp file. Raises `SolverError` where the solver cannot."""
        raise SolverError(f"solver {self.name!r} cannot write models: use 'highs'")

    @abstractmethod
    def _answers(
        self, program: LinearProgram, costs: Iterable[np.ndarray], options: SolveOptions, start: np.ndarray | None
    ) -> Iterator[Solution]:
        """The package's own answer for each cost, unchecked: status, bound, x, row_duals, nodes and message.

        The program is rescaled and has no offset; its own cost is to be ignored.
        """

    def _minimise(
        self, program: LinearProgram, costs: Iterable[np.ndarray], options: SolveOptions, start: np.ndarray | None
    ) -> Iterator[Solution]:
        scaled, column, row = rescaled(replace(program, offset=0.0))
        relaxed = without_small(scaled, self.smallest)
        programs = [replace(program, cost=cost) for cost in costs]
        if not programs:
            return
        scalings = [Scaling(column, row, 1.0 / float(power_of_two(np.abs(p.cost * column).max()))) for p in programs]
        scaled_costs = [scaling.cost(p.cost) for p, scaling in zip(programs, scalings, strict=True)]
        crossed = _crossed(scaled)
        if crossed:
            answers = iter([Solution(Status.INFEASIBLE, message=crossed)] * len(programs))
        else:
            begin = None if start is None else start / column
            answers = self._answers(relaxed, scaled_costs, scalings[0].options(options, program.offset), begin)
        for posed, scaling, cost in zip(programs, scalings, scaled_costs, strict=True):
            began = time.perf_counter()
            answer = next(answers)
            if answer.status is Status.INFEASIBLE_OR_UNBOUNDED:
                answer = self._told_apart(relaxed, options)
            answer = self._with_point(scaled, answer)
            solution = _checked(posed, scaling.restored(answer, posed.offset))
            if solution.status is Status.CUTOFF and not _exceeds(solution.bound, options.cutoff):
                # The package's own bound passed the cut-off, but its multipliers do not prove it.
                [answer] = self._answers(relaxed, [cost], replace(options, cutoff=None, target=None), None)
                solution = _checked(posed, scaling.restored(self._with_point(scaled, answer), posed.offset))
            if start is not None:
                solution = self._agreeing(posed, solution, start, options)
            yield replace(solution, seconds=time.perf_counter() - began)

    def _told_apart(self, program: LinearProgram, options: SolveOptions) -> Solution:
        """Whether a program known to be infeasible or unbounded is feasible, by solving it with zero cost."""
        feasibility = replace(options, cutoff=None, target=None)
        [answer] = self._answers(program, [np.zeros_like(program.cost)], feasibility, None)
        if answer.status is Status.OPTIMAL:
            return Solution(Status.UNBOUNDED, message=answer.message)
        return answer if answer.status is Status.INFEASIBLE else Solution(answer.status, message=answer.message)

    def _with_point(self, program: LinearProgram, answer: Solution) -> Solution:
        """The answer without its point when that violates the program, which is a failure if it was said to be good."""
        excess = math.inf if answer.x is None else violation(program, answer.x)
        if excess <= ACCEPTED_VIOLATION:
            return answer
        if answer.status not in (Status.OPTIMAL, Status.TARGET):
            return replace(answer, x=None)
        reason = "gave no point" if answer.x is None else f"gave a point that violates the constraints by {excess:.1e}"
        return Solution(Status.FAILED, message=f"solver {self.name!r} answered {answer.status.name} but {reason}")

    def _agreeing(
        self, program: LinearProgram, solution: Solution, start: np.ndarray, options: SolveOptions
    ) -> Solution:
        """The solution, or a failure when its bound lies above the objective of `start` though `start` is feasible."""
        known = program.objective(start)
        margin = ACCEPTED_VIOLATION * (1.0 + abs(known))
        if violation(program, start) <= options.feasibility and solution.bound > known + margin:
            claim = f"{solution.status.name} with bound {solution.bound:g}"
            message = f"solver {self.name!r} answered {claim}, but the start is feasible with objective {known:g}"
            return Solution(Status.FAILED, nodes=solution.nodes, message=message)
        return solution


@dataclass(frozen=True, eq=False)
class Scaling:
    """Powers of two between a program and its rescaled twin: column (n,), row (m,) and a factor of the objective."""

    column: np.ndarray
    row: np.ndarray
    objective: float

    def cost(self, cost: np.ndarray) -> np.ndarray:
        return cost * self.column * self.objective

    def options(self, options: SolveOptions, offset: float) -> SolveOptions:
        """The options with cut-off and target in the terms of the rescaled program, which has no offset."""
        cutoff = None if options.cutoff is None else (options.cutoff - offset) * self.objective
        target = None if options.target is None else (options.target - offset) * self.objective
        return replace(options, cutoff=cutoff, target=target)

    def restored(self, answer: Solution, offset: float) -> Solution:
        """The answer to the rescaled program in the terms of the original one."""
        return replace(
            answer,
            bound=answer.bound / self.objective + offset,
            x=None if answer.x is None else answer.x * self.column,
            row_duals=None if answer.row_duals is None else answer.row_duals * self.row / self.objective,
        )


def _checked(program: LinearProgram, answer: Solution) -> Solution:
    """The answer with objective, bound and reduced costs computed from the program itself."""
    if answer.status is Status.INFEASIBLE:
        return replace(answer, objective=math.inf, bound=math.inf, x=None, row_duals=None)
    if answer.status is Status.UNBOUNDED:
        return replace(answer, objective=-math.inf, bound=-math.inf, x=None, row_duals=None)
    if answer.status is Status.FAILED:
        return replace(answer, objective=math.inf, bound=-math.inf, x=None, row_duals=None)
    objective = math.inf if answer.x is None else program.objective(answer.x)
    bound, row_duals, reduced_costs = answer.bound, answer.row_duals, None
    if row_duals is not None:
        reduced_costs = program.cost - program.matrix.T @ row_duals
        proved = dual_bound(program, row_duals)
        if math.isfinite(proved) or answer.status is not Status.OPTIMAL:
            bound = proved
    bound = -math.inf if math.isnan(bound) else bound
    return replace(answer, objective=objective, bound=bound, reduced_costs=reduced_costs)


def _exceeds(bound: float, cutoff: float | None) -> bool:
    return cutoff is not None and bound > cutoff


def _crossed(program: LinearProgram) -> str:
    """Names the first column or row whose lower side lies above its upper side; empty when there is none."""
    for kind, crossed in (
        ("column", program.lower > program.upper),
        ("row", program.row_lower > program.row_upper),
    ):
        if crossed.any():
            return f"{kind} {crossed.argmax()} has its lower bound above its upper bound"
    return ""


@dataclass(frozen=True, eq=False)
class OneSided:
    """The rows of a program by kind, as index arrays, for packages without two-sided rows.

    equal: matrix x = row_lower. below: matrix x >= row_lower. above: matrix x <= row_upper. A row with two finite,
    different sides is in `below` and in `above`; a row without sides is in none.
    """

    equal: np.ndarray
    below: np.ndarray
    above: np.ndarray
    size: int

    @classmethod
    def of(cls, program: LinearProgram) -> OneSided:
        equal = program.row_lower == program.row_upper
        below = ~equal & np.isfinite(program.row_lower)
        above = ~equal & np.isfinite(program.row_upper)
        return cls(np.flatnonzero(equal), np.flatnonzero(below), np.flatnonzero(above), program.row_lower.size)

    def row_duals(self, equal: np.ndarray, below: np.ndarray, above: np.ndarray) -> np.ndarray:
        """Multipliers (m,) from those of each kind, given as the change of the optimum per unit of right-hand side."""
        y = np.zeros(self.size)
        y[self.equal] = equal
        y[self.below] = below
        y[self.above] += above
        return y
