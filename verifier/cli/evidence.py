"""The files that show a counterexample, the adversarial input and its picture, or that prove a property."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from verifier.cli.inputs import Sample
from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.certificate.claim import Certificate

DEFAULT_FOLDER = "verify_out"


def evidence_folder(args: argparse.Namespace) -> Path | None:
    """Where files go, or None for nowhere. Raises InputError when the place is taken by something else."""
    if args.out is None and args.json:
        return None
    folder = Path(args.out or DEFAULT_FOLDER)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; choose another one with --out")
    return folder


def changed_class(outputs: np.ndarray, label: int, target: int | None) -> tuple[int, bool]:
    """The class that a counterexample reaches, and whether it scores strictly more than every other one."""
    scores = np.array(outputs, dtype=np.float64).ravel()
    if target is None:
        rivals = scores.copy()
        rivals[label] = -np.inf
        target = int(rivals.argmax())
    others = np.delete(scores, target)
    return target, bool(scores[target] > others.max())


def write_evidence(
    folder: Path,
    args: argparse.Namespace,
    sample: Sample,
    adversarial: np.ndarray,
    outputs: np.ndarray,
    eps: float,
) -> list[str]:
    """Write the adversarial input as .npy and a .png of it beside its input; returns their paths.

    Raises InputError when the folder cannot be written.
    """
    from verifier.report.picture import save_counterexample

    after, _ = changed_class(outputs, sample.label, args.target)
    goal = "" if args.target is None else f"_to{args.target}"
    stem = f"{Path(args.model).name.split('.')[0]}_{sample.stem}{goal}_{args.norm}_{eps:.4g}"
    array, picture = folder / f"{stem}.npy", folder / f"{stem}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(array, adversarial)
    except OSError as error:
        place = error.filename or folder
        raise InputError(f"{place}: cannot be written ({error.strerror}); give another --out") from error
    save_counterexample(
        picture,
        sample.x.reshape(sample.picture),
        adversarial.reshape(sample.picture),
        sample.prediction,
        after,
        eps,
        norm=args.norm,
        lower=sample.lower,
        upper=sample.upper,
    )
    return [str(array), str(picture)]


def write_certificate(file: str, found: Certificate, statement: bool, model: bool) -> list[str]:
    """Write a certificate and what it is about: the property where `statement`, the ONNX model where `model`.

    The certificate comes last, so that one that is there is complete. Returns the paths. Raises InputError.
    """
    path, written = Path(file), []
    about = ((".vnnlib", found.statement, statement), (".onnx", found.model, model))
    contents = [(path.with_suffix(suffix), content) for suffix, content, wanted in about if wanted]
    for target, content in (*contents, (path, found.content)):
        partial = target.with_name(target.name + ".part")
        if target.exists() and not target.is_file():
            raise InputError(f"{target}: is no ordinary file; give another --certificate")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            os.replace(partial, target)
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({error.strerror}); give another --certificate") from error
        written.append(str(target))
    return written
