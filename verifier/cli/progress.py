"""The progress of a long run: a live line on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from verifier.batch.records import VERDICTS

if TYPE_CHECKING:
    from verifier.batch.certify import Certification
    from verifier.batch.records import Record

EVERY = 30.0  # seconds between two plain lines
RECENT = 60.0  # seconds over which the rate is taken: easy inputs come first


class Progress:
    """Counts per verdict, rate and time left, on stderr. Nothing with --quiet or --json."""

    def __init__(self, work: Certification, args: argparse.Namespace) -> None:
        self.work, self.verbose = work, args.verbose
        self.silent = args.quiet or args.json
        self.said = time.monotonic()
        self.marks = deque([(self.said, work.tally.done)])  # when so many were done: the last one before RECENT, and on
        self.live: Any = None

    def __enter__(self) -> Self:
        if not self.silent and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), TextColumn("{task.description}", markup=False))
            self.live = Bar(*columns, console=Console(stderr=True), transient=True)
            self.live.start()
            self.live.add_task(self.line(), total=self.work.tally.total, completed=self.work.tally.done)
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.live is not None:
            self.live.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def show(self, records: Sequence[Record]) -> None:
        """Take in results."""
        if self.silent:
            return
        now = time.monotonic()
        self.marks.append((now, self.work.tally.done))
        while self.marks[1][0] < now - RECENT:
            self.marks.popleft()
        if self.verbose:
            for record in records:
                self.say(told(record))
        if self.live is not None:
            self.live.update(self.live.task_ids[0], completed=self.work.tally.done, description=self.line())
        elif now - self.said > EVERY:
            self.said = now
            self.say(self.line())

    def line(self) -> str:
        tally = self.work.tally
        counts = ", ".join(f"{tally.verdicts[word]} {word}" for word in VERDICTS if tally.verdicts[word])
        began, before = self.marks[0]
        spent = time.monotonic() - began
        rate = (tally.done - before) / spent if spent else 0.0
        left = f", {rate:.1f}/s, {clock((tally.total - tally.done) / rate)} left" if rate else ""
        return f"{tally.done}/{tally.total} inputs{left}{': ' if counts else ''}{counts}"


def told(record: Record) -> str:
    """A result in one line."""
    margin = "" if record.proved is None else f", margin >= {record.proved:.4g}"
    why = f" ({record.reason})" if record.reason else ""
    stage = f" by {record.stage}" if record.stage else ""
    return f"input {record.index}, eps {record.eps}: {record.verdict}{stage}{margin}{why}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
