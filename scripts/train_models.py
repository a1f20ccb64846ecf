"""Train the models that are not made to be proved, and write their cards: python scripts/train_models.py [--only NAME].

Every figure on a card is measured on the whole test set; bounds are tried at radius 0.1. One thread, so that a recipe
gives the same weights again on the same machine. The loop is a plain one on purpose: these stand for the networks that
users bring. `verifier.train` draws its random numbers in another order and averages weights, so with it these would be
other networks than the ones whose verdicts the README shows. Models made to be proved: scripts/train_robust.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from verifier.attack.pgd import Pgd
from verifier.data import Dataset, load_dataset
from verifier.errors import VerifierError
from verifier.spec.robustness import label_margin
from verifier.train.batch import Batch
from verifier.train.card import write_model
from verifier.train.evaluate import ATTACK, accuracy, evaluate
from verifier.zoo import PgdAccuracy, Recipe, build

ATTACKED_EPS = (0.02, 0.05)
CERTIFIED_EPS = 0.1


@dataclass(frozen=True)
class Training:
    """One row of the recipe table. eps 0 is plain training, else PGD training (Madry et al. 2018) at that radius."""

    arch: str
    dataset: str
    epochs: int
    lr: float
    eps: float = 0.0
    batch_size: int = 128
    seed: int = 0


TRAININGS = {
    "digits_mlp": Training("mlp_32", "digits", epochs=60, lr=5e-3, batch_size=64),
    "digits_conv": Training("conv_tiny", "digits", epochs=60, lr=5e-3, batch_size=64, eps=0.1),
    "mnist_mlp": Training("mlp_100", "mnist", epochs=15, lr=2e-3),
    "mnist_conv": Training("conv_small", "mnist", epochs=15, lr=3e-3),
    "mnist_conv_pgd": Training("conv_small", "mnist", epochs=20, lr=3e-3, eps=0.1),
}


def train(training: Training, data: Dataset) -> nn.Sequential:
    """Adam on the cross-entropy, learning rate annealed to zero by a cosine."""
    torch.manual_seed(training.seed)
    model = build(training.arch, data.shape, data.classes)
    optimiser = torch.optim.Adam(model.parameters(), lr=training.lr)
    steps = training.epochs * -(-len(data) // training.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for epoch in range(training.epochs):
        start, total = time.process_time(), 0.0
        for number, index in enumerate(torch.randperm(len(data)).split(training.batch_size)):
            batch = Batch(data.images[index], data.labels[index], training.eps, data.lower, data.upper)
            x = batch.x
            if training.eps > 0:
                attack = Pgd(steps=7, step_size=0.5, seed=epoch * len(data) + number)
                x = attack(model, batch.ball(training.eps), label_margin(batch.y)).point
            loss = nn.functional.cross_entropy(model(x), batch.y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(index)
        print(f"epoch {epoch + 1:3d}  loss {total / len(data):.4f}  {time.process_time() - start:.1f} s", flush=True)
    return model.eval()


def make(name: str, folder: Path) -> None:
    """Train a model, measure it, and write weights and card into the folder."""
    training, data, start = TRAININGS[name], load_dataset(TRAININGS[name].dataset, "train"), time.process_time()
    model = train(training, data)
    minutes = (time.process_time() - start) / 60
    test = load_dataset(training.dataset, "test")
    recipe = Recipe(
        method="pgd" if training.eps > 0 else "standard",
        eps=training.eps,
        epochs=training.epochs,
        lr=training.lr,
        batch_size=training.batch_size,
        seed=training.seed,
        command=f"python scripts/train_models.py --only {name}",
        cpu_minutes=round(minutes, 2),
    )
    attacked = tuple(
        PgdAccuracy(eps, ATTACK.steps, ATTACK.restarts, accuracy(model, test, eps)) for eps in ATTACKED_EPS
    )
    weights = folder / f"{name}.pt"
    evaluation = evaluate(model, test, CERTIFIED_EPS)
    card = write_model(model, weights, training.arch, training.dataset, test, recipe, evaluation, attacked)
    figures = ", ".join(f"{entry.accuracy:.2%} at eps {entry.eps}" for entry in card.pgd)
    print(f"{weights}: clean {card.clean_accuracy:.2%}; PGD {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TRAININGS, metavar="NAME", help=f"one of {', '.join(TRAININGS)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "models", help="default: models/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in [arguments.only] if arguments.only else TRAININGS:
        make(name, arguments.out)


if __name__ == "__main__":
    try:
        main()
    except VerifierError as error:
        sys.exit(f"error: {error}")
