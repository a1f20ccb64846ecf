"""SciPy: `scipy.optimize.linprog` for LPs and `scipy.optimize.milp` for MILPs, both on the HiGHS that SciPy carries.

`milp` fixes its feasibility tolerance (1e-6) and its threads; `linprog` takes a tolerance. SciPy reaches no option for
small coefficients, so HiGHS's default applies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from scipy import sparse

from verifier.program import LinearProgram, Solution, SolveOptions, Status
from verifier.solvers.base import OneSided, Solver

STATUS_MAP = {
    0: Status.OPTIMAL,
    1: Status.TIME_LIMIT,
    2: Status.INFEASIBLE,
    3: Status.UNBOUNDED,
}
"""`OptimizeResult.status` -> ours; 4 ("other") is read from the message by `_status`. Time is the only limit set."""


class Scipy(Solver):
    name = "scipy"
    milp = True
    duals = True
    time_limit = True
    smallest = 1e-9

    def _answers(
        self, program: LinearProgram, costs: Iterable[np.ndarray], options: SolveOptions, start: np.ndarray | None
    ) -> Iterator[Solution]:
        for cost in costs:
            posed = replace(program, cost=cost)
            yield _milp(posed, options) if program.is_milp else _linprog(posed, options)


def _milp(program: LinearProgram, options: SolveOptions) -> Solution:
    from scipy.optimize import Bounds, LinearConstraint, milp

    limits = {} if options.time_limit is None else {"time_limit": options.time_limit}
    rows = LinearConstraint(program.matrix, program.row_lower, program.row_upper)
    result = milp(
        program.cost,
        integrality=program.integer.astype(int),
        bounds=Bounds(program.lower, program.upper),
        constraints=rows if program.row_lower.size else None,
        options={"mip_rel_gap": 0.0, **limits},
    )
    bound = -math.inf if result.mip_dual_bound is None else result.mip_dual_bound
    nodes = result.mip_node_count or 0
    return Solution(_status(result), bound=bound, x=result.x, nodes=nodes, message=result.message)


def _linprog(program: LinearProgram, options: SolveOptions) -> Solution:
    from scipy.optimize import linprog

    split = OneSided.of(program)
    limits = {} if options.time_limit is None else {"time_limit": options.time_limit}
    tolerance = max(options.feasibility, 1e-10)
    result = linprog(
        program.cost,
        A_ub=sparse.vstack([program.matrix[split.above], -program.matrix[split.below]], format="csr"),
        b_ub=np.concatenate([program.row_upper[split.above], -program.row_lower[split.below]]),
        A_eq=program.matrix[split.equal],
        b_eq=program.row_lower[split.equal],
        bounds=np.stack([program.lower, program.upper], axis=1),
        method="highs-ds",
        options={"primal_feasibility_tolerance": tolerance, "dual_feasibility_tolerance": tolerance, **limits},
    )
    if result.status != 0:
        return Solution(_status(result), message=result.message)
    above, below = np.split(result.ineqlin.marginals, [split.above.size])
    return Solution(
        Status.OPTIMAL,
        bound=result.fun,
        x=result.x,
        row_duals=split.row_duals(result.eqlin.marginals, below=-below, above=above),
        message=result.message,
    )


def _status(result) -> Status:
    if "unbounded or infeasible" in result.message.lower():
        return Status.INFEASIBLE_OR_UNBOUNDED
    return STATUS_MAP.get(result.status, Status.FAILED)
