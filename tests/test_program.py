"""Linear programs: validation, weak duality, violation, exact rescaling and the relaxation of small coefficients."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from verifier.errors import SolverError
from verifier.program import LinearProgram, SolveOptions, dual_bound, rescaled, violation, without_small

INF = math.inf


def random_program(rng: np.random.Generator, m: int = 6, n: int = 5) -> LinearProgram:
    """Feasible at some point inside its bounds; coefficients spread over ten orders of magnitude."""
    lower, upper = -rng.random(n) * 10.0 ** rng.integers(-5, 5, n), rng.random(n) * 10.0 ** rng.integers(-5, 5, n)
    matrix = rng.normal(size=(m, n)) * 10.0 ** rng.integers(-5, 5, (m, n))
    activity = matrix @ (lower + (upper - lower) * rng.random(n))
    return LinearProgram(rng.normal(size=n), lower, upper, matrix, activity - rng.random(m), activity + rng.random(m))


def two_columns(**changes) -> LinearProgram:
    """min -x - 2y + 1 under x + y <= 4, x + 3y <= 6, x, y >= 0: optimum -4 at (3, 1), multipliers (-1/2, -1/2)."""
    program = LinearProgram([-1, -2], 0, INF, [[1, 1], [1, 3]], -INF, [4, 6], offset=1)
    return replace(program, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"cost": [math.nan, 1]},
        {"cost": [INF, 1]},
        {"cost": [1, 2, 3]},
        {"lower": [math.nan, 0]},
        {"lower": INF},
        {"upper": [1, math.nan]},
        {"upper": -INF},
        {"matrix": [[1, math.nan], [1, 3]]},
        {"matrix": [[1, INF], [1, 3]]},
        {"row_lower": [math.nan, 0]},
        {"row_upper": [4, math.nan]},
        {"row_upper": [4, 6, 8]},
        {"integer": [True]},
        {"offset": math.nan},
        {"names": ["x"]},
    ],
)
def test_malformed_programs_are_rejected(changes):
    with pytest.raises(SolverError, match="linear program"):
        two_columns(**changes)


def test_a_program_without_columns_is_rejected():
    with pytest.raises(SolverError, match="no columns"):
        LinearProgram([], [], [], np.zeros((1, 0)), [0], [1])


@pytest.mark.parametrize("name", ["time_limit", "cutoff", "target", "feasibility", "integrality", "threads"])
def test_nan_options_are_rejected(name):
    with pytest.raises(SolverError, match=name):
        SolveOptions(**{name: math.nan})


def test_duplicate_entries_of_the_matrix_are_summed():
    twice = sparse.csr_array(([1.0, 2.0], [0, 0], [0, 2]), shape=(1, 1))
    program = LinearProgram([1], 0, 1, twice, 3, INF)
    assert program.matrix.nnz == 1 and violation(program, [1.0]) == 0


def test_dual_bound_by_hand():
    program = two_columns()
    assert dual_bound(program, np.array([-0.5, -0.5])) == -4.0
    assert dual_bound(program, np.array([-2.0, 0.0])) == -7.0  # -2 * 4 + 1, reduced costs (1, 0) at lower bounds 0
    assert dual_bound(program, np.array([0.0, 0.0])) == -INF  # reduced costs (-1, -2) at absent upper bounds
    assert dual_bound(program, np.array([math.nan, 0.0])) == -INF
    bounded = two_columns(upper=[3, 3])
    assert dual_bound(bounded, np.array([1.0, 0.0])) == -8.0  # the absent lower side counts as a zero multiplier


def test_any_multipliers_bound_every_feasible_point():
    rng = np.random.default_rng(0)
    for _ in range(50):
        program = random_program(rng)
        points = program.lower + (program.upper - program.lower) * rng.random((200, 5))
        feasible = [x for x in points if violation(program, x) == 0]
        for _ in range(5):
            bound = dual_bound(program, rng.normal(size=6))
            assert all(bound <= program.objective(x) + 1e-6 for x in feasible)


def test_violation_by_hand():
    program = two_columns(integer=[True, False])
    assert violation(program, [3, 1]) == 0
    assert violation(program, [-1, 0]) == 1
    assert violation(program, [4, 2]) == 4  # 4 + 3 * 2 - 6
    assert violation(program, [0.75, 0]) == 0.25
    assert violation(program, [math.nan, 0]) == INF


def test_rescaling_is_exact_and_reaches_one():
    rng = np.random.default_rng(1)
    for _ in range(20):
        program = random_program(rng)
        scaled, column, row = rescaled(program)
        assert (np.frexp(column)[0] == 0.5).all() and (np.frexp(row)[0] == 0.5).all()
        assert np.array_equal(scaled.matrix.toarray() / column / row[:, None], program.matrix.toarray())
        assert np.array_equal(scaled.lower * column, program.lower)
        assert np.array_equal(scaled.row_upper / row, program.row_upper)
        assert np.array_equal(scaled.cost / column, program.cost)
        reach = np.maximum(-scaled.lower, scaled.upper)
        assert (reach >= 0.5).all() and (reach <= 1).all()
        largest = np.abs(scaled.matrix.toarray()).max(1)
        assert (largest >= 0.5).all() and (largest <= 1).all()


def test_rescaling_undoes_powers_of_two():
    rng = np.random.default_rng(2)
    program = random_program(rng)
    column, row = 2.0 ** rng.integers(-30, 30, 5), 2.0 ** rng.integers(-30, 30, 6)
    other = LinearProgram(
        program.cost * column,
        program.lower / column,
        program.upper / column,
        program.matrix.toarray() * column * row[:, None],
        program.row_lower * row,
        program.row_upper * row,
    )
    one, two = rescaled(program)[0], rescaled(other)[0]
    assert np.array_equal(one.matrix.toarray(), two.matrix.toarray())
    assert np.array_equal(one.lower, two.lower) and np.array_equal(one.row_lower, two.row_lower)
    assert np.array_equal(one.cost, two.cost)


def test_integer_columns_are_rounded_inwards_and_not_scaled():
    program = LinearProgram([1, 1], [-0.5, -8], [2.5, 8], [[1e-8, 1]], 0, 1, [True, False])
    scaled, column, _ = rescaled(program)
    assert column.tolist() == [1, 16]
    assert scaled.lower.tolist() == [0, -0.5] and scaled.upper.tolist() == [2, 0.5]


def test_small_coefficients_are_relaxed_away():
    program = LinearProgram([1, 1], [-3, 0], [2, 1], [[1e-13, 1], [1, 1]], [0.5, 0], [0.5, 1])
    relaxed = without_small(program, 1e-12)
    assert relaxed.matrix.toarray().tolist() == [[0, 1], [1, 1]]
    assert relaxed.row_lower.tolist() == [0.5 - 3e-13, 0] and relaxed.row_upper.tolist() == [0.5 + 3e-13, 1]
    assert without_small(program, 1e-14) is program
    with pytest.raises(SolverError, match="unbounded column"):
        without_small(replace(program, upper=np.array([INF, 1])), 1e-12)
