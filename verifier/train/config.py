"""One training run as a file: everything that decides which weights come out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from verifier.errors import InputError
from verifier.train.batch import Loss
from verifier.train.losses import METHODS
from verifier.zoo import read_card

DECAYS = ("cosine", "steps")
INITIALISATIONS = ("default", "ibp")


@dataclass(frozen=True)
class Config:
    """A training run. Durations are in epochs; radii are linf, in data units.

    eps: the radius that the model is certified at. train_eps: the one it is trained at (None: eps). options: fields of
    the method's loss. batch_size: images a step (None: see `batch_of`). warm_up: how long clean training lasts (None: a
    thirtieth of the epochs); ramp: how long the radius then grows (None: a fifth of the epochs). decay: of the learning
    rate, `cosine` after a rise of `lr_rise`, or `steps`, times `factor` at each of `milestones`. l1: weight of the
    1-norm of all weights. clip: largest gradient norm. averaging: decay of the running average of the weights that
    becomes the model, 0 for none. shift: images are moved by up to so many pixels. start: a file of weights to begin
    with, else `initialisation`: `ibp` is that of Shi et al. (2021), regularise the weight of their regularisers during
    the ramp. holdout: how many of the last training images are kept out. unlabelled: a data set whose images, without
    labels, join every batch in equal number, for `self_training`. autocast: bfloat16 where no bound depends on it.
    Raises InputError for a value out of range.
    """

    dataset: str
    arch: str
    method: str
    eps: float
    train_eps: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 30
    batch_size: int | None = None
    lr: float = 2e-3
    decay: str = "cosine"
    lr_rise: float = 1.0
    milestones: tuple[float, ...] = ()
    factor: float = 0.2
    warm_up: float | None = None
    ramp: float | None = None
    l1: float = 0.0
    clip: float = 10.0
    averaging: float = 0.999
    shift: int = 0
    start: str | None = None
    initialisation: str = "default"
    regularise: float = 0.0
    holdout: int = 0
    unlabelled: str | None = None
    autocast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (wanted, valid) in _CHECKS.items():
            if not valid(getattr(self, name)):
                raise InputError(f"training: {name} must be {wanted}, not {getattr(self, name)!r}")
        self.loss()

    @property
    def radius(self) -> float:
        """The radius to train at."""
        return self.eps if self.train_eps is None else self.train_eps

    @property
    def growth(self) -> tuple[float, float]:
        """How many epochs the radius stays zero, and how many it then grows."""
        warm_up = self.epochs / 30 if self.warm_up is None else self.warm_up
        return warm_up, self.epochs / 5 if self.ramp is None else self.ramp

    def batch_of(self, images: int) -> int:
        """How many of the training images a step takes: by default 256, fewer where an epoch would have few steps."""
        return min(256, max(16, images // 100)) if self.batch_size is None else self.batch_size

    def loss(self) -> Loss:
        """The method's loss with its options."""
        method = METHODS[self.method]
        known = {f.name: f.type for f in fields(method)}  # type: ignore[arg-type]
        for name, value in self.options.items():
            if name not in known:
                raise InputError(
                    f"method {self.method!r} has no option {name!r} (it has: {', '.join(known) or 'none'})"
                )
            if type(value) not in _OPTION_TYPES[known[name]] or (type(value) is float and not math.isfinite(value)):
                raise InputError(f"method {self.method!r}: option {name} must be {known[name]}, not {value!r}")
        return method(**self.options)


_OPTION_TYPES: dict[Any, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300  # type: ignore[operator]


_Check = tuple[str, Callable[[Any], bool]]


def _at_least(least: float) -> _Check:
    return f"a number >= {least:g}", lambda v: _is_number(v) and v >= least


def _whole(least: int) -> _Check:
    return f"a whole number >= {least}", lambda v: type(v) is int and v >= least


def _one_of(names: tuple[str, ...]) -> _Check:
    return f"one of {', '.join(names)}", lambda v: v in names


def _optional(check: _Check) -> _Check:
    wanted, valid = check
    return f"null or {wanted}", lambda v: v is None or valid(v)


_POSITIVE: _Check = ("a number above 0", lambda v: _is_number(v) and v > 0)
_TEXT: _Check = ("a text", lambda v: isinstance(v, str) and v != "")
_CHECKS: dict[str, _Check] = {
    "dataset": _TEXT,
    "arch": _TEXT,
    "method": _one_of(tuple(METHODS)),
    "eps": _at_least(0),
    "train_eps": _optional(_at_least(0)),
    "options": ("an object", lambda v: isinstance(v, Mapping)),
    "epochs": _whole(1),
    "batch_size": _optional(_whole(1)),
    "lr": _POSITIVE,
    "decay": _one_of(DECAYS),
    "lr_rise": _at_least(0),
    "milestones": ("a list of numbers", lambda v: isinstance(v, tuple) and all(map(_is_number, v))),
    "factor": _POSITIVE,
    "warm_up": _optional(_at_least(0)),
    "ramp": _optional(_at_least(0)),
    "l1": _at_least(0),
    "clip": _POSITIVE,
    "averaging": ("a number in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1),
    "shift": _whole(0),
    "start": _optional(_TEXT),
    "initialisation": _one_of(INITIALISATIONS),
    "regularise": _at_least(0),
    "holdout": _whole(0),
    "unlabelled": _optional(_TEXT),
    "autocast": ("true or false", lambda v: type(v) is bool),
    "seed": ("a whole number from 0 to 16777215", lambda v: type(v) is int and 0 <= v < 1 << 24),  # see loop.py
}


def write_config(config: Config, path: Path) -> None:
    """Write the run as JSON; `read_config` reads it back equal."""
    path.write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


def read_config(path: Path) -> Config:
    """Read a run's file, or the run that a model card tells of. Raises InputError naming the file and the field."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot read the training configuration ({error})") from error
    if isinstance(raw, dict) and "recipe" in raw:
        recipe = read_card(path).recipe
        raw = recipe.config if recipe else None
        if raw is None:
            raise InputError(f"{path}: this model card has no configuration to start from")
    try:
        return parse_config(raw)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_config(raw: object) -> Config:
    """The run that a JSON object describes. Raises InputError naming the field."""
    known = {f.name for f in fields(Config)}
    if not isinstance(raw, dict):
        raise InputError("a training configuration is an object")
    if unknown := sorted(raw.keys() - known):
        raise InputError(f"unknown field {unknown[0]!r} (known: {', '.join(f.name for f in fields(Config))})")
    if missing := [name for name in ("dataset", "arch", "method", "eps") if name not in raw]:
        raise InputError(f"field {missing[0]!r} is missing")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    return Config(**values)
