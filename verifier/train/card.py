"""The model card of a finished run."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from verifier.data import Dataset, file_sha256
from verifier.train.config import Config
from verifier.train.evaluate import ATTACK, Evaluation
from verifier.zoo import CertifiedAccuracy, ModelCard, PgdAccuracy, Recipe, card_path, write_card


def write_model(
    model: nn.Module, weights: Path, config: Config, data: Dataset, evaluation: Evaluation, seconds: float, command: str
) -> ModelCard:
    """Write the weights and the card beside them. seconds: of CPU, for training; command: what repeats it."""
    torch.save(model.state_dict(), weights)
    recipe = Recipe(
        method=config.method,
        eps=config.radius,
        epochs=config.epochs,
        lr=config.lr,
        batch_size=config.batch_size,
        seed=config.seed,
        command=command,
        cpu_minutes=round(seconds / 60, 2),
        config=asdict(config),
    )
    card = ModelCard(
        name=weights.stem,
        arch=config.arch,
        dataset=config.dataset,
        input_shape=data.shape,
        classes=data.classes,
        mean=None,
        std=None,
        lower=data.lower,
        upper=data.upper,
        recipe=recipe,
        clean_accuracy=evaluation.clean,
        pgd=(PgdAccuracy(evaluation.eps, ATTACK.steps, ATTACK.restarts, evaluation.attacked),),
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
