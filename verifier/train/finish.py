"""The end of a run: certify the model on the test set, and write its weights and card."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch

from verifier.data import Dataset
from verifier.train.card import recipe, write_model
from verifier.train.complete import complete
from verifier.train.evaluate import Evaluation, evaluate
from verifier.train.loop import Run
from verifier.zoo import ModelCard


def finish(
    run: Run,
    weights: Path,
    test: Dataset,
    timeout: float | None,
    command: str,
    dataset: str | None = None,
    report: Callable[[str], None] | None = None,
    half: bool = False,
) -> tuple[ModelCard, Evaluation]:
    """Certify what `run` trained on every image of `test`, and write `weights` with the card beside it.

    timeout: seconds of branch and bound for every image that bounds leave open, None for none at all. command: what
    repeats the run, for the card. dataset: what loads `test`, None where that is the run's. report: see `evaluate`.
    half: round the weights to float16, for a file of half the size; the rounded model, which computes in float32, is
    what is certified.
    """
    config, model = run.config, run.model
    if half:
        model = copy.deepcopy(model).half().float()  # in place, and the run keeps its own
    decide = None if timeout is None else complete(copy.deepcopy(model), test, config.eps, timeout)
    evaluation = evaluate(model, test, config.eps, complete=decide, timeout=timeout, device=run.device, report=report)
    made = recipe(config, run.batch_size, run.seconds, command)
    name = config.dataset if dataset is None else dataset
    dtype = torch.float16 if half else torch.float32
    return write_model(model.cpu(), weights, config.arch, name, test, made, evaluation, dtype=dtype), evaluation
