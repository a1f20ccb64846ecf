"""`verifier report`: one HTML page about the results of journals, with figures as PNG and the table as CSV."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from verifier.cli import options
from verifier.cli.output import print_json, print_notes
from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.batch.merging import Results

DESCRIPTION = "Write a self-contained HTML page about the results of one journal or several, side by side."


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser("report", help="a page about journals", description=DESCRIPTION)
    parser.add_argument("journals", metavar="JOURNAL", nargs="+", help="journals of `verifier certify`, a run each")
    parser.add_argument("-o", "--out", metavar="FILE", default="report.html", help="the page (default: report.html)")
    parser.add_argument("--png", metavar="DIR", help="also write the figures into this folder")
    parser.add_argument("--csv", metavar="FILE", help="also write the accuracy table")
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from verifier.report import figures
    from verifier.report.page import accuracy_table, draw, page, table_csv
    from verifier.report.summary import summary

    runs = read_runs([Path(journal) for journal in args.journals])
    drawn = {name: figures.png(figure) for name, figure in draw(runs).items()}
    galleries, notes = read_galleries(runs)
    files = {Path(args.out): page(runs, drawn, galleries, notes).encode()}
    if args.png:
        pictures = {
            **drawn,
            **{f"counterexamples_{i}": content for i, content in enumerate(galleries.values(), start=1)},
        }
        files |= {Path(args.png, f"{name}.png"): content for name, content in pictures.items()}
    if args.csv:
        table = accuracy_table({name: summary(results) for name, results in runs.items()})
        files[Path(args.csv)] = table_csv(table).encode()
    for path, content in files.items():
        write(path, content)
    totals, written = {name: summary(results) for name, results in runs.items()}, [str(path) for path in files]
    if args.json:
        named = [{"run": name, **total.record()} for name, total in totals.items()]
        print_json({"command": "report", "runs": named, "files": written, "notes": notes})
        return 0
    for name, total in totals.items():
        print(f"{name}: {total.sentence()}")
    print_notes(written, notes)
    return 0


def read_runs(paths: list[Path]) -> dict[str, Results]:
    """The results of each journal by a short name: that of the model, with the journal's where models recur."""
    from verifier.batch.merging import read_all

    held = [(path, results) for path in paths for results in read_all([path]).values() if results.records]
    if not held:
        raise InputError(f"{', '.join(map(str, paths))}: no result yet")
    models = [Path(results.run.model).stem for _, results in held]
    named: dict[str, Results] = {}
    for model, (path, results) in zip(models, held, strict=True):
        name = model if models.count(model) == 1 else f"{model} ({path.stem})"
        named[name if name not in named else f"{name} {len(named)}"] = results
    return named


def read_galleries(runs: Mapping[str, Results]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """PNG files of counterexamples by run, and why there is none of some."""
    from verifier.batch.tasks import digest
    from verifier.data import load_dataset
    from verifier.report import figures

    galleries, notes = {}, []
    for name, results in runs.items():
        try:
            data = load_dataset(results.run.dataset, download=False)
        except InputError as error:
            notes.append(f"no counterexamples of {name} are shown: {error}")
            continue
        if digest(data) != results.run.inputs:
            notes.append(f"no counterexamples of {name} are shown: {results.run.dataset} has changed")
            continue
        found = figures.examples(results, data.images.numpy())
        if found:
            galleries[name] = figures.png(figures.gallery(found, data.lower, data.upper))
    return galleries, tuple(notes)


def write(path: Path, content: bytes) -> None:
    """Write a file and the folder that it is in. Raises InputError when that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
