"""Configurations: what is refused, and where it is told."""

import json
import math

import pytest

from verifier.errors import InputError
from verifier.train.config import Config, parse_config, read_config, write_config

CONFIG = Config("digits", "mlp_32", "mtl_ibp", 0.05, epochs=4, batch_size=64, warm_up=0.5, ramp=2.0, lr=5e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": -1}, "eps must be"), ({"eps": math.nan}, "eps must be"),
        ({"eps": 10**400}, "eps must be"), ({"extra": 1}, "unknown field"),
        ({"epochs": 0}, "epochs must be"), ({"options": {"alfa": 1}}, "no option 'alfa'"),
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


def test_configurations_need_their_core():
    with pytest.raises(InputError, match="'eps' is missing"):
        parse_config({"dataset": "digits", "arch": "mlp_32", "method": "ibp"})
