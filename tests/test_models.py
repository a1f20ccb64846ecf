"""The committed models are what their cards say."""

from pathlib import Path

import pytest
import torch

from verifier.attack.pgd import Pgd
from verifier.data import file_sha256, load_dataset
from verifier.errors import InputError
from verifier.spec.robustness import label_margin
from verifier.types import Box
from verifier.zoo import build, card_path, read_card

ROOT = Path(__file__).parents[1]
MODELS = sorted((ROOT / "models").glob("*.pt"))
DIGITS = [path for path in MODELS if path.stem.startswith("digits")]
NAMES = {
    "digits_mlp",
    "digits_conv",
    "mnist_mlp",
    "mnist_conv",
    "mnist_conv_pgd",
    "mnist_conv_mtl_ibp",
    "mnist_conv_mtl_ibp_seed1",
    "mnist_conv_mtl_ibp_seed2",
    "mnist_conv_mtl_ibp_long",
    "mnist_conv_mtl_ibp_long_seed1",
    "mnist_conv_mtl_ibp_long_seed2",
    "mnist_conv_ibp",
    "mnist_conv_ibp_03",
    "mnist_conv_trades",
    "mnist_conv_tulip",
    "mnist_conv_fgsm",
    "mnist_conv_l2",
    "mnist_conv_mtl_ibp_03",
    "mnist_conv_mtl_ibp_03_long",
}


def load(path):
    card = read_card(card_path(path))
    model = build(card.arch, card.input_shape, card.classes)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return card, model.eval()


def test_all_models_are_there():
    assert {path.stem for path in MODELS} == NAMES


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_card_describes_these_weights(path):
    card, model = load(path)
    assert card.name == path.stem
    assert card.sha256 == file_sha256(path)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_clean_accuracy_is_the_cards(path):
    card, model = load(path)
    try:
        data = load_dataset(card.dataset, "test", download=False)
    except InputError as error:
        if card.dataset == "digits":
            raise
        pytest.skip(str(error))
    with torch.no_grad():
        right = (model(data.images).argmax(1) == data.labels).sum().item()
    # One image of slack: another processor may round a tie differently.
    assert abs(right - card.clean_accuracy * len(data)) <= 1.001


@pytest.mark.parametrize("path", DIGITS, ids=lambda path: path.stem)
def test_pgd_accuracy_is_the_cards(path):
    card, model = load(path)
    data = load_dataset(card.dataset, "test")
    for entry in card.pgd:
        region = Box((data.images - entry.eps).clamp(min=card.lower), (data.images + entry.eps).clamp(max=card.upper))
        attack = Pgd(steps=entry.steps, restarts=entry.restarts, seed=1)  # other starting points than the card's
        survived = (attack(model, region, label_margin(data.labels)).margin > 0).double().mean().item()
        assert survived == pytest.approx(entry.accuracy, abs=0.02)


def readme_rows(width):
    """The tables of models in the README with so many columns: name -> cells after the file's."""
    found = {}
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == width and cells[0].startswith("`models/"):
            found[Path(cells[0].strip("`")).stem] = cells[1:]
    return found


def test_the_readme_tells_what_the_cards_say():
    """Of every convolutional MNIST network: percents and minutes, "-" where none is known."""
    found = {name: [float(c) if c != "-" else None for c in cells[1:]] for name, cells in readme_rows(11).items()}
    assert found.keys() == {name for name in NAMES if name.startswith("mnist_conv")}
    for name, row in found.items():
        card = read_card(ROOT / "models" / f"{name}.json")
        (eps,) = {entry.eps for entry in card.certified}
        share = {entry.method: entry.accuracy for entry in card.certified}
        attacked = next(entry.accuracy for entry in card.pgd if entry.eps == eps)
        told = [share.get(method) for method in ("interval", "crown_ibp", "crown", "complete")]
        shares = [card.clean_accuracy, attacked, *told, card.certified[-1].undecided]
        expected = [eps, *(s if s is None else pytest.approx(100 * s) for s in shares)]
        minutes = card.recipe.cpu_minutes
        assert row == [*expected, minutes if minutes is None else pytest.approx(minutes, abs=0.051)], name


def test_the_readme_tells_of_the_plainly_and_the_pgd_trained_models():
    """Every model that is not in the other table is in this one: clean, under PGD at three radii, proved by CROWN."""
    found = readme_rows(8)
    assert found.keys() | readme_rows(11).keys() == NAMES
    for name, (arch, _, *percents) in found.items():
        card = read_card(ROOT / "models" / f"{name}.json")
        proved = next(entry.accuracy for entry in card.certified if entry.method == "crown")
        shares = [card.clean_accuracy, *(entry.accuracy for entry in card.pgd), proved]
        assert arch == f"`{card.arch}`" and [entry.eps for entry in card.pgd] == [0.02, 0.05, 0.1]
        assert [float(percent) for percent in percents] == pytest.approx([100 * share for share in shares], abs=0.051)


def test_accuracy_floors():
    floors = {"digits_mlp": 0.97, "digits_conv": 0.97, "mnist_mlp": 0.975, "mnist_conv": 0.988, "mnist_conv_pgd": 0.98}
    for name, floor in floors.items():
        assert read_card(MODELS[0].with_name(f"{name}.json")).clean_accuracy >= floor
    robust = read_card(MODELS[0].with_name("mnist_conv_pgd.json"))
    assert robust.recipe.eps == 0.1
    assert max(entry.accuracy for entry in robust.pgd if entry.eps == 0.1) >= 0.93
