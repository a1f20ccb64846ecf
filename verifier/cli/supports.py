"""`verifier supports`: what the tool can read and analyse, from the registries."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from verifier.cli import options
from verifier.cli.output import print_json

DESCRIPTION = "List what can be read and analysed: everything, or only the lists asked for."
DATASETS = ("digits", "mnist", "FILE.npz")


def onnx_operators() -> list[str]:
    import verifier.ops  # noqa: F401  (fills the registry)
    from verifier.ops.registry import ONNX

    return sorted(ONNX)


def architectures() -> list[str]:
    from verifier import zoo

    return list(zoo.architectures())


def installed_solvers() -> list[str]:
    from verifier import solvers

    return solvers.available()


def methods() -> list[str]:
    from verifier.strategy import METHODS

    return list(METHODS)


def datasets() -> list[str]:
    return list(DATASETS)


LISTS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "onnx-operators": ("ONNX operators that models may use", onnx_operators),
    "architectures": ("architectures for --arch", architectures),
    "solvers": ("installed solvers for --solver", installed_solvers),
    "methods": ("methods for `verify --method`", methods),
    "datasets": ("data sets for --dataset", datasets),
}


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser("supports", help="what can be read and analysed", description=DESCRIPTION)
    for name, (meaning, _) in LISTS.items():
        parser.add_argument(f"--{name}", dest="lists", action="append_const", const=name, help=meaning)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    chosen = {name: LISTS[name][1]() for name in (args.lists or LISTS)}
    if args.json:
        print_json(chosen)
        return 0
    for name, items in chosen.items():
        # One list alone is one name a line, for scripts.
        print("\n".join(items) if len(chosen) == 1 else f"{name}: {', '.join(items)}")
    return 0
