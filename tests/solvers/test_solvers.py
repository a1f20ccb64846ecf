"""Conformance: every case crossed with every registered solver. A solver that is not installed fails its tests."""

import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import run

import numpy as np
import pytest

from verifier import solvers
from verifier.errors import SolverError, SolverUnavailableError
from verifier.program import LinearProgram, Solution, SolveOptions, Status, dual_bound, violation
from verifier.solvers.base import Solver

INF = math.inf
NAMES = ["highs", "cvxpy", "pulp", "scipy"]

# name -> (program, its optimum by hand, or the status that says why there is none)
CASES = {
    "two rows": (LinearProgram([-1, -2], 0, INF, [[1, 1], [1, 3]], -INF, [4, 6]), -5),
    "offset": (LinearProgram([-1, -2], 0, INF, [[1, 1], [1, 3]], -INF, [4, 6], offset=100), 95),
    "two-sided rows": (LinearProgram([1, -2], -3, 5, [[1, 1], [1, -1]], [-1, -2], [2, 3]), -4),
    "equality row": (LinearProgram([1, 1], 0, INF, [[1, 2]], 3, 3), 1.5),
    "free columns": (LinearProgram([1, 0], -INF, INF, [[1, 1], [0, 1]], [1, -INF], [INF, 4]), -3),
    "row without sides": (LinearProgram([1, 1], 0, 1, [[1, 1], [1, -1]], [-INF, 0.5], [INF, INF]), 0.5),
    "no rows": (LinearProgram([1, -1], -1, 2, np.zeros((0, 2)), [], []), -3),
    "zero cost": (LinearProgram([0, 0], 0, 1, [[1, -1]], 0.5, 1, offset=7), 7),
    "fixed column": (LinearProgram([1, 1], [2, 0], [2, 1], [[1, 1]], 2.5, INF), 2.5),
    "infeasible rows": (LinearProgram([1], 0, 1, [[1]], 2, INF), Status.INFEASIBLE),
    "crossed bounds": (LinearProgram([1], 2, 1, [[1]], 0, INF), Status.INFEASIBLE),
    "crossed sides": (LinearProgram([1], 0, 1, [[1]], 1, 0), Status.INFEASIBLE),
    "unbounded": (LinearProgram([-1, 0], 0, INF, [[1, -1]], -INF, 1), Status.UNBOUNDED),
    "unbounded without rows": (LinearProgram([-1], 0, INF, np.zeros((0, 1)), [], []), Status.UNBOUNDED),
    "knapsack": (LinearProgram([-5, -4, -3], 0, 1, [[2, 3, 1]], -INF, 5, True, offset=10), 1),
    # HiGHS 1.15 by itself answers -4.375 (Optimal) here, misled by the fractional bound of the integer column.
    "one integer column": (LinearProgram([-1, -1], 0, 2.5, [[1, 1]], -INF, 4.75, [True, False]), -4.5),
    "integer infeasible": (LinearProgram([1], 0, 1, [[2]], 1, 1, True), Status.INFEASIBLE),
    "integer gap": (LinearProgram([1, 1], 0.25, [0.75, 1], [[1, 1]], 0, INF, [True, False]), Status.INFEASIBLE),
    "integer unbounded": (LinearProgram([-1, 0], 0, INF, [[1, -1]], -INF, 1, [True, False]), Status.UNBOUNDED),
    # max 1e8 y for y = 1e-8 x, x in [0, 1]: HiGHS by itself sees a cost and a row at odds with its tolerances.
    "badly scaled": (LinearProgram([0, -1e8], 0, [1, 1e-8], [[1e-8, -1]], 0, 0), -1),
    # The same through coefficients below the 1e-9 and 1e-12 that solvers drop.
    "tiny coefficients": (LinearProgram([0, -1], 0, [1, 1e-14], [[1e-14, -1]], 0, 0), -1e-14),
}


@pytest.fixture(params=NAMES)
def solver(request) -> Solver:
    return solvers.get(request.param)


def random_lp(rng: np.random.Generator, m: int = 12, n: int = 10) -> LinearProgram:
    matrix = rng.normal(size=(m, n)) * (rng.random((m, n)) < 0.6)
    inside = rng.uniform(-1, 1, n)
    lower, upper = matrix @ inside - rng.random(m), matrix @ inside + rng.random(m)
    lower[: m // 3], upper[m // 3 : m // 2] = -INF, INF
    lower[-2:] = upper[-2:] = (matrix @ inside)[-2:]
    return LinearProgram(rng.normal(size=n), -1, 1, matrix, lower, upper, offset=rng.normal())


def random_knapsack(rng: np.random.Generator, m: int = 6, n: int = 10) -> LinearProgram:
    matrix = rng.integers(1, 60, (m, n))
    return LinearProgram(-rng.integers(1, 60, n), 0, 1, matrix, -INF, matrix.sum(1) // 2, True, offset=100)


def hard_knapsack(n: int = 60) -> LinearProgram:
    """About a second for HiGHS, and a large gap at the root: something to interrupt."""
    return random_knapsack(np.random.default_rng(0), n, n)


def close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1.0, abs(b))


def assert_consistent(program: LinearProgram, solution: Solution) -> None:
    """An optimal answer: feasible, its objective that of its point, its bound below and near."""
    assert solution.status is Status.OPTIMAL, solution.message
    assert solution.x is not None and violation(program, solution.x) <= 1e-6
    assert solution.objective == program.objective(solution.x)
    assert close(solution.bound, solution.objective)
    if not program.is_milp:
        assert np.allclose(solution.reduced_costs, program.cost - program.matrix.T @ solution.row_duals, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_hand_made_cases(solver, case):
    program, expected = CASES[case]
    solution = solver.solve(program)
    if isinstance(expected, Status):
        sign = 1 if expected is Status.INFEASIBLE else -1
        assert solution.status is expected, solution.message
        assert (solution.objective, solution.bound, solution.x) == (sign * INF, sign * INF, None)
    else:
        assert_consistent(program, solution)
        assert abs(solution.objective - expected) <= 1e-6 * abs(expected)


def test_random_lps_satisfy_strong_duality_and_agree(solver):
    rng = np.random.default_rng(3)
    for _ in range(15):
        program = random_lp(rng)
        solution, reference = solver.solve(program), solvers.get("highs").solve(program)
        assert_consistent(program, solution)
        assert close(solution.objective, reference.objective)
        assert close(dual_bound(program, solution.row_duals), solution.objective)


def test_random_knapsacks_equal_brute_force(solver):
    rng = np.random.default_rng(4)
    points = np.array(list(itertools.product((0.0, 1.0), repeat=10)))
    for _ in range(4):
        program = random_knapsack(rng)
        feasible = points[(points @ program.matrix.T.toarray() <= program.row_upper).all(1)]
        solution = solver.solve(program)
        assert_consistent(program, solution)
        assert close(solution.objective, (feasible @ program.cost).min() + program.offset)


def test_powers_of_two_change_nothing(solver):
    """A unit is a matter of taste: the same LP in other units has exactly the same answer."""
    rng = np.random.default_rng(5)
    program = random_lp(rng)
    column, row = 2.0 ** rng.integers(-40, 40, 10), 2.0 ** rng.integers(-40, 40, 12)
    other = LinearProgram(
        program.cost * column,
        program.lower / column,
        program.upper / column,
        program.matrix.toarray() * column * row[:, None],
        program.row_lower * row,
        program.row_upper * row,
        offset=program.offset,
    )
    one, two = solver.solve(program), solver.solve(other)
    assert one.objective == two.objective
    assert np.array_equal(one.x, two.x * column) and np.array_equal(one.row_duals, two.row_duals * row)


def test_minimise_many_equals_the_loop(solver):
    rng = np.random.default_rng(6)
    program = random_lp(rng)
    costs = rng.normal(size=(6, 10))
    many = solver.minimise_many(program, costs)
    for cost, solution in zip(costs, many, strict=True):
        posed = replace(program, cost=cost)
        assert_consistent(posed, solution)
        assert close(solution.objective, solver.solve(posed).objective)


def test_minimise_many_refuses_a_cutoff(solver):
    with pytest.raises(SolverError, match="cutoff"):
        solver.minimise_many(random_lp(np.random.default_rng(0)), [np.ones(10)], SolveOptions(cutoff=0.0))


def test_time_limit_is_respected(solver):
    program = hard_knapsack(80)
    assert solver.time_limit
    solution = solver.solve(program, SolveOptions(time_limit=0.2))
    assert solution.seconds < 2.0
    assert solution.status is Status.TIME_LIMIT
    assert solution.bound <= solution.objective
    assert solution.x is None or solution.objective == program.objective(solution.x)


@pytest.mark.parametrize("name", ["highs", "pulp"])
def test_start_is_used(name):
    """With no time to search, a solver that takes a start knows a point at least as good."""
    program, solver = hard_knapsack(), solvers.get(name)
    assert solver.mip_start
    best = solvers.get("highs").solve(program)
    solution = solver.solve(program, SolveOptions(time_limit=0.05), start=best.x)
    assert close(solution.objective, best.objective)


def test_a_feasible_start_unmasks_a_wrong_answer(solver, monkeypatch):
    program, _ = CASES["knapsack"]
    wrong = Solution(Status.INFEASIBLE)
    monkeypatch.setattr(type(solver), "_answers", lambda *_: iter([wrong]))
    solution = solver.solve(program, start=np.array([1.0, 1.0, 0.0]))
    assert solution.status is Status.FAILED and solution.bound == -INF
    assert "the start is feasible" in solution.message


def test_a_violating_point_is_not_passed_on(solver, monkeypatch):
    program, _ = CASES["two rows"]
    wrong = Solution(Status.OPTIMAL, bound=-6.0, x=np.array([4.0, 1.0]))
    monkeypatch.setattr(type(solver), "_answers", lambda *_: iter([wrong]))
    solution = solver.solve(program)
    assert solution.status is Status.FAILED and solution.x is None and solution.bound == -INF
    assert "violates" in solution.message


def test_the_number_of_threads_may_change(solver):
    program, best = CASES["knapsack"]
    for threads in (1, 2, 1):
        assert close(solver.solve(program, SolveOptions(threads=threads)).objective, best)


@pytest.mark.parametrize("start", [[1, 1], [1, 1, math.nan]])
def test_malformed_starts_are_rejected(solver, start):
    with pytest.raises(SolverError, match="start"):
        solver.solve(CASES["knapsack"][0], start=start)


def test_capabilities_are_those_of_the_core(solver):
    assert solver.milp and solver.duals and solver.time_limit


def test_registry():
    assert solvers.available() == NAMES
    with pytest.raises(SolverUnavailableError, match=r"solver 'x' is unknown \(available: highs, cvxpy, pulp, scipy\)"):
        solvers.get("x")


@pytest.mark.parametrize(("name", "package"), [("highs", "highspy"), ("pulp", "pulp")])
def test_missing_package_is_named(monkeypatch, name, package):
    monkeypatch.setattr(solvers, "find_spec", lambda wanted: None if wanted == package else object())
    with pytest.raises(SolverUnavailableError, match=f"solver '{name}' needs the package '{package}': pip install"):
        solvers.get(name)
    assert name not in solvers.available()


def test_solvers_print_nothing(solver):
    """Neither through Python nor from C, and what was printed before and is printed after stays."""
    code = (
        "import os; from test_solvers import CASES; from verifier import solvers;"
        f"solver = solvers.get({solver.name!r}); print('before');"
        "print(solver.solve(CASES['knapsack'][0]).status.name);"
        "print(solver.solve(CASES['two rows'][0]).status.name); os.write(1, b'after\\n')"
    )
    command = [sys.executable, "-u", "-c", code]
    found = run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    assert (found.stdout.split(), found.stderr) == (["before", "OPTIMAL", "OPTIMAL", "after"], "")


def test_stdout_may_be_closed(solver):
    code = (
        "import os, sys; from test_solvers import CASES; from verifier import solvers; os.close(1);"
        f"print(solvers.get({solver.name!r}).solve(CASES['knapsack'][0]).status.name, file=sys.stderr); os._exit(0)"
    )
    command = [sys.executable, "-c", code]
    found = run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    assert (found.stdout, found.stderr) == ("", "OPTIMAL\n")


def test_packages_are_imported_only_when_used():
    heavy = ["highspy", "cvxpy", "pulp", "scipy.optimize", "torch"]
    code = (
        "import sys; from verifier import solvers; [solvers.get(n) for n in solvers.available()];"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
