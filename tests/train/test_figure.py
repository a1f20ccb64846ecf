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
        none = figure.error(model, data, Fgsm(), norm, 0.0)
        small, large = (figure.error(model, data, figure.ATTACK, norm, eps) for eps in sizes)
        assert none == pytest.approx(clean) and none <= small < large
    strong, weak = (figure.error(model, data, attack, "linf", 0.1) for attack in (Pgd(steps=40, restarts=2), Fgsm()))
    assert weak <= strong == pytest.approx(100 * (1 - card.pgd[-1].accuracy), abs=2)


def test_every_model_that_is_drawn_has_a_recipe(figure):
    text = "".join((ROOT / "scripts" / f"train_{name}.py").read_text() for name in ("models", "robust"))
    assert all(f'"{name}"' in text for name in {*figure.BARS.values(), *figure.CURVES.values()})
