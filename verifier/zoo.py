"""Named architectures, and the cards that describe trained models.

Every architecture is an `nn.Sequential` of torch.nn layers, so that a state dict has the plain keys `0.weight`, ...
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from verifier.errors import InputError
from verifier.types import Shape


@dataclass(frozen=True)
class Conv:
    """A convolution with a square kernel."""

    channels: int
    kernel: int
    stride: int
    padding: int


@dataclass(frozen=True)
class Architecture:
    """Convolutions, then hidden linear layers of these widths, then the linear output layer.

    A ReLU, after a BatchNorm if asked, follows every layer but the output.
    """

    widths: tuple[int, ...]
    convs: tuple[Conv, ...] = ()
    batch_norm: bool = False


_ARCHITECTURES = {
    "linear": Architecture(()),
    "mlp_32": Architecture((32, 32)),
    "mlp_100": Architecture((100, 100)),
    "conv_tiny": Architecture((32,), (Conv(8, 4, 2, 1), Conv(16, 4, 2, 1))),
    # Wong and Kolter (2018).
    "conv_small": Architecture((100,), (Conv(16, 4, 2, 1), Conv(32, 4, 2, 1))),
    # Gowal et al. (2018), "medium"; no padding, as in their code.
    "dm_medium": Architecture((512, 512), (Conv(32, 3, 1, 0), Conv(32, 4, 2, 0), Conv(64, 3, 1, 0), Conv(64, 4, 2, 0))),
    # Gowal et al. (2018), "large", with the BatchNorm of Shi et al. (2021).
    "cnn7": Architecture(
        (512,), (Conv(64, 3, 1, 1), Conv(64, 3, 1, 1), Conv(128, 3, 2, 1), Conv(128, 3, 1, 1), Conv(128, 3, 1, 1)), True
    ),
}


def architectures() -> tuple[str, ...]:
    """The names that `build` knows."""
    return tuple(_ARCHITECTURES)


def build(arch: str, input_shape: Shape, classes: int) -> nn.Sequential:
    """The architecture named `arch` with default initialisation, mapping (batch, *input_shape) to (batch, classes).

    Raises InputError when the name is unknown or the input shape does not fit.
    """
    if arch not in _ARCHITECTURES:
        raise InputError(f"unknown architecture {arch!r} (available: {', '.join(architectures())})")
    shape, design = tuple(input_shape), _ARCHITECTURES[arch]
    if min(shape, default=0) < 1 or classes < 1:
        raise InputError(f"architecture {arch!r} cannot map inputs of shape {shape} to {classes} classes")
    if design.convs and len(shape) != 3:
        raise InputError(f"architecture {arch!r} needs inputs of shape (channels, height, width), not {shape}")
    layers: list[nn.Module] = []
    for conv in design.convs:
        layers.append(nn.Conv2d(shape[0], conv.channels, conv.kernel, conv.stride, conv.padding))
        layers += [nn.BatchNorm2d(conv.channels), nn.ReLU()] if design.batch_norm else [nn.ReLU()]
        shape = (conv.channels, *((n + 2 * conv.padding - conv.kernel) // conv.stride + 1 for n in shape[1:]))
        if min(shape) < 1:
            raise InputError(f"architecture {arch!r}: inputs of shape {tuple(input_shape)} are too small")
    layers.append(nn.Flatten())
    widths = (math.prod(shape), *design.widths)
    for before, after in pairwise(widths):
        layers.append(nn.Linear(before, after))
        layers += [nn.BatchNorm1d(after), nn.ReLU()] if design.batch_norm else [nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


@dataclass(frozen=True)
class Recipe:
    """How a model was trained. method: a name of `train.losses`; eps: linf radius in data units, 0 for none.

    cpu_minutes: what training took, on one core. config: the whole of `train.config`, from which it can be repeated.
    """

    method: str
    eps: float
    epochs: int
    lr: float
    batch_size: int
    seed: int
    command: str
    cpu_minutes: float | None = None
    config: dict[str, Any] | None = None


@dataclass(frozen=True)
class PgdAccuracy:
    """The fraction of the test set still right under PGD on the linf ball of radius eps (data units)."""

    eps: float
    steps: int
    restarts: int
    accuracy: float


@dataclass(frozen=True)
class CertifiedAccuracy:
    """The fraction of the first `images` test inputs proved robust in the linf ball of radius eps (data units).

    method: the strongest one used; `complete` is branch and bound, within `timeout` seconds an input, after all others.
    undecided: the fraction neither proved nor broken.
    """

    eps: float
    method: str
    images: int
    accuracy: float
    undecided: float
    timeout: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a JSON file beside a model file says about it.

    What verification needs: sha256 of the file; input_shape, without the batch axis; classes. dataset: a name or path
    for `data.load_dataset`. mean, std: per-channel input normalisation, both or neither, which the network needs before
    it; lower, upper: data range before normalisation. arch: of bare weights. And what a trained model can tell:
    clean_accuracy, pgd and certified are fractions of the test set; producer: who wrote it.
    """

    name: str | None = None
    arch: str | None = None
    dataset: str | None = None
    input_shape: Shape
    classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    lower: float = 0.0
    upper: float = 1.0
    recipe: Recipe | None = None
    clean_accuracy: float | None = None
    pgd: tuple[PgdAccuracy, ...] = ()
    sha256: str
    producer: str | None = None
    certified: tuple[CertifiedAccuracy, ...] = ()


def card_path(weights: str | Path) -> Path:
    """Where the card of a weights file lies: models/digits_mlp.pt -> models/digits_mlp.json."""
    return Path(weights).with_suffix(".json")


def stated_sha256(path: str | Path) -> object:
    """What a JSON file states as `sha256`; None where it is no card, for other tools leave JSON files beside models."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return raw.get("sha256") if isinstance(raw, dict) else None


def write_card(card: ModelCard, path: str | Path) -> None:
    """Write the card as JSON; `read_card` reads it back equal."""
    Path(path).write_text(json.dumps(asdict(card), indent=2) + "\n", encoding="utf-8")


def read_card(path: str | Path) -> ModelCard:
    """Read and validate a card. Raises InputError naming the file and the field."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot read the model card ({error})") from error
    try:
        return _card(raw)
    except _FieldError as error:
        raise InputError(f"{path}: model card: {error}") from error


class _FieldError(Exception):
    """A field of a card is missing, unknown or malformed; `read_card` adds the file's name."""


def _is_list(value: object, valid: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(valid, value))


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


_Check = tuple[str, Callable[[Any], bool]]
_TEXT: _Check = ("a text", lambda v: isinstance(v, str) and v != "")
_COUNT: _Check = ("an integer >= 1", lambda v: type(v) is int and v >= 1)
_SEED: _Check = ("an integer >= 0", lambda v: type(v) is int and v >= 0)
_NUMBER: _Check = ("a finite number", _is_number)
_RADIUS: _Check = ("a finite number >= 0", lambda v: _is_number(v) and v >= 0)
_FRACTION: _Check = ("a number in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1)
_OPTIONAL_FRACTION: _Check = ("null or a number in [0, 1]", lambda v: v is None or _FRACTION[1](v))
_OPTIONAL_TEXT: _Check = ("null or a text", lambda v: v is None or _TEXT[1](v))
_SHAPE: _Check = ("a list of integers >= 1", lambda v: _is_list(v, _COUNT[1]) and v != [])
_CHANNELS: _Check = ("null or a list of numbers", lambda v: v is None or _is_list(v, _is_number))
_ARCH: _Check = (
    f"null or one of {', '.join(_ARCHITECTURES)}",
    lambda v: v is None or (isinstance(v, str) and v in _ARCHITECTURES),
)
_SHA256: _Check = ("64 hexadecimal digits", lambda v: isinstance(v, str) and bool(re.fullmatch("[0-9a-f]{64}", v)))
_LIST: _Check = ("a list", lambda v: isinstance(v, list))
_OPTIONAL_OBJECT: _Check = ("null or an object", lambda v: v is None or isinstance(v, dict))
_OPTIONAL_NUMBER: _Check = ("null or a number >= 0", lambda v: v is None or (_is_number(v) and v >= 0))

_CARD_FIELDS = {"input_shape": _SHAPE, "classes": _COUNT, "sha256": _SHA256}
_OPTIONAL_CARD_FIELDS = {"name": _OPTIONAL_TEXT, "arch": _ARCH, "dataset": _OPTIONAL_TEXT, "mean": _CHANNELS,
                         "std": _CHANNELS, "lower": _NUMBER, "upper": _NUMBER, "recipe": _OPTIONAL_OBJECT,
                         "clean_accuracy": _OPTIONAL_FRACTION, "pgd": _LIST, "certified": _LIST,
                         "producer": _OPTIONAL_TEXT}  # fmt: skip
_RECIPE_FIELDS = {"method": _TEXT, "eps": _RADIUS, "epochs": _COUNT, "lr": _RADIUS, "batch_size": _COUNT,
                  "seed": _SEED, "command": _TEXT}  # fmt: skip
_PGD_FIELDS = {"eps": _RADIUS, "steps": _COUNT, "restarts": _COUNT, "accuracy": _FRACTION}
_CERTIFIED_FIELDS = {"eps": _RADIUS, "method": _TEXT, "images": _COUNT, "accuracy": _FRACTION, "undecided": _FRACTION}
# Cards written before these fields existed are still read.
_OPTIONAL_RECIPE_FIELDS = {"cpu_minutes": _OPTIONAL_NUMBER, "config": _OPTIONAL_OBJECT}
_OPTIONAL_CERTIFIED_FIELDS = {"timeout": _OPTIONAL_NUMBER}


def _checked(
    raw: object, checks: Mapping[str, _Check], prefix: str = "", optional: Mapping[str, _Check] | None = None
) -> dict[str, Any]:
    """The object `raw`, with all fields of `checks`, any of `optional`, each as its check wants it; lists as tuples."""
    if not isinstance(raw, dict):
        raise _FieldError(f"{prefix.rstrip('.') or 'the file'} must be an object")
    known = {**checks, **(optional or {})}
    checks = {name: check for name, check in known.items() if name in checks or name in raw}
    for name in sorted(raw.keys() - known.keys()):
        raise _FieldError(f"unknown field '{prefix}{name}' (known: {', '.join(known)})")
    for name, (wanted, valid) in checks.items():
        if name not in raw:
            raise _FieldError(f"field '{prefix}{name}' is missing")
        if not valid(raw[name]):
            raise _FieldError(f"field '{prefix}{name}' must be {wanted}, not {json.dumps(raw[name])[:60]}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}


def _card(raw: object) -> ModelCard:
    values = _checked(raw, _CARD_FIELDS, optional=_OPTIONAL_CARD_FIELDS)
    mean, std = values.get("mean"), values.get("std")
    if (mean is None) != (std is None):
        raise _FieldError("fields 'mean' and 'std' must be given together")
    if mean is not None and std is not None and not len(mean) == len(std) == values["input_shape"][0]:
        raise _FieldError(f"fields 'mean' and 'std' must have one number per channel ({values['input_shape'][0]})")
    if std is not None and not all(s > 0 for s in std):
        raise _FieldError("field 'std' must be positive")
    if not values.get("lower", 0.0) < values.get("upper", 1.0):
        raise _FieldError("field 'lower' must be below 'upper'")
    if (recipe := values.get("recipe")) is not None:
        values["recipe"] = Recipe(**_checked(recipe, _RECIPE_FIELDS, "recipe.", _OPTIONAL_RECIPE_FIELDS))
    pgd = enumerate(values.get("pgd", ()))
    values["pgd"] = tuple(PgdAccuracy(**_checked(entry, _PGD_FIELDS, f"pgd[{i}].")) for i, entry in pgd)
    values["certified"] = tuple(
        CertifiedAccuracy(**_checked(entry, _CERTIFIED_FIELDS, f"certified[{i}].", _OPTIONAL_CERTIFIED_FIELDS))
        for i, entry in enumerate(values.get("certified", ()))
    )
    return ModelCard(**values)
