"""The script that draws the effect of training counts errors as the model card does."""

import importlib.util
from pathlib import Path

import pytest

from verifier.attack.pgd import Fgsm, Pgd
from verifier.data import load_dataset
from verifier.zoo import read_card

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def figure():
    spec = importlib.util.spec_from_file_location("figure_training", ROOT / "scripts" / "figure_training.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_errors_are_those_of_the_card_and_grow_with_the_attack(figure):
    model, data = figure.load("digits_conv"), load_dataset("digits", "test")
    card = read_card(ROOT / "models" / "digits_conv.json")
    clean = 100 * (1 - card.clean_accuracy)
    for norm, sizes in (("linf", (0.02, 0.1)), ("l2", (0.2, 1.0))):
        none = figure.percent_wrong(model, data, Fgsm(), norm, 0.0)
        small, large = (figure.percent_wrong(model, data, figure.ATTACK, norm, eps) for eps in sizes)
        assert none == pytest.approx(clean) and none <= small < large
    strong, weak = (
        figure.percent_wrong(model, data, attack, "linf", 0.1) for attack in (Pgd(steps=40, restarts=2), Fgsm())
    )
    assert weak <= strong == pytest.approx(100 * (1 - card.pgd[-1].accuracy), abs=2)


def test_every_model_that_is_drawn_has_a_recipe(figure):
    text = "".join((ROOT / "scripts" / f"train_{name}.py").read_text() for name in ("models", "robust"))
    assert all(f'"{name}"' in text for name in {*figure.BARS.values(), *figure.CURVES.values()})


def test_the_numbers_of_every_panel_are_drawn(figure, tmp_path, monkeypatch):
    """From measured numbers to three panels: heights of the bars and points of the curves are the numbers."""
    errors = {"bars": {name: [1.0 + k, 2.0, 3.0, 4.0] for k, name in enumerate(figure.BARS)}}
    errors |= {norm: {name: [10.0 * k + s for s in sizes] for k, name in enumerate(figure.CURVES)}
               for norm, sizes in figure.SIZES.items()}  # fmt: skip
    kept = []
    monkeypatch.setattr(figure.plt, "close", kept.append)
    figure.draw(errors, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    bars, *curves = kept[0].axes
    heights = [patch.get_height() for patch in bars.patches]
    assert heights == [height for four in errors["bars"].values() for height in four]
    for axes, (norm, sizes) in zip(curves, figure.SIZES.items(), strict=True):
        drawn = {line.get_label(): (tuple(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
        assert drawn == {name: (sizes, errors[norm][name]) for name in figure.CURVES}
