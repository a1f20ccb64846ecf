"""What commands print: sentences, tables, JSON and progress; and the numbers in them."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.load import Model
    from verifier.verdict import Result

DIGITS = 4


def at_least(value: float) -> str:
    """A lower bound in a few digits, rounded down, so that the text is a lower bound as well."""
    return _rounded(value, ROUND_FLOOR)


def at_most(value: float) -> str:
    """An upper bound in a few digits, rounded up."""
    return _rounded(value, ROUND_CEILING)


def _rounded(value: float, rounding: str) -> str:
    if not math.isfinite(value):
        return str(value)
    decimal = Context(prec=DIGITS, rounding=rounding).create_decimal_from_float(value)
    if decimal == 0:
        return "0"
    # Adding 0 in float would round again; Decimal's own format keeps the digits.
    text = f"{decimal:f}" if -4 <= decimal.adjusted() < 7 else f"{decimal:e}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def seconds(value: float) -> str:
    return f"{value:.{3 if value < 1 else 2}f} s"


def progress(args: argparse.Namespace) -> Callable[[str], None] | None:
    """Where progress lines go: to stderr with --verbose, else nowhere."""
    return (lambda line: print(line, file=sys.stderr, flush=True)) if args.verbose else None


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people: drawn by rich on a terminal, aligned plain text elsewhere."""
    if sys.stdout.isatty():
        _rich_table(headers, rows)
        return
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_stages(args: argparse.Namespace, result: Result) -> None:
    """What every stage did; with --verbose also what its search took, on stderr."""
    rows = []
    for stage in result.stages:
        margin = "" if stage.margin is None else at_least(stage.margin)
        rows.append((stage.name, seconds(stage.seconds), margin, stage.remark))
    print_table(("stage", "time", "margin >=", "remark"), rows)
    if args.verbose:
        from verifier.verdict import peak_memory

        for stage in result.stages:
            if stage.search is not None:
                print(f"{stage.name}: {stage.search}", file=sys.stderr)
        print(f"peak memory: {peak_memory()} MiB", file=sys.stderr, flush=True)


def print_notes(files: Sequence[str], notes: Sequence[str]) -> None:
    """The files written and what was chosen for want of an option."""
    for line in (*(f"written: {file}" for file in files), *notes):
        print(line)


def _rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for header in headers:
        table.add_column(Text(header))
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def print_json(record: Mapping[str, Any]) -> None:
    """The record as one JSON object; numbers that are not finite become null."""
    print(json.dumps(_finite(record), allow_nan=False))


def verified_margin(result: Result, solver: str) -> str:
    """How much was proved, and how far that can be trusted."""
    if result.solver_word:
        return f"{solver} claims a margin of at least {at_least(result.proved)}"
    margin = f"at least {at_least(result.proved)}" if result.proved > 0 else "above 0"
    how = "with" if result.certified else "without"
    return f"the margin is {margin} in {result.semantics} arithmetic, {how} a certificate"


def result_record(args: argparse.Namespace, model: Model, result: Result) -> dict[str, Any]:
    """What --json prints of any result. Margins that do not exist are null; a claimed one is a solver's word alone."""
    from verifier.verdict import peak_memory

    margin, none = ("margin_claimed", "margin_proved") if result.solver_word else ("margin_proved", "margin_claimed")
    return {
        "command": "verify",
        "verdict": result.verdict.name,
        "solver_word": result.solver_word,
        "claim": result.about,
        "semantics": result.semantics,
        "certified": result.certified,
        "certificate": args.certificate if result.certified else None,
        "model": str(model.path),
        "sha256": model.sha256,
        "method": args.method,
        "stage": result.stage,
        "seconds": result.seconds,
        "peak_mib": peak_memory(),
        margin: result.proved,
        none: None,
        "margin_found": result.found,
        "reason": result.reason,
        "stages": [asdict(stage) for stage in result.stages],
    }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
