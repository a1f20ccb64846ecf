"""The end of a run: certify the model on the test set, and write its weights and card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from verifier.data import Dataset
from verifier.train.card import write_model
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
    report: Callable[[str], None] | None = None,
) -> tuple[ModelCard, Evaluation]:
    """Certify what `run` trained on every image of `test`, and write `weights` with the card beside it.

    timeout: seconds of branch and bound for every image that bounds leave open, None for none at all. command: what
    repeats the run, for the card. report: see `evaluate`.
    """
    model, eps = run.model, run.config.eps
    decide = None if timeout is None else complete(run.model, test, eps, timeout)
    evaluation = evaluate(model, test, eps, complete=decide, timeout=timeout, device=run.device, report=report)
    return write_model(model.cpu(), weights, run.config, test, evaluation, run.seconds, command), evaluation
