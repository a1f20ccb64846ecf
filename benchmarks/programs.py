"""CPU seconds for the triangle LP and the big-M MILP of one property on a small MNIST network.

The property: the image cannot score higher in the target class. Both programs minimise that margin, over CROWN's bounds
of the hidden neurons. The MILP runs with HiGHS alone, under a time limit.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from common import cpu_seconds, print_table, spread

from verifier import solvers
from verifier.bounds.crown import Crown
from verifier.data import load_dataset
from verifier.encoding import encode
from verifier.load import load
from verifier.program import SolveOptions
from verifier.spec.property import HalfSpaces, Property
from verifier.spec.robustness import ball, parse_eps

ROOT = Path(__file__).parents[1]
HEADERS = ("eps", "program", "solver", "columns", "integer", "rows", "CROWN", "bound", "solve, CPU s",
           "encode", "status")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models/mnist_conv.pt")
    parser.add_argument("--eps", nargs="+", default=["0.005", "0.01", "0.02"])
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--target", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each solve (default: %(default)s)")
    args = parser.parse_args()

    print(f"{args.model.name}, MNIST image {args.index}, target {args.target}, {torch.get_num_threads()} thread(s)")
    rows = []
    for eps in args.eps:
        rows += [measure(args, eps, "LP", name) for name in solvers.available()]
        rows.append(measure(args, eps, "MILP", "highs"))
    print_table(HEADERS, rows)


def measure(args: argparse.Namespace, eps: str, kind: str, solver_name: str) -> tuple[object, ...]:
    """One row of the table."""
    graph, data = load(args.model).graph, load_dataset("mnist")
    region = ball(data.images[args.index].numpy(), parse_eps(eps))
    unit = torch.eye(data.classes, dtype=torch.float64)
    row = (unit[data.labels[args.index]] - unit[args.target]).unsqueeze(0)
    prop, box = Property(region, (HalfSpaces(row, row.new_zeros(1)),)), region.box()
    with torch.no_grad():
        bounds = Crown()(graph, box, row.unsqueeze(0))
    began = cpu_seconds()
    program = encode(graph, box, bounds.nodes, prop, integer=kind == "MILP", objective="margin").program
    encoded = cpu_seconds() - began
    seconds = []
    for _ in range(1 if kind == "MILP" else args.repeats):
        began = cpu_seconds()
        solution = solvers.get(solver_name).solve(program, SolveOptions(time_limit=args.timeout))
        seconds.append(cpu_seconds() - began)
    height, width = program.matrix.shape
    found = f"{solution.bound:.6f}" if math.isfinite(solution.bound) else str(solution.bound)
    crown = f"{float(bounds.lower):.4f}"
    size = (width, int(program.integer.sum()), height)
    return eps, kind, solver_name, *size, crown, found, spread(seconds), f"{encoded:.2f}", solution.status.name


if __name__ == "__main__":
    main()
