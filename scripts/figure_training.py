"""Draw what training methods buy: python scripts/figure_training.py MODEL... --out figure.png [--limit 500].

For each model, over the linf radius: the share of test images still right under PGD, an upper bound of robustness, and
the share proved by CROWN, a lower one; the truth lies in the band between. Radius 0 is clean accuracy.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from verifier.data import load_dataset
from verifier.errors import InputError
from verifier.train.evaluate import evaluate
from verifier.zoo import ModelCard, build, card_path, read_card


def curve(weights: Path, radii: list[float], limit: int) -> tuple[ModelCard, list[float], list[float]]:
    """The card of a model, and its shares under attack and proved, at every radius."""
    card = read_card(card_path(weights))
    if card.mean is not None:
        raise InputError(f"{weights}: models with an input normalisation are not drawn")
    model = build(card.arch, card.input_shape, card.classes)
    model.load_state_dict(torch.load(weights, weights_only=True))
    whole = load_dataset(card.dataset, "test")
    data = replace(whole, images=whole.images[:limit], labels=whole.labels[:limit])
    found = [evaluate(model, data, eps) for eps in radii]
    return card, [e.attacked for e in found], [e.certified["crown"] for e in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=500, help="the first so many test images (default: 500)")
    parser.add_argument("--most", type=float, default=0.2, help="the largest radius (default: 0.2)")
    parser.add_argument("--points", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    radii = torch.linspace(0, arguments.most, arguments.points).tolist()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for weights in arguments.models:
        card, attacked, proved = curve(weights, radii, arguments.limit)
        (line,) = axes.plot(radii, attacked, label=f"{card.recipe.method}, eps {card.recipe.eps:g}")
        axes.plot(radii, proved, "--", color=line.get_color())
        axes.fill_between(radii, proved, attacked, color=line.get_color(), alpha=0.15)
    axes.set(xlabel="linf radius", ylabel="share of test images", ylim=(0, 1.01), xlim=(0, arguments.most))
    axes.set_title("right under attack (solid) and proved by CROWN (dashed)", fontsize=10)
    axes.legend()
    figure.savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    main()
