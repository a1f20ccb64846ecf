"""Train the provably robust models in models/ and write their cards: python scripts/train_robust.py NAME...

Every figure on a card is measured on the whole test set, with branch and bound for what bounds leave open. One thread,
so that a recipe gives the same weights again on the same machine. A run keeps a checkpoint per epoch in
OUT/runs/NAME and goes on from it when the command is repeated.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from verifier.data import load_dataset
from verifier.errors import VerifierError
from verifier.train.config import Config
from verifier.train.finish import finish
from verifier.train.loop import Run

TIMEOUT_S = 10.0
"""Of branch and bound, an image; not for methods without bounds, whose networks leave most images to it."""
HALF = ("cnn7",)
"""Architectures too large for float32 in a repository: their models are the weights rounded to float16."""
WITHOUT_BOUNDS = ("standard", "fgsm", "pgd", "gradient_norm", "trades", "tulip")

CONV = ("mnist", "conv_small")
FAST: dict[str, Any] = {"batch_size": 256, "lr": 5e-3, "warm_up": 0.5, "ramp": 4.0}
KAPPA = {"natural_start": 1.0, "natural_end": 0.5}
CNN7 = ("mnist", "cnn7")
PUBLISHED: dict[str, Any] = {
    "epochs": 70,
    "batch_size": 256,
    "lr": 5e-4,
    "decay": "steps",
    "milestones": (50, 60),
    "warm_up": 0.0,
    "ramp": 20.0,
    "averaging": 0.0,
    "initialisation": "ibp",
    "regularise": 0.5,
}
SHORT = Config(*CONV, "mtl_ibp", 0.1, options={"alpha": 0.015}, epochs=28, **FAST)
LONG = replace(SHORT, train_eps=0.12, options={"alpha": 0.02}, epochs=100, ramp=5.0, shift=1, averaging=0.9995)
RUNS = {
    "mnist_conv_mtl_ibp": SHORT,
    # How much of a figure is chance.
    "mnist_conv_mtl_ibp_seed1": replace(SHORT, seed=1),
    "mnist_conv_mtl_ibp_seed2": replace(SHORT, seed=2),
    # Longer, with shifted images and a larger radius, since the short run ends by fitting the training set.
    "mnist_conv_mtl_ibp_long": LONG,
    "mnist_conv_mtl_ibp_long_seed1": replace(LONG, seed=1),
    "mnist_conv_mtl_ibp_long_seed2": replace(LONG, seed=2),
    "mnist_conv_ibp": Config(*CONV, "ibp", 0.1, epochs=16, **FAST),
    # As in the paper, the weight of the clean loss falls to a half, for clean accuracy; long, for what is proved.
    "mnist_conv_ibp_03": Config(*CONV, "ibp", 0.3, options=KAPPA, epochs=70, averaging=0.9995, **FAST | {"ramp": 20.0}),
    "mnist_conv_mtl_ibp_03": Config(*CONV, "mtl_ibp", 0.3, options={"alpha": 0.3}, epochs=24, **FAST | {"ramp": 6.0}),
    "mnist_conv_mtl_ibp_03_long": Config(
        *CONV, "mtl_ibp", 0.3, options={"alpha": 0.2}, epochs=34, averaging=0.9995, **FAST | {"ramp": 8.0}
    ),
    # For comparison, without bounds: what scripts/figure_training.py draws (l2 for a radius of 1), and TRADES.
    "mnist_conv_fgsm": Config(*CONV, "fgsm", 0.1, epochs=10, **FAST),
    "mnist_conv_l2": Config(*CONV, "gradient_norm", 0.1, options={"norm": 2, "weight": 10.0}, epochs=10, **FAST),
    "mnist_conv_tulip": Config(*CONV, "tulip", 0.1, epochs=10, **FAST),
    "mnist_conv_trades": Config(*CONV, "trades", 0.1, options={"steps": 3}, epochs=10, **FAST),
    # On a GPU: the published recipe of the large network (De Palma et al. 2024; Mueller et al. 2023).
    "mnist_cnn7_mtl_ibp": Config(*CNN7, "mtl_ibp", 0.1, train_eps=0.2, options={"alpha": 0.02}, **PUBLISHED),
    "mnist_cnn7_sabr": Config(*CNN7, "sabr", 0.1, train_eps=0.2, options={"share": 0.4}, **PUBLISHED),
    "mnist_cnn7_mtl_ibp_03": Config(*CNN7, "mtl_ibp", 0.3, options={"alpha": 0.5}, **PUBLISHED),
    "mnist_cnn7_sabr_03": Config(*CNN7, "sabr", 0.3, options={"share": 0.9}, **PUBLISHED),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=RUNS, metavar="NAME", help=f"some of {', '.join(RUNS)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "models", help="default: models/")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names:
        train(name, arguments.out, arguments.device)


def train(name: str, out: Path, device: str) -> None:
    config, folder = RUNS[name], out / "runs" / name
    data, resume = load_dataset(config.dataset, "train"), (folder / "checkpoint.pt").is_file()
    run = Run(config, data, folder, resume, device)
    for epoch in run:
        print(f"{name}: epoch {epoch.epoch}/{epoch.epochs}, loss {epoch.loss:.4f}, {epoch.seconds:.0f} s", flush=True)
    command, timeout = f"python scripts/train_robust.py {name}", None if config.method in WITHOUT_BOUNDS else TIMEOUT_S
    test, half = load_dataset(config.dataset, "test"), config.arch in HALF
    card, evaluation = finish(run, out / f"{name}.pt", test, timeout, command, half=half)
    shutil.rmtree(folder)
    print(f"{name}: {card.recipe.cpu_minutes} CPU minutes, {evaluation}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except VerifierError as error:
        sys.exit(f"error: {error}")
