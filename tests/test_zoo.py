"""Architectures against the literature; cards."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from verifier.errors import InputError
from verifier.zoo import (
    CertifiedAccuracy,
    ModelCard,
    PgdAccuracy,
    Recipe,
    architectures,
    build,
    card_path,
    read_card,
    write_card,
)

MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("arch", architectures())
@pytest.mark.parametrize(("shape", "classes"), [(MNIST, 10), (CIFAR, 7)])
def test_every_architecture_maps_inputs_to_classes(arch, shape, classes):
    model = build(arch, shape, classes)
    assert model.eval()(torch.zeros(2, *shape)).shape == (2, classes)
    assert isinstance(model[-1], nn.Linear)
    assert sum(isinstance(m, nn.ReLU) for m in model) == sum(isinstance(m, nn.Linear | nn.Conv2d) for m in model) - 1


@pytest.mark.parametrize(
    ("arch", "shape", "count"),
    [
        ("mlp_100", MNIST, 784 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10),
        ("mlp_32", DIGITS, 64 * 32 + 32 + 32 * 32 + 32 + 32 * 10 + 10),
        ("conv_tiny", DIGITS, 136 + 2064 + (16 * 2 * 2 * 32 + 32) + 330),
        ("conv_small", MNIST, 166_406),  # Wong and Kolter (2018)
        ("conv_small", CIFAR, 214_918),  # the same with 3 channels and 8x8 maps
        ("dm_medium", MNIST, 320 + 16_416 + 18_496 + 65_600 + (1024 * 512 + 512) + 262_656 + 5_130),
        ("cnn7", CIFAR, 17_190_602 + 2 * (64 + 64 + 3 * 128 + 512)),  # 17.2 million, plus the BatchNorms
        ("cnn7", MNIST, 13_257_290 + 2 * (64 + 64 + 3 * 128 + 512)),
    ],
)
def test_parameter_counts(arch, shape, count):
    assert parameters(build(arch, shape, 10)) == count


def test_cnn7_has_a_batch_norm_after_every_layer_but_the_last():
    kinds = [type(m).__name__ for m in build("cnn7", MNIST, 10)]
    conv = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds == conv * 5 + ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_conv_small_has_the_keys_of_wong_and_kolters_checkpoint():
    keys = {f"{layer}.{kind}" for layer in (0, 2, 5, 7) for kind in ("weight", "bias")}
    assert set(build("conv_small", MNIST, 10).state_dict()) == keys


def test_wong_and_kolters_checkpoint_loads():
    data = os.environ.get("VERIFIER_DATA")
    path = (Path(data) if data else Path(__file__).parents[2] / "shared" / "data").parent / "models" / "wk17a.pth"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    state = torch.load(path, map_location="cpu", weights_only=True)
    build("conv_small", MNIST, 10).load_state_dict(state, strict=True)


def test_same_seed_same_weights():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build("mlp_32", DIGITS, 10).state_dict())
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


@pytest.mark.parametrize(
    ("arch", "shape", "classes", "reason"),
    [
        ("resnet", MNIST, 10, "unknown architecture 'resnet'.*mlp_100.*conv_small.*cnn7"),
        ("conv_small", (784,), 10, "channels, height, width"),
        ("dm_medium", DIGITS, 10, "too small"),
        ("mlp_32", (0, 3), 10, "cannot map"),
        ("mlp_32", (), 10, "cannot map"),
        ("mlp_32", DIGITS, 0, "cannot map"),
    ],
)
def test_what_cannot_be_built_is_refused(arch, shape, classes, reason):
    with pytest.raises(InputError, match=reason):
        build(arch, shape, classes)


CARD = ModelCard(
    name="tiny",
    arch="conv_tiny",
    dataset="digits",
    input_shape=(3, 8, 8),
    classes=10,
    mean=(0.1, 0.2, 0.3),
    std=(1.0, 2.0, 0.5),
    lower=0.0,
    upper=1.0,
    recipe=Recipe("pgd", 0.1, 5, 0.01, 64, 0, "python train.py"),
    clean_accuracy=0.97,
    pgd=(PgdAccuracy(0.1, 40, 2, 0.81), PgdAccuracy(0.2, 40, 2, 0.3)),
    sha256="0123456789abcdef" * 4,
    producer="verifier 0.1.0",
)


CERTIFIED = dataclasses.replace(
    CARD,
    recipe=Recipe("ibp", 0.1, 5, 0.01, 64, 0, "python train.py", cpu_minutes=2.5, config={"eps": 0.1, "options": {}}),
    certified=(CertifiedAccuracy(0.1, "crown", 10, 0.7, 0.1), CertifiedAccuracy(0.1, "complete", 10, 0.8, 0.0, 10.0)),
)


@pytest.mark.parametrize("card", [CARD, CERTIFIED, dataclasses.replace(CARD, mean=None, std=None, pgd=())])
def test_cards_round_trip(tmp_path, card):
    write_card(card, tmp_path / "tiny.json")
    assert read_card(tmp_path / "tiny.json") == card


def test_cards_from_before_certificates_are_read(tmp_path):
    path = tmp_path / "tiny.json"
    write_card(CARD, path)
    raw = json.loads(path.read_text())
    del raw["certified"], raw["recipe"]["config"], raw["recipe"]["cpu_minutes"]
    path.write_text(json.dumps(raw))
    assert read_card(path) == CARD


SHARE = {"eps": 0.1, "method": "ibp", "images": 3, "accuracy": 2, "undecided": 0}


@pytest.mark.parametrize("entry", [{}, {"eps": 0.1}, [1], SHARE])
def test_certified_shares_are_checked(tmp_path, entry):
    path = tmp_path / "tiny.json"
    write_card(CARD, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"certified": [entry]}))
    with pytest.raises(InputError, match=r"certified\[0\]"):
        read_card(path)


def test_a_card_lies_beside_its_weights():
    assert card_path("models/digits_mlp.pt") == Path("models/digits_mlp.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("arch", "resnet"),
        ("arch", ["mlp_32"]),
        ("input_shape", [8, 0]),
        ("input_shape", []),
        ("input_shape", [8.0]),
        ("classes", True),
        ("classes", "10"),
        ("mean", [0.1]),
        ("mean", None),
        ("mean", [0.1, 0.2, float("nan")]),
        ("std", [1, 0, 1]),
        ("lower", 1.0),
        ("upper", float("inf")),
        ("clean_accuracy", 1.01),
        ("clean_accuracy", float("nan")),
        ("pgd", {}),
        ("pgd", [3]),
        ("pgd", [{"eps": 0.1, "steps": 40, "restarts": 1}]),
        ("recipe", {"method": "pgd"}),
        ("sha256", "0" * 63),
        ("extra", 1),
    ],
)
def test_a_bad_field_is_named(tmp_path, field, value):
    path = tmp_path / "tiny.json"
    write_card(CARD, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(InputError, match=f"tiny.json: .*{field}") as caught:
        read_card(path)
    assert "\n" not in str(caught.value)


def test_what_verification_needs_makes_a_card(tmp_path):
    least = ModelCard(sha256="0123456789abcdef" * 4, input_shape=(3, 8, 8), classes=10)
    write_card(least, tmp_path / "tiny.json")
    assert read_card(tmp_path / "tiny.json") == least
    (tmp_path / "tiny.json").write_text(json.dumps({"sha256": least.sha256, "input_shape": [3, 8, 8], "classes": 10}))
    assert read_card(tmp_path / "tiny.json") == least
    assert (least.lower, least.upper, least.mean, least.arch) == (0, 1, None, None)


@pytest.mark.parametrize("field", ["sha256", "input_shape", "classes"])
def test_a_missing_field_is_named(tmp_path, field):
    path = tmp_path / "tiny.json"
    write_card(CARD, path)
    raw = json.loads(path.read_text())
    del raw[field]
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=f"tiny.json: .*'{field}' is missing"):
        read_card(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"3"])
def test_what_is_no_card_is_refused(tmp_path, content):
    path = tmp_path / "tiny.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"tiny\.json"):
        read_card(path)


def test_a_missing_card_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json"):
        read_card(tmp_path / "none.json")
