"""Damaged files of every kind: readers raise their own errors, in time, and run nothing."""

from __future__ import annotations

import gzip
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import corpora
import damage as damages
import numpy as np
import pytest
import torch
from damage import BYTES, TEXT, Damage, TooSlow, limited
from victims import victims

from verifier.batch.merging import read_all
from verifier.certificate import checker
from verifier.certificate.checker import Refused
from verifier.certificate.reading import Network
from verifier.certificate.rounded import Rounded
from verifier.cli.check import read_point
from verifier.data import load_dataset
from verifier.errors import InputError, VerifierError
from verifier.load import load
from verifier.spec.vnnlib import read_query, read_vnnlib
from verifier.train.config import read_config
from verifier.zoo import read_card

SAMPLE, MANY = 40, 100_000
POINT = b"((X_0 0.5)\n (X_1 -1.25e-1)\n (Y_0 1))\n"


@dataclass(frozen=True, eq=False)
class Reader:
    """files: good ones by name. damages: ways of damaging them. read: reads a file. suffix: of its name."""

    files: Callable[[], dict[str, bytes]]
    damages: Sequence[Damage]
    read: Callable[[Path], object]
    suffix: str
    errors: tuple[type[Exception], ...] = (VerifierError,)


def read_model(path: Path) -> None:
    """What is loaded and can be run means the same to us and to the runtime of the format."""
    model = load(path, "linear" if path.name.startswith("weights") else None)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, *model.graph.input_shape)).astype(np.float32)
    single = model.native(x)
    double = model.graph.to(torch.float64)(torch.from_numpy(x).double()).numpy()
    with np.errstate(all="ignore"):
        near = np.abs(single - double) <= 1e-3 * (1 + np.abs(double)) * (1 + np.abs(double).max())
    usable = np.isfinite(single) & np.isfinite(double) & (np.abs(double) < 1e12)
    assert (near | ~usable).all(), "the graph is not what the file says"
    if model.stored is not None:
        found, expected = checked_output(model.stored, x[0]), double[0].ravel()
        if found is not None:
            near = np.abs(found - expected) <= 1e-3 * (1 + np.abs(expected).max())
            assert (near | ~usable[0].ravel()).all(), "the checker reads another network"


def checked_output(content: bytes, x: np.ndarray) -> np.ndarray | None:
    """What the stand-alone checker takes an ONNX model to make of x; None where it does not read the model."""
    try:
        network = Network(content)
    except Exception:  # which the checker turns into a refusal
        return None
    hints = {"refine": [0] * len(network.activations), "slots": np.zeros((3, 0)), "codes": np.zeros((0, 0))}
    point = x.reshape(1, -1).astype(np.float64)
    with np.errstate(all="ignore"):
        domains = checker.Analysis(network, Rounded, False, hints).bounds((point, point))
        middle = (network.output.gather(domains.lower) + network.output.gather(domains.upper)) / 2
    return middle.ravel()


def read_certificate(path: Path) -> None:
    """Against its files; what is still accepted is about them."""
    victim = victims()[path.stem.partition(".")[0]]
    checker.check(path.read_bytes(), victim.certificate.model, victim.certificate.statement, "rounded", sample=0)


def read_property(path: Path) -> None:
    read_vnnlib(path, (2,), 2)


def read_counterexample(path: Path) -> None:
    property_file = path.with_name("p.vnnlib")
    property_file.write_bytes(corpora.VNNLIB1)
    read_point(str(path), read_query(property_file))


def picked(files: Callable[[], dict[str, bytes]], *words: str) -> Callable[[], dict[str, bytes]]:
    """Only the files with one of these words in their names."""
    return lambda: {name: content for name, content in files().items() if any(word in name for word in words)}


def zipped() -> dict[str, bytes]:
    return {name: gzip.compress(content, 1) for name, content in corpora.models().items()}


def certificates() -> dict[str, bytes]:
    return {name: victim.certificate.content for name, victim in victims().items()}


ZIP, CHECKPOINTS = (damages.in_zip, damages.in_zip, *BYTES), corpora.checkpoints
HEADER = (damages.in_header, damages.in_header, *BYTES)
LINES = (damages.resealed, damages.resealed, damages.revalued, *TEXT)
READERS: dict[str, Reader] = {
    "onnx": Reader(corpora.models, (*BYTES, *[damages.in_fields] * 16), read_model, ".onnx"),
    "onnx.gz": Reader(zipped, (damages.in_gzip, *BYTES), read_model, ".onnx.gz"),
    "torch": Reader(picked(CHECKPOINTS, "zip"), ZIP, read_model, ".pt"),
    "torch, old": Reader(picked(CHECKPOINTS, "weights-legacy"), BYTES, read_model, ".pt"),
    "safetensors": Reader(picked(CHECKPOINTS, "safetensors"), HEADER, read_model, ".safetensors"),
    "npz": Reader(corpora.datasets, ZIP, lambda path: load_dataset(str(path)), ".npz"),
    "VNN-LIB 1.0": Reader(lambda: {"one": corpora.VNNLIB1}, TEXT, read_property, ".vnnlib"),
    "VNN-LIB 2.0": Reader(lambda: {"two": corpora.VNNLIB2}, TEXT, read_property, ".vnnlib"),
    "certificate": Reader(certificates, (*BYTES, *TEXT), read_certificate, ".cert", (Refused,)),
    "journal": Reader(lambda: {"j": corpora.journal()}, LINES, lambda path: read_all([path]), ".jsonl", (InputError,)),
    "card": Reader(corpora.cards, (damages.json_values, *TEXT), read_card, ".json", (InputError,)),
    "recipe": Reader(lambda: {"r": corpora.RECIPE}, (damages.json_values, *TEXT), read_config, ".json", (InputError,)),
    "counterexample": Reader(lambda: {"c": POINT}, TEXT, read_counterexample, ".txt", (InputError,)),
}


def damage(name: str, number: int, folder: Path) -> str:
    """Read damaged file `number`; returns what came of it. Fails on errors of other types and on too much time."""
    reader, draw = READERS[name], np.random.default_rng([number, len(name)])
    files = reader.files()
    stem = list(files)[number % len(files)]
    content = files[stem]
    for _ in range(int(draw.integers(1, 3))):
        try:
            content = reader.damages[int(draw.integers(len(reader.damages)))](draw, content)
        except Exception:  # what was damaged once cannot always be taken apart for more
            break
    path = folder / f"{stem}{reader.suffix}"
    path.write_bytes(content)
    with warnings.catch_warnings(), limited():
        warnings.simplefilter("ignore")
        try:
            reader.read(path)
        except reader.errors as error:
            assert "\n" not in str(error)
            return type(error).__name__
    return "read"


@pytest.mark.parametrize("name", READERS)
def test_good_files_are_read(name: str, tmp_path: Path) -> None:
    for stem, content in READERS[name].files().items():
        path = tmp_path / f"{stem}{READERS[name].suffix}"
        path.write_bytes(content)
        READERS[name].read(path)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_raise_typed_errors(name: str, tmp_path: Path) -> None:
    outcomes = Counter(damage(name, number, tmp_path) for number in range(SAMPLE))
    assert outcomes.total() > outcomes["read"]


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_raise_typed_errors(name: str, tmp_path: Path) -> None:
    for number in range(SAMPLE, SAMPLE + MANY // len(READERS)):
        damage(name, number, tmp_path)


def intrude(number: int, folder: Path) -> None:
    """Read file `number` that would make a folder, damaged unless the number is small."""
    marker, draw = folder / "marker", np.random.default_rng(number)
    files = corpora.intruders(marker)
    name = list(files)[number % len(files)]
    content = files[name]
    if number >= len(files):
        content = (damages.in_zip if "zip" in name or name == "npz" else BYTES[int(draw.integers(4))])(draw, content)
    path = folder / ("weights.npz" if name == "npz" else "weights.pt")
    path.write_bytes(content)
    with warnings.catch_warnings(), limited():
        warnings.simplefilter("ignore")
        with suppress(VerifierError):
            load_dataset(str(path)) if name == "npz" else load(path, "linear")
    assert not marker.exists(), "a file ran code"


def test_files_that_would_run_code_do_not(tmp_path: Path) -> None:
    for number in range(60):
        intrude(number, tmp_path)


@pytest.mark.long
def test_many_files_that_would_run_code_do_not(tmp_path: Path) -> None:
    for number in range(60, 10_000):
        intrude(number, tmp_path)


def test_the_intruders_work(tmp_path: Path) -> None:
    """Unpickled by others, each of the files makes the folder."""
    import io
    import pickle

    marker = tmp_path / "marker"
    for name, content in corpora.intruders(marker).items():
        if name.startswith("pickle"):
            pickle.loads(content)
        elif name == "npz":
            np.load(io.BytesIO(content), allow_pickle=True)["images"]
        else:
            torch.load(io.BytesIO(content), weights_only=False)
        assert marker.is_dir()
        marker.rmdir()


def test_reading_that_takes_too_long_is_noticed() -> None:
    with pytest.raises(TooSlow), limited(0.05):
        while True:
            with suppress(Exception):
                sum(range(1000))
