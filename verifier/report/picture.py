"""PNG pictures: a counterexample beside its input, and the bounds of every layer.

Figures are drawn by matplotlib's Agg backend without pyplot, so that no display and no global state is involved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from verifier.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from verifier.types import Interval

DPI = 150
INPUT, CHANGED, DIFFERENCE = "#4c78a8", "#e45756", "#54585a"
BANDS = ("#c9d6e3", "#7fa3c7", "#2f6690", "#f2a65a", "#8f3b76")
MOST_BARS = 64


def save_counterexample(
    path: str | Path,
    x: np.ndarray,
    adversarial: np.ndarray,
    label_before: int,
    label_after: int,
    eps: float,
    *,
    norm: str = "linf",
    lower: float = 0.0,
    upper: float = 1.0,
) -> None:
    """Draw the input x, the adversarial input and their difference magnified, with the predictions of both.

    x, adversarial: arrays (channels, height, width) or (height, width, channels) with 1 or 3 channels, or (height,
    width), are drawn as images in the data range [lower, upper]; any other shape as bars over the flat index. Raises
    InputError when `path` cannot be written.
    """
    x, adversarial = np.asarray(x, dtype=np.float64), np.asarray(adversarial, dtype=np.float64)
    before, after = f"input: class {label_before}", f"adversarial input: class {label_after}"
    if _is_image(x):
        figure = _images(_drawable(x), _drawable(adversarial), before, after, lower, upper)
    else:
        figure = _bars(x.ravel(), adversarial.ravel(), before, after)
    distance = _distance(x - adversarial, norm)
    figure.suptitle(f"{norm} distance {distance:.4g} (eps {eps:.4g})", fontsize=11)
    _save(figure, path)


def save_bounds(path: str | Path, bounds: Mapping[str, Mapping[str, Interval]]) -> None:
    """Draw the bounds of every layer, one panel each, one band for each method: {method: {layer name: Interval}}.

    Intervals have shape (1, *shape). Wide bands lie behind tight ones; neurons are sorted by the centre of the
    tightest. Raises InputError when `path` cannot be written or there is nothing to draw.
    """
    layers = list(next(iter(bounds.values()), {}))
    if not layers:
        raise InputError("there are no bounds to plot: the network has no layer that a nonlinear op reads")
    columns = min(len(layers), 2 if len(layers) == 4 else 3)
    rows = math.ceil(len(layers) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, layer in zip(panels, layers, strict=False):
        _bands(panel, layer, {method: intervals[layer] for method, intervals in bounds.items()})
    for panel in panels[len(layers) :]:
        panel.set_axis_off()
    _save(figure, path)


def _bands(panel: Axes, layer: str, intervals: Mapping[str, Interval]) -> None:
    ordered = sorted(intervals.items(), key=lambda item: float(item[1].radius.sum()), reverse=True)
    order = np.argsort(_flat(ordered[-1][1].center))
    place = np.arange(len(order) + 1) - 0.5
    for count, (method, interval) in enumerate(ordered):
        lower, upper = _flat(interval.lower)[order], _flat(interval.upper)[order]
        crossing = int(((lower < 0) & (upper > 0)).sum())
        # A step needs its last value twice: the band of neuron i goes from i - 1/2 to i + 1/2.
        low, high = np.append(lower, lower[-1:]), np.append(upper, upper[-1:])
        label = f"{method}: {crossing} cross 0"
        panel.fill_between(place, low, high, step="post", color=BANDS[count % len(BANDS)], label=label, linewidth=0)
    panel.axhline(0, color="black", linewidth=0.8)
    panel.set_title(f"{layer} ({len(order)} neurons)", fontsize=10)
    panel.set_xlabel("neuron, sorted", fontsize=9)
    panel.set_ylabel("bounds", fontsize=9)
    panel.set_xlim(place[0], place[-1])
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.tick_params(labelsize=8)
    panel.legend(fontsize=8, loc="upper left", framealpha=0.9)


def _flat(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy().ravel()


def _images(x: np.ndarray, adversarial: np.ndarray, before: str, after: str, lower: float, upper: float) -> Figure:
    """Three panels; the difference is magnified until its largest entry, up or down, fills the colour scale."""
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    panels = figure.subplots(1, 3)
    for panel, image, title in zip(panels, (x, adversarial), (before, after), strict=False):
        shown = np.clip((image - lower) / (upper - lower), 0, 1)
        panel.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(title, fontsize=11)
    difference = adversarial - x
    largest = float(np.abs(difference).max())
    title = f"difference \u00d7 {(upper - lower) / (2 * largest):.3g}" if largest > 0 else "no difference"
    if difference.ndim == 2:
        scale = largest or 1.0
        drawn = panels[2].imshow(difference, cmap="RdBu_r", vmin=-scale, vmax=scale, interpolation="nearest")
        figure.colorbar(drawn, ax=panels[2], shrink=0.8).ax.tick_params(labelsize=8)
    else:
        # Gray is no change; a channel goes from gray to full, or to none, at the largest change.
        panels[2].imshow(0.5 + 0.5 * difference / (largest or 1.0), interpolation="nearest")
    panels[2].set_title(title, fontsize=11)
    for panel in panels:
        panel.set_xticks([])
        panel.set_yticks([])
    return figure


def _bars(x: np.ndarray, adversarial: np.ndarray, before: str, after: str) -> Figure:
    """Both inputs above, their difference below, over the flat index; many values are drawn as steps."""
    figure = Figure(figsize=(9.6, 4.8), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    index = np.arange(x.size)
    if x.size <= MOST_BARS:
        top.bar(index - 0.2, x, 0.4, color=INPUT, label=before)
        top.bar(index + 0.2, adversarial, 0.4, color=CHANGED, label=after)
        bottom.bar(index, adversarial - x, 0.6, color=DIFFERENCE)
    else:
        top.step(index, x, where="mid", color=INPUT, linewidth=0.9, label=before)
        top.step(index, adversarial, where="mid", color=CHANGED, linewidth=0.9, label=after)
        bottom.fill_between(index, adversarial - x, step="mid", color=DIFFERENCE, linewidth=0)
    top.set_ylabel("value")
    top.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=2, frameon=False)
    bottom.axhline(0, color="black", linewidth=0.8)
    bottom.set_ylabel("difference")
    bottom.set_xlabel("input coordinate")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _is_image(x: np.ndarray) -> bool:
    """At least two pixels in each direction, gray or RGB, channels first or last."""
    shape = x.shape
    if x.ndim == 3 and shape[0] not in (1, 3):
        shape = (shape[2], *shape[:2])
    return (x.ndim == 2 or (x.ndim == 3 and shape[0] in (1, 3))) and min(shape[-2:]) > 1


def _drawable(x: np.ndarray) -> np.ndarray:
    """The image as matplotlib wants it: (height, width), or (height, width, 3)."""
    if x.ndim == 3 and x.shape[0] in (1, 3):
        x = x.transpose(1, 2, 0)
    return x[..., 0] if x.shape[2:] == (1,) else x


def _distance(step: np.ndarray, norm: str) -> float:
    return float(np.linalg.norm(step.ravel(), ord={"linf": np.inf, "l2": 2, "l1": 1}[norm]))


def _save(figure: Figure, path: str | Path) -> None:
    FigureCanvasAgg(figure)
    try:
        figure.savefig(path, dpi=DPI, format="png")
    except OSError as error:
        raise InputError(f"{path}: cannot write the picture ({error.strerror}); choose another place") from error
