"""What a training run tells epoch by epoch: lines and a bar on stderr, log.jsonl, event files for TensorBoard."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from verifier.errors import InputError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from verifier.train.loop import EpochReport, Run


def train(args: argparse.Namespace, training: Run, folder: Path) -> None:
    """Run the epochs, one line each on stderr and in log.jsonl."""
    from verifier.train.workers import Workers

    if Workers.current().rank != 0:
        for _ in training:
            pass
        return
    if sum(training.config.growth) > training.config.epochs and not (args.quiet or args.json):
        print("note: the radius still grows when training ends; set a shorter warm_up or ramp", file=sys.stderr)
    board = tensorboard(folder) if args.tensorboard else None
    try:
        with log_file(folder / "log.jsonl", args.resume) as log, Display(args, training) as display:
            for report in training:
                log.write(json.dumps(asdict(report)) + "\n")
                log.flush()
                if board is not None:
                    for name, value in asdict(report).items():
                        board.add_scalar(name, value, report.epoch)
                display.show(report)
    finally:
        if board is not None:
            board.close()


def log_file(path: Path, resume: bool) -> TextIO:
    """The open log: empty, or with the whole lines of the run that goes on."""
    kept = path.read_text(encoding="utf-8").rpartition("\n")[0] if resume and path.exists() else ""
    file = path.open("w", encoding="utf-8")
    file.write(kept and kept + "\n")
    return file


class Display:
    """A line for every epoch on stderr, over a live bar on a terminal. Nothing with --quiet or --json."""

    def __init__(self, args: argparse.Namespace, training: Run) -> None:
        self.silent, self.training = args.quiet or args.json, training
        self.live: Any = None

    def __enter__(self) -> Self:
        if not self.silent and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self.live = Progress(console=Console(stderr=True), transient=True)
            self.live.start()
            self.live.add_task("epochs", total=self.training.config.epochs, completed=self.training.epoch)
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, report: EpochReport) -> None:
        """Take in an epoch."""
        if self.live is not None:
            self.live.console.print(epoch_line(report), markup=False, highlight=False, soft_wrap=True)
            self.live.update(self.live.task_ids[0], completed=report.epoch)
        elif not self.silent:
            print(epoch_line(report), file=sys.stderr, flush=True)


def tensorboard(folder: Path) -> SummaryWriter:
    """A writer of TensorBoard's event files. Raises InputError when the optional package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError('--tensorboard needs an optional package: pip install "verifier[tensorboard]"') from None
    return SummaryWriter(folder / "tensorboard")


def epoch_line(report: EpochReport) -> str:
    width = len(str(report.epochs))
    return (
        f"epoch {report.epoch:{width}d}/{report.epochs}  loss {report.loss:.4g}  eps {report.eps:.4g}  "
        f"clean {report.clean:.1%}  attacked {report.attacked:.1%}  certified {report.certified:.1%}  "
        f"{report.images_per_second:.0f} images/s"
    )
