"""`verifier verify --property` and `--network`: the answer to a VNN-LIB file, in our words or in the standard's."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.cli import options
from verifier.cli.output import (
    at_least,
    at_most,
    print_json,
    print_notes,
    print_stages,
    print_table,
    progress,
    result_record,
    seconds,
    verified_margin,
)
from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.batch.query import Answer
    from verifier.certificate.claim import Certificate
    from verifier.load import Model
    from verifier.spec.vnnlib import Query
    from verifier.verdict import Result

FEW = 24  # values that are printed; all are in the files


def run(args: argparse.Namespace) -> int:
    """`verify MODEL --property FILE`: a sentence, and what there is to tell."""
    query, model, found, folder, certificate = ask(args)
    result = found.result
    files = write_files(args, query, model, found, folder, certificate)
    if not args.json:
        print(sentence(args, result), flush=True)
    if args.json:
        print_json(record(args, model, found, files))
    elif not args.quiet:
        print_stages(args, result)
        print_counterexample(result)
        print_notes(files, ())
    return result.verdict.exit_code


def run_standard(args: argparse.Namespace) -> int:
    """`verify FILE --network NAME=MODEL`: the output of VNN-LIB 2.0, chapter "Solver Command-line Interface".

    A word, and below `sat` the assignment. All else goes to stderr.
    """
    from verifier.batch.competition import standard_text

    args.property = args.model
    query, model, found, folder, certificate = ask(args)
    if not args.json:
        print(standard_text(query, found, args.timeout), end="", flush=True)
    files = write_files(args, query, model, found, folder, certificate)
    if args.json:
        print_json(record(args, model, found, files))
    elif not args.quiet:
        print(sentence(args, found.result), *(f"written: {file}" for file in files), sep="\n", file=sys.stderr)
    return found.result.verdict.exit_code


def ask(args: argparse.Namespace) -> tuple[Query, Model, Answer, Path | None, Certificate | None]:
    """The query, the network, the answer, the folder for a counterexample, if one is to be written, the certificate.

    With --network, args.model becomes the network's file. Raises InputError when --network does not fit the query.
    """
    from verifier.batch.startup import startup

    with startup():
        from verifier.batch.query import answer, certified_answer
        from verifier.cli.evidence import evidence_folder
        from verifier.load import load
        from verifier.load.sniff import unzipped
        from verifier.spec.vnnlib import read_query

        settings = options.read_settings(args)
        wanted = args.out is not None or (args.result is None and args.network is None)
        folder = evidence_folder(args) if wanted else None
        query = read_query(args.property)
        if args.network is not None:
            args.model = network_file(query, args.network)
        model = load(args.model, args.arch)
    if args.uncertified:
        return query, model, answer(model, query, settings, progress(args)), folder, None
    statement = unzipped(Path(args.property).read_bytes()) if query.network is None else None
    found, certified = certified_answer(model, query, statement, settings, progress(args))
    return query, model, found, folder, certified.certificate


def network_file(query: Query, given: list[str]) -> str:
    """The file of the query's one network, from the values of --network.

    A file of version 1.0 does not name its network: there, any name does. Raises InputError for a name that is missing,
    unknown or given twice.
    """
    files: dict[str, str] = {}
    for value in given:
        name, separator, file = value.partition("=")
        if not (name and separator and file):
            raise InputError(f"--network must be NAME=FILE, not '{value}'")
        if name in files:
            raise InputError(f"--network names '{name}' twice: give each network once")
        files[name] = file
    if query.network is None:
        if len(files) > 1:
            raise InputError(f"{query.name}: VNN-LIB 1.0 is about one network, --network names {', '.join(files)}")
        [file] = files.values()
        return file
    unknown = [name for name in files if name != query.network]
    if unknown:
        declared = f"{query.name} declares no network '{unknown[0]}' (declared: {query.network})"
        raise InputError(f"{declared}: give --network {query.network}=FILE alone")
    return files[query.network]


def write_files(
    args: argparse.Namespace,
    query: Query,
    model: Model,
    found: Answer,
    folder: Path | None,
    certificate: Certificate | None,
) -> list[str]:
    """Write --result, --certificate and the counterexample, as far as they are wanted; returns their paths."""
    from verifier.batch.competition import assignments, result_text
    from verifier.cli.evidence import write_certificate

    files = []
    if certificate is not None and args.certificate is not None:
        version2 = query.network is not None
        files += write_certificate(args.certificate, certificate, statement=version2, model=model.stored is None)
    if args.result is not None:
        files.append(write(Path(args.result), result_text(found, args.timeout)))
    if found.point is not None and found.result.outputs is not None and folder is not None:
        name = f"{model.path.name.split('.')[0]}_{query.name.split('.vnnlib')[0]}.counterexample"
        files.append(write(folder / name, assignments(found.point, found.result.outputs) + "\n"))
    return files


def write(path: Path, text: str) -> str:
    """Write a file; returns its path. Raises InputError when that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    return str(path)


def sentence(args: argparse.Namespace, result: Result) -> str:
    """The result in one plain sentence."""
    from verifier.verdict import Verdict

    spent = f"{result.stage}, {seconds(result.seconds)}" if result.stage else seconds(result.seconds)
    if result.verdict is Verdict.VERIFIED:
        margin = verified_margin(result, args.solver)
        return f"{result.label}: {result.about}; {margin} ({spent})."
    if result.verdict is Verdict.FALSIFIED:
        broken = f"an input that {Path(args.property).name} allows has a forbidden output"
        return f"{result.label}: {broken} (margin {at_most(result.found)}; {spent})."
    margin = f"the margin is at least {at_least(result.proved)} and at most {at_most(result.found)}"
    return f"{result.label}: it is open whether {result.about}: {result.reason}; {margin} ({spent})."


def print_counterexample(result: Result) -> None:
    """The values X and Y, when they are few."""
    if result.counterexample is None or result.outputs is None:
        return
    sides = (("X", result.counterexample.ravel()), ("Y", result.outputs.ravel()))
    if sum(len(values) for _, values in sides) <= FEW:
        cells = [(f"{letter}_{i}", repr(float(v))) for letter, values in sides for i, v in enumerate(values)]
        print_table(("variable", "value"), cells)


def record(args: argparse.Namespace, model: Model, found: Answer, files: list[str]) -> dict[str, Any]:
    """The result as --json prints it; counterexample and outputs are X and Y, flattened."""
    x, outputs = found.result.counterexample, found.result.outputs
    return {
        **result_record(args, model, found.result),
        "property": args.property,
        "cases": [case_record(case) for case in found.cases],
        "counterexample": None if x is None else x.ravel().tolist(),
        "outputs": None if outputs is None else outputs.ravel().tolist(),
        "files": files,
    }


def case_record(case: Result) -> dict[str, Any]:
    """One input box of the query."""
    return {
        "verdict": case.verdict.name,
        "claim": case.about,
        "stage": case.stage,
        "seconds": case.seconds,
        "margin_proved": None if case.solver_word else case.proved,
        "margin_found": case.found,
        "reason": case.reason,
    }
