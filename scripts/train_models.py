"""Train the models that are not made to be proved, and write their cards: python scripts/train_models.py [--only NAME].

Every figure on a card is measured on the whole test set; bounds are tried at radius 0.1. One thread, so that a
recipe gives the same weights again on the same machine. Models made to be proved: scripts/train_robust.py.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from verifier.attack.pgd import Pgd
from verifier.data import Dataset, file_sha256, load_dataset
from verifier.errors import VerifierError
from verifier.spec.robustness import label_margin
from verifier.train.card import certified
from verifier.train.evaluate import ATTACK, evaluate
from verifier.types import Box
from verifier.zoo import ModelCard, PgdAccuracy, Recipe, build, card_path, write_card

EVALUATION_EPS = (0.02, 0.05)
CERTIFIED_EPS = 0.1
EVALUATION_BATCH = 500


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


def ball(images: Tensor, eps: float, data: Dataset) -> Box:
    """The linf ball of radius eps around each image, intersected with the data range."""
    return Box((images - eps).clamp(min=data.lower), (images + eps).clamp(max=data.upper))


def train(training: Training, data: Dataset) -> nn.Sequential:
    """Adam on the cross-entropy, learning rate annealed to zero by a cosine."""
    torch.manual_seed(training.seed)
    model = build(training.arch, data.shape, data.classes)
    optimiser = torch.optim.Adam(model.parameters(), lr=training.lr)
    steps = training.epochs * -(-len(data) // training.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for epoch in range(training.epochs):
        start, total = time.monotonic(), 0.0
        for batch, index in enumerate(torch.randperm(len(data)).split(training.batch_size)):
            images, labels = data.images[index], data.labels[index]
            if training.eps > 0:
                attack = Pgd(steps=7, step_size=0.5, seed=epoch * len(data) + batch)
                images = attack(model, ball(images, training.eps, data), label_margin(labels)).point
            loss = nn.functional.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(index)
        print(f"epoch {epoch + 1:3d}  loss {total / len(data):.4f}  {time.monotonic() - start:.1f} s", flush=True)
    return model.eval()


def pgd_accuracy(model: nn.Module, data: Dataset, eps: float) -> PgdAccuracy:
    """An image counts when the clean input and the worst point found are both classified right."""
    right = 0
    batches = zip(data.images.split(EVALUATION_BATCH), data.labels.split(EVALUATION_BATCH), strict=True)
    for images, labels in batches:
        margin = label_margin(labels)
        with torch.no_grad():
            clean = margin(model(images)) > 0
        worst = ATTACK(model, ball(images, eps, data), margin).margin
        right += int((clean & (worst > 0)).sum())
    return PgdAccuracy(eps, ATTACK.steps, ATTACK.restarts, right / len(data))


def make_card(name: str, training: Training, model: nn.Module, test: Dataset, weights: Path) -> ModelCard:
    method = "pgd" if training.eps > 0 else "standard"
    command = f"python scripts/train_models.py --only {name}"
    evaluation = evaluate(model, test, CERTIFIED_EPS)
    largest = PgdAccuracy(CERTIFIED_EPS, ATTACK.steps, ATTACK.restarts, evaluation.attacked)
    recipe = Recipe(method, training.eps, training.epochs, training.lr, training.batch_size, training.seed, command)
    return ModelCard(
        name=name,
        arch=training.arch,
        dataset=training.dataset,
        input_shape=test.shape,
        classes=test.classes,
        mean=None,
        std=None,
        lower=test.lower,
        upper=test.upper,
        recipe=recipe,
        clean_accuracy=evaluation.clean,
        pgd=(*(pgd_accuracy(model, test, eps) for eps in EVALUATION_EPS), largest),
        sha256=file_sha256(weights),
        producer=f"verifier {importlib.metadata.version('verifier')}, torch {torch.__version__}",
        certified=certified(evaluation),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TRAININGS, metavar="NAME", help=f"one of {', '.join(TRAININGS)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "models", help="default: models/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in [arguments.only] if arguments.only else TRAININGS:
        training = TRAININGS[name]
        model = train(training, load_dataset(training.dataset, "train"))
        weights = arguments.out / f"{name}.pt"
        torch.save(model.state_dict(), weights)
        card = make_card(name, training, model, load_dataset(training.dataset, "test"), weights)
        write_card(card, card_path(weights))
        attacked = ", ".join(f"{entry.accuracy:.2%} at eps {entry.eps}" for entry in card.pgd)
        print(f"{weights}: clean {card.clean_accuracy:.2%}; PGD {attacked}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except VerifierError as error:
        sys.exit(f"error: {error}")
