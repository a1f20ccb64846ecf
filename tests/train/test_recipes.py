"""The scripts that train the committed models have the configurations that their cards state."""

import dataclasses
import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

from verifier.data import Dataset, load_dataset
from verifier.load import load
from verifier.load.torch import TorchRunner
from verifier.train.config import Config, parse_config
from verifier.train.evaluate import evaluate
from verifier.train.finish import finish
from verifier.train.loop import Run
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


def test_the_recipe_for_a_gpu_runs_two_epochs(runs):
    """The published network and loop, in small: 4 images of MNIST's size, the schedules scaled to two epochs."""
    generator = torch.Generator().manual_seed(0)
    images = Dataset("noise", torch.rand(4, 1, 28, 28, generator=generator), torch.arange(4), 10)
    config = dataclasses.replace(runs["mnist_cnn7_mtl_ibp"], epochs=2, batch_size=2, milestones=(1,), ramp=1.0)
    run = Run(config, images)
    reports = list(run)
    assert [report.lr for report in reports] == pytest.approx([5e-4, 1e-4])
    assert reports[-1].eps == config.radius and all(math.isfinite(report.loss) for report in reports)
    assert sum(p.numel() for p in run.model.parameters()) > 12_900_000
    assert torch.isfinite(run.model(images.images)).all()


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


def test_rounded_weights_are_a_model_of_their_own(tmp_path):
    """What is written in float16 is what was measured: read back, it is as accurate, and proves the same images."""
    config = Config("digits", "mlp_32", "ibp", 0.03, epochs=5, batch_size=64, lr=5e-3, averaging=0.9)
    run, test = Run(config, load_dataset("digits", "train")), load_dataset("digits", "test")
    list(run)
    card, evaluation = finish(run, tmp_path / "half.pt", test, None, "none", half=True)
    state = torch.load(tmp_path / "half.pt", weights_only=True)
    assert all(value.dtype == torch.float16 for value in state.values())
    assert not all(torch.equal(v.float(), p) for v, p in zip(state.values(), run.model.parameters(), strict=True))
    read = load(tmp_path / "half.pt")
    assert read.card is not None and read.card.sha256 == card.sha256 and isinstance(read.native, TorchRunner)
    assert evaluate(read.native.module, test, 0.03) == evaluation
    assert 0 < evaluation.certified["interval"] < evaluation.clean
