"""Entry points of the console scripts `verifier` (subcommands) and `verify` (one property)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from verifier.cli import bounds, export, radius, supports, verify, vnncomp
from verifier.cli.options import ERROR, Parser
from verifier.errors import VerifierError

INTERRUPTED = 130  # 128 + SIGINT, the shell's convention
BROKEN_PIPE = 141  # 128 + SIGPIPE

COMMANDS = (verify, radius, bounds, export, vnncomp, supports)


def main(argv: Sequence[str] | None = None) -> int:
    """`verifier COMMAND ...`; returns the exit code."""
    parser = Parser(
        prog="verifier",
        description="Formal verification of neural networks.",
        epilog="`verifier COMMAND --help` explains a command. Exit code 2 is an error, told in one line on stderr.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return _run(parser, argv)


def main_verify(argv: Sequence[str] | None = None) -> int:
    """`verify MODEL ...`, which is `verifier verify MODEL ...`; returns the exit code."""
    parser = Parser(prog="verify", description=verify.DESCRIPTION, epilog=verify.EPILOG)
    verify.configure(parser)
    return _run(parser, argv)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    args = parser.parse_args(argv)
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
