"""Configurations: what is refused, and where it is told."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from verifier.errors import InputError
from verifier.train.config import Config, parse_config, read_config, write_config

CONFIG = Config("digits", "mlp_32", "mtl_ibp", 0.05, epochs=4, batch_size=64, warm_up=0.5, ramp=2.0, lr=5e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": -1}, "eps must be"), ({"eps": math.nan}, "eps must be"),
        ({"eps": 10**400}, "eps must be"), ({"extra": 1}, "unknown field"),
        ({"epochs": 0}, "epochs must be"), ({"batch_size": 0}, "batch_size must be"),
        ({"options": {"alfa": 1}}, "no option 'alfa'"),
        ({"ramp": -1}, "ramp must be null or a number >= 0"), ({"start": 3}, "start must be null or a text"),
        ({"method": "magic"}, "method must be one of"),
        ({"options": {"alpha": "big"}}, "alpha must be float"), ({"options": {"alpha": 2}}, "alpha must lie"),
        ({"seed": 1 << 24}, "seed must be"), ({"averaging": 1.0}, "averaging must be"),
        ({"decay": "linear"}, "decay must be one of cosine, steps"),
    ],
)  # fmt: skip
def test_wrong_configurations_are_told(tmp_path, changes, message):
    path = tmp_path / "config.json"
    write_config(CONFIG, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_a_model_card_is_a_configuration(tmp_path):
    path = Path(__file__).parents[2] / "models" / "mnist_conv_ibp.json"
    assert read_config(path) == parse_config(json.loads(path.read_text())["recipe"]["config"])
    with pytest.raises(InputError, match="has no configuration to start from"):
        read_config(path.with_name("digits_mlp.json"))
    (tmp_path / "card.json").write_text(json.dumps({"recipe": {"config": {}}}))
    with pytest.raises(InputError, match="model card: field"):
        read_config(tmp_path / "card.json")


def test_by_default_the_radius_grows_within_any_number_of_epochs():
    for epochs in (1, 4, 30, 200):
        warm_up, ramp = dataclasses.replace(CONFIG, epochs=epochs, warm_up=None, ramp=None).growth
        assert 0 < warm_up < ramp < epochs - warm_up - ramp
    assert CONFIG.growth == (0.5, 2.0)


def test_by_default_a_small_data_set_is_taken_in_small_batches():
    """So that the default epochs have steps enough to learn from."""
    default = dataclasses.replace(CONFIG, batch_size=None)
    assert [default.batch_of(images) for images in (5, 1540, 5000, 25600, 60000)] == [16, 16, 50, 256, 256]
    assert CONFIG.batch_of(1540) == 64


def test_configurations_need_their_core():
    with pytest.raises(InputError, match="'eps' is missing"):
        parse_config({"dataset": "digits", "arch": "mlp_32", "method": "ibp"})
