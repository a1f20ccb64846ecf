"""CVXPY (Diamond and Boyd 2016): the program as one matrix expression, handed to the HiGHS that CVXPY requires."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from verifier.program import LinearProgram, Solution, SolveOptions, Status
from verifier.solvers.base import OneSided, Solver, silenced

STATUS_MAP = {
    "optimal": Status.OPTIMAL,
    "infeasible": Status.INFEASIBLE,
    "unbounded": Status.UNBOUNDED,
    "infeasible_or_unbounded": Status.INFEASIBLE_OR_UNBOUNDED,
    "user_limit": Status.TIME_LIMIT,
}
"""CVXPY's problem status -> ours; any other means `FAILED`. Time is the only limit that is ever set."""


class Cvxpy(Solver):
    name = "cvxpy"
    milp = True
    duals = True
    time_limit = True

    def _answers(
        self, program: LinearProgram, costs: Iterable[np.ndarray], options: SolveOptions, start: np.ndarray | None
    ) -> Iterator[Solution]:
        for cost in costs:
            yield _solve(replace(program, cost=cost), options)


def _solve(program: LinearProgram, options: SolveOptions) -> Solution:
    import cvxpy
    import highspy

    whole = (np.flatnonzero(program.integer),) if program.is_milp else False
    x = cvxpy.Variable(program.cost.size, bounds=[program.lower, program.upper], integer=whole)
    split, matrix = OneSided.of(program), program.matrix
    constraints: list[Any] = [
        matrix[split.equal] @ x == program.row_lower[split.equal],
        matrix[split.below] @ x >= program.row_lower[split.below],
        matrix[split.above] @ x <= program.row_upper[split.above],
    ]
    present = [constraint for constraint in constraints if constraint.size]
    problem = cvxpy.Problem(cvxpy.Minimize(program.cost @ x), present)
    highspy.Highs.resetGlobalScheduler(True)  # else a solve with another number of threads than the last one fails
    try:
        with silenced(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they repeat the status, which is read below
            problem.solve(solver=cvxpy.HIGHS, **_settings(program, options))
    except (
        cvxpy.error.SolverError,
        ValueError,
    ) as error:  # a ValueError is CVXPY's word for a status it has no name for
        return Solution(Status.FAILED, message=str(error).strip().splitlines()[0])
    return Solution(
        STATUS_MAP.get(problem.status, Status.FAILED),
        bound=_bound(problem, program),
        x=x.value,
        row_duals=None if program.is_milp else _row_duals(split, constraints),
        message=problem.status,
    )


def _settings(program: LinearProgram, options: SolveOptions) -> dict[str, Any]:
    """HiGHS's options, in its own names; CVXPY raises when HiGHS rejects one."""
    feasibility = max(options.feasibility, 1e-10)
    settings: dict[str, Any] = {
        "threads": options.threads,
        "small_matrix_value": Cvxpy.smallest,
        "primal_feasibility_tolerance": feasibility,
        "dual_feasibility_tolerance": feasibility,
    }
    if program.is_milp:
        integrality = max(min(feasibility, options.integrality), 1e-10)
        settings |= {"mip_feasibility_tolerance": integrality, "mip_rel_gap": 0.0, "mip_abs_gap": 1e-9}
    if options.time_limit is not None:
        settings["time_limit"] = options.time_limit
    return settings


def _bound(problem: Any, program: LinearProgram) -> float:
    """The bound that HiGHS proved: of its search for a MILP, the optimum for an LP, else none."""
    if program.is_milp:
        return problem.solver_stats.extra_stats.mip_dual_bound
    return problem.value if problem.status == "optimal" else -math.inf


def _row_duals(split: OneSided, constraints: list[Any]) -> np.ndarray | None:
    """Multipliers in our sign. CVXPY's Lagrangian adds dual * (lhs - rhs) for == and <=, and subtracts it for >=."""
    equal, below, above = ([] if not c.size else c.dual_value for c in constraints)
    if equal is None or below is None or above is None:
        return None
    return split.row_duals(-np.asarray(equal), np.asarray(below), -np.asarray(above))
