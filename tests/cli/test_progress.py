"""What a long run says of itself, on a terminal and elsewhere."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from verifier.batch.certify import Tally
from verifier.batch.records import FALSIFIED, VERIFIED, Record
from verifier.cli import progress
from verifier.cli.progress import Progress, clock, told

RECORD = Record(3, "0.1", 1, 1, VERIFIED, "crown", 0.5, proved=1.25)


def work() -> Any:
    return SimpleNamespace(tally=Tally(total=10, done=4, verdicts=Counter({VERIFIED: 3, FALSIFIED: 1})))


def options(**given: bool) -> argparse.Namespace:
    return argparse.Namespace(**{"quiet": False, "json": False, "verbose": False, **given})


def test_counts_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress(work(), options())
    assert shown.line() == "4/10 inputs: 3 VERIFIED, 1 FALSIFIED"
    shown.work.tally.done, now = 6, 4.0
    assert shown.line() == "6/10 inputs, 0.5/s, 0:08 left: 3 VERIFIED, 1 FALSIFIED"
    now = 5.0
    shown.show([RECORD])
    now = 105.0
    shown.show([RECORD])
    shown.work.tally.done = 7
    assert shown.line() == "7/10 inputs, 0.0/s, 5:00 left: 3 VERIFIED, 1 FALSIFIED"  # the rate of late


def test_plain_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[-1])
    with Progress(work(), options()) as shown:
        for moment in (1.0, 29.0, 31.0, 32.0):
            now.append(moment)
            shown.show([RECORD])
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("4/10 inputs")


def test_verbose_tells_every_result_and_quiet_none(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ({"verbose": True}, {"quiet": True}, {"json": True}):
        with Progress(work(), options(**given)) as shown:
            shown.show([RECORD])
    assert capsys.readouterr().err == "input 3, eps 0.1: VERIFIED by crown, margin >= 1.25\n"


def test_a_terminal_gets_a_live_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(work(), options()) as shown:
        assert shown.live is not None
        shown.work.tally.done = 5
        shown.show([RECORD])
        assert shown.live.tasks[0].completed == 5 and "5/10" in shown.live.tasks[0].description
        shown.say("a line that stays [not markup]")
    assert "a line that stays [not markup]" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36000, "10:00:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_result_without_a_margin_says_why() -> None:
    record = Record(3, "0.1", 1, 1, "ERROR", "", 0.5, reason="it died")
    assert told(record) == "input 3, eps 0.1: ERROR (it died)"
