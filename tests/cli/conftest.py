"""A network whose margins are known by hand, as a model file with a data set; and a way to run the command line.

The network has scores y0 = relu(x0), y1 = relu(x1) and y2 = relu(x2) - 1 over a 2x2 image (x0 x1 / x2 x3). Around x =
(0.7, 0.2, 0.0, 0.5) the prediction is 0, and with room in the data range the margin y0 - y1 falls by 2 eps in the linf
ball, by eps in the l1 ball and by sqrt(2) eps in the l2 ball: the exact radii are 0.25, 0.5 and 0.5 / sqrt(2).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from verifier.cli.main import main

POINT = np.array([[[0.7, 0.2], [0.0, 0.5]]], dtype=np.float32)
Run = Callable[..., tuple[int, str, str]]


def write_network(path: Path, outputs: int = 3) -> None:
    weights = {
        "W": np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=np.float32),
        "b": np.zeros(3, dtype=np.float32),
        "I": np.eye(3, dtype=np.float32)[:outputs],
        "c": np.array([0, 0, -1], dtype=np.float32)[:outputs],
    }
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "W", "b"], ["z"], transB=1),
        helper.make_node("Relu", ["z"], ["a"]),
        helper.make_node("Gemm", ["a", "I", "c"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "known",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with known.onnx, single.onnx (only y0) and data.npz.

    Image 0 of the data has the right label 0, image 1 the wrong label 1.
    """
    write_network(tmp_path / "known.onnx")
    write_network(tmp_path / "single.onnx", outputs=1)
    np.savez(tmp_path / "data.npz", images=np.stack([POINT, POINT]), labels=np.array([0, 1]), classes=3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `verifier` with these arguments; returns the exit code, stdout and stderr."""

    def call(*argv: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in argv])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        assert "fault of the program" not in captured.err
        return code, captured.out, captured.err

    return call
