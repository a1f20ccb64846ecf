"""The script that trains the committed models has the configurations that their cards state."""

import importlib.util
from pathlib import Path

import pytest

from verifier.train.config import parse_config
from verifier.zoo import build, read_card

ROOT = Path(__file__).parents[2]
CARDS = [path for path in sorted((ROOT / "models").glob("*.json")) if read_card(path).recipe.config is not None]


@pytest.fixture(scope="module")
def runs():
    spec = importlib.util.spec_from_file_location("train_robust", ROOT / "scripts" / "train_robust.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RUNS


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
