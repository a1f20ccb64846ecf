"""`verifier verify`, alias `verify`: is a prediction robust in a ball around one input, or does a VNN-LIB file hold?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from verifier.cli import options, query
from verifier.cli.output import (
    at_least,
    at_most,
    print_json,
    print_notes,
    print_stages,
    progress,
    result_record,
    seconds,
    verified_margin,
)
from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.cli.inputs import Sample
    from verifier.load import Model
    from verifier.verdict import Result

DESCRIPTION = (
    "Prove that no allowed change of one input changes the prediction (or makes it --target), or find one; "
    "or answer the VNN-LIB file that --property names. With --network, MODEL is a VNN-LIB file instead."
)
EPILOG = "Exit codes: 0 verified, 1 falsified, 3 unknown, 2 error."


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser(
        "verify", help="prove one prediction robust, or break it", description=DESCRIPTION, epilog=EPILOG
    )
    configure(parser)


def configure(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of this command; the console script `verify` is this command alone."""
    options.add_model(parser)
    options.add_input(parser)
    options.add_property(parser, file=True)
    options.add_settings(parser, budget="seconds for the whole proof")
    group = options.add_output(parser)
    options.add_evidence(group)
    options.add_certificate(group)
    group.add_argument(
        "--result",
        metavar="FILE",
        help="of a VNN-LIB file: write the verdict as VNN-COMP's result file, and to a folder only if --out names one",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    options.need_property(args)
    if args.network is not None:
        options.no_ball(args)
        return query.run_standard(args)
    if args.property is not None:
        options.no_ball(args)
        return query.run(args)
    if args.result is not None:
        raise InputError("--result goes with --property: VNN-COMP's result file answers a VNN-LIB file")
    args.norm = args.norm or options.NORMS[0]
    return run_ball(args)


def run_ball(args: argparse.Namespace) -> int:
    """Robustness in the ball that --eps and --norm describe."""
    from verifier.batch.startup import startup

    with startup():
        from verifier.cli.evidence import evidence_folder, write_certificate, write_evidence
        from verifier.cli.inputs import in_words, read_property, read_sample
        from verifier.load import load
        from verifier.spec.robustness import parse_eps

        if args.uncertified:
            from verifier.strategy import verify
        else:
            from verifier.certified import verify_certified

        eps, settings, folder = parse_eps(args.eps), options.read_settings(args), evidence_folder(args)
        model = load(args.model, args.arch)
    sample = read_sample(args, model)
    prop, certificate = read_property(args, model, sample), None
    if args.uncertified:
        result = verify(model, prop, settings, progress(args))
    else:
        found = verify_certified(model, prop, settings, progress(args), in_words(args, model, sample))
        result, certificate = found.result, found.certificate

    files: list[str] = []
    if certificate is not None and args.certificate is not None:
        files = write_certificate(args.certificate, certificate, statement=True, model=model.stored is None)
    if not args.json:
        print(sentence(args, sample, result), flush=True)
    if result.counterexample is not None and result.outputs is not None and folder is not None:
        files = write_evidence(folder, args, sample, result.counterexample, result.outputs, float(eps))
    if args.json:
        print_json(record(args, model, sample, result, files))
    elif not args.quiet:
        print_details(args, sample, result, files)
    return result.verdict.exit_code


def sentence(args: argparse.Namespace, sample: Sample, result: Result) -> str:
    """The result in one plain sentence."""
    from verifier.verdict import Verdict

    ball = f"within {args.norm} distance {args.eps} of {sample.source} (label {sample.label})"
    spent = f"{result.stage}, {seconds(result.seconds)}"
    if result.verdict is Verdict.VERIFIED:
        margin = verified_margin(result, args.solver)
        claim = f"for every input {ball}, {result.about}; {margin}"
        return f"{result.label}: {claim} ({spent})."
    if result.verdict is Verdict.FALSIFIED:
        return f"{result.label}: {_broken(args, sample, result, ball)} (margin {at_most(result.found)}; {spent})."
    margin = f"the margin is at least {at_least(result.proved)} and at most {at_most(result.found)}"
    question = f"it is open whether {result.about} for every input {ball}"
    return f"{result.label}: {question}: {result.reason}; {margin} ({spent})."


def _broken(args: argparse.Namespace, sample: Sample, result: Result, ball: str) -> str:
    from verifier.cli.evidence import changed_class

    if sample.prediction == args.target or (args.target is None and sample.prediction != sample.label):
        whole = f"{sample.source} (label {sample.label})"
        return f"the network misclassifies {whole} as {sample.prediction} without any change"
    assert result.outputs is not None
    after, strictly = changed_class(result.outputs, sample.label, args.target)
    how = "is classified as" if strictly else "scores at least as high in the tied class"
    return f"an input {ball} {how} {after}"


def print_details(args: argparse.Namespace, sample: Sample, result: Result, files: list[str]) -> None:
    """The table of stages, the files written and the notes."""
    print_stages(args, result)
    print_notes(files, sample.notes)


def record(args: argparse.Namespace, model: Model, sample: Sample, result: Result, files: list[str]) -> dict[str, Any]:
    """The result as --json prints it."""
    asked = {**sample.record(), "eps": args.eps, "norm": args.norm, "target": args.target}
    x, outputs = result.counterexample, result.outputs
    return {
        **result_record(args, model, result),
        **asked,
        "counterexample": None if x is None else x.tolist(),
        "outputs": None if outputs is None else outputs.tolist(),
        "files": files,
    }
