"""Entry points of the console scripts `verifier` (subcommands) and `verify` (one property)."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verifier.cli import bounds, certify, check, export, merge, radius, report, supports, train, verify, vnncomp
from verifier.cli.options import ERROR, INTERRUPTED, Parser
from verifier.errors import VerifierError

BROKEN_PIPE = 141  # 128 + SIGPIPE
TRACEBACK = "VERIFIER_TRACEBACK"
"""An environment variable: with it, a fault of the program shows its traceback as well."""

COMMANDS = (verify, check, certify, report, merge, radius, bounds, export, vnncomp, train, supports)


def main(argv: Sequence[str] | None = None) -> int:
    """`verifier COMMAND ...`; returns the exit code."""
    parser = Parser(
        prog="verifier",
        description="Formal verification of neural networks.",
        epilog="`verifier COMMAND --help` explains a command. Exit code 2 is an error, told in one line on stderr.",
    )
    parser.add_argument("--name", action="version", version="verifier", help="print the tool's name and exit")
    parser.add_argument("--version", action=Version, help="print the version and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return _run(parser, argv)


def main_verify(argv: Sequence[str] | None = None) -> int:
    """`verify MODEL ...`, which is `verifier verify MODEL ...`; returns the exit code."""
    parser = Parser(prog="verify", description=verify.DESCRIPTION, epilog=verify.EPILOG)
    verify.configure(parser)
    return _run(parser, argv)


class Version(argparse.Action):
    """`--version`. The version is read from the installed package, or from the file that it is installed from."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import tomllib
        from importlib import metadata

        try:
            version = metadata.version("verifier")
        except metadata.PackageNotFoundError:
            version = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]
        print(version)
        parser.exit()


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    args = parser.parse_args(argv)
    # Before numpy is imported: products here are small, and threads that wait for each other cost tenfold.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    args.command_line = shlex.join([parser.prog, *(sys.argv[1:] if argv is None else argv)])
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except VerifierError as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has gone: keep Python from failing again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:  # Python's own exit code for what nobody catches is 1, which here means falsified
        if TRACEBACK in os.environ:
            traceback.print_exc()
        print(f"{parser.prog}: error: {_unexpected(error)}", file=sys.stderr)
        return ERROR


def _unexpected(error: Exception) -> str:
    """What went wrong beyond what a user can cause, in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return f"there is not enough memory ({text or 'MemoryError'}); free some, or ask with fewer --jobs"
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}, line {where.lineno}"
    return f"this is a fault of the program: {type(error).__name__}: {text} ({place}); {TRACEBACK}=1 shows where"
