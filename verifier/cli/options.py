"""The options that commands share: a word means the same thing in every command.

Nothing heavy is imported here: values that depend on a registry (methods, solvers, data sets, architectures) are
checked when the command runs, and the error names what is available.
"""

from __future__ import annotations

import argparse
import math
import os
from typing import TYPE_CHECKING, Any, NoReturn

from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.strategy import Settings

ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, the shell's convention
NORMS = ("linf", "l2", "l1")
DEVICES = ("auto", "cpu", "cuda")

Subparsers = argparse._SubParsersAction
Options = argparse._ActionsContainer  # a parser or a group of one


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def __init__(self, **kwargs) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """With an error about unknown arguments of its own, so that it names the help of this command."""
        found, unknown = super().parse_known_args(*args, **kwargs)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        name = self.prog.partition(" ")[0]
        self.exit(ERROR, f"{name}: error: {' '.join(message.split())} (see `{self.prog} --help`)\n")


def positive(text: str) -> float:
    """A finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a finite number above 0, not '{text}'")
    return value


def natural(text: str) -> int:
    """A whole number from 0 on."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 0, not '{text}'")
    return value


def count(text: str) -> int:
    """A whole number from 1 on."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, not '{text}'")
    return value


def add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("model", metavar="MODEL", help=".onnx, .onnx.gz, .pt, .pth or .safetensors file")
    group.add_argument(
        "--arch", metavar="NAME", help="architecture of bare weights without a model card (`verifier supports`)"
    )


def add_input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input (default: image 0 of the model card's data set)")
    group.add_argument("--dataset", metavar="NAME", help="digits, mnist or FILE.npz with `images` and `labels`")
    one = group.add_mutually_exclusive_group()
    one.add_argument("--index", metavar="N", type=natural, help="which input of the data set's test split (default: 0)")
    one.add_argument("--input", metavar="FILE", help="an image (scaled to the data range) or a .npy array")
    group.add_argument(
        "--label",
        metavar="L",
        type=natural,
        help="the right class (default: the data set's label; for --input the network's own prediction)",
    )


def add_property(parser: argparse.ArgumentParser, *, eps: bool = True, file: bool = False) -> None:
    """eps: with a radius. file: a VNN-LIB file may stand in place of the ball; see `no_ball` and `need_property`."""
    group = parser.add_argument_group("property")
    one = group.add_mutually_exclusive_group() if file else group
    if eps:
        radius = "radius in data units, such as 0.1 or 8/255, taken exactly"
        one.add_argument("--eps", metavar="E", required=not file, help=radius)
    if file:
        one.add_argument("--property", metavar="FILE", help="a VNN-LIB file, .vnnlib or .vnnlib.gz, instead of a ball")
        one.add_argument(
            "--network",
            metavar="NAME=FILE",
            action="append",
            help="the model of the network that a VNN-LIB file calls NAME; then MODEL is the VNN-LIB file, and the "
            "answer is printed as VNN-LIB 2.0 wants it",
        )
    norm = None if file else NORMS[0]
    group.add_argument("--norm", choices=NORMS, default=norm, help="norm of the ball (default: linf)")
    group.add_argument(
        "--target",
        metavar="T",
        type=natural,
        help="prove that the prediction cannot become T (default: stays the label)",
    )


def no_ball(args: argparse.Namespace) -> None:
    """Raise InputError when an option about a ball or its centre is given next to a VNN-LIB file."""
    for name in ("norm", "target", "dataset", "index", "input", "label"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} goes with --eps; the VNN-LIB file says it all: leave it out")


def need_property(args: argparse.Namespace) -> None:
    """Raise InputError unless something says what to verify."""
    if args.model.endswith((".vnnlib", ".vnnlib.gz")) and args.network is None:
        raise InputError(f"{args.model}: give the network that the file is about: --network NAME=FILE")
    if args.eps is None and args.property is None and args.network is None:
        raise InputError("one of the options --eps --property --network is required (see `verifier verify --help`)")


def add_device(group: Options) -> None:
    group.add_argument("--device", choices=DEVICES, default="auto", help="where tensors live (default: auto)")


def add_threads(group: Options) -> None:
    group.add_argument(
        "--jobs", metavar="N", type=count, default=1, help="processor threads; more pay for large networks (default: 1)"
    )


def limit_threads(args: argparse.Namespace) -> None:
    """Obey --jobs. On busy cores, threads that wait for each other can take a hundred times as long as one."""
    import torch

    torch.set_num_threads(args.jobs)


def add_settings(parser: argparse.ArgumentParser, *, budget: str) -> None:
    """The options of `strategy.Settings`. budget: what --timeout limits."""
    group = parser.add_argument_group("how")
    group.add_argument(
        "--method",
        metavar="M",
        default="auto",
        help="auto (the cascade, default), or one of interval, crown, alpha, bab, lp, milp alone",
    )
    group.add_argument("--solver", metavar="S", default="highs", help="highs (default), cvxpy, pulp or scipy")
    add_device(group)
    group.add_argument(
        "--jobs", metavar="N", type=count, help="processes that search side by side (default: one per core)"
    )
    group.add_argument("--timeout", metavar="S", type=positive, default=60.0, help=f"{budget} (default: 60)")
    group.add_argument("--seed", metavar="N", type=natural, default=0, help="seed of the attack (default: 0)")


def add_output(parser: argparse.ArgumentParser) -> Options:
    """The options of what is printed; returns their group, for a command's own --out."""
    group = parser.add_argument_group("output")
    add_json(group)
    amount = group.add_mutually_exclusive_group()
    amount.add_argument("-v", "--verbose", action="store_true", help="show progress on stderr")
    amount.add_argument("-q", "--quiet", action="store_true", help="print the sentence only")
    return group


def add_json(group: Options) -> None:
    group.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")


def add_evidence(group: Options) -> None:
    group.add_argument(
        "--out",
        metavar="DIR",
        help="folder for a counterexample: the input (.npy) and its picture (.png), or X and Y as text for --property "
        "(default: ./verify_out; with --json nothing is written unless --out is given)",
    )


def add_certificate(group: Options) -> None:
    one = group.add_mutually_exclusive_group()
    one.add_argument(
        "--certificate",
        metavar="FILE",
        help="write what proves VERIFIED, for `verifier check`; the property goes beside it as FILE's stem + .vnnlib, "
        "and a model that is not ONNX as .onnx",
    )
    one.add_argument(
        "--uncertified",
        action="store_true",
        help="let bounds alone prove the property, which the answer then says; by default it is VERIFIED only with a "
        "certificate that the checker accepted, for which there is as much time again as --timeout gives the search",
    )


def read_settings(args: argparse.Namespace) -> Settings:
    """The options of `add_settings`. Raises InputError when the method is unknown or the device absent."""
    import torch

    from verifier.strategy import Settings

    torch.set_num_threads(1)  # threads inside one operation hardly pay where processes take the cores
    jobs = args.jobs or len(os.sched_getaffinity(0))
    settings = Settings(args.method, args.solver, args.timeout, args.device, args.seed, jobs)
    settings.torch_device()
    return settings
