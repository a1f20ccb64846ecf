"""The numbers of a run: accuracies, verdicts by radius, and what every stage did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verifier.batch.curve import Point, bisections, curve
from verifier.batch.merging import Results
from verifier.batch.records import ERROR, FALSIFIED, UNKNOWN, VERIFIED, Record, Run

ATTACKS = ("predict", "glance", "attack", "hunt")

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


@dataclass(frozen=True)
class Summary:
    """inputs: how many were asked about; answered: how many have a result. clean: inputs classified rightly.

    attacked: by radius, inputs that prediction and attacks left unbroken. points: the verdicts by radius.
    errors: results that are errors. seconds: of one core.
    """

    run: Run
    inputs: int
    answered: int
    clean: int
    attacked: tuple[int, ...]
    points: tuple[Point, ...]
    errors: int
    seconds: float

    @property
    def undecided(self) -> int:
        """Inputs without a verdict at some radius, unanswered ones included."""
        return max(self.inputs - point.verified - point.falsified for point in self.points)

    def share(self, count: int) -> str:
        """Of the inputs with a result, in percent."""
        return f"{100 * count / self.answered:.2f} %" if self.answered else "-"

    def sentence(self) -> str:
        """The result in one plain sentence."""
        run, eps = self.run, self.run.eps
        images = f"{self.inputs} {Path(run.dataset).stem} images"
        missing = self.inputs - self.answered
        what = f"of the {self.answered} of {images} with an answer" if missing else f"of {images}"
        later = f", {missing} have no answer yet" if missing else ""
        how = "certified" if run.certified else "proved"
        if len(eps) > 1:
            ends = (self.points[0], self.points[-1])
            first, last = (f"{p.verified} ({self.share(p.verified)}) within {p.eps}" for p in ends)
            most = max(point.undecided for point in self.points)
            left = f", up to {most} are undecided at some radius" if most else ""
            return f"{how.upper()}: {what} are {how} from {first} to {last} in {run.norm} distance{left}{later}."
        [point] = self.points
        proved = f"{point.verified} ({self.share(point.verified)}) are {how} within {run.norm} distance {eps[0]}"
        broken = f"{point.falsified} ({self.share(point.falsified)}) are broken"
        return f"{how.upper()}: {what} {proved}, {broken}, {point.undecided} are undecided{later}."

    def table(self) -> Table:
        """Accuracies by radius."""
        head = ("eps", "clean", "attack", "certified", "broken", "undecided")
        rows = []
        for point, unbroken in zip(self.points, self.attacked, strict=True):
            counts = (self.clean, unbroken, point.verified, point.falsified, point.undecided)
            rows.append((point.eps, *map(self.share, counts)))
        return head, rows

    def record(self) -> dict[str, Any]:
        """All of it for JSON."""
        named = {
            name: getattr(self.run, name) for name in ("model", "sha256", "dataset", "norm", "method", "semantics")
        }
        points = [
            {**vars(point), "attack": unbroken} for point, unbroken in zip(self.points, self.attacked, strict=True)
        ]
        counts = {
            name: getattr(self, name) for name in ("inputs", "answered", "clean", "undecided", "errors", "seconds")
        }
        return {**named, **counts, "radii": points}


def summary(results: Results, asked: Iterable[int] | None = None) -> Summary:
    """The numbers of the results. asked: the inputs that the run is about (default: all of its inputs)."""
    run, inputs = results.run, set(range(results.run.count) if asked is None else asked)
    place = {text: i for i, text in enumerate(run.eps)}
    records = [record for record in results.records.values() if record.eps in place and record.index in inputs]
    known = bisections(run.eps, records)
    broken: dict[int, int] = {}
    for record in records:
        if record.verdict == FALSIFIED and record.stage in ATTACKS:
            first = 0 if record.point is None else place[record.eps]
            broken[record.index] = min(first, broken.get(record.index, len(run.eps)))
    wrong = {record.index for record in records if record.verdict == FALSIFIED and record.point is None}
    return Summary(
        run=run,
        inputs=len(inputs),
        answered=len(known),
        clean=len(known) - len(wrong),
        attacked=tuple(len(known) - sum(first <= i for first in broken.values()) for i in range(len(run.eps))),
        points=tuple(curve(run.eps, known)),
        errors=sum(record.verdict == ERROR for record in records),
        seconds=sum(record.seconds for record in records),
    )


def stage_rows(records: Iterable[Record]) -> Table:
    """What every stage decided and took, over all results."""
    counted: dict[str, list[float]] = {}
    for record in records:
        for name, spent in record.stages.items():
            counted.setdefault(name, [0, 0, 0, 0.0])[3] += spent
            counted[name][0] += 1
        if record.stage in counted and record.decided:
            counted[record.stage][1 if record.verdict == VERIFIED else 2] += 1
    head = ("stage", "inputs", "proved", "broken", "seconds")
    rows = [(name, *(f"{value:.0f}" for value in each[:3]), f"{each[3]:.2f}") for name, each in counted.items()]
    return head, rows


def hardest(records: Iterable[Record], most: int = 10) -> Sequence[Record]:
    """The undecided results, then those that took longest."""
    return sorted(records, key=lambda record: (record.verdict not in (UNKNOWN, ERROR), -record.seconds))[:most]
