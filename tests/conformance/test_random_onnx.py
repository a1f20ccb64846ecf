"""Random ONNX networks: the loader and the stand-alone checker read what onnxruntime runs, or refuse."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from growing import session
from onnx import TensorProto, helper, numpy_helper
from random_onnx import Network

from verifier.certificate import reading
from verifier.certificate.analysis import Analysis
from verifier.certificate.nodes import Refused
from verifier.certificate.rounded import Rounded
from verifier.errors import ModelError
from verifier.load import load

SAMPLE, MANY = 150, 10_000
NEAR = 2e-3


def checked(content: bytes, x: np.ndarray) -> np.ndarray | None:
    """What the stand-alone checker takes the model to make of x; None where it refuses it, or proves nothing there."""
    try:
        network = reading.Network(content)
    except Exception:  # which the checker turns into a refusal
        return None
    hints = {"refine": [0] * len(network.activations), "slots": np.zeros((3, 0)), "codes": np.zeros((0, 0))}
    point = x.reshape(1, -1).astype(np.float64)
    with np.errstate(all="ignore"):
        d = Analysis(network, Rounded, False, hints).bounds((point, point))
        if d.outside.any():
            return None
        return (network.output.gather(d.lower) + network.output.gather(d.upper)).ravel() / 2


def agree(seed: int, folder: Path) -> tuple[bool, bool]:
    """Whether the loader and the checker read network `seed`; fails where one of them reads something else."""
    net = Network(seed)
    if net.last == "x":
        return False, False
    path, content = folder / "net.onnx", net.content()
    path.write_bytes(content)
    x = net.draw.normal(size=net.shape).astype(np.float32)
    expected = session(content).run(None, {"x": x})[0].ravel()
    if not np.isfinite(expected).all():
        return False, False
    close = NEAR * (1 + np.abs(expected).max())
    try:
        graph = load(path).graph
    except ModelError:
        graph = None
    if graph is not None:
        one = torch.from_numpy(x).double().reshape(1, *graph.input_shape)
        for network in (graph, graph.stated):
            found = network(one).numpy().ravel()
            assert found.shape == expected.shape and np.abs(found - expected).max() <= close, seed
    read = checked(content, x)
    if read is not None:
        assert read.shape == expected.shape and np.abs(read - expected).max() <= close, seed
    return graph is not None, read is not None


def test_random_networks_are_read_as_they_run(tmp_path: Path) -> None:
    outcomes = [agree(seed, tmp_path) for seed in range(SAMPLE)]
    loaded, checked = (Counter(side) for side in zip(*outcomes, strict=True))
    assert loaded[True] > SAMPLE // 3 and checked[True] > SAMPLE // 10  # the checker knows fewer operators


TOLD_APART: dict[str, tuple[str, tuple[int, ...], dict]] = {
    "a stated output shape": ("ConvTranspose", (2, 1, 2, 2), {"output_shape": [6, 6], "strides": [2, 2]}),
    "padding of its own choice": ("ConvTranspose", (2, 1, 2, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "dilations in such padding": (
        "MaxPool",
        (),
        {"kernel_shape": [2, 1], "dilations": [2, 1], "auto_pad": "SAME_LOWER"},
    ),
    "slopes of higher rank": ("PRelu", (1, 1, 1, 1, 1), {}),
}


@pytest.mark.parametrize("name", TOLD_APART)
def test_what_runtimes_read_in_their_own_way_is_refused(name: str, tmp_path: Path) -> None:
    operator, shape, attributes = TOLD_APART[name]
    stored = [numpy_helper.from_array(np.full(shape, 0.5, dtype=np.float32), "w")] if shape else []
    node = helper.make_node(operator, ["x", *(tensor.name for tensor in stored)], ["y"], **attributes)
    ends = [[helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 4, 4))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]]  # fmt: skip
    graph = helper.make_graph([node], "g", *ends, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=operator):
        load(tmp_path / "net.onnx")
    with pytest.raises(Refused):
        reading.Network(model.SerializeToString())


@pytest.mark.long
def test_many_random_networks_are_read_as_they_run(tmp_path: Path) -> None:
    for seed in range(SAMPLE, SAMPLE + MANY):
        agree(seed, tmp_path)
