"""Linear and mixed-integer programs, independent of any solver.

A `LinearProgram` is

    minimise  cost . x + offset   subject to   row_lower <= matrix x <= row_upper,   lower <= x <= upper,
                                               x_j a whole number where integer_j

with n columns (variables) and m rows (constraints).

Multipliers ("duals") follow one sign convention everywhere: y_i > 0 presses on the lower side of row i, y_i < 0 on its
upper side, and the reduced costs are d = cost - matrix^T y. For any y whatsoever, weak duality gives

    cost . x + offset  >=  offset + sum_i y_i (row_lower_i if y_i > 0 else row_upper_i)
                                  + sum_j d_j (lower_j if d_j > 0 else upper_j)      for every feasible x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
import scipy

from verifier.errors import SolverError

SMALLEST_SCALE = 2.0**-200
"""The smallest power of two that a column is scaled by."""


class Status(Enum):
    """How a solve ended."""

    OPTIMAL = "An optimal point was found and proved optimal."
    INFEASIBLE = "The constraints have no feasible point."
    UNBOUNDED = "The objective can be made as small as one likes."
    INFEASIBLE_OR_UNBOUNDED = "The program is infeasible or unbounded, and the solver did not say which."
    TIME_LIMIT = "The time limit was reached first."
    CUTOFF = "The optimum was proved to lie above the cut-off."
    TARGET = "A feasible point at or below the target was found."
    INTERRUPTED = "The solver stopped early for a reason other than time."
    FAILED = "The solver failed, or its answer did not survive a check."


@dataclass(frozen=True, eq=False)
class LinearProgram:
    """A linear or mixed-integer program over n columns and m rows; minimisation.

    cost (n,), finite; lower, upper (n,), infinite where a column is unbounded; matrix (m, n), finite, stored as CSR;
    row_lower, row_upper (m,), infinite where a side is absent; integer (n,) bool; names: one per column.
    A scalar stands for a whole vector of bounds. Crossed bounds are legal: such a program is infeasible.
    Raises `SolverError` on a wrong shape, a NaN, or a bound that is infinite on the wrong side.
    """

    cost: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    matrix: scipy.sparse.csr_array
    row_lower: np.ndarray
    row_upper: np.ndarray
    integer: np.ndarray = field(default_factory=lambda: np.zeros((), dtype=bool))
    offset: float = 0.0
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        matrix = scipy.sparse.csr_array(self.matrix, dtype=np.float64)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        object.__setattr__(self, "matrix", matrix)
        m, n = matrix.shape
        if n == 0:
            raise SolverError("the linear program has no columns: it needs at least one variable")
        for name, size in {"cost": n, "lower": n, "upper": n, "row_lower": m, "row_upper": m, "integer": n}.items():
            dtype = bool if name == "integer" else np.float64
            object.__setattr__(self, name, _vector(name, getattr(self, name), size, dtype))
        object.__setattr__(self, "offset", float(self.offset))
        if self.names is not None and len(self.names) != n:
            raise SolverError(f"the linear program has {n} columns but {len(self.names)} names")
        for name, values in {"cost": self.cost, "matrix": matrix.data, "offset": self.offset}.items():
            if not np.isfinite(values).all():
                raise SolverError(f"the linear program's {name} holds a NaN or an infinity")
        for lower, upper in (("lower", "upper"), ("row_lower", "row_upper")):
            if not ((getattr(self, lower) < np.inf).all() and (getattr(self, upper) > -np.inf).all()):
                raise SolverError(f"the linear program's {lower}/{upper} holds a NaN, +inf as lower or -inf as upper")

    @property
    def is_milp(self) -> bool:
        return bool(self.integer.any())

    def objective(self, x: np.ndarray) -> float:
        """cost . x + offset, for x (n,)."""
        return float(self.cost @ x) + self.offset


@dataclass(frozen=True)
class SolveOptions:
    """What a caller asks of a solver.

    time_limit: seconds for each solve, or None. cutoff: the solver may stop with `CUTOFF` once its proved bound exceeds
    this. target: it may stop with `TARGET` at a feasible point whose objective is at most this. Both are permissions: a
    solver without the capability goes on to the optimum, so read `Solution.bound` and `Solution.objective`.
    threads: the most threads to use. feasibility, integrality: absolute tolerances; a solver uses its nearest.
    """

    time_limit: float | None = None
    cutoff: float | None = None
    target: float | None = None
    threads: int = 1
    feasibility: float = 1e-9
    integrality: float = 1e-9

    def __post_init__(self) -> None:
        for name in ("time_limit", "threads", "feasibility", "integrality"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SolverError(f"solver option {name} is {value}: it must be above zero")
        for name in ("cutoff", "target"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise SolverError(f"solver option {name} is {value}: it must be a finite number, or None")


@dataclass(frozen=True, eq=False)
class Solution:
    """A solver's answer.

    objective: of the best feasible point x (n,); inf with x None when there is none; -inf when unbounded.
    bound: proved lower bound of the objective, -inf when there is none, inf when infeasible. For an LP with duals it is
    `dual_bound(program, row_duals)` where that is finite; otherwise it is the solver's word.
    row_duals (m,), reduced_costs (n,): multipliers of an LP in the module's sign convention, or None.
    """

    status: Status
    objective: float = math.inf
    bound: float = -math.inf
    x: np.ndarray | None = None
    row_duals: np.ndarray | None = None
    reduced_costs: np.ndarray | None = None
    seconds: float = 0.0
    nodes: int = 0
    message: str = ""


def dual_bound(program: LinearProgram, row_duals: np.ndarray) -> float:
    """The lower bound that weak duality gives for any multipliers (m,); valid up to rounding, integrality ignored.

    A multiplier that presses on an absent side is taken as zero. The result is -inf when a reduced cost presses on
    an absent bound, or when a multiplier is not finite.
    """
    y = _vector("row_duals", row_duals, program.matrix.shape[0], np.float64)
    if not np.isfinite(y).all():
        return -math.inf
    side = np.where(y > 0, program.row_lower, program.row_upper)
    y = np.where(np.isfinite(side), y, 0.0)
    d = program.cost - program.matrix.T @ y
    rows, columns = _presses(y, side), _presses(d, np.where(d > 0, program.lower, program.upper))
    bound = program.offset + math.fsum(rows) + math.fsum(columns)
    return bound if bound > -math.inf else -math.inf


def violation(program: LinearProgram, x: np.ndarray) -> float:
    """The largest absolute violation of a row, a bound or integrality at x (n,); inf when x is not finite."""
    x = _vector("x", x, program.cost.size, np.float64)
    if not np.isfinite(x).all():
        return math.inf
    activity = program.matrix @ x
    excess = [program.lower - x, x - program.upper, program.row_lower - activity, activity - program.row_upper]
    fraction = np.abs(x - np.round(x))[program.integer]
    return max(0.0, *(float(part.max()) for part in [*excess, fraction] if part.size))


def rescaled(program: LinearProgram) -> tuple[LinearProgram, np.ndarray, np.ndarray]:
    """An equivalent program scaled by powers of two, which costs no rounding; returns (program, column, row scales).

    A bounded continuous column is scaled to a reach max(|lower|, |upper|) between 1/2 and 1, then a row to a largest
    coefficient between 1/2 and 1. A solver's absolute tolerances so become relative to the size of each column and row,
    and programs that differ by powers of two only become the same. Translate back by x = column * x' and
    row_duals = row * row_duals'. A column fixed at zero loses its coefficients, which would only distort the row
    scales. Integer columns are not scaled.
    """
    program = with_whole_bounds(program)
    reach = np.maximum(np.abs(program.lower), np.abs(program.upper))
    column = np.where(program.integer, 1.0, np.where(reach > 0, power_of_two(reach), SMALLEST_SCALE))
    matrix = program.matrix @ scipy.sparse.diags_array(np.where(reach > 0, column, 0.0))
    matrix.eliminate_zeros()
    largest = abs(matrix).max(axis=1).toarray().ravel() if matrix.nnz else np.zeros(matrix.shape[0])
    row = 1.0 / power_of_two(largest)
    scaled = replace(
        program,
        cost=program.cost * column,
        lower=program.lower / column,
        upper=program.upper / column,
        matrix=scipy.sparse.diags_array(row) @ matrix,
        row_lower=program.row_lower * row,
        row_upper=program.row_upper * row,
    )
    return scaled, column, row


def with_whole_bounds(program: LinearProgram) -> LinearProgram:
    """The same program with the bounds of integer columns rounded inwards, to whole numbers.

    HiGHS 1.15 was seen to answer Optimal with a wrong optimum when such a bound is fractional.
    """
    lower = np.where(program.integer, np.ceil(program.lower), program.lower)
    upper = np.where(program.integer, np.floor(program.upper), program.upper)
    return replace(program, lower=lower, upper=upper)


def power_of_two(size: np.ndarray) -> np.ndarray:
    """The least power of two above `size`, held within `SMALLEST_SCALE` and its inverse; 1 where `size` is 0 or inf."""
    usual = np.isfinite(size) & (size > 0)
    _, exponent = np.frexp(np.where(usual, size, 0.5))
    return np.clip(np.ldexp(1.0, exponent), SMALLEST_SCALE, 1 / SMALLEST_SCALE)


def without_small(program: LinearProgram, smallest: float) -> LinearProgram:
    """A relaxation without the coefficients of size at most `smallest`, which solvers silently drop.

    The row's sides are moved apart by as much as the dropped terms can contribute, so every feasible point stays
    feasible and a lower bound stays a lower bound. Raises `SolverError` when the column of such a term is unbounded.
    """
    small = np.abs(program.matrix.data) <= smallest
    if not small.any():
        return program
    dropped, kept = program.matrix.copy(), program.matrix.copy()
    dropped.data[~small], kept.data[small] = 0.0, 0.0
    dropped.eliminate_zeros()
    kept.eliminate_zeros()
    reach = np.maximum(np.abs(program.lower), np.abs(program.upper))
    if not np.isfinite(reach[dropped.indices]).all():
        raise SolverError(
            f"the linear program has a coefficient of size at most {smallest:g} on an unbounded column, which the "
            "solver would drop: bound the column or rescale the program"
        )
    slack = abs(dropped) @ reach
    return replace(program, matrix=kept, row_lower=program.row_lower - slack, row_upper=program.row_upper + slack)


def _vector(name: str, value: np.ndarray, size: int, dtype: type) -> np.ndarray:
    """`value` as an array (size,); a scalar is repeated. Raises `SolverError` on any other shape."""
    array: np.ndarray = np.asarray(value, dtype=dtype)
    if array.shape not in ((), (size,)):
        raise SolverError(f"the linear program's {name} has shape {array.shape}: expected ({size},)")
    return np.broadcast_to(array, (size,)) if array.shape == () else array


def _presses(multiplier: np.ndarray, side: np.ndarray) -> np.ndarray:
    """multiplier * side, where a zero multiplier contributes nothing even at an infinite side."""
    return np.where(multiplier == 0, 0.0, multiplier * np.where(multiplier == 0, 0.0, side))
