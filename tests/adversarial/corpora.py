"""Good files of every kind that the tool reads, and bad ones that would run code."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save
from torch import nn

from verifier import zoo
from verifier.batch.journal import sealed
from verifier.batch.records import Record, Run, encoded

MODELS = Path(__file__).parents[2] / "models"


def onnx_model(shape: Sequence[int], nodes: Sequence[tuple[str, list[Any], dict[str, Any]]]) -> bytes:
    """A network of operators: 'x' is the input, 'v0', 'v1', ... are earlier results, arrays are weights."""
    initializers, made = [], []
    for index, (op, inputs, attributes) in enumerate(nodes):
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                initializers.append(numpy_helper.from_array(value, f"w{len(initializers)}"))
                value = initializers[-1].name
            names.append(value)
        made.append(helper.make_node(op, names, [f"v{index}"], f"n{index}", **attributes))
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape)),
        helper.make_tensor_value_info(f"v{len(nodes) - 1}", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(made, "g", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


@cache
def models() -> dict[str, bytes]:
    """ONNX files that use many operators and their attributes."""
    draw = np.random.default_rng(0)

    def w(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    def ints(*values: int) -> np.ndarray:
        return np.array(values, dtype=np.int64)

    conv = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 1], "group": 1}
    pool = {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [0, 0, 1, 1], "ceil_mode": 0}
    return {
        "dense": onnx_model(
            (1, 3),
            [
                ("Gemm", ["x", w(4, 3), w(4)], {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}),
                ("Relu", ["v0"], {}),
                ("MatMul", ["v1", w(4, 3)], {}),
                ("Add", ["v2", w(3)], {}),
                ("LeakyRelu", ["v3"], {"alpha": 0.25}),
                ("Concat", ["v4", "v1", "x"], {"axis": 1}),
                ("Gemm", ["v5", w(2, 10), w(2)], {"transB": 1}),
            ],
        ),
        "pictures": onnx_model(
            (1, 2, 5, 4),
            [
                ("Conv", ["x", w(3, 2, 3, 3), w(3)], conv),
                ("BatchNormalization", ["v0", w(3), w(3), w(3), abs(w(3))], {"epsilon": 1e-3, "momentum": 0.9}),
                ("Relu", ["v1"], {}),
                ("MaxPool", ["v2"], pool),
                ("AveragePool", ["v3"], {**pool, "count_include_pad": 1}),
                ("Transpose", ["v4"], {"perm": [0, 2, 3, 1]}),
                ("Flatten", ["v5"], {"axis": 1}),
                ("Slice", ["v6", ints(0), ints(4), ints(1), ints(1)], {}),
                ("Clip", ["v7", np.array(-1, np.float32), np.array(2, np.float32)], {}),
                ("Gemm", ["v8", w(4, 2)], {"alpha": 2.0}),
            ],
        ),
        "shapes": onnx_model(
            (1, 2, 6),
            [
                ("Reshape", ["x", ints(1, 3, 4)], {}),
                ("Sub", ["v0", w(4)], {}),
                ("Abs", ["v1"], {}),
                ("ReduceSum", ["v2", ints(1)], {"keepdims": 1}),
                ("ReduceMean", ["v2"], {"axes": [1], "keepdims": 1}),
                ("Mul", ["v3", w(1, 1, 4)], {}),
                ("Max", ["v5", "v4"], {}),
                ("Squeeze", ["v6", ints(1)], {}),
                ("Gather", ["v7", ints(3, 0, 2)], {"axis": 1}),
                ("Neg", ["v8"], {}),
                ("Div", ["v9", abs(w(3)) + 1], {}),
            ],
        ),
    }


@cache
def checkpoints() -> dict[str, bytes]:
    """torch files: state dicts and a pickled sequence, in both archive formats, and safetensors."""
    layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.LeakyReLU(0.25), nn.Linear(6, 2))
    state = zoo.build("linear", (1, 8, 8), 10).state_dict()
    files = {"weights.safetensors": save(state)}
    for name, thing in (("weights", state), ("sequence", layers)):
        for new in (True, False):
            made = io.BytesIO()
            torch.save(thing, made, _use_new_zipfile_serialization=new)
            files[f"{name}-{'zip' if new else 'legacy'}"] = made.getvalue()
    return files


class Intruder:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def intruders(marker: Path) -> dict[str, bytes]:
    """Files that make the folder when something unpickles them."""
    thing = {"0.weight": torch.zeros(2), "x": Intruder(marker)}
    files = {f"pickle-{p}": pickle.dumps({"x": Intruder(marker)}, protocol=p) for p in range(6)}
    for new in (True, False):
        made = io.BytesIO()
        torch.save(thing, made, _use_new_zipfile_serialization=new)
        files[f"torch-{'zip' if new else 'legacy'}"] = made.getvalue()
    made = io.BytesIO()
    np.savez(made, images=np.array([Intruder(marker)], dtype=object), labels=np.zeros(1, dtype=int))
    files["npz"] = made.getvalue()
    return files


@cache
def datasets() -> dict[str, bytes]:
    draw, files = np.random.default_rng(0), {}
    for name, write in (("stored", np.savez), ("compressed", np.savez_compressed)):
        made = io.BytesIO()
        images = draw.random((4, 1, 3, 3)).astype(np.float32)
        write(made, images=images, labels=np.arange(4), lower=np.float32(0), upper=np.float32(1), classes=np.int64(5))
        files[name] = made.getvalue()
    return files


VNNLIB1 = b"""; a property
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (and (>= X_0 -0.1) (<= X_0 1.5e-1) (<= -1 (* 2 X_1)) (<= X_1 1)))
(assert (or (and (<= Y_0 (+ Y_1 0.5)) (>= Y_1 0)) (<= (- (* 2 Y_0) Y_1 3.25) (- Y_1))))
"""
VNNLIB2 = b"""(vnnlib-version <2.0>)
(declare-network f
  (declare-input X float32 [1,2])
  (declare-output Y float32 [1,2])
)
(assert (and (>= X[0,0] 0.0) (<= X[0,0] 0.1) (>= X[0,1] -1.0) (<= X[0,1] 1.0)))
(assert (or (<= Y[0,0] -2.5) (and (>= Y[0,1] Y[0,0]) (<= (+ (* 2.0 Y[0,0]) 1.0) 4.0))))
"""


def cards() -> dict[str, bytes]:
    """The cards of bundled models."""
    return {path.stem: path.read_bytes() for path in sorted(MODELS.glob("digits_*.json"))}


RECIPE = b"""{"dataset": "digits", "arch": "mlp_100", "method": "crown_ibp", "eps": 0.1, "epochs": 3, "seed": 1}"""


@cache
def journal() -> bytes:
    """A journal of two results."""
    run = Run("m.pt", "ab" * 32, "", "digits", "cd" * 32, 2, ("8/255", "0.1"), "linf", "auto", "0.1.0", ("1", "3"))
    point = encoded(np.zeros((1, 2, 2)))
    first = Record(0, "0.1", 3, 3, "VERIFIED", "crown", 0.5, 0.25, 0.5, "", {"crown": 0.5}, (1, 2))
    second = Record(
        1, "8/255", 3, 4, "FALSIFIED", "attack", 0.5, None, -0.5, "why", {}, (), point, certificate="a.cert"
    )
    return b"".join(sealed(line) for line in (run.line(), first.line(run), second.line(run)))
