"""The scripts that train the committed models have the configurations that their cards state."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from verifier.train.config import parse_config
from verifier.zoo import build, read_card

ROOT = Path(__file__).parents[2]
CARDS = [path for path in sorted((ROOT / "models").glob("*.json")) if read_card(path).recipe.config is not None]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs():
    return script("train_robust").RUNS


def test_recipes_build(runs):
    for config in runs.values():
        assert build(config.arch, (1, 28, 28), 10) is not None and config.loss() is not None


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_states_what_the_script_trains(runs, path):
    card = read_card(path)
    assert runs[path.stem] == parse_config(card.recipe.config)
    assert card.recipe.command == f"python scripts/train_robust.py {path.stem}"
    shares = [entry.accuracy for entry in card.certified if entry.eps == runs[path.stem].eps]
    assert shares == sorted(shares) and shares[-1] <= card.pgd[0].accuracy <= card.clean_accuracy


def test_a_plain_model_is_made_again(tmp_path):
    """Bit for bit on the machine that made it; elsewhere rounding may differ."""
    train_models = script("train_models")
    train_models.make("digits_mlp", tmp_path)
    made, kept = (torch.load(folder / "digits_mlp.pt", weights_only=True) for folder in (tmp_path, ROOT / "models"))
    assert all(torch.allclose(made[name], kept[name], atol=0.05) for name in kept)
    again, card = (read_card(folder / "digits_mlp.json") for folder in (tmp_path, ROOT / "models"))
    assert again.clean_accuracy == pytest.approx(card.clean_accuracy, abs=0.01)
    assert [entry.accuracy for entry in again.pgd] == pytest.approx([entry.accuracy for entry in card.pgd], abs=0.03)
    measured = {name: getattr(card, name) for name in ("clean_accuracy", "pgd", "certified", "sha256", "producer")}
    recipe = dataclasses.replace(again.recipe, cpu_minutes=card.recipe.cpu_minutes)
    assert dataclasses.replace(again, recipe=recipe, **measured) == card
