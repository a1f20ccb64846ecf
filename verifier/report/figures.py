"""The figures of a report: accuracy against eps, margins, time by stage, unstable neurons, counterexamples.

Figures are drawn without pyplot, so that no display and no global state is involved.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from verifier.batch.merging import Results
from verifier.batch.records import FALSIFIED, VERIFIED, Record, decoded
from verifier.report.summary import Summary, stage_rows

DPI = 110
COLOURS = ("#2f6690", "#e45756", "#3a7d44", "#8f3b76", "#f2a65a", "#54585a")
BINS = 40
MOST_EXAMPLES = 12

Runs = Mapping[str, Results]  # by the name that the report gives each run


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, format="png")
    return content.getvalue()


def panels(runs: Runs, width: float = 5.2, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure with one titled panel for each run."""
    columns = min(len(runs), 2)
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for panel, name in zip(axes, runs, strict=False):
        panel.set_title(name, fontsize=10)
        panel.tick_params(labelsize=8)
    for panel in axes[len(runs) :]:
        panel.set_axis_off()
    return figure, axes


def accuracy(totals: Mapping[str, Summary]) -> Figure:
    """Certified accuracy against eps for every run, with what attacks leave as an upper limit; clean accuracy at 0."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    panel = figure.subplots()
    for i, (name, total) in enumerate(totals.items()):
        colour, all_ = COLOURS[i % len(COLOURS)], max(total.answered, 1)
        eps = [0.0] + [point.radius for point in total.points]
        proved = [total.clean] + [point.verified for point in total.points]
        unbroken = [total.clean] + [total.answered - point.falsified for point in total.points]
        proved_share, unbroken_share = ([100 * count / all_ for count in side] for side in (proved, unbroken))
        panel.plot(eps, proved_share, marker="o", markersize=4, color=colour, label=f"{name}: certified")
        panel.plot(eps, unbroken_share, linestyle="--", color=colour, linewidth=1, label=f"{name}: not broken")
        panel.fill_between(eps, proved_share, unbroken_share, color=colour, alpha=0.15, linewidth=0)
    panel.set_xlabel("eps")
    panel.set_ylabel("% of inputs")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


def margins(runs: Runs) -> Figure:
    """How large the proved margins are, and the least margins found where there is none."""
    figure, axes = panels(runs)
    for panel, results in zip(axes, runs.values(), strict=False):
        records = results.records.values()
        proved = [r.proved for r in records if r.verdict == VERIFIED and r.proved is not None]
        found = [r.found for r in records if r.verdict == FALSIFIED and r.found is not None]
        everything = [*proved, *found]
        if everything:
            width = (max(everything) - min(everything)) / BINS or 1.0
            bins = width * np.arange(
                np.floor(min(everything) / width), np.ceil(max(everything) / width) + 1
            )  # 0 is one
            panel.hist(proved, bins=list(bins), color=COLOURS[0], label="proved lower bound, VERIFIED")
            panel.hist(found, bins=list(bins), color=COLOURS[1], label="least margin found, FALSIFIED")
            panel.legend(fontsize=8)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_xlabel("margin", fontsize=9)
        panel.set_ylabel("results", fontsize=9)
    return figure


def stages(runs: Runs) -> Figure:
    """The seconds of every stage, and how many results each one decided."""
    figure, axes = panels(runs)
    for panel, results in zip(axes, runs.values(), strict=False):
        _, rows = stage_rows(results.records.values())
        names = [row[0] for row in rows]
        panel.barh(names, [float(row[4]) for row in rows], color=COLOURS[0])
        for i, row in enumerate(rows):
            panel.annotate(f"  {row[2]} proved, {row[3]} broken", (float(row[4]), i), va="center", fontsize=8)
        panel.invert_yaxis()
        panel.margins(x=0.45)
        panel.set_xlabel("seconds of one core", fontsize=9)
    return figure


def unstable(runs: Runs) -> Figure:
    """How many neurons of every layer the last bounds leave unstable, over the inputs that reached backward bounds."""
    figure, axes = panels(runs)
    for panel, results in zip(axes, runs.values(), strict=False):
        counts = [record.unstable for record in results.records.values() if record.unstable]
        if counts:
            panel.boxplot(list(np.array(counts).T), whis=(0, 100))
            panel.set_xticks(range(1, len(counts[0]) + 1), results.run.layers, fontsize=8)
        panel.set_ylabel("unstable neurons an input", fontsize=9)
        panel.set_ylim(bottom=0)
    return figure


@dataclass(frozen=True, eq=False)
class Example:
    """A counterexample with its input, both as pictures: (height, width), or (height, width, 3)."""

    record: Record
    before: np.ndarray
    after: np.ndarray


def examples(results: Results, images: np.ndarray, most: int = MOST_EXAMPLES) -> list[Example]:
    """The counterexamples nearest to their limit: those of the largest margin, which are the hardest to see.

    images: the data set's, (n, *shape). Empty when these are no pictures.
    """
    broken = [r for r in results.records.values() if r.point is not None and r.index < len(images)]
    broken.sort(key=lambda record: -(record.found if record.found is not None else -np.inf))
    found = []
    for record in broken[:most]:
        before = drawable(images[record.index])
        after = drawable(decoded(str(record.point), images.shape[1:]))
        if before is not None and after is not None:
            found.append(Example(record, before, after))
    return found


def drawable(x: np.ndarray) -> np.ndarray | None:
    """The picture of a gray or RGB image, channels first or last or none; None of anything else."""
    if x.ndim == 3 and x.shape[0] in (1, 3):
        x = x.transpose(1, 2, 0)
    if x.ndim == 3 and x.shape[2] == 1:
        x = x[:, :, 0]
    return x if x.ndim == 2 or (x.ndim == 3 and x.shape[2] == 3) else None


def gallery(found: Sequence[Example], lower: float = 0.0, upper: float = 1.0) -> Figure:
    """Rows of an input, its counterexample and their difference, magnified until it fills the scale."""
    columns = 2 if len(found) > 1 else 1
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4.8 * columns, 1.9 * rows))
    panel = figure.add_axes((0, 0, 1, 1))  # one for all: a panel for every picture takes ten times as long
    panel.set_axis_off()
    for i, example in enumerate(found):
        difference = example.after - example.before
        scale = float(np.abs(difference).max()) or 1.0
        before, after = (np.clip((x - lower) / (upper - lower), 0, 1) for x in (example.before, example.after))
        shown = difference / scale if difference.ndim == 2 else 0.5 + 0.5 * difference / scale
        record = example.record
        titles = (
            f"input {record.index}: {record.label}",
            f"eps {record.eps}, {record.stage}",
            f"difference x {1 / scale:.3g}",
        )
        for k, picture in enumerate((before, after, shown)):
            left, top = 3 * (i % columns) + k, i // columns
            colours, least = ("gray", 0) if k < 2 else ("RdBu_r", -1)
            panel.imshow(picture, extent=_within(picture, left, top), cmap=colours, vmin=least, vmax=1)
            panel.text(left + 0.5, top + 0.14, titles[k], fontsize=8, ha="center", va="bottom")
    panel.set(xlim=(0, 3 * columns), ylim=(rows, 0), aspect="auto")
    return figure


def _within(picture: np.ndarray, left: int, top: int) -> tuple[float, float, float, float]:
    """Where a picture is drawn in its cell, below a title: left, right, bottom and top, each cell 1.6 by 1.9 inches."""
    height, width = picture.shape[:2]
    size = 1.5 / max(height, width)  # inches a pixel
    across, down = width * size / 1.6 / 2, height * size / 1.9
    return left + 0.5 - across, left + 0.5 + across, top + 0.17 + down, top + 0.17
