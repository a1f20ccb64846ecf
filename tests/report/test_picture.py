"""What the pictures show, read from the figures; and that the files are PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from verifier.errors import InputError
from verifier.report import picture
from verifier.types import Interval


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would have been saved."""
    saved: list[Figure] = []
    monkeypatch.setattr(picture, "_save", lambda figure, path: saved.append(figure))
    return saved


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 5), (4, 5), (4, 5, 3), (4, 5, 1)])
def test_an_image_stands_beside_its_adversary_and_the_magnified_difference(
    figures: list[Figure], shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.2, 0.8, shape).astype(np.float32)
    adversarial = x.copy()
    adversarial.flat[3] += 0.125
    picture.save_counterexample("unused.png", x, adversarial, 4, 9, 0.125)
    left, middle, right = figures[0].axes[:3]
    assert left.get_title() == "input: class 4" and middle.get_title() == "adversarial input: class 9"
    assert right.get_title() == "difference \u00d7 4"  # +-0.125 becomes +-1/2 of the data range
    shown = [np.asarray(panel.images[0].get_array()) for panel in (left, middle, right)]
    assert shown[0].shape[:2] == (4, 5)
    assert np.sort(shown[0], axis=None) == pytest.approx(np.sort(x, axis=None), abs=1e-6)
    assert np.count_nonzero(np.abs(shown[1] - shown[0]) > 1e-6) == 1
    changed = np.abs(shown[2] - (0.5 if shown[2].ndim == 3 else 0.0)) > 1e-6
    assert np.count_nonzero(changed) == 1
    assert (changed == (np.abs(shown[1] - shown[0]) > 1e-6)).all()
    assert "linf distance 0.125" in figures[0].get_suptitle()


def test_the_data_range_is_black_to_white(figures: list[Figure]) -> None:
    x = np.array([[-1.0, 0.0], [0.5, 1.0]])
    picture.save_counterexample("unused.png", x, x, 0, 0, 0.0, lower=-1, upper=1)
    left, _, right = figures[0].axes[:3]
    assert np.asarray(left.images[0].get_array()) == pytest.approx(np.array([[0.0, 0.5], [0.75, 1.0]]))
    assert right.get_title() == "no difference"


@pytest.mark.parametrize("size", [5, 200])
def test_other_inputs_are_drawn_over_their_index(figures: list[Figure], size: int) -> None:
    x = np.linspace(0, 1, size)
    picture.save_counterexample("unused.png", x, x + 0.1, 0, 1, 1.0, norm="l1")
    top, bottom = figures[0].axes
    assert [text.get_text() for text in top.get_legend().get_texts()] == [
        "input: class 0",
        "adversarial input: class 1",
    ]
    heights = [bar.get_height() for bar in bottom.patches]
    assert heights == (pytest.approx([0.1] * 5) if size == 5 else [])
    assert figures[0].get_suptitle() == f"l1 distance {0.1 * size:.4g} (eps 1)"


def test_bounds_have_a_panel_per_layer_and_a_band_per_method(figures: list[Figure]) -> None:
    wide = Interval(torch.tensor([[-1.0, -2.0, 0.5]]), torch.tensor([[1.0, 1.0, 2.0]]))
    tight = Interval(torch.tensor([[0.0, -1.0, 1.0]]), torch.tensor([[1.0, 0.5, 1.5]]))
    picture.save_bounds("unused.png", {m: {"first": i, "second": i} for m, i in (("crown", tight), ("interval", wide))})
    first, second = figures[0].axes
    assert (first.get_title(), second.get_title()) == ("first (3 neurons)", "second (3 neurons)")
    texts = [text.get_text() for text in first.get_legend().get_texts()]
    assert texts == ["interval: 2 cross 0", "crown: 1 cross 0"]
    band = first.collections[1].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (-1.0, 1.5)


def test_files_are_png(tmp_path: Path) -> None:
    z = Interval(torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
    picture.save_bounds(tmp_path / "bounds.png", {"interval": {"only": z}})
    picture.save_counterexample(tmp_path / "x.png", np.zeros((1, 8, 8)), np.ones((1, 8, 8)), 0, 1, 1.0)
    for path in tmp_path.iterdir():
        assert Image.open(path).format == "PNG"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "x.png"
    with pytest.raises(InputError, match=r"x\.png: cannot write the picture"):
        picture.save_counterexample(path, np.zeros(3), np.ones(3), 0, 1, 1.0)
    with pytest.raises(InputError, match="no bounds to plot"):
        picture.save_bounds(tmp_path / "b.png", {"interval": {}})
