"""Draw what training methods buy: python scripts/figure_training.py --out figure.png [--limit 1000] [--timeout 1].

Left: test error at linf radius 0.1 of standard, PGD and certified training, under no attack, FGSM, PGD, and as proved,
where an image that is not proved robust is an error. Middle and right: error under PGD against the size of the attack
in linf and l2, for plain training and the losses that Finlay and Oberman (2018) compare. The models are in models/. The
numbers go to a JSON file beside the picture; --redraw draws that file again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import nn

from verifier.attack.pgd import Fgsm, Pgd
from verifier.data import Dataset, load_dataset
from verifier.errors import InputError, VerifierError
from verifier.train.complete import complete
from verifier.train.evaluate import accuracy, evaluate
from verifier.zoo import build, card_path, read_card

MODELS = Path(__file__).parents[1] / "models"
RADIUS = 0.1
BARS = {"standard": "mnist_conv", "PGD": "mnist_conv_pgd", "certified (MTL-IBP)": "mnist_conv_mtl_ibp_long"}
CURVES = {"baseline": "mnist_conv", "FGSM": "mnist_conv_fgsm", "l2": "mnist_conv_l2", "tulip": "mnist_conv_tulip"}
SIZES = {"linf": (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2), "l2": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)}
ATTACK = Pgd(steps=20)

SYMBOLS = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$"}
COLOURS = ("#4c4c4c", "#d1731f", "#1f6fb4", "#2a9460")
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.titleweight": "bold",
         "axes.titlelocation": "left", "axes.titlesize": 10.5, "font.size": 9.5, "legend.frameon": False}  # fmt: skip
Errors = dict[str, dict[str, list[float]]]


def load(name: str) -> nn.Sequential:
    """A model of the zoo. Raises InputError when its inputs are normalised, which is not drawn."""
    weights = MODELS / f"{name}.pt"
    card = read_card(card_path(weights))
    if card.mean is not None:
        raise InputError(f"{weights}: models with an input normalisation are not drawn")
    model = build(card.arch, card.input_shape, card.classes)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def percent_wrong(model: nn.Module, data: Dataset, attack: Fgsm | Pgd, norm: str, eps: float) -> float:
    """The percentage of images that are wrong, or wrong at the point which the attack finds."""
    return 100 * (1 - accuracy(model, data, eps, attack, norm))


def four_errors(model: nn.Module, data: Dataset, timeout: float | None) -> list[float]:
    """Percent of errors at `RADIUS`: under no attack, FGSM, PGD, and of what is not proved."""
    decide = None if timeout is None else complete(model, data, RADIUS, timeout)
    found = evaluate(model, data, RADIUS, complete=decide, timeout=timeout)
    proved = found.certified["crown"] if found.complete is None else found.complete
    fgsm = percent_wrong(model, data, Fgsm(), "linf", RADIUS)
    return [100 * (1 - found.clean), fgsm, 100 * (1 - found.attacked), 100 * (1 - proved)]


def measure(data: Dataset, timeout: float | None) -> Errors:
    """All that is drawn: errors by panel and label."""
    errors: Errors = {"bars": {}, "linf": {}, "l2": {}}
    for label, name in BARS.items():
        errors["bars"][label] = four_errors(load(name), data, timeout)
        print("bars", label, [f"{e:.1f}" for e in errors["bars"][label]], flush=True)
    for norm, sizes in SIZES.items():
        for label, name in CURVES.items():
            model = load(name)
            errors[norm][label] = [percent_wrong(model, data, ATTACK, norm, eps) for eps in sizes]
            print(norm, label, [f"{e:.1f}" for e in errors[norm][label]], flush=True)
    return errors


def draw(errors: Errors, out: Path) -> None:
    """The three panels, as a picture."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(12, 3.7), layout="constrained", width_ratios=(1.35, 1, 1))
        draw_bars(axes[0], errors["bars"])
        for place, norm in zip(axes[1:], SIZES, strict=True):
            draw_curves(place, errors[norm], norm, SIZES[norm])
        for place in axes:
            place.set(ylabel="test error, %", ylim=(0, 108), yticks=range(0, 101, 20))
            place.grid(axis="y", color="#dddddd", linewidth=0.7)
        figure.savefig(out, dpi=110)
        plt.close(figure)


def draw_bars(axes: Axes, errors: dict[str, list[float]]) -> None:
    """Error at one radius, from no attack to what is not proved."""
    colours = (COLOURS[0], COLOURS[1], COLOURS[2])
    for place, ((label, heights), colour) in enumerate(zip(errors.items(), colours, strict=True)):
        bars = axes.bar([k + 0.28 * (place - 1) for k in range(4)], heights, 0.26, label=label, color=colour)
        axes.bar_label(bars, fmt="%.1f", fontsize=7.5, padding=1)
    axes.set(title=f"Errors at {SYMBOLS['linf']} radius {RADIUS}, by what is counted")
    axes.set_xticks(range(4), ("no attack", "FGSM", "PGD", "not proved"))
    axes.tick_params(axis="x", length=0)
    axes.legend(title="training", loc="upper left", alignment="left")


def draw_curves(axes: Axes, errors: dict[str, list[float]], norm: str, sizes: Sequence[float]) -> None:
    """Error under PGD against the size of the attack."""
    lines: dict[str, Any] = dict(zip(errors, zip(COLOURS, "osD^", strict=True), strict=True))
    for label, (colour, marker) in lines.items():
        axes.plot(sizes, errors[label], color=colour, marker=marker, markersize=4, linewidth=1.6, label=label)
    axes.set(title=f"Errors under PGD in {SYMBOLS[norm]}", xlabel=f"{SYMBOLS[norm]} radius of the attack")
    axes.set_xlim(0, sizes[-1])
    axes.legend(title="training", loc="upper left", alignment="left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the picture, FILE.png; its numbers go to FILE.json")
    parser.add_argument("--limit", type=int, default=1000, help="the first so many test images (default: 1000)")
    parser.add_argument("--timeout", type=float, help="seconds of branch and bound an image (default: CROWN alone)")
    parser.add_argument("--redraw", action="store_true", help="draw the numbers of an earlier call")
    arguments = parser.parse_args()
    numbers = arguments.out.with_suffix(".json")
    if not arguments.redraw:
        torch.set_num_threads(1)
        whole = load_dataset("mnist", "test")
        data = replace(whole, images=whole.images[: arguments.limit], labels=whole.labels[: arguments.limit])
        numbers.write_text(json.dumps(measure(data, arguments.timeout), indent=2) + "\n", encoding="utf-8")
    draw(json.loads(numbers.read_text(encoding="utf-8")), arguments.out)


if __name__ == "__main__":
    try:
        main()
    except VerifierError as error:
        sys.exit(f"error: {error}")
