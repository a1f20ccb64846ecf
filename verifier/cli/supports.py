"""`verifier supports`: what the tool can read and analyse, from the registries.

The first lists are those of VNN-LIB 2.0, chapter "Solver Command-line Interface", with its words for theories.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

from verifier.cli import options
from verifier.cli.output import print_json

DESCRIPTION = "List what can be read and analysed: everything, or only the lists asked for."
DATASETS = ("digits", "mnist", "FILE.npz")
VNNLIB_VERSIONS = ("1.0", "2.0")
OPSET_VERSIONS = ("7", "26")  # from the first with today's broadcasting to the last that onnxruntime replays


def always(*items: str) -> Callable[[], list[str]]:
    """A list that depends on nothing."""
    return lambda: list(items)


def vnnlib_versions() -> list[str]:
    """The first and the last; the last needs an optional package."""
    oldest, newest = VNNLIB_VERSIONS
    return [oldest, newest if importlib.util.find_spec("vnnlib") else oldest]


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


def training_methods() -> list[str]:
    from verifier.train.losses import METHODS

    return list(METHODS)


def datasets() -> list[str]:
    return list(DATASETS)


LISTS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "onnx-opset-versions": ("first and last version of ONNX's operator set", always(*OPSET_VERSIONS)),
    "onnx-element-types": ("arithmetics that proofs are about", always("real")),
    "onnx-operators": ("ONNX operators that models may use; on constants alone, every standard one", onnx_operators),
    "vnnlib-versions": ("first and last version of VNN-LIB", vnnlib_versions),
    "hidden-node-theories": ("NH: no hidden nodes", always("NH")),
    "multiple-input-output-theories": ("SIO: one input and one output", always("SIO")),
    "multiple-network-theories": ("SNET: one network", always("SNET")),
    "multiple-node-comparison-theories": ("SNC: no relation between inputs and outputs", always("SNC")),
    "arithmetic-complexity-theories": (
        "BND: bounds; OUTC: comparisons of outputs (linear terms of outputs are read as well)",
        always("BND", "OUTC"),
    ),
    "optimised-disjunctive-reasoning": ("false: `or` is multiplied out", always("false")),
    "serialise-assignments": ("whether `verify` has that option", always("false")),
    "unsat-proofs": ("whether `verify` has that option", always("false")),
    "architectures": ("architectures for --arch", architectures),
    "solvers": ("installed solvers for --solver", installed_solvers),
    "methods": ("methods for `verify --method`", methods),
    "training-methods": ("methods for `train --method`", training_methods),
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
