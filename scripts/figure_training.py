"""Draw what training methods buy: python scripts/figure_training.py --out figure.png [--limit 1000] [--timeout 1].

Left: test error at linf radius 0.1 of plain, PGD and certified training, under no attack, FGSM, PGD, and as proved,
where an image that is not proved robust is an error. Middle and right: error under PGD against the size of the attack
in linf and l2, for plain training and the losses that Finlay and Oberman (2018) compare. The models are in models/.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import nn

from verifier.attack.pgd import Fgsm, Pgd
from verifier.data import Dataset, load_dataset
from verifier.errors import InputError
from verifier.spec.robustness import label_margin
from verifier.train.complete import complete
from verifier.train.evaluate import evaluate
from verifier.types import Ball, Box
from verifier.zoo import build, card_path, read_card

MODELS = Path(__file__).parents[1] / "models"
RADIUS = 0.1
BARS = {"plain": "mnist_conv", "PGD": "mnist_conv_pgd", "MTL-IBP": "mnist_conv_mtl_ibp_long"}
CURVES = {"plain": "mnist_conv", "FGSM": "mnist_conv_fgsm", "l2": "mnist_conv_l2", "tulip": "mnist_conv_tulip"}
SIZES = {"linf": (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2), "l2": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)}
ATTACK = Pgd(steps=40, restarts=2)


def load(name: str) -> nn.Sequential:
    """A model of the zoo. Raises InputError when its inputs are normalised, which is not drawn."""
    weights = MODELS / f"{name}.pt"
    card = read_card(card_path(weights))
    if card.mean is not None:
        raise InputError(f"{weights}: models with an input normalisation are not drawn")
    model = build(card.arch, card.input_shape, card.classes)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def region(data: Dataset, norm: str, eps: float) -> Box:
    """The ball around every image, within the data range."""
    x = data.images
    box = Box((x - eps).clamp(min=data.lower), (x + eps).clamp(max=data.upper))
    return box if norm == "linf" else Ball(box.lower, box.upper, x, torch.full((len(x),), eps), 2)


def error(model: nn.Sequential, data: Dataset, attack: Fgsm | Pgd, norm: str, eps: float) -> float:
    """The percentage of images that are wrong at the point which the attack finds."""
    wrong = attack(model, region(data, norm, eps), label_margin(data.labels)).margin <= 0
    return 100 * wrong.double().mean().item()


def draw_bars(axes: Axes, data: Dataset, timeout: float | None) -> None:
    """Error at one radius, from no attack to what is not proved."""
    kinds = ("no attack", "FGSM", "PGD", "not proved")
    for place, (label, name) in enumerate(BARS.items()):
        model = load(name)
        decide = None if timeout is None else complete(model, data, RADIUS, timeout)
        found = evaluate(model, data, RADIUS, complete=decide, timeout=timeout)
        proved = found.certified["crown"] if found.complete is None else found.complete
        fgsm = error(model, data, Fgsm(), "linf", RADIUS)
        errors = [100 * (1 - found.clean), fgsm, 100 * (1 - found.attacked), 100 * (1 - proved)]
        bars = axes.bar([k + 0.27 * (place - 1) for k in range(len(kinds))], errors, 0.25, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
        print(label, dict(zip(kinds, (f"{e:.2f}" for e in errors), strict=True)), flush=True)
    axes.set(title=f"linf radius {RADIUS}", ylabel="test error, percent", ylim=(0, 108))
    axes.set_xticks(range(len(kinds)), kinds)


def draw_curves(axes: Axes, data: Dataset, norm: str, sizes: Sequence[float]) -> None:
    """Error under PGD against the size of the attack."""
    for label, name in CURVES.items():
        model = load(name)
        errors = [error(model, data, ATTACK, norm, eps) for eps in sizes]
        axes.plot(sizes, errors, marker=".", label=label)
        print(norm, label, [f"{e:.1f}" for e in errors], flush=True)
    axes.set(title=f"PGD in {norm}", xlabel=f"{norm} radius", ylabel="test error, percent", ylim=(0, 103))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=1000, help="the first so many test images (default: 1000)")
    parser.add_argument("--timeout", type=float, help="seconds of branch and bound an image (default: CROWN alone)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    whole = load_dataset("mnist", "test")
    data = replace(whole, images=whole.images[: arguments.limit], labels=whole.labels[: arguments.limit])
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    draw_bars(axes[0], data, arguments.timeout)
    for place, (norm, sizes) in zip(axes[1:], SIZES.items(), strict=True):
        draw_curves(place, data, norm, sizes)
    for place in axes:
        place.legend()
    figure.savefig(arguments.out, dpi=120)


if __name__ == "__main__":
    main()
