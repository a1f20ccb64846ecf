"""`verifier export`: the linear or mixed-integer program of one property, as an .mps or .lp file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.cli import options
from verifier.cli.output import print_json, print_notes, progress
from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.cli.inputs import Sample
    from verifier.load import Model
    from verifier.program import LinearProgram

DESCRIPTION = "Write the triangle LP or the big-M MILP of one property to a file that any solver reads."
SUFFIXES = (".mps", ".lp")
RELAXATIONS = ("milp", "lp")
OBJECTIVES = ("margin", "feasibility", "distance")


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser("export", help="write the LP or MILP as .mps or .lp", description=DESCRIPTION)
    options.add_model(parser)
    options.add_input(parser)
    options.add_property(parser)
    group = parser.add_argument_group("program")
    group.add_argument("--objective", choices=OBJECTIVES, default="margin", help="what to minimise (default: margin)")
    group.add_argument("--relaxation", choices=RELAXATIONS, default="milp", help="milp is exact (default: milp)")
    group.add_argument(
        "--method", metavar="M", default="crown", help="bound method behind the neurons' bounds (default: crown)"
    )
    group = options.add_output(parser)
    group.add_argument("-o", "--out", metavar="FILE", required=True, help="the file to write, .mps or .lp")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from verifier import solvers
    from verifier.bounds.methods import METHODS
    from verifier.cli.inputs import read_property, read_sample
    from verifier.encoding import encode
    from verifier.load import load

    if Path(args.out).suffix not in SUFFIXES:
        raise InputError(f"{args.out}: a program is written as {' or '.join(SUFFIXES)}; give --out such a name")
    if args.method not in METHODS:
        raise InputError(f"unknown bound method '{args.method}' (available: {', '.join(METHODS)})")
    tell = progress(args) or (lambda line: None)
    model = load(args.model, args.arch)
    sample = read_sample(args, model)
    prop = read_property(args, model, sample)
    box = prop.region.box()
    tell(f"bounds by {args.method}")
    bounds = METHODS[args.method]()(model.graph, box, prop.rows[0].unsqueeze(0))
    tell(f"encoding as {args.relaxation}")
    program = encode(
        model.graph, box, bounds.nodes, prop, integer=args.relaxation == "milp", objective=args.objective
    ).program
    solvers.get("highs").write(program, Path(args.out))

    if args.json:
        print_json(record(args, model, sample, program))
        return 0
    rows, columns = program.matrix.shape
    size = f"{columns} columns ({int(program.integer.sum())} integer) and {rows} rows"
    question = f"the {args.objective} of '{prop.about}' around {sample.source}"
    print(f"EXPORTED: the {args.relaxation} for {question}, {size}, is in {args.out}.")
    if not args.quiet:
        print_notes((), sample.notes)
    return 0


def record(args: argparse.Namespace, model: Model, sample: Sample, program: LinearProgram) -> dict[str, Any]:
    """What was exported, as --json prints it."""
    rows, columns = program.matrix.shape
    return {
        "command": "export",
        "model": str(model.path),
        "sha256": model.sha256,
        **sample.record(),
        "eps": args.eps,
        "norm": args.norm,
        "target": args.target,
        "method": args.method,
        "objective": args.objective,
        "relaxation": args.relaxation,
        "columns": columns,
        "integer": int(program.integer.sum()),
        "rows": rows,
        "nonzeros": int(program.matrix.nnz),
        "files": [args.out],
    }
