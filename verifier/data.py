"""Data sets: images in data units (before any normalisation) with their labels.

`digits`: scikit-learn's bundled 1,797 handwritten 8x8 digits. `mnist`: the IDX files of LeCun et al. (1998).
`FILE.npz`: a data set of one's own.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import importlib.util
import math
import os
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from verifier.errors import InputError
from verifier.types import Shape

SPLITS = ("train", "test")
DIGITS_TEST_STRIDE = 7  # coprime to 10: the file counts the digits up, so that 5 or 10 would pick the same classes
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_FILES = {"train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
               "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")}  # fmt: skip
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
DOWNLOAD_TIMEOUT_S = 30
MOST_CLASSES = 1 << 24  # as far as float32 counts


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled inputs. images: float32 (n, *shape) in data units, within [lower, upper]; labels: int64 (n,)."""

    name: str
    images: Tensor
    labels: Tensor
    classes: int
    lower: float = 0.0
    upper: float = 1.0

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def shape(self) -> Shape:
        """The shape of one input, without the batch axis."""
        return tuple(self.images.shape[1:])


def load_dataset(name_or_path: str | Path, split: str = "test", *, download: bool = True) -> Dataset:
    """The data set `digits`, `mnist` or FILE.npz.

    split: `train` or `test`; an .npz file holds one set, which is returned for either.
    download: whether `mnist` may be fetched when it is not on this machine.
    Raises InputError when the name is unknown or the files are missing or malformed.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} (available: {', '.join(SPLITS)})")
    if name_or_path == "digits":
        return _load_digits(split)
    if name_or_path == "mnist":
        return _load_mnist(split, download)
    if Path(name_or_path).suffix == ".npz":
        return _load_npz(Path(name_or_path))
    raise InputError(f"unknown data set {str(name_or_path)!r} (available: digits, mnist, or the path of a FILE.npz)")


def _load_digits(split: str) -> Dataset:
    """Test: every seventh image from the first on, 257 of them; train: the other 1,540."""
    # The package is located but not imported: importing it takes most of a second.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("data set 'digits' comes with scikit-learn, which is not installed: pip install scikit-learn")
    path = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    try:
        rows = np.loadtxt(path, delimiter=",", dtype=np.float32)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: cannot read the digits ({error}); reinstall scikit-learn") from error
    in_test = np.arange(len(rows)) % DIGITS_TEST_STRIDE == 0
    rows = rows[in_test if split == "test" else ~in_test]
    images = torch.from_numpy(rows[:, :-1] / 16).reshape(-1, 1, 8, 8)
    return Dataset("digits", images, torch.from_numpy(rows[:, -1].astype(np.int64)), classes=10)


def _load_mnist(split: str, download: bool) -> Dataset:
    names = MNIST_FILES[split]
    folder = _mnist_folder(names, download)
    pixels, labels = (read_idx(folder / name) for name in names)
    if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels) or not (labels < 10).all():
        raise InputError(f"{folder}: images {pixels.shape} and labels {labels.shape} do not match; download them again")
    images = torch.from_numpy(pixels).unsqueeze(1).float() / 255
    return Dataset("mnist", images, torch.from_numpy(labels).long(), classes=10)


def _mnist_folder(names: tuple[str, ...], download: bool) -> Path:
    """The folder that holds these files: $VERIFIER_DATA/mnist alone if set, else a sibling `shared`, else the cache."""

    def complete(folder: Path) -> bool:
        return all((folder / name).is_file() for name in names)

    if root := os.environ.get("VERIFIER_DATA"):
        folder = Path(root, "mnist")
        if not complete(folder):
            raise InputError(f"{folder}: {' or '.join(names)} is not there; mend or unset VERIFIER_DATA")
        return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "verifier", "mnist")
    siblings = [base.parent / "shared" / "data" / "mnist" for base in (Path.cwd(), Path(__file__).parents[1])]
    for folder in (*siblings, cache):
        if complete(folder):
            return folder
    if not download:
        raise InputError("mnist is not on this machine; set VERIFIER_DATA to the folder that holds mnist/")
    for name in names:
        _download(MNIST_URL + name, cache / name, MNIST_SHA256[name])
    return cache


def _download(url: str, path: Path, sha256: str) -> None:
    """Fetch `url` to `path`, which appears only once its checksum has been verified."""
    if path.is_file() and file_sha256(path) == sha256:
        return
    way_out = "try again, or set VERIFIER_DATA to a folder that holds mnist/"
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
            content = response.read()
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise InputError(f"{url}: sha256 is {found}, expected {sha256}; {way_out}")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url}: cannot be downloaded to {path.parent} ({error}); {way_out}") from error


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of a gzipped IDX file (two zero bytes, type 0x08, rank, big-endian sizes, the values)."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as gzip ({error}); download it again") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise InputError(f"{path}: not an IDX file of unsigned bytes; download it again")
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    if len(content) - start != math.prod(shape):
        raise InputError(f"{path}: {len(content) - start} values for an array of {shape}; download it again")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()


def _load_npz(path: Path) -> Dataset:
    """Arrays `images` or `x` (n, *shape), floats in the data range or uint8 pixels, and `labels` or `y` (n,).

    Optional scalars: `lower` and `upper`, the data range when it is not [0, 1], and `classes`, when it is not
    the largest label + 1. Pixels from 0 to 255 are scaled to the data range.
    """
    arrays = _read_npz(path)
    images, labels = _one_of(path, arrays, "images", "x"), _one_of(path, arrays, "labels", "y")
    if images.ndim and not len(images):
        raise InputError(f"{path}: holds no images; give another file")
    if (images.dtype.kind != "f" and images.dtype != np.uint8) or images.ndim < 2 or images.size == 0:
        raise InputError(f"{path}: images must be uint8 or float, (n, *shape); they are {images.dtype} {images.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        wanted = f"integers of shape {images.shape[:1]}"
        raise InputError(f"{path}: labels must be {wanted}, one per image; they are {labels.dtype} {labels.shape}")
    lower, upper = _scalar(path, arrays, "lower", 0.0), _scalar(path, arrays, "upper", 1.0)
    images = from_pixels(images, lower, upper) if images.dtype == np.uint8 else _single(images)
    if not np.isfinite(images).all():
        where = int(np.argwhere(~np.isfinite(images))[0, 0])
        raise InputError(f"{path}: image {where} holds NaN or Inf, or what float32 cannot hold; mend or remove it")
    if not (images.min() >= lower and images.max() <= upper):
        found = f"[{images.min()}, {images.max()}]"
        way_out = "scale them or store lower and upper"
        raise InputError(f"{path}: image values {found} leave the data range [{lower}, {upper}]; {way_out}")
    classes = int(_scalar(path, arrays, "classes", float(labels.max()) + 1))
    if classes > MOST_CLASSES:
        raise InputError(f"{path}: {classes} classes, more than {MOST_CLASSES}; number the labels from 0 on")
    if not (labels.min() >= 0 and labels.max() < classes):
        raise InputError(f"{path}: labels {labels.min()}..{labels.max()} leave 0..{classes - 1}; mend or store classes")
    tensors = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
    return Dataset(path.stem, *tensors, classes=classes, lower=lower, upper=upper)


def from_pixels(pixels: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """uint8 pixels as float32 in the data range: 0 is `lower`, 255 is `upper`."""
    return np.clip(lower + pixels * np.float32(upper - lower) / np.float32(255), lower, upper, dtype=np.float32)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path}: no such data file")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not an .npz archive; write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # numpy and zipfile raise a dozen types about damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not an .npz of plain arrays ({reason}); write it with numpy.savez") from error
    for key, value in arrays.items():
        if not isinstance(value, np.ndarray):  # numpy hands out the bytes of what is no array
            raise InputError(f"{path}: {key!a} is not stored as an array; write the file with numpy.savez")
    return arrays


def _one_of(path: Path, arrays: dict[str, np.ndarray], *names: str) -> np.ndarray:
    found = [name for name in names if name in arrays]
    if len(found) != 1:
        held = ", ".join(map(ascii, arrays))
        raise InputError(f"{path}: needs exactly one array named {' or '.join(names)}; it has: {held}")
    return arrays[found[0]]


def _scalar(path: Path, arrays: dict[str, np.ndarray], name: str, default: float) -> float:
    value = arrays.get(name, np.array(default))
    # Rounded as the images are, so that a value at the edge of the range stays within it.
    if value.dtype.kind not in "iuf" or value.size != 1 or not np.isfinite(_single(value)).all():
        raise InputError(f"{path}: {name} must be one finite number of float32; it is {value.dtype} {value.shape}")
    return float(_single(value).reshape(()))


def _single(array: np.ndarray) -> np.ndarray:
    """In float32, infinite where that does not reach."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
