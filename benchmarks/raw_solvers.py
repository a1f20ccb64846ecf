"""How solvers and bounds fare when their word is taken: the cases of tests/adversarial, whose answers are known.

Every case becomes a big-M MILP (Tjeng et al. 2019) over the hidden bounds of CROWN, unscaled, and goes to HiGHS and to
CBC with their default tolerances. An optimum above zero, or "infeasible", is taken for a proof, and any other optimum
for a counterexample. CROWN itself, in float32 and in float64, proves where its bound is above zero; PGD in float32 has
a counterexample where it says so. Our own verdicts are those of `verify`, and those that come with a certificate.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import print_table
from scipy.optimize import Bounds, LinearConstraint, milp

from verifier.attack.pgd import Pgd
from verifier.bounds.crown import Crown
from verifier.encoding import encode
from verifier.program import LinearProgram

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/adversarial")]

from families import FAMILIES  # noqa: E402
from puzzles import Puzzle, Subject  # noqa: E402

from verifier.certified import verify_certified  # noqa: E402
from verifier.strategy import Settings, verify  # noqa: E402
from verifier.verdict import Verdict  # noqa: E402

PROVED, BROKEN, OPEN, ERROR = "proved", "broken", "open", "error"
HEADERS = ("family", "who", "false proofs", "false alarms", "right", "open", "errors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases", type=int, default=200, help="of each family, half of them safe (default: %(default)s)"
    )
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--who", nargs="+", choices=list(WHO), default=list(WHO))
    parser.add_argument(
        "--timeout", type=float, default=1.0, help="of our own verdicts, seconds (default: %(default)s)"
    )
    args = parser.parse_args()
    rows = []
    for family in args.family:
        puzzles = [FAMILIES[family](seed) for seed in range(args.cases)]
        for who in args.who:
            rows.append((family, who, *judged(puzzles, lambda puzzle, who=who: WHO[who](puzzle, args.timeout))))
            print(*rows[-1], file=sys.stderr, flush=True)
    print_table(HEADERS, rows)


def judged(puzzles: list[Puzzle], answer: Callable[[Puzzle], str]) -> tuple[object, ...]:
    """A row of the table: wrong answers with how many cases could be answered so, and the others."""
    counts: Counter[tuple[str, bool]] = Counter((answer(puzzle), puzzle.safe) for puzzle in puzzles)
    safe = sum(puzzle.safe for puzzle in puzzles)
    right = counts[PROVED, True] + counts[BROKEN, False]
    rest = (counts[kind, True] + counts[kind, False] for kind in (OPEN, ERROR))
    return f"{counts[PROVED, False]}/{len(puzzles) - safe}", f"{counts[BROKEN, True]}/{safe}", right, *rest


def program(puzzle: Puzzle, objective: str) -> LinearProgram:
    graph, box, C = puzzle.graph.to(torch.float64), puzzle.prop.region.box(), puzzle.prop.rows[0]
    with torch.no_grad():
        nodes = Crown()(graph, box, C.unsqueeze(0)).nodes
    return encode(graph, box, nodes, puzzle.prop, objective=objective).program


def highs(puzzle: Puzzle, objective: str) -> str:
    """HiGHS through SciPy."""
    p = program(puzzle, objective)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = milp(
            p.cost,
            integrality=p.integer.astype(int),
            bounds=Bounds(p.lower, p.upper),
            constraints=[LinearConstraint(p.matrix, p.row_lower, p.row_upper)] if p.matrix.shape[0] else [],
        )
    if found.status == 2:
        return PROVED
    if found.status != 0:
        return ERROR
    return PROVED if objective == "margin" and found.fun + p.offset > 0 else BROKEN


def cbc(puzzle: Puzzle) -> str:
    """CBC through PuLP."""
    import pulp

    p = program(puzzle, "margin")
    problem = pulp.LpProblem("margin", pulp.LpMinimize)
    sides = [[float(x) if np.isfinite(x) else None for x in side] for side in (p.lower, p.upper)]
    kinds = ["Integer" if whole else "Continuous" for whole in p.integer]
    x = [
        pulp.LpVariable(f"x{j}", low, high, kind) for j, (low, high, kind) in enumerate(zip(*sides, kinds, strict=True))
    ]
    problem += pulp.lpDot(p.cost.tolist(), x) + p.offset
    for i, (low, high) in enumerate(zip(p.row_lower.tolist(), p.row_upper.tolist(), strict=True)):
        row = p.matrix[[i]].tocoo()
        total = pulp.lpDot(row.data.tolist(), [x[j] for j in row.coords[1]])
        if low == high:
            problem += total == low
        else:
            problem += (total >= low) if np.isfinite(low) else (total <= high)
            if np.isfinite(low) and np.isfinite(high):
                problem += total <= high
    try:
        status = pulp.LpStatus[problem.solve(pulp.PULP_CBC_CMD(msg=False))]
    except pulp.PulpSolverError:
        return ERROR
    if status == "Infeasible":
        return PROVED
    if status != "Optimal":
        return ERROR
    return PROVED if pulp.value(problem.objective) > 0 else BROKEN


def crown(puzzle: Puzzle, dtype: torch.dtype) -> str:
    graph, C, d = puzzle.graph.to(dtype), *(x.to(dtype) for x in puzzle.prop.rows[:2])
    with torch.no_grad():
        bounds = Crown()(graph, puzzle.prop.region.box().to(dtype), C.unsqueeze(0))
    return PROVED if bool((bounds.lower[0] + d > 0).all()) else OPEN


def pgd(puzzle: Puzzle) -> str:
    """The attack of the cascade, believed when float32 says that it succeeded."""
    region, prop = puzzle.prop.region.inner_box(), puzzle.prop
    _, margins = Pgd(steps=40, restarts=4)(puzzle.graph.to(torch.float32), region, prop.margin)
    return BROKEN if bool((margins <= 0).any()) else OPEN


def ours(puzzle: Puzzle, timeout: float, certified: bool) -> str:
    settings, subject = Settings(timeout=timeout, device="cpu"), Subject(puzzle.graph)
    result = (
        verify_certified(subject, puzzle.prop, settings).result if certified else verify(subject, puzzle.prop, settings)
    )
    return {Verdict.VERIFIED: PROVED, Verdict.FALSIFIED: BROKEN, Verdict.UNKNOWN: OPEN}[result.verdict]


WHO: dict[str, Callable[[Puzzle, float], str]] = {
    "HiGHS, least margin": lambda puzzle, _: highs(puzzle, "margin"),
    "HiGHS, feasibility": lambda puzzle, _: highs(puzzle, "feasibility"),
    "CBC, least margin": lambda puzzle, _: cbc(puzzle),
    "CROWN in float32": lambda puzzle, _: crown(puzzle, torch.float32),
    "CROWN in float64": lambda puzzle, _: crown(puzzle, torch.float64),
    "PGD in float32": lambda puzzle, _: pgd(puzzle),
    "verify": lambda puzzle, timeout: ours(puzzle, timeout, certified=False),
    "verify with certificates": lambda puzzle, timeout: ours(puzzle, timeout, certified=True),
}


if __name__ == "__main__":
    main()
