"""`verifier export`: a property as .vnnlib, or its linear or mixed-integer program as an .mps or .lp file."""

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

DESCRIPTION = (
    "Write the triangle LP or the big-M MILP of one property to a file that any solver reads, or the property itself "
    "as VNN-LIB, for other verifiers and for `verifier check`."
)
PROPERTY = ".vnnlib"
SUFFIXES = (".mps", ".lp", PROPERTY)
RELAXATIONS = ("milp", "lp")
OBJECTIVES = ("margin", "feasibility", "distance")
PROGRAM = {"objective": OBJECTIVES[0], "relaxation": RELAXATIONS[0], "method": "crown"}
"""The options that say which program, with their defaults."""


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser("export", help="write the LP or MILP, or the property", description=DESCRIPTION)
    options.add_model(parser)
    options.add_input(parser)
    options.add_property(parser)
    group = parser.add_argument_group("program (.mps, .lp)")
    group.add_argument("--objective", choices=OBJECTIVES, help="what to minimise (default: margin)")
    group.add_argument("--relaxation", choices=RELAXATIONS, help="milp is exact (default: milp)")
    group.add_argument("--method", metavar="M", help="bound method behind the neurons' bounds (default: crown)")
    group = options.add_output(parser)
    group.add_argument("-o", "--out", metavar="FILE", required=True, help="the file to write: .mps, .lp or .vnnlib")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from verifier import solvers
    from verifier.bounds.methods import METHODS
    from verifier.cli.inputs import read_property, read_sample
    from verifier.encoding import encode
    from verifier.load import load

    if Path(args.out).suffix not in SUFFIXES:
        raise InputError(f"{args.out}: what is written ends in {', '.join(SUFFIXES)}; give --out such a name")
    if Path(args.out).suffix == PROPERTY:
        return export_property(args)
    for name, default in PROGRAM.items():
        setattr(args, name, getattr(args, name) or default)
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


def export_property(args: argparse.Namespace) -> int:
    """Write the property alone, with comments on what it is about."""
    from verifier.certificate.statement import vnnlib
    from verifier.cli.inputs import in_words, read_property, read_sample
    from verifier.cli.query import write
    from verifier.load import load

    for name in PROGRAM:
        if getattr(args, name) is not None:
            raise InputError(f"--{name} says which program is written; a .vnnlib file holds none")
    model = load(args.model, args.arch)
    sample = read_sample(args, model)
    prop = read_property(args, model, sample)
    write(Path(args.out), vnnlib(prop, comments=in_words(args, model, sample)))
    if args.json:
        print_json(property_record(args, model, sample))
        return 0
    print(f"EXPORTED: the property '{prop.about}' around {sample.source} is in {args.out}.")
    if not args.quiet:
        print_notes((), sample.notes)
    return 0


def property_record(args: argparse.Namespace, model: Model, sample: Sample) -> dict[str, Any]:
    """What was exported, as --json prints it, without what tells of a program."""
    return {
        "command": "export",
        "model": str(model.path),
        "sha256": model.sha256,
        **sample.record(),
        "eps": args.eps,
        "norm": args.norm,
        "target": args.target,
        "files": [args.out],
    }


def record(args: argparse.Namespace, model: Model, sample: Sample, program: LinearProgram) -> dict[str, Any]:
    """What was exported, as --json prints it."""
    rows, columns = program.matrix.shape
    return {
        **property_record(args, model, sample),
        "method": args.method,
        "objective": args.objective,
        "relaxation": args.relaxation,
        "columns": columns,
        "integer": int(program.integer.sum()),
        "rows": rows,
        "nonzeros": int(program.matrix.nnz),
    }
