"""Data sets: their splits, ranges and file formats."""

import gzip
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from verifier.data import MNIST_FILES, load_dataset, read_idx
from verifier.errors import InputError

REPOSITORY = Path(__file__).parents[1]


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_digits_are_scikit_learns():
    reference = pytest.importorskip("sklearn.datasets").load_digits()
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    pixels = np.round(torch.cat([train.images, test.images]).numpy().reshape(-1, 64) * 16)
    ours = sorted(map(tuple, np.c_[pixels, torch.cat([train.labels, test.labels])].tolist()))
    theirs = sorted(map(tuple, np.c_[reference.data, reference.target].tolist()))
    assert ours == theirs


def test_digits_split_is_fixed_and_disjoint():
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    assert (len(train), len(test)) == (1540, 257)
    assert test.labels[:12].tolist() == [0, 7, 4, 1, 8, 5, 1, 0, 1, 3, 1, 2]
    digest = hashlib.sha256((test.images * 16).to(torch.uint8).numpy().tobytes()).hexdigest()
    assert digest == "43857b8b417b8f91370c0f8d458a0d24a95836c4c550cbd3de9adde648db44a9"
    images = {tuple(image.flatten().tolist()) for image in train.images}
    assert not any(tuple(image.flatten().tolist()) in images for image in test.images)
    assert torch.bincount(test.labels).min() >= 20  # every class is tested


def test_digits_are_in_data_units():
    data = load_dataset("digits")
    assert data.shape == (1, 8, 8) and data.classes == 10
    assert data.images.dtype == torch.float32 and data.labels.dtype == torch.int64
    assert (data.images.min(), data.images.max()) == (data.lower, data.upper) == (0, 1)


def test_digits_load_without_importing_scikit_learn():
    code = "import sys; from verifier.data import load_dataset; load_dataset('digits'); print('sklearn' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("shape", [(5,), (3, 4, 2)])
def test_idx_values_come_back(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_idx(tmp_path / "a.gz", array)
    assert np.array_equal(read_idx(tmp_path / "a.gz"), array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip",
        gzip.compress(b""),
        gzip.compress(b"\x00\x00\x08\x03\x00"),  # the header stops short
        gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00"),  # floats
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x03ab"),  # a value too few
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x03abcd"),  # a value too many
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x03abc")[:-9],  # the gzip stream stops short
    ],
    ids=["empty", "no gzip", "nothing", "short header", "floats", "too few", "too many", "short stream"],
)
def test_malformed_idx_is_refused(tmp_path, content):
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.gz"):
        read_idx(path)


def test_mnist_is_read_from_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    pixels = np.arange(2 * 28 * 28, dtype=np.uint32).reshape(2, 28, 28) % 256
    for name, array in zip(MNIST_FILES["test"], (pixels, np.array([7, 2])), strict=True):
        write_idx(tmp_path / "mnist" / name, array.astype(np.uint8))
    monkeypatch.setenv("VERIFIER_DATA", str(tmp_path))
    data = load_dataset("mnist", "test")
    assert data.shape == (1, 28, 28) and data.labels.tolist() == [7, 2]
    assert data.images[1, 0, 0, 3].item() == pytest.approx(pixels[1, 0, 3] / 255)
    with pytest.raises(InputError, match="train-images"):
        load_dataset("mnist", "train")


def test_mnist_labels_must_match_the_images(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    for name, shape in zip(MNIST_FILES["test"], ((2, 28, 28), (3,)), strict=True):
        write_idx(tmp_path / "mnist" / name, np.zeros(shape, np.uint8))
    monkeypatch.setenv("VERIFIER_DATA", str(tmp_path))
    with pytest.raises(InputError, match="do not match"):
        load_dataset("mnist")


class TestDownload:
    """With a fake network: nothing is kept unless its checksum is right."""

    @pytest.fixture
    def serve(self, tmp_path, monkeypatch):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        monkeypatch.delenv("VERIFIER_DATA", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        # Hide a data folder beside the repository.
        monkeypatch.setattr("verifier.data.__file__", str(tmp_path / "elsewhere" / "verifier" / "data.py"))
        source = tmp_path / "source"
        source.mkdir()
        for name, array in zip(MNIST_FILES["test"], (np.ones((1, 28, 28)), np.array([4])), strict=True):
            write_idx(source / name, array.astype(np.uint8))
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in source.iterdir()}
        monkeypatch.setattr("verifier.data.MNIST_SHA256", digests)
        monkeypatch.setattr("verifier.data.MNIST_URL", source.as_uri() + "/")
        return source

    def test_files_are_cached(self, serve, tmp_path):
        assert load_dataset("mnist").labels.tolist() == [4]
        for path in serve.iterdir():
            path.unlink()
        assert load_dataset("mnist", download=False).labels.tolist() == [4]
        assert {path.name for path in (tmp_path / "cache/verifier/mnist").iterdir()} == set(MNIST_FILES["test"])

    def test_a_wrong_checksum_is_refused(self, serve, tmp_path):
        write_idx(serve / MNIST_FILES["test"][1], np.array([5], np.uint8))
        with pytest.raises(InputError, match="sha256"):
            load_dataset("mnist")
        assert not (tmp_path / "cache/verifier/mnist" / MNIST_FILES["test"][1]).exists()

    def test_no_network(self, serve):
        (serve / MNIST_FILES["test"][0]).unlink()
        with pytest.raises(InputError, match=r"cannot be downloaded.*VERIFIER_DATA"):
            load_dataset("mnist")

    def test_no_permission_to_download(self, serve):
        with pytest.raises(InputError, match="VERIFIER_DATA"):
            load_dataset("mnist", download=False)


IMAGES, LABELS = np.full((2, 3), 0.5), np.array([0, 4])


def test_npz_of_floats(tmp_path):
    data = load_dataset(save(tmp_path / "own.npz", images=IMAGES, labels=LABELS))
    assert (data.name, data.shape, data.classes, len(data)) == ("own", (3,), 5, 2)
    assert data.images.dtype == torch.float32 and data.labels.tolist() == [0, 4]


def test_npz_of_pixels_is_scaled(tmp_path):
    pixels = np.array([[0, 51, 255]], np.uint8)
    data = load_dataset(str(save(tmp_path / "own.npz", x=pixels, y=np.array([1]))))
    assert data.images.tolist() == [pytest.approx([0, 0.2, 1])]


def test_npz_of_pixels_is_scaled_to_its_own_range(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 256)
    for lower, upper in ((0, 255), (-1, 1), (-0.1, 0.7)):
        data = load_dataset(save(tmp_path / "own.npz", x=pixels, y=[0], lower=lower, upper=upper))
        assert (data.images[0, 0].item(), data.images[0, -1].item()) == (data.lower, data.upper)
        assert data.images[0].tolist() == pytest.approx(np.linspace(lower, upper, 256).tolist(), abs=1e-6)
    whole = load_dataset(save(tmp_path / "own.npz", x=pixels, y=[0], lower=0, upper=255))
    assert whole.images[0].tolist() == list(range(256))


def test_npz_with_its_own_range_and_classes(tmp_path):
    path = save(tmp_path / "own.npz", x=IMAGES * 4, y=LABELS, lower=-2, upper=2.5, classes=7)
    data = load_dataset(path)
    assert (data.lower, data.upper, data.classes) == (-2, 2.5, 7)


def test_npz_values_at_the_edge_of_a_range_that_float32_cannot_hold(tmp_path):
    data = load_dataset(save(tmp_path / "own.npz", x=np.array([[-0.1, 0.1]]), y=[0], lower=-0.1, upper=0.1))
    assert (data.images[0, 0].item(), data.images[0, 1].item()) == (data.lower, data.upper)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"images": IMAGES}, "labels or y"),
        ({"images": IMAGES, "x": IMAGES, "y": LABELS}, "exactly one"),
        ({"x": IMAGES, "y": LABELS[:1]}, "one per image"),
        ({"x": IMAGES, "y": LABELS * 1.0}, "integers"),
        ({"x": IMAGES, "y": LABELS - 1}, "leave 0"),
        ({"x": IMAGES, "y": LABELS, "classes": 4}, "leave 0"),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, "holds no images"),
        ({"x": IMAGES.astype(int), "y": LABELS}, "images must be"),
        ({"x": IMAGES * np.nan, "y": LABELS}, "image 0 holds NaN"),
        ({"x": IMAGES * 3, "y": LABELS}, "data range"),
        ({"x": IMAGES, "y": LABELS, "upper": np.inf}, "finite"),
        ({"x": IMAGES, "y": LABELS, "lower": np.zeros(3)}, "one finite number"),
        ({"x": IMAGES, "y": LABELS, "classes": 1e300}, "finite"),
        ({"x": IMAGES, "y": LABELS, "classes": 2.0**60}, "more than"),
        ({"x": IMAGES, "y": np.array([0, 2**63], np.uint64)}, "more than"),
        ({"x": IMAGES, "two\nlines": LABELS}, r"labels or y; it has: 'x', 'two\\nlines'"),
        ({"x": np.array([[None], [1]]), "y": LABELS}, "plain arrays"),  # an object array would be unpickled
    ],
)
def test_malformed_npz_is_refused(tmp_path, arrays, reason):
    path = save(tmp_path / "own.npz", **arrays)
    with pytest.raises(InputError, match=f"own.npz: .*{reason}") as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


DAMAGED = {
    "no array": b"LABELS",
    "empty": b"",
    "a header that ends within a bracket": npy(LABELS).replace(b"}", b"("),
    "a header of another shape": npy(LABELS).replace(b"(2,)", b"(9,)"),
    "a header of a huge shape": npy(LABELS).replace(b"(2,), }" + b" " * 15, b"(9999999999999999,), }"),
    "a negative shape": npy(LABELS).replace(b"(2,), ", b"(-2,),"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_an_npz_with_a_damaged_member_is_refused(tmp_path, damage):
    assert DAMAGED[damage] != npy(LABELS)
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr("x.npy", npy(IMAGES))
        archive.writestr("y.npy", DAMAGED[damage])
    refuse(tmp_path / "own.npz")


@pytest.mark.parametrize(("place", "value"), [(8, 1), (6, 99), (10, 99), (10, 14)])
def test_an_npz_whose_directory_is_damaged_is_refused(tmp_path, place, value):
    """In the first entry of a zip's directory: encryption, the version, the compression (unknown, and LZMA)."""
    content = save(tmp_path / "own.npz", x=IMAGES, y=LABELS).read_bytes()
    start = content.index(b"PK\x01\x02") + place
    (tmp_path / "own.npz").write_bytes(content[:start] + bytes([value]) + content[start + 1 :])
    refuse(tmp_path / "own.npz")


def refuse(path):
    with pytest.raises(InputError, match=r"own.npz: .*; write (it|the file) with numpy.savez") as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x80\x04N."])
def test_random_bytes_are_not_an_npz(tmp_path, content):
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"own\.npz"):
        load_dataset(path)


def test_a_bare_array_is_not_an_npz(tmp_path):
    np.save(tmp_path / "own.npy", IMAGES)
    (tmp_path / "own.npy").rename(tmp_path / "own.npz")
    with pytest.raises(InputError, match=r"own\.npz"):
        load_dataset(tmp_path / "own.npz")


@pytest.mark.parametrize(
    ("name", "split", "reason"),
    [
        ("cifar", "test", "available: digits, mnist"),
        ("digits", "validation", "available: train, test"),
        ("missing.npz", "test", "no such data file"),
        (".", "test", "unknown data set"),
    ],
)
def test_bad_names(name, split, reason):
    with pytest.raises(InputError, match=reason):
        load_dataset(name, split)
