"""The state of a run after an epoch, on disk: whole or not at all."""

from __future__ import annotations

import io
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from verifier.errors import InputError


@dataclass(eq=False)
class Checkpoint:
    """Everything that the next epoch depends on, besides the configuration.

    epoch: how many are done. Random numbers of an epoch depend on the seed and the epoch alone, so none are kept.
    seconds: CPU seconds spent so far, of this process.
    """

    epoch: int
    config: dict[str, Any]
    model: dict[str, Any]
    average: dict[str, Any]
    optimiser: dict[str, Any]
    seconds: float


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write beside `path`, then rename: a reader, or a crash, never meets half a file.

    Raises InputError when there is no room; what was saved before is then still there.
    """
    content, partial = io.BytesIO(), path.with_suffix(f".{os.getpid()}")
    torch.save(vars(checkpoint), content)  # into memory: into a file, it hides the reason of a failure
    try:
        with partial.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        way_out = "make room and go on with --resume" if path.exists() else "make room, or give another folder"
        raise InputError(f"{path}: cannot be written ({error.strerror}); {way_out}") from error


def load(path: Path, config: dict[str, Any], device: torch.device) -> Checkpoint:
    """Read a checkpoint of the same configuration. Raises InputError when it is missing, damaged, or of another run."""
    try:
        raw = torch.load(path, map_location=device, weights_only=True)
        checkpoint = Checkpoint(**raw)
    except FileNotFoundError:
        raise InputError(f"{path}: no checkpoint to resume from; start without --resume") from None
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a checkpoint of a training run ({reason})") from error
    differing = sorted(k for k in config.keys() | checkpoint.config.keys() if config.get(k) != checkpoint.config.get(k))
    if differing:
        raise InputError(
            f"{path}: the checkpoint is of another run: {', '.join(differing)} differ; leave such options out"
        )
    return checkpoint
