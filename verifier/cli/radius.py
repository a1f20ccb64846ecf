"""`verifier radius`: the interval between the largest eps proved and the smallest eps broken, by bisection."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from verifier.cli import options
from verifier.cli.output import print_json, print_notes, print_table, progress, seconds

if TYPE_CHECKING:
    from verifier.cli.inputs import Sample
    from verifier.load import Model
    from verifier.radius import Radius

DESCRIPTION = "Enclose the largest safe eps of one input between the largest one proved and the smallest one broken."
EPILOG = "Exit codes: 0 whatever the radius is, 2 error."


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser(
        "radius", help="how large an eps is safe for one input", description=DESCRIPTION, epilog=EPILOG
    )
    options.add_model(parser)
    options.add_input(parser)
    options.add_property(parser, eps=False)
    options.add_settings(parser, budget="seconds for the whole bisection")
    group = options.add_output(parser)
    options.add_evidence(group)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from verifier.cli.evidence import evidence_folder, write_evidence
    from verifier.cli.inputs import read_sample
    from verifier.load import load
    from verifier.radius import radius

    settings, folder = options.read_settings(args), evidence_folder(args)
    model = load(args.model, args.arch)
    sample = read_sample(args, model)
    result = radius(
        model, sample.x, sample.label, args.target, args.norm, settings, sample.lower, sample.upper, progress(args)
    )

    if not args.json:
        print(sentence(args, sample, result), flush=True)
    files: list[str] = []
    if result.counterexample is not None and folder is not None:
        outputs = model.native(result.counterexample[None])
        files = write_evidence(folder, args, sample, result.counterexample, outputs, result.broken)
    if args.json:
        print_json(record(args, model, sample, result, files))
    elif not args.quiet:
        print_table(("eps", "verdict"), [(f"{eps:.6g}", verdict.name) for eps, verdict in result.steps])
        print_notes(files, sample.notes)
    return 0


def sentence(args: argparse.Namespace, sample: Sample, result: Radius) -> str:
    """The result in one plain sentence."""
    claim = f"stays {sample.label}" if args.target is None else f"cannot become {args.target}"
    ball = f"within {args.norm} distance {{}} of {sample.source} (label {sample.label})"
    if math.isfinite(result.proved):
        found = f"the prediction {claim} {ball.format(f'{result.proved:.6g}')}"
        found += f", on {args.solver}'s word alone" if result.solver_word else ", by bounds without a certificate"
    else:
        found = f"no eps is proved, not even 0, at which the prediction {claim} {ball.format('eps')}"
    broken = f"it is broken at {result.broken:.6g}" if math.isfinite(result.broken) else "no eps was found to break it"
    steps = f"{len(result.steps)} step{'' if len(result.steps) == 1 else 's'}"
    return f"RADIUS: {found}; {broken} ({steps}, {seconds(result.seconds)})."


def record(args: argparse.Namespace, model: Model, sample: Sample, result: Radius, files: list[str]) -> dict[str, Any]:
    """The result as --json prints it; eps_proved or eps_broken is null when there is none."""
    x = result.counterexample
    return {
        "command": "radius",
        "model": str(model.path),
        "sha256": model.sha256,
        **sample.record(),
        "norm": args.norm,
        "target": args.target,
        "method": args.method,
        "eps_proved": result.proved,
        "eps_broken": result.broken,
        "solver_word": result.solver_word,
        "seconds": result.seconds,
        "steps": [{"eps": eps, "verdict": verdict.name} for eps, verdict in result.steps],
        "counterexample": None if x is None else x.tolist(),
        "files": files,
    }
