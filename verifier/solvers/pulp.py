"""PuLP with the CBC it bundles (Forrest and Lougee-Heimer 2005), run as a process on a file in a folder of its own.

PuLP writes numbers with 13 significant digits and CBC answers with 8, so points and multipliers are good to a relative
5e-8. CBC reports no bound when it is stopped early. Its own scaling stays off, since the program arrives scaled: with
it, CBC called 4 of 130 badly scaled big-M programs optimal at points well above the optimum, without it none.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from verifier.program import LinearProgram, Solution, SolveOptions, Status
from verifier.solvers.base import OneSided, Solver

STATUS_MAP = {
    "Optimal": Status.OPTIMAL,
    "Infeasible": Status.INFEASIBLE,
    "Unbounded": Status.UNBOUNDED,
    "Not Solved": Status.TIME_LIMIT,
    "Undefined": Status.FAILED,
}
"""PuLP's model status -> ours. Time is the only limit ever set; an early stop with a point is seen in `_run`."""

ROUNDING = 5e-8
"""The relative error of a number that CBC prints."""


class Pulp(Solver):
    name = "pulp"
    milp = True
    duals = True
    mip_start = True
    time_limit = True

    def _answers(
        self, program: LinearProgram, costs: Iterable[np.ndarray], options: SolveOptions, start: np.ndarray | None
    ) -> Iterator[Solution]:
        for cost in costs:
            yield _run(replace(program, cost=cost), options, start)


def _run(program: LinearProgram, options: SolveOptions, start: np.ndarray | None) -> Solution:
    import pulp

    problem = pulp.LpProblem("program", pulp.LpMinimize)
    variables = _variables(problem, program, start)
    problem += pulp.LpAffineExpression(zip(variables, program.cost.tolist(), strict=True))
    split = OneSided.of(program)
    rows = [
        _rows(problem, program, variables, split.equal, program.row_lower, pulp.LpConstraintEQ),
        _rows(problem, program, variables, split.below, program.row_lower, pulp.LpConstraintGE),
        _rows(problem, program, variables, split.above, program.row_upper, pulp.LpConstraintLE),
    ]
    with tempfile.TemporaryDirectory() as folder:
        cbc = _cbc(options, start is not None and program.is_milp)
        cbc.tmpDir = folder
        try:
            problem.solve(cbc)
        except pulp.PulpSolverError:
            return Solution(Status.FAILED, message="CBC did not run to its end")
    status = STATUS_MAP[pulp.LpStatus[problem.status]]
    if status is Status.OPTIMAL and problem.sol_status == pulp.LpSolutionIntegerFeasible:
        status = Status.TIME_LIMIT
    if status not in (Status.OPTIMAL, Status.TIME_LIMIT):
        return Solution(status, message=pulp.LpStatus[problem.status])
    x = np.array([variable.varValue for variable in variables], dtype=np.float64)
    bound = float(program.cost @ x - ROUNDING * (abs(program.cost) @ abs(x)))
    return Solution(
        status,
        bound=bound if status is Status.OPTIMAL else -math.inf,
        x=x,
        row_duals=None if program.is_milp else split.row_duals(*(np.array([row.pi for row in kind]) for kind in rows)),
        message=pulp.LpStatus[problem.status],
    )


def _variables(problem, program: LinearProgram, start: np.ndarray | None) -> list:
    """The columns of the program, at `start` when it is given."""
    columns = zip(program.lower.tolist(), program.upper.tolist(), program.integer.tolist(), strict=True)
    variables = [
        problem.add_variable(
            f"x{j}",
            lower if math.isfinite(lower) else None,
            upper if math.isfinite(upper) else None,
            "Integer" if whole else "Continuous",
        )
        for j, (lower, upper, whole) in enumerate(columns)
    ]
    for variable, value in zip(variables, [] if start is None else start.tolist(), strict=start is not None):
        variable.setInitialValue(value, check=False)
    return variables


def _rows(problem, program: LinearProgram, variables: list, index: np.ndarray, side: np.ndarray, sense: int) -> list:
    """Adds the rows of `index`, all of one sense, with the right-hand sides side[index]."""
    import pulp

    matrix, rows = program.matrix, []
    for i in index.tolist():
        span = slice(matrix.indptr[i], matrix.indptr[i + 1])
        terms = zip((variables[j] for j in matrix.indices[span]), matrix.data[span].tolist(), strict=True)
        row = pulp.LpConstraint(pulp.LpAffineExpression(terms), sense, None, float(side[i]))
        problem += row
        rows.append(row)
    return rows


def _cbc(options: SolveOptions, warm: bool):
    import pulp

    settings = [
        "scaling off",
        f"primalTolerance {options.feasibility:g}",
        f"dualTolerance {options.feasibility:g}",
        f"integerTolerance {options.integrality:g}",
    ]
    return pulp.COIN_CMD(
        path=pulp.PULP_CBC_CMD.pulp_cbc_path,
        msg=False,
        timeLimit=options.time_limit,
        gapRel=0.0,
        gapAbs=0.0,
        threads=options.threads,
        warmStart=warm,
        options=settings,
    )
