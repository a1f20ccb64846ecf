"""How to look for an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from verifier.errors import InputError

METHODS = ("auto", "interval", "crown", "alpha", "bab", "lp", "milp")

Sides = tuple[np.ndarray, np.ndarray]  # lower and upper, (1, n)
Price = Callable[[Sides, Mapping[int, Sides], np.ndarray, bool], float]
"""What float32 execution may cost a margin: from a box of inputs, bounds of what activations read, by their numbers,
rows (k, outputs), and whether mirrored neurons are merged."""


@dataclass(frozen=True)
class Settings:
    """How to look for an answer.

    timeout: seconds for the whole cascade. device: auto, cpu, cuda or cuda:N. jobs: how many processes may search side
    by side, all but one of them forks (on Linux, and not on a GPU). proof: keep what proves a verdict, and use nothing
    that cannot be kept. slack: how far above zero a search must prove the margin, beyond what rounding may
    do; other bounds then do not count. attacked: whether attacks have failed before, and need not be repeated. float32:
    whether to search again, with more slack, where a certificate proves the claim in real arithmetic alone. price: with
    which a search finds out how far above zero a margin must be to be one in float32.
    """

    method: str = "auto"
    solver: str = "highs"
    timeout: float = 60.0
    device: str = "auto"
    seed: int = 0
    jobs: int = 1
    proof: bool = False
    slack: float = 0.0
    attacked: bool = False
    float32: bool = True
    price: Price | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"unknown method '{self.method}' (available: {', '.join(METHODS)})")
        if not self.timeout > 0:
            raise InputError(f"the timeout must be a positive number of seconds, not {self.timeout}")

    def torch_device(self) -> torch.device:
        """The device to compute on. Raises InputError when CUDA is asked for and absent."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"device '{self.device}' is not available here: use --device cpu")
        try:
            return torch.device(self.device)
        except RuntimeError:
            raise InputError(f"unknown device '{self.device}' (available: auto, cpu, cuda)") from None
