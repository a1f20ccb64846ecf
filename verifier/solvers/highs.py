"""HiGHS through highspy: simplex for LPs (Huangfu and Hall 2018), branch and cut for MILPs.

highspy reports errors by return code alone, so every one is checked. Facts that shaped this file, measured with
HiGHS 1.15:
- `objective_bound` ends the dual simplex of an LP, but only without presolve; on a MILP it makes HiGHS answer Optimal
  with a wrong optimum. The cut-off of a MILP is therefore a callback on its dual bound, whose cost does not show.
- `objective_target` ends a MILP; an LP has no target.
- `time_limit` counts from the start of each run, not of the model.
- Presolve looks at no clock while it sparsifies rows: a network of 2 x 400 neurons spent 15 s there under a limit of
  1 s. That one rule is off.
- Hot starts after a change of costs take half to a third of the time of cold ones. The primal simplex is up to 1.5
  times faster at it, but up to 1.7 times slower on wide inputs, and may end with status Unknown: the default stays.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.errors import SolverError
from verifier.program import LinearProgram, Solution, SolveOptions, Status, with_whole_bounds
from verifier.solvers.base import Solver, silenced

if TYPE_CHECKING:
    import highspy

STATUS_MAP = {
    "kOptimal": Status.OPTIMAL,
    "kInfeasible": Status.INFEASIBLE,
    "kUnbounded": Status.UNBOUNDED,
    "kUnboundedOrInfeasible": Status.INFEASIBLE_OR_UNBOUNDED,
    "kTimeLimit": Status.TIME_LIMIT,
    "kObjectiveBound": Status.CUTOFF,
    "kObjectiveTarget": Status.TARGET,
    "kInterrupt": Status.INTERRUPTED,
    "kHighsInterrupt": Status.INTERRUPTED,
    "kIterationLimit": Status.INTERRUPTED,
    "kSolutionLimit": Status.INTERRUPTED,
    "kMemoryLimit": Status.INTERRUPTED,
}
"""HiGHS model status -> ours; any other means `FAILED`."""

_SMALLEST_TOLERANCE = 1e-10
_SPARSIFY = 1 << 14  # bit of the option presolve_rule_off


class Highs(Solver):
    name = "highs"
    milp = True
    duals = True
    hot_start = True
    mip_start = True
    cutoff = True
    target = True
    time_limit = True
    write_model = True
    smallest = 1e-12

    def write(self, program: LinearProgram, path: Path) -> None:
        """Write the program, unscaled, to a .mps or .lp file; numbers are rounded to 15 significant digits.

        Raises `SolverError` on another suffix, or when the file cannot be written.
        """
        if path.suffix not in (".mps", ".lp"):
            raise SolverError(f"{path}: cannot write a model with the suffix {path.suffix!r}: use .mps or .lp")
        highs = _loaded(with_whole_bounds(program), SolveOptions())
        _require(highs.writeModel(str(path)), f"cannot write the model to {path}")
        with open(path, "rb") as file:  # HiGHS does not notice that a disk is full
            file.seek(-min(10, path.stat().st_size), os.SEEK_END)
            whole = file.read(10).lower().split()[-1:] in ([b"endata"], [b"end"])
        if not whole:
            raise SolverError(f"{path}: could not be written to its end; make room or choose another place")

    def _answers(
        self, program: LinearProgram, costs: Iterable[np.ndarray], options: SolveOptions, start: np.ndarray | None
    ) -> Iterator[Solution]:
        highs = _loaded(program, options)
        columns = np.arange(program.cost.size, dtype=np.int32)
        for count, cost in enumerate(costs):
            _require(highs.changeColsCost(columns.size, columns, cost), "rejected the costs")
            if start is not None:
                _require(highs.setSolution(columns.size, columns, start), "rejected the start")
            answer = _run(highs, program, options)
            if answer.status is Status.FAILED and count > 0:
                _require(highs.clearSolver(), "failed to forget its basis")
                answer = _run(highs, program, options)
            yield answer


def _loaded(program: LinearProgram, options: SolveOptions) -> highspy.Highs:
    """A silent HiGHS that holds the program, passed in one piece, and the options."""
    import highspy

    highspy.Highs.resetGlobalScheduler(True)  # else a solve with another number of threads than the last one fails
    with silenced():  # since 1.16 it presents itself before it can be told not to
        highs = highspy.Highs()
    _set(highs, "output_flag", False)
    _set(highs, "threads", options.threads)
    _set(highs, "parallel", "on" if options.threads > 1 else "off")
    _set(highs, "small_matrix_value", Highs.smallest)
    feasibility = max(options.feasibility, _SMALLEST_TOLERANCE)
    _set(highs, "primal_feasibility_tolerance", feasibility)
    _set(highs, "dual_feasibility_tolerance", feasibility)
    _set(highs, "time_limit", math.inf if options.time_limit is None else options.time_limit)
    _set(highs, "presolve_rule_off", _SPARSIFY)
    if program.is_milp:
        # One tolerance serves the rows and the integrality of a MILP.
        _set(highs, "mip_feasibility_tolerance", max(min(feasibility, options.integrality), _SMALLEST_TOLERANCE))
        _set(highs, "mip_rel_gap", 0.0)
        _set(highs, "mip_abs_gap", 1e-9)
        if options.target is not None:
            _set(highs, "objective_target", options.target)
        if options.cutoff is not None:
            _interrupt_above(highs, options.cutoff)
    elif options.cutoff is not None:
        _set(highs, "objective_bound", options.cutoff)
        _set(highs, "presolve", "off")
    _require(highs.passModel(_model(program)), "rejected the program")
    return highs


def _model(program: LinearProgram) -> highspy.HighsLp:
    import highspy

    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = program.matrix.shape
    model.col_cost_, model.offset_ = program.cost, program.offset
    model.col_lower_, model.col_upper_ = program.lower, program.upper
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    matrix = model.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.num_row_, matrix.num_col_ = program.matrix.shape
    matrix.start_ = program.matrix.indptr.astype(np.int32)
    matrix.index_ = program.matrix.indices.astype(np.int32)
    matrix.value_ = program.matrix.data
    if program.is_milp:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        model.integrality_ = [kinds[int(whole)] for whole in program.integer]
    model.col_names_ = list(program.names or (f"x{j}" for j in range(program.cost.size)))
    model.row_names_ = [f"r{i}" for i in range(program.row_lower.size)]
    return model


def _interrupt_above(highs: highspy.Highs, cutoff: float) -> None:
    """Stop a MILP once its dual bound exceeds the cut-off."""

    def check(event: Any) -> None:
        bound = event.data_out.mip_dual_bound
        if cutoff < bound < math.inf:
            event.interrupt()

    highs.cbMipInterrupt.subscribe(check)


def _run(highs: highspy.Highs, program: LinearProgram, options: SolveOptions) -> Solution:
    import highspy

    if highs.run() == highspy.HighsStatus.kError:
        return Solution(Status.FAILED, message=f"HiGHS failed: {highs.modelStatusToString(highs.getModelStatus())}")
    info, point, model_status = highs.getInfo(), highs.getSolution(), highs.getModelStatus()
    status = STATUS_MAP.get(model_status.name, Status.FAILED)
    bound = info.mip_dual_bound if program.is_milp else -math.inf
    if status is Status.OPTIMAL and not program.is_milp:
        bound = info.objective_function_value
    if status is Status.INTERRUPTED and options.cutoff is not None and bound > options.cutoff:
        status = Status.CUTOFF
    return Solution(
        status,
        bound=bound,
        x=np.array(point.col_value) if point.value_valid else None,
        row_duals=np.array(point.row_dual) if point.dual_valid and not program.is_milp else None,
        nodes=max(info.mip_node_count, 0),
        message=highs.modelStatusToString(model_status),
    )


def _set(highs: highspy.Highs, option: str, value: float | int | bool | str) -> None:
    import highspy

    if highs.setOptionValue(option, value) != highspy.HighsStatus.kOk:
        raise SolverError(f"solver 'highs' rejected the option {option} = {value}")


def _require(status: highspy.HighsStatus, failure: str) -> None:
    """Raises `SolverError` on the return code of an error; a warning says no more than the model status will."""
    import highspy

    if status == highspy.HighsStatus.kError:
        raise SolverError(f"solver 'highs' {failure}")
