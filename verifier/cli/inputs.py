"""The input that a command is about, in the model's shape: an entry of a data set, an image or an array."""

from __future__ import annotations

import argparse
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verifier.errors import InputError, ModelError
from verifier.spec.property import Property
from verifier.spec.robustness import local_robustness
from verifier.types import Shape, same_layout

if TYPE_CHECKING:
    from verifier.load import Model

ARRAY_MAGIC = b"\x93NUMPY"
# What numpy raises for files that are no .npy files, headers of all sorts among them.
NO_ARRAY = (OSError, EOFError, ValueError, TypeError, OverflowError, MemoryError, RecursionError, tokenize.TokenError)
IMAGE_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # 8-bit modes without transparency


@dataclass(frozen=True, eq=False)
class Sample:
    """An input x (float32, of the model's input shape) in data units, within [lower, upper].

    prediction: the model's class for x. source: what x is, in words; stem: the same for file names. picture: the shape
    in which x is drawn. notes: sentences about what was chosen for want of an option.
    """

    x: np.ndarray
    label: int
    prediction: int
    source: str
    stem: str
    lower: float
    upper: float
    picture: Shape
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """The input as --json prints it."""
        named = {"input": self.source, "label": self.label, "prediction": self.prediction}
        return named | {"lower": self.lower, "upper": self.upper, "notes": list(self.notes)}


@dataclass(frozen=True, eq=False)
class _Found:
    """An input as its file has it, before it takes the model's shape; label: None when the file has none.

    classes: how many the data set has.
    """

    values: np.ndarray
    label: int | None
    source: str
    stem: str
    lower: float
    upper: float
    notes: tuple[str, ...] = ()
    classes: int = 0


def read_sample(args: argparse.Namespace, model: Model) -> Sample:
    """The input that --dataset and --index or --input name, with its label.

    Raises InputError when it cannot be read, does not fit the model, or the options contradict each other.
    """
    scores = tuple(n for n in model.graph.output_shape if n != 1)
    if len(scores) != 1:
        given = f"outputs {'x'.join(map(str, scores))}" if scores else "one output"
        wanted = "a prediction needs one score for each of at least two classes"
        raise InputError(f"{model.path}: the network has {given}, {wanted}; --property FILE can state other questions")
    found = _from_file(args, model) if args.input is not None else _from_dataset(args, model)
    shape = tuple(model.graph.input_shape)
    if not same_layout(found.values.shape, shape):
        size = "x".join(map(str, found.values.shape))
        raise InputError(f"{found.source} has the size {size}, the network reads {'x'.join(map(str, shape))}")
    if found.classes > scores[0]:
        counts = f"the data set has {found.classes} classes, {model.path} has {scores[0]} outputs"
        raise InputError(f"{counts}: number the labels from 0 on")
    x = found.values.reshape(shape)
    prediction, notes = predicted(model, x), found.notes
    label = found.label if args.label is None else args.label
    if label is None:
        label = prediction
        notes += (f"label: no --label was given, so the network's own prediction, {label}, counts as right",)
    elif prediction != label:
        notes += (f"note: the network classifies the unchanged input as {prediction}, its label is {label}",)
    if model.card and (found.lower, found.upper) != (model.card.lower, model.card.upper):
        stated = f"[{model.card.lower:g}, {model.card.upper:g}]"
        notes += (
            f"note: inputs stay in the data range [{found.lower:g}, {found.upper:g}]; the model card has {stated}",
        )
    picture = max(found.values.shape, shape, key=len)
    return Sample(x, label, prediction, found.source, found.stem, found.lower, found.upper, picture, notes)


def read_property(args: argparse.Namespace, model: Model, sample: Sample) -> Property:
    """Local robustness of the sample, by --eps, --norm and --target. Raises SpecificationError when they do not fit."""
    span = {"lower": sample.lower, "upper": sample.upper}
    classes = model.graph.nodes[-1].size
    return local_robustness(sample.x, sample.label, args.eps, args.norm, args.target, classes=classes, **span)


def in_words(args: argparse.Namespace, model: Model, sample: Sample) -> tuple[str, str]:
    """What a property is about: the inputs, and the network."""
    ball = f"inputs within {args.norm} distance {args.eps} of {sample.source} (label {sample.label})"
    return f"{ball}, from {sample.lower:g} to {sample.upper:g}", f"network {model.path.name}, sha256 {model.sha256}"


def predicted(model: Model, x: np.ndarray) -> int:
    """The class that the model itself gives the input x (of the model's input shape)."""
    scores = np.asarray(model.native(x[None])).reshape(-1)
    if not np.isfinite(scores).all():
        raise ModelError(f"{model.path}: the network's output for this input holds NaN or Inf")
    return int(scores.argmax())


def _from_dataset(args: argparse.Namespace, model: Model) -> _Found:
    from verifier.data import load_dataset

    name, index = args.dataset, args.index or 0
    if name is None:
        if model.card is None:
            raise InputError(f"{model.path} has no model card that names a data set: give --dataset or --input")
        name = model.card.dataset
    data = load_dataset(name)
    if not index < len(data):
        raise InputError(
            f"index {index} is out of range: the test split of {data.name} has inputs 0 to {len(data) - 1}"
        )
    notes: tuple[str, ...] = ()
    if args.dataset is None and args.index is None:
        notes = (f"input: no --index or --input was given, so image 0 of the model card's data set ({name}) is used",)
    source, stem = f"{data.name} image {index}", f"{data.name}{index}"
    return _Found(
        data.images[index].numpy(), int(data.labels[index]), source, stem, data.lower, data.upper, notes, data.classes
    )


def _from_file(args: argparse.Namespace, model: Model) -> _Found:
    from verifier.data import from_pixels

    path = Path(args.input)
    if args.dataset is not None:
        raise InputError("--dataset and --input name two inputs: give one of them")
    lower, upper = (0.0, 1.0) if model.card is None else (model.card.lower, model.card.upper)
    try:
        with path.open("rb") as file:
            is_array = file.read(len(ARRAY_MAGIC)) == ARRAY_MAGIC
    except OSError as error:
        raise InputError(f"{path}: cannot read the input ({error.strerror})") from error
    values = _read_array(path) if is_array else _read_image(path, tuple(model.graph.input_shape))
    if values.dtype == np.uint8:
        values = from_pixels(values, lower, upper)
    values = values.astype(np.float32)
    if ((values < lower) | (values > upper)).any():
        found = f"values from {values.min():g} to {values.max():g} leave the data range [{lower:g}, {upper:g}]"
        raise InputError(f"{path}: {found}: scale them, or state `lower` and `upper` in an .npz file for --dataset")
    return _Found(values, None, path.name, path.stem, lower, upper)


def _read_array(path: Path) -> np.ndarray:
    """An array of floats in data units, or of uint8 pixels."""
    values = load_array(path)
    if values.dtype != np.uint8 and values.dtype.kind != "f":
        raise InputError(f"{path}: an input must hold floats in data units or uint8 pixels, not {values.dtype}")
    return values


def load_array(path: Path) -> np.ndarray:
    """The array in a .npy file. Raises InputError."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
            return np.asarray(np.load(path, allow_pickle=False))
    except NO_ARRAY as error:
        raise InputError(f"{path}: cannot be read as a .npy array ({error}); write it with numpy.save") from error


def _read_image(path: Path, shape: Shape) -> np.ndarray:
    """Pixels, uint8, in the layout of the network's input: (channels, height, width), or (height, width, channels).

    A flat network reads gray or RGB, whichever has its number of values.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            mode, (width, height) = image.mode, image.size
            if mode not in IMAGE_MODES:
                raise InputError(f"{path}: images of mode {mode} are not read: save it as 8-bit gray or RGB, opaque")
            gray, colour = np.asarray(image.convert("L")), np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read as an image or a .npy array ({error})") from error
    layouts = (gray[None], colour.transpose(2, 0, 1), gray[..., None], colour)
    for pixels in layouts:
        if pixels.shape == shape:
            return pixels
    for pixels in layouts[:2]:
        if same_layout(pixels.shape, shape):
            return pixels
    wanted = "x".join(map(str, shape))
    raise InputError(f"{path}: the image has the size {width}x{height} (width x height), the network reads {wanted}")
