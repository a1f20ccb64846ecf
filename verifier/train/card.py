"""The model card of a trained network."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from verifier.data import Dataset, file_sha256
from verifier.errors import InputError
from verifier.train.config import Config
from verifier.train.evaluate import ATTACK, Evaluation
from verifier.zoo import CertifiedAccuracy, ModelCard, PgdAccuracy, Recipe, card_path, write_card


def recipe(config: Config, batch_size: int, seconds: float, command: str) -> Recipe:
    """What a card says of a run that took so many seconds of CPU and that `command` repeats."""
    return Recipe(
        method=config.method,
        eps=config.radius,
        epochs=config.epochs,
        lr=config.lr,
        batch_size=batch_size,
        seed=config.seed,
        command=command,
        cpu_minutes=round(seconds / 60, 2),
        config=asdict(config),
    )


def write_model(
    model: nn.Module,
    weights: Path,
    arch: str,
    dataset: str,
    test: Dataset,
    recipe: Recipe,
    evaluation: Evaluation,
    attacked: tuple[PgdAccuracy, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> ModelCard:
    """Write the weights and the card beside them.

    dataset: the name that loads it; evaluation: what was found on its test split; attacked: accuracies at other radii.
    dtype: of the numbers in the file, which must hold the weights exactly. Raises InputError when the weights cannot be
    written.
    """
    state = model.state_dict()
    for name, value in state.items():
        state[name] = value.to(dtype) if value.is_floating_point() else value
    try:
        torch.save(state, weights)
    except (OSError, RuntimeError) as error:  # of a full disk, torch tells as a RuntimeError about positions
        weights.unlink(missing_ok=True)
        raise InputError(f"{weights}: the weights cannot be written; is there room, and a right to write?") from error
    card = ModelCard(
        name=weights.stem,
        arch=arch,
        dataset=dataset,
        input_shape=test.shape,
        classes=test.classes,
        mean=None,
        std=None,
        lower=test.lower,
        upper=test.upper,
        recipe=recipe,
        clean_accuracy=evaluation.clean,
        pgd=(*attacked, PgdAccuracy(evaluation.eps, ATTACK.steps, ATTACK.restarts, evaluation.attacked)),
        sha256=file_sha256(weights),
        producer=f"verifier {importlib.metadata.version('verifier')}, torch {torch.__version__}",
        certified=certified(evaluation),
    )
    write_card(card, card_path(weights))
    return card


def certified(evaluation: Evaluation) -> tuple[CertifiedAccuracy, ...]:
    """The card's entries, from the cheapest method to the strongest."""
    entries = []
    for method, accuracy in evaluation.certified.items():
        open_ = evaluation.attacked - accuracy
        entries.append(CertifiedAccuracy(evaluation.eps, method, evaluation.images, accuracy, open_))
    if evaluation.complete is not None:
        accuracy, open_, timeout = evaluation.complete, evaluation.undecided, evaluation.timeout
        entries.append(CertifiedAccuracy(evaluation.eps, "complete", evaluation.images, accuracy, open_, timeout))
    return tuple(entries)
