"""What only HiGHS offers: cut-off, target, model files, return codes; and the wrong answers that rescaling cures."""

import math
from pathlib import Path

import highspy
import numpy as np
import pytest
from scipy import sparse

from verifier import solvers
from verifier.errors import SolverError
from verifier.program import LinearProgram, SolveOptions, Status, violation
from verifier.solvers.highs import STATUS_MAP, _require, _set

INF = math.inf
highs = solvers.get("highs")

# name -> (program, its optimum by hand)
MODELS = {
    "two-sided rows": (LinearProgram([1, -2], -3, 5, [[1, 1], [1, -1]], [-1, -2], [2, 3]), -4),
    "offset": (LinearProgram([-1, -2], 0, INF, [[1, 1], [1, 3]], -INF, [4, 6], offset=100), 95),
    "free columns": (LinearProgram([1, 0], -INF, INF, [[1, 1], [0, 1]], [1, -INF], [INF, 4]), -3),
    "no rows": (LinearProgram([1, -1], -1, 2, np.zeros((0, 2)), [], []), -3),
    "knapsack": (LinearProgram([-5, -4, -3], 0, 1, [[2, 3, 1]], -INF, 5, True, offset=10), 1),
    "one integer column": (LinearProgram([-1, -1], 0, 2.5, [[1, 1]], -INF, 4.75, [True, False]), -4.5),
}


@pytest.fixture(scope="module")
def knapsack() -> tuple[LinearProgram, float]:
    """About a second of work, with a large gap at the root: something to interrupt."""
    rng = np.random.default_rng(0)
    matrix = rng.integers(1, 60, (60, 60))
    cost = -rng.integers(1, 60, 60)
    program = LinearProgram(cost, 0, 1, matrix, -INF, matrix.sum(1) // 2, True, offset=100)
    return program, highs.solve(program).objective


@pytest.mark.parametrize("gap", [150.0, 30.0])
def test_cutoff_of_a_milp(knapsack, gap):
    program, best = knapsack
    solution = highs.solve(program, SolveOptions(cutoff=best - gap))
    assert solution.status is Status.CUTOFF
    assert best - gap < solution.bound <= best


def test_cutoff_above_the_optimum_never_fires(knapsack):
    program, best = knapsack
    solution = highs.solve(program, SolveOptions(cutoff=best + 10))
    assert solution.status is Status.OPTIMAL and solution.objective == pytest.approx(best)


def test_target_of_a_milp(knapsack):
    program, best = knapsack
    solution = highs.solve(program, SolveOptions(target=best + 30))
    assert solution.status is Status.TARGET
    assert violation(program, solution.x) <= 1e-6 and best <= solution.objective <= best + 30


def test_cutoff_of_an_lp_is_proved_by_its_multipliers():
    rng = np.random.default_rng(7)
    fired = 0
    for _ in range(10):
        program = LinearProgram(rng.normal(size=100), -1, 1, rng.normal(size=(120, 100)), -1, rng.random(120), offset=3)
        best = highs.solve(program).objective
        for gap in (20.0, 5.0, 1.0, -1.0):
            solution = highs.solve(program, SolveOptions(cutoff=best - gap))
            if solution.status is Status.CUTOFF:
                fired += 1
                assert best - gap < solution.bound <= best + 1e-6
            else:
                assert solution.status is Status.OPTIMAL and solution.objective == pytest.approx(best)
    assert fired >= 10


@pytest.mark.parametrize("suffix", [".mps", ".lp"])
@pytest.mark.parametrize("case", MODELS)
def test_written_models_read_back(tmp_path, case, suffix):
    program, expected = MODELS[case]
    path = tmp_path / f"model{suffix}"
    highs.write(program, path)
    reader = highspy.Highs()
    reader.setOptionValue("output_flag", False)
    assert reader.readModel(str(path)) == highspy.HighsStatus.kOk
    assert reader.run() == highspy.HighsStatus.kOk
    assert reader.getInfo().objective_function_value == pytest.approx(expected)
    assert reader.getNumCol() == program.cost.size


def test_written_models_carry_the_names(tmp_path):
    program = LinearProgram([1, 1], 0, 1, [[1, 1]], 1, INF, names=["input_0", "relu_3"])
    highs.write(program, tmp_path / "model.lp")
    assert "relu_3" in (tmp_path / "model.lp").read_text()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
@pytest.mark.parametrize("suffix", [".mps", ".lp"])
def test_a_full_disk_is_noticed(tmp_path, suffix):
    """HiGHS itself says that all went well."""
    path = tmp_path / f"model{suffix}"
    path.symlink_to("/dev/full")
    with pytest.raises(SolverError, match="could not be written"):
        highs.write(MODELS["offset"][0], path)


def test_write_refuses(tmp_path):
    program, _ = MODELS["offset"]
    with pytest.raises(SolverError, match=r"use \.mps or \.lp"):
        highs.write(program, tmp_path / "model.txt")
    with pytest.raises(SolverError, match="cannot write"):
        highs.write(program, tmp_path / "absent" / "model.mps")
    with pytest.raises(SolverError, match="'scipy' cannot write models"):
        solvers.get("scipy").write(program, tmp_path / "model.mps")


def test_rejections_are_raised():
    solver = highspy.Highs()
    with pytest.raises(SolverError, match="rejected the option small_matrix_value = 1e-13"):
        _set(solver, "small_matrix_value", 1e-13)
    with pytest.raises(SolverError, match="rejected the costs"):
        _require(solver.changeColsCost(1, np.zeros(1, np.int32), np.ones(1)), "rejected the costs")


def test_every_mapped_status_exists():
    assert set(STATUS_MAP) <= set(highspy.HighsModelStatus.__members__)


def big_m(factor: float, gain: float, rng: np.random.Generator) -> tuple[LinearProgram, float]:
    """min w3 . relu(W2 relu(W1 x + b1) + b2) over x in [0, 1]^2 as a big-M MILP; W1 of size `factor`, W2 `gain`.

    Returns the program and the least value on a grid of inputs, which the optimum cannot exceed.
    """
    width = int(rng.integers(1, 4))
    layers = [
        (rng.normal(size=(width, 2)) * factor, rng.normal(size=width) * factor * 0.3),
        (rng.normal(size=(2, width)) * gain, rng.normal(size=2) * factor * gain * 0.3),
    ]
    last = rng.normal(size=2)
    lower, upper, integer = [0.0, 0.0], [1.0, 1.0], [False, False]
    rows: list[tuple[dict[int, float], float, float]] = []
    before = [0, 1]

    def column(low: float, high: float, whole: bool = False) -> int:
        lower.append(low), upper.append(high), integer.append(whole)
        return len(lower) - 1

    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 51)] * 2), -1).reshape(-1, 2).T
    for weight, bias in layers:
        low, high = np.array(lower)[before], np.array(upper)[before]
        z_low = np.minimum(weight * low, weight * high).sum(1) + bias
        z_high = np.maximum(weight * low, weight * high).sum(1) + bias
        after = []
        for w, b, lo, hi in zip(weight, bias, z_low, z_high, strict=True):
            z, a, d = column(lo, hi), column(0.0, max(hi, 0.0)), column(0.0, 1.0, True)
            rows.append(({**dict(zip(before, w, strict=True)), z: -1.0}, -b, -b))
            rows.append(({a: 1.0, z: -1.0}, 0.0, INF))
            rows.append(({a: 1.0, d: -max(hi, 0.0)}, -INF, 0.0))
            rows.append(({a: 1.0, z: -1.0, d: -min(lo, 0.0)}, -INF, -min(lo, 0.0)))
            after.append(a)
        before, grid = after, np.maximum(weight @ grid + bias[:, None], 0)
    matrix, cost = np.zeros((len(rows), len(lower))), np.zeros(len(lower))
    for i, (row, _, _) in enumerate(rows):
        matrix[i, list(row)] = list(row.values())
    cost[before] = last
    _, sides, other = zip(*rows, strict=True)
    return LinearProgram(cost, lower, upper, matrix, sides, other, integer), float((last @ grid).min())


def test_badly_scaled_big_m_programs_are_not_called_infeasible():
    """HiGHS with its own settings is wrong on some of these programs; rescaled, all of them are answered right."""
    rng = np.random.default_rng(0)
    wrong_by_itself = 0
    for _ in range(100):
        program, known = big_m(10.0 ** -rng.integers(0, 13), 10.0 ** rng.integers(0, 9), rng)
        size = 1e-6 * max(abs(known), np.abs(program.cost * program.upper).max())
        solution = highs.solve(program)
        assert solution.status is Status.OPTIMAL, solution.message
        assert solution.bound <= known + size and solution.objective <= known + size
        wrong_by_itself += plain_highs(program) > known + size
    assert wrong_by_itself > 0


def plain_highs(program: LinearProgram) -> float:
    """The bound that HiGHS claims with its default settings; inf when it answers anything but Optimal."""
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = program.matrix.shape
    model.col_cost_, model.col_lower_, model.col_upper_ = program.cost, program.lower, program.upper
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_, model.a_matrix_.index_ = program.matrix.indptr, program.matrix.indices
    model.a_matrix_.value_ = program.matrix.data
    model.integrality_ = [
        highspy.HighsVarType.kInteger if w else highspy.HighsVarType.kContinuous for w in program.integer
    ]
    solver.passModel(model)
    solver.run()
    optimal = solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return solver.getInfo().mip_dual_bound if optimal else INF


def test_presolve_keeps_to_the_time_limit():
    """Dense equality rows over many columns: the presolve rule that sparsifies them takes half a minute."""
    rng = np.random.default_rng(0)
    rows, columns = 400, 1200
    matrix = np.concatenate([rng.normal(size=(rows, columns - rows)), -np.eye(rows)], axis=1)
    program = LinearProgram(
        cost=rng.normal(size=columns),
        lower=np.concatenate([np.zeros(columns - rows), np.full(rows, -100.0)]),
        upper=np.concatenate([np.ones(columns - rows), np.full(rows, 100.0)]),
        matrix=sparse.csr_array(matrix),
        row_lower=np.zeros(rows),
        row_upper=np.zeros(rows),
        integer=np.arange(columns) < columns - rows,
    )
    solution = highs.solve(program, SolveOptions(time_limit=1.0))
    assert solution.seconds < 12.0
