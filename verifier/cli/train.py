"""`verifier train`: train a network, certify it, and write its weights and model card."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.cli import options
from verifier.cli.epochs import train
from verifier.cli.output import print_json, print_table, progress
from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.data import Dataset
    from verifier.train.config import Config
    from verifier.train.evaluate import Evaluation
    from verifier.train.loop import Run

DESCRIPTION = "Train a network that can be proved robust, certify it on the test set, and write its model card."
EPILOG = (
    "Several processes: `torchrun --nproc-per-node N -m verifier train ...`. "
    "Exit codes: 0 trained, 2 error, 130 stopped by Ctrl-C."
)
REQUIRED = {"dataset": None, "arch": "conv_small", "method": None, "eps": None}
PROVED_BY = {
    "interval": "proved by intervals",
    "crown_ibp": "and CROWN-IBP",
    "crown": "and CROWN",
    "complete": "and branch and bound",
}


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser(
        "train", help="train a provably robust network", description=DESCRIPTION, epilog=EPILOG
    )
    group = parser.add_argument_group("what")
    group.add_argument("--dataset", metavar="NAME", help="digits, mnist or FILE.npz with `images` and `labels`")
    group.add_argument("--arch", metavar="NAME", help="architecture (`verifier supports`; default: conv_small)")
    group.add_argument("--method", metavar="M", help="training method (`verifier supports`)")
    group.add_argument("--eps", metavar="E", help="linf radius to be robust at, in data units: 0.1 or 8/255")
    group.add_argument("--epochs", metavar="N", type=options.count, help="passes over the training set (default: 30)")
    group.add_argument("--seed", metavar="N", type=options.natural, help="of weights, order and noise (default: 0)")
    group.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any other field of the configuration, such as lr=0.001 or options.alpha=0.02",
    )
    group.add_argument(
        "--config", metavar="FILE", help="start from a configuration: a run's DIR/config.json, or a model card"
    )
    group = parser.add_argument_group("how")
    group.add_argument("--resume", action="store_true", help="go on from the last epoch in --out DIR")
    options.add_device(group)
    options.add_threads(group)
    group.add_argument(
        "--test",
        metavar="NAME",
        help="data set to certify on (default: the test images of --dataset; an .npz has none)",
    )
    group.add_argument("--limit", metavar="N", type=options.count, help="certify only the first N test images")
    group.add_argument(
        "--timeout",
        metavar="S",
        type=options.positive,
        help="seconds of branch and bound for each image that CROWN leaves open (default: none is run)",
    )
    group = options.add_output(parser)
    group.add_argument("--tensorboard", action="store_true", help="also write event files to DIR/tensorboard")
    group.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="folder for config.json, checkpoint.pt, log.jsonl, model.pt and model.json",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from verifier.data import load_dataset
    from verifier.strategy import Settings
    from verifier.train.loop import Run
    from verifier.train.workers import Workers, process_group

    options.limit_threads(args)
    config, folder = configuration(args), Path(args.out)
    with process_group(Settings(device=args.device).torch_device().type) as device, writing_to(folder):
        data = load_dataset(config.dataset, "train")
        test = test_images(args, config, data)
        training = Run(config, data, folder, args.resume, device)
        with telling_the_way_on(training, folder):
            train(args, training, folder)
            if Workers.current().rank == 0:
                certify(args, training, folder, test)
    return 0


def test_images(args: argparse.Namespace, config: Config, data: Dataset) -> Dataset:
    """What to certify on: the first --limit images of --test, else of the test split, else of those held out.

    data: the training images. Raises InputError where there are none, or of another kind.
    """
    from verifier.data import load_dataset

    test = load_dataset(args.test or config.dataset, "test")
    if args.test is None and config.dataset.endswith(".npz"):
        if config.holdout == 0:
            way_out = "give --test FILE.npz, or keep some out with --set holdout=N"
            raise InputError(f"{config.dataset}: an .npz has no test images of its own; {way_out}")
        test = replace(test, images=test.images[-config.holdout :], labels=test.labels[-config.holdout :])
    if (test.lower, test.upper) != (data.lower, data.upper):
        ranges = (f"[{d.lower:g}, {d.upper:g}]" for d in (test, data))
        raise InputError(f"{args.test}: the data range {' is not that of the training images, '.join(ranges)}")
    if (test.shape, test.classes) != (data.shape, data.classes):
        kinds = (f"{d.shape} in {d.classes} classes" for d in (test, data))
        raise InputError(f"{args.test}: images {' are unlike the training images '.join(kinds)}")
    return replace(test, images=test.images[: args.limit], labels=test.labels[: args.limit])


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raises InputError where a file in the folder cannot be written."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder  # a full disk is told without a name
        raise InputError(f"{where}: cannot be written ({error.strerror}); give another --out") from error


@contextmanager
def telling_the_way_on(training: Run, folder: Path) -> Iterator[None]:
    """One line on stderr, and the end of the process, when the run is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if training.workers.rank == 0:
            done = f"after epoch {training.epoch}" if training.epoch else "before the first epoch was done"
            way_on = f"; go on with: verifier train --out {folder} --resume" if training.epoch else ""
            print(f"verifier: interrupted {done}{way_on}", file=sys.stderr)
        raise SystemExit(options.INTERRUPTED) from None


def configuration(args: argparse.Namespace) -> Config:
    """The run that the options describe. Raises InputError when one is missing or out of range."""
    from verifier.spec.robustness import parse_eps
    from verifier.train.config import parse_config, read_config

    folder, path = Path(args.out), args.config
    if args.resume and path is None:
        path = folder / "config.json"
    raw: dict[str, Any] = dict(REQUIRED) if path is None else asdict(read_config(Path(path)))
    if args.eps is not None:
        args.eps = float(parse_eps(args.eps))
    for name in (*REQUIRED, "epochs", "seed"):
        if getattr(args, name) is not None:
            raw[name] = getattr(args, name)
    for assignment in args.set:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set wants NAME=VALUE, not '{assignment}'")
        _assign(raw, name, text)
    for name in REQUIRED:
        if raw.get(name) is None:
            raise InputError(f"--{name} is missing (or --config FILE)")
    return parse_config(raw)


def _assign(raw: dict[str, Any], name: str, text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if name.startswith("options."):
        given = raw.setdefault("options", {})
        if not isinstance(given, dict):
            raise InputError(f"--set {name} does not fit options {given!r}, which must be an object")
        raw["options"] = {**given, name.removeprefix("options."): value}
    else:
        raw[name] = value


def certify(args: argparse.Namespace, training: Run, folder: Path, test: Dataset) -> None:
    """Evaluate the model, write weights and card, and print what was proved."""
    from verifier.train.card import certified
    from verifier.train.finish import finish

    config, weights = training.config, folder / "model.pt"
    if sys.stderr.isatty() and not (args.quiet or args.json):
        print(f"certifying {len(test)} test images of {test.name}", file=sys.stderr, flush=True)
    # A command that goes on with a run repeats none; the configuration in the card does.
    again = f"verifier train --config {weights.with_suffix('.json')} --out DIR"
    command = again if args.resume else args.command_line
    card, evaluation = finish(training, weights, test, args.timeout, command, args.test, progress(args))
    if args.json:
        record = {"command": "train", "model": str(weights), "sha256": card.sha256, "images": evaluation.images}
        print_json({**record, "seconds": training.seconds, "card": asdict(card)})
        return
    best = certified(evaluation)[-1]
    print(
        f"TRAINED: {weights} ({config.arch}, {config.method}, {training.seconds / 60:.1f} CPU minutes) is right on "
        f"{evaluation.clean:.2%} of {len(test)} test images of {test.name}, and proved robust at linf eps "
        f"{config.eps:g} on {best.accuracy:.2%}; {evaluation.attacked:.2%} withstood the attack.",
        flush=True,
    )
    if not args.quiet:
        print_table(("test images that are", "percent"), rows(evaluation))
        print(f"written: {weights}\nwritten: {weights.with_suffix('.json')}")
        if evaluation.clean <= float(test.labels.bincount().max()) / len(test):
            print("note: one class, given always, would be right as often: train longer, or with another lr or eps")


def rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The table of an evaluation, from what is easily had to what is proved."""
    from verifier.train.card import certified

    entries = [(PROVED_BY[entry.method], entry.accuracy) for entry in certified(evaluation)]
    both = [("right", evaluation.clean), ("right under attack (PGD)", evaluation.attacked)]
    return [(name, f"{100 * value:.2f}") for name, value in both + entries]
