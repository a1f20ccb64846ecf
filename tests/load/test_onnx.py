"""Every ONNX operator of the registry against onnxruntime, and every benchmark network at hand."""

import os
import resource
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verifier.errors import ModelError
from verifier.graph import MOST_VALUES
from verifier.load import Model, load
from verifier.ops.registry import ONNX

Node = tuple  # (operator, inputs, attributes) -> output; the last output is the network's

RNG = np.random.default_rng(0)
W = {
    shape: RNG.standard_normal(shape).astype(np.float32)
    for shape in [
        (3, 4),
        (4, 3),
        (4,),
        (1, 4),
        (3,),
        (5, 2, 3, 3),
        (4, 1, 3, 2),
        (5, 2, 3),
        (2, 3, 3, 2),
        (5,),
        (2,),
        (2, 1, 1),
        (2, 5, 6),
        (1, 2, 5, 6),
        (5, 5),
        (6, 3),
        (1, 1, 4),
        (4, 2, 2, 2),
        (1, 2, 2),
        (1, 3, 5, 6),
    ]
}
POSITIVE = np.array([0.5, 2.0], dtype=np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def real(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


def write(path: Path, dims: Sequence[int | str], nodes: Sequence[Node], opset: int = 17) -> Path:
    """A network of `nodes`; inputs are 'x', earlier outputs 'v0', 'v1', ..., arrays or None."""
    initializers, made = [], []
    for index, (operator, inputs, attributes) in enumerate(nodes):
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                initializers.append(numpy_helper.from_array(value, f"c{len(initializers)}"))
                names.append(initializers[-1].name)
            else:
                names.append(value or "")
        outputs = [f"v{index}"] + [f"v{index}_{i}" for i in range(1, attributes.get("outputs", 1))]
        kept = {key: value for key, value in attributes.items() if key != "outputs"}
        made.append(helper.make_node(operator, names, outputs, name=f"n{index}", **kept))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    y = helper.make_tensor_value_info(made[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(made, "g", [x], [y], initializers)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    path.write_bytes(model.SerializeToString())
    return path


def assert_agrees(model: Model, samples: int = 5, low: float = -1.5, high: float = 1.5) -> None:
    x = np.random.default_rng(1).uniform(low, high, (samples, *model.graph.input_shape)).astype(np.float32)
    native, ours = model.native(x), model.graph(torch.from_numpy(x).double()).numpy()
    # The scale of the sums behind the outputs, in case they cancel.
    inner = model.graph.values(torch.from_numpy(x).double())
    scale = max(float(value.abs().max()) for value in (inner[-1], *(inner[i] for i in model.graph.nodes[-1].inputs)))
    assert native.shape == ours.shape == (samples, *model.graph.output_shape)
    assert np.ptp(native, axis=0).max() > 0, "the network is constant here"
    assert np.abs(native - ours).max() <= 1e-5 * scale


MAP = ("N", 2, 5, 6)  # maps of two channels
CASES: dict[str, tuple] = {
    "gemm": (("N", 4), [("Gemm", ["x", W[4, 3], W[3,]], {"alpha": 0.5, "beta": 2.0})]),
    "gemm transB": ((1, 4), [("Gemm", ["x", W[3, 4]], {"transB": 1})]),
    "matmul": (("N", 3), [("MatMul", ["x", W[3, 4]], {})]),
    "matmul from the left": (("N", 3, 2), [("MatMul", [W[4, 3], "x"], {})]),
    "matmul of matrices": (("N", 2, 3), [("MatMul", ["x", W[3, 4]], {})]),
    "matmul by a vector": (("N", 2, 3), [("MatMul", ["x", W[3,]], {})]),
    "vector by matmul": (("N", 3, 2), [("MatMul", [W[3,], "x"], {})]),
    "without batch": ((4,), [("MatMul", ["x", W[4, 3]], {}), ("Add", ["v0", W[3,]], {}), ("Relu", ["v1"], {})]),
    "without batch, left": ((4,), [("MatMul", [W[3, 4], "x"], {}), ("Unsqueeze", ["v0", ints(0)], {})]),
    "without batch, reshape": ((4,), [("Reshape", ["x", ints(1, -1)], {}), ("Gemm", ["v0", W[4, 3]], {})]),
    "without batch, norm": (
        (6,),
        [
            ("Reshape", ["x", ints(2, 3)], {}),
            ("BatchNormalization", ["v0", W[3,], W[3,], W[3,], abs(W[3,])], {}),
        ],
    ),
    **{
        name.lower(): (("N", 4), [(name, ["x"], {})])
        for name in ("Exp", "Sin", "Cos", "Erf", "Atan", "Softsign", "HardSwish", "Softplus")
    },
    **{name.lower(): (("N", 4), [("Exp", ["x"], {}), (name, ["v0"], {})]) for name in ("Log", "Sqrt", "Reciprocal")},
    "elu": (("N", 4), [("Elu", ["x"], {"alpha": 0.5}), ("Celu", ["v0"], {"alpha": 0.25})]),
    "selu": (("N", 4), [("Selu", ["x"], {}), ("Selu", ["v0"], {"alpha": 1.5, "gamma": 2.0})]),
    "gelu": (("N", 4), [("Gelu", ["x"], {})], 20),
    "hard sigmoid": (("N", 4), [("HardSigmoid", ["x"], {}), ("HardSigmoid", ["v0"], {"alpha": 0.5, "beta": -0.25})]),
    "powers": (("N", 4), [("Pow", ["x", real(2)], {}), ("Pow", ["v0", real(0.5)], {}), ("Pow", ["v1", real(3)], {})]),
    "product of nodes": (
        ("N", 2, 4),
        [("Exp", ["x"], {}), ("ReduceSum", ["v0", ints(1)], {}), ("Mul", ["x", "v1"], {})],
    ),
    "quotient of nodes": (
        ("N", 4),
        [("Exp", ["x"], {}), ("Div", ["x", "v0"], {}), ("Div", [W[4,], "v0"], {}), ("Add", ["v1", "v2"], {})],
    ),
    "matmul of nodes": (
        ("N", 3, 2),
        [("Transpose", ["x"], {"perm": [0, 2, 1]}), ("Tanh", ["v0"], {}), ("MatMul", ["x", "v1"], {})],
    ),
    "softmax": (
        ("N", 3, 2),
        [
            ("Softmax", ["x"], {}),
            ("Softmax", ["x"], {"axis": 1}),
            ("LogSoftmax", ["x"], {"axis": -2}),
            ("Sum", ["v0", "v1", "v2"], {}),
        ],
    ),
    **{
        f"resize {mode} {way} {scale}": (
            ("N", 2, 5, 4),
            [
                (
                    "Resize",
                    ["x", None, np.array([1, 1, scale, 2.0], dtype=np.float32)],
                    {"mode": mode, "coordinate_transformation_mode": way, "nearest_mode": rule},
                )
            ],
            19,
        )
        for mode, way, rule, scale in (
            ("nearest", "asymmetric", "floor", 2.0),
            ("nearest", "half_pixel", "round_prefer_floor", 1.5),
            ("nearest", "align_corners", "round_prefer_ceil", 2.5),
            ("nearest", "asymmetric", "ceil", 0.5),
            ("linear", "half_pixel", "floor", 2.0),
            ("linear", "pytorch_half_pixel", "floor", 0.2),
            ("linear", "half_pixel_symmetric", "floor", 1.25),
            ("linear", "align_corners", "floor", 3.0),
        )
    },
    "resize to sizes": (
        MAP,
        [("Resize", ["x", None, None, ints(1, 2, 8, 12)], {"mode": "linear"}), ("Relu", ["v0"], {})],
    ),
    "tile": (("N", 2, 3), [("Tile", ["x", ints(1, 2, 3)], {}), ("Relu", ["v0"], {})]),
    "depth to space": (
        ("N", 8, 2, 3),
        [
            ("DepthToSpace", ["x"], {"blocksize": 2}),
            ("DepthToSpace", ["x"], {"blocksize": 2, "mode": "CRD"}),
            ("Add", ["v0", "v1"], {}),
        ],
    ),
    "space to depth": (("N", 2, 4, 6), [("SpaceToDepth", ["x"], {"blocksize": 2}), ("Relu", ["v0"], {})]),
    "reduce max": (
        MAP,
        [
            ("ReduceMax", ["x"], {"axes": [1, 3], "keepdims": 0}),
            ("ReduceMin", ["x"], {"axes": [-1, 1]}),
            ("Squeeze", ["v1", ints(1, 3)], {}),
            ("Sub", ["v0", "v2"], {}),
        ],
    ),
    "global max pool": (MAP, [("GlobalMaxPool", ["x"], {})]),
    "sum of constants first": (("N", 4), [("Sum", [W[4,], W[1, 4], "x"], {})]),
    "conv": (MAP, [("Conv", ["x", W[5, 2, 3, 3], W[5,]], {"strides": [2, 1], "pads": [1, 2, 1, 2]})]),
    "conv dilated": (MAP, [("Conv", ["x", W[5, 2, 3, 3]], {"dilations": [2, 2], "pads": [1, 1, 1, 1]})]),
    "conv uneven pads": (MAP, [("Conv", ["x", W[5, 2, 3, 3]], {"pads": [0, 1, 2, 3]})]),
    "conv same upper": (MAP, [("Conv", ["x", W[5, 2, 3, 3]], {"auto_pad": "SAME_UPPER", "strides": [2, 2]})]),
    "conv same lower": (MAP, [("Conv", ["x", W[5, 2, 3, 3]], {"auto_pad": "SAME_LOWER", "strides": [2, 2]})]),
    "conv valid": (MAP, [("Conv", ["x", W[5, 2, 3, 3]], {"auto_pad": "VALID"})]),
    "conv grouped": (MAP, [("Conv", ["x", W[4, 1, 3, 2]], {"group": 2})]),
    "conv 1d": (("N", 2, 7), [("Conv", ["x", W[5, 2, 3], W[5,]], {"strides": [2], "pads": [1, 0]})]),
    "conv transpose": (
        MAP,
        [("ConvTranspose", ["x", W[2, 3, 3, 2]], {"strides": [2, 2], "pads": [1, 0, 1, 0], "output_padding": [1, 1]})],
    ),
    "conv transpose uneven": (
        MAP,
        [("ConvTranspose", ["x", W[2, 3, 3, 2], W[3,]], {"strides": [2, 1], "pads": [0, 1, 1, 0]})],
    ),
    "add constant": (MAP, [("Add", [W[2, 1, 1], "x"], {})]),
    "add expanding": (("N", 2, 1), [("Add", ["x", W[1, 1, 4]], {})]),
    "add nodes": (("N", 4), [("Relu", ["x"], {}), ("Add", ["x", "v0"], {})]),
    "add nodes expanding": (
        ("N", 3, 4),
        [("ReduceSum", ["x", ints(1)], {}), ("Relu", ["v0"], {}), ("Add", ["v1", "x"], {})],
    ),
    "sum of three": (("N", 4), [("Relu", ["x"], {}), ("Sum", ["v0", W[4,], "x"], {})]),
    "sub": (("N", 4), [("Sub", ["x", W[1, 4]], {}), ("Relu", ["v0"], {}), ("Sub", ["x", "v1"], {})]),
    "constant sub": (("N", 4), [("Sub", [W[4,], "x"], {})]),
    "mul": (MAP, [("Mul", ["x", W[2, 1, 1]], {}), ("Mul", [real(-2), "v0"], {})]),
    "div": (("N", 4), [("Div", ["x", real(3)], {})]),
    "neg": (("N", 4), [("Neg", ["x"], {})]),
    "batch norm": (MAP, [("BatchNormalization", ["x", W[2,], W[2,], W[2,], POSITIVE], {"epsilon": 0.01})]),
    "conv and batch norm": (
        MAP,
        [("Conv", ["x", W[4, 2, 2, 2]], {}), ("BatchNormalization", ["v0", W[4,], W[4,], W[4,], np.abs(W[4,])], {})],
    ),
    "reduce sum": (MAP, [("ReduceSum", ["x", ints(-1, 1)], {"keepdims": 0})]),
    "reduce mean": (MAP, [("ReduceMean", ["x"], {"axes": [2, 3]})]),
    "global average pool": (MAP, [("GlobalAveragePool", ["x"], {})]),
    "average pool": (MAP, [("AveragePool", ["x"], {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 1, 1, 1]})]),
    "average pool ceil": (MAP, [("AveragePool", ["x"], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1})]),
    "average pool counting": (
        MAP,
        [("AveragePool", ["x"], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1})],
    ),
    "max pool": (MAP, [("MaxPool", ["x"], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]})]),
    "max pool uneven": (
        MAP,
        [("MaxPool", ["x"], {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"})],
    ),
    "max pool dilated": (MAP, [("MaxPool", ["x"], {"kernel_shape": [2, 2], "dilations": [2, 2]})]),
    "max pool ceil": (MAP, [("MaxPool", ["x"], {"kernel_shape": [2, 2], "strides": [2, 4], "ceil_mode": 1})]),
    "max pool 1d": (("N", 2, 7), [("MaxPool", ["x"], {"kernel_shape": [3], "strides": [2]})]),
    "max": (("N", 4), [("Neg", ["x"], {}), ("Max", ["x", W[4,], "v0"], {})]),
    "min": (("N", 4), [("Neg", ["x"], {}), ("Min", [W[4,], "x", "v0"], {})]),
    "leaky relu": (("N", 4), [("LeakyRelu", ["x"], {"alpha": 0.3})]),
    "leaky relu default": (("N", 4), [("LeakyRelu", ["x"], {})]),
    "prelu": (("N", 4), [("PRelu", ["x", real(-0.25)], {})]),
    "abs": (("N", 4), [("Abs", ["x"], {})]),
    "clip": (("N", 4), [("Clip", ["x", real(-0.5), real(0.75)], {})]),
    "clip below": (("N", 4), [("Clip", ["x", real(-0.5)], {})]),
    "clip above": (("N", 4), [("Clip", ["x", None, real(0.75)], {})]),
    "sigmoid": (("N", 4), [("Sigmoid", ["x"], {})]),
    "tanh": (("N", 4), [("Tanh", ["x"], {})]),
    "flatten": (MAP, [("Flatten", ["x"], {}), ("Neg", ["v0"], {})]),
    "reshape": ((1, 2, 6), [("Reshape", ["x", ints(0, -1, 4)], {}), ("Neg", ["v0"], {})]),
    "reshape by shape": (
        MAP,
        [
            ("Shape", ["x"], {}),
            ("Gather", ["v0", ints(0)], {}),
            ("Concat", ["v1", ints(-1)], {"axis": 0}),
            ("Reshape", ["x", "v2"], {}),
            ("Neg", ["v3"], {}),
        ],
    ),
    "squeeze": (("N", 1, 4, 1), [("Squeeze", ["x", ints(1, -1)], {}), ("Neg", ["v0"], {})]),
    "unsqueeze": (("N", 4), [("Unsqueeze", ["x", ints(1, 3)], {}), ("Neg", ["v0"], {})]),
    "transpose": (MAP, [("Transpose", ["x"], {"perm": [0, 2, 3, 1]})]),
    "concat": (("N", 3, 4), [("Neg", ["x"], {}), ("Concat", ["x", "v0"], {"axis": 2})]),
    "concat constant": ((1, 3, 5, 6), [("Concat", ["x", W[1, 3, 5, 6], "x"], {"axis": 1})]),
    "slice": (MAP, [("Slice", ["x", ints(1, -1), ints(2**31, -9), ints(3, 2), ints(2, -2)], {})]),
    "slice whole batch": (MAP, [("Slice", ["x", ints(0, 1), ints(2**63 - 1, 4)], {}), ("Neg", ["v0"], {})]),
    "gather": (MAP, [("Gather", ["x", ints(-1, 0, 3)], {"axis": 2})]),
    "gather one": (MAP, [("Gather", ["x", np.array(1)], {"axis": 1})]),
    "gather matrix": (MAP, [("Gather", ["x", np.array([[0, 1], [4, 2]])], {"axis": 3})]),
    "split": (("N", 6), [("Split", ["x", ints(2, 4)], {"axis": 1, "outputs": 2}), ("Neg", ["v0_1"], {})]),
    "expand": (("N", 1, 3), [("Expand", ["x", ints(4, 1)], {})]),
    "pad": (MAP, [("Pad", ["x", ints(0, 0, 1, -1, 0, 0, 2, 3), real(0.5)], {})]),
    "dropout": (("N", 4), [("Dropout", ["x"], {}), ("Neg", ["v0"], {})]),
    "cast and identity": (
        ("N", 4),
        [("Cast", ["x"], {"to": TensorProto.FLOAT}), ("Identity", ["v0"], {}), ("Neg", ["v1"], {})],
    ),
    "folded constants": (
        ("N", 4),
        [
            ("Constant", [], {"value_floats": [1.0, 2.0, 3.0, 4.0]}),
            ("Exp", ["v0"], {}),
            ("Sqrt", ["v1"], {}),
            ("Mul", ["x", "v2"], {}),
        ],
    ),
    "used twice": (
        ("N", 4),
        [
            ("Gemm", ["x", W[4, 3]], {}),
            ("Mul", ["v0", real(2)], {}),
            ("Sub", ["v0", "v1"], {}),
            ("Add", ["v2", "v2"], {}),
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_agree_with_onnxruntime(tmp_path: Path, name: str) -> None:
    assert_agrees(load(write(tmp_path / "net.onnx", *CASES[name])))


def test_the_cases_cover_every_operator() -> None:
    assert {
        operator for _, nodes, *_ in (*CASES.values(), *EARLIER_OPSETS.values()) for operator, _, _ in nodes
    } >= set(ONNX)


EARLIER_OPSETS: dict[str, tuple] = {
    "clip": (("N", 4), [("Clip", ["x"], {"min": -0.5, "max": 0.75})], 10),
    "softmax": (
        ("N", 3, 2),
        [("Softmax", ["x"], {}), ("LogSoftmax", ["x"], {"axis": 2}), ("Add", ["v0", "v1"], {})],
        12,
    ),
    "upsample": (MAP, [("Upsample", ["x", np.array([1, 1, 2, 3], dtype=np.float32)], {})], 9),
    "upsample linear": (
        MAP,
        [("Upsample", ["x", np.array([1, 1, 2, 3], dtype=np.float32)], {"mode": "linear"})],
        9,
    ),
    "resize": (MAP, [("Resize", ["x", np.array([1, 1, 2, 1.5], dtype=np.float32)], {})], 10),
    "squeeze": (("N", 1, 4), [("Squeeze", ["x"], {"axes": [1]}), ("Neg", ["v0"], {})], 11),
    "unsqueeze": (("N", 4), [("Unsqueeze", ["x"], {"axes": [1]}), ("Neg", ["v0"], {})], 11),
    "slice": (MAP, [("Slice", ["x"], {"starts": [1], "ends": [4], "axes": [2]})], 9),
    "split": (("N", 6), [("Split", ["x"], {"axis": 1, "split": [2, 4], "outputs": 2}), ("Neg", ["v0_1"], {})], 11),
    "split evenly": (("N", 6), [("Split", ["x"], {"axis": 1, "outputs": 3}), ("Neg", ["v0_1"], {})], 13),
    "split by number": (
        ("N", 5),
        [("Split", ["x"], {"axis": 1, "num_outputs": 2, "outputs": 2}), ("Neg", ["v0_1"], {})],
        18,
    ),
    "reduce sum": (MAP, [("ReduceSum", ["x"], {"axes": [1, 2]})], 11),
    "reduce mean": (MAP, [("ReduceMean", ["x", ints(1, 2)], {})], 18),
    "pad": (MAP, [("Pad", ["x"], {"pads": [0, 0, 1, 1, 0, 0, 2, 3], "value": 0.5})], 10),
    "pad axes": (MAP, [("Pad", ["x", ints(1, 2), real(0.5), ints(-1)], {})], 18),
    "dropout": (("N", 4), [("Dropout", ["x"], {"ratio": 0.5}), ("Neg", ["v0"], {})], 10),
}


@pytest.mark.parametrize("name", EARLIER_OPSETS)
def test_other_operator_sets(tmp_path: Path, name: str) -> None:
    assert_agrees(load(write(tmp_path / "net.onnx", *EARLIER_OPSETS[name])))


REFUSED: dict[str, tuple] = {
    "product of unlike ranks": (
        ("N", 2, 4),
        [("ReduceSum", ["x", ints(1)], {"keepdims": 0}), ("Mul", ["x", "v0"], {})],
        "'Mul' at node 'n1': shapes",
    ),
    "matmul of vectors": (("N", 4), [("MatMul", ["x", "x"], {})], "'MatMul' at node 'n0': a product of two nodes"),
    "power of nodes": (("N", 4), [("Pow", ["x", "x"], {})], "'Pow' at node 'n0': input 1 depends"),
    "fractional power": (("N", 4), [("Pow", ["x", real(1.5)], {})], "'Pow' at node 'n0': exponent 1.5"),
    "gelu by tanh": (
        ("N", 4),
        [("Gelu", ["x"], {"approximate": "tanh"})],
        "'Gelu' at node 'n0': the approximation",
        20,
    ),
    "batch reshape": ((1, 4), [("Reshape", ["x", ints(2, 2)], {})], "'Reshape' at node 'n0': .*batch axis"),
    "batch merged": (("N", 2, 3), [("Reshape", ["x", ints(-1, 3)], {})], "'Reshape' at node 'n0': .*batch axis"),
    "batch dropped": ((1, 4), [("Reshape", ["x", ints(4)], {})], "'Reshape' at node 'n0': .*batch axis"),
    "batch transposed": ((1, 4), [("Transpose", ["x"], {})], "'Transpose' at node 'n0': .*batch axis"),
    "batch squeezed": ((1, 4), [("Squeeze", ["x", ints(0)], {})], "'Squeeze' at node 'n0': .*batch axis"),
    "batch unsqueezed": ((1, 4), [("Unsqueeze", ["x", ints(0)], {})], "'Unsqueeze' at node 'n0': .*batch axis"),
    "batch summed": ((1, 4), [("ReduceSum", ["x"], {})], "'ReduceSum' at node 'n0': .*batch axis"),
    "batch sliced": ((1, 4), [("Slice", ["x", ints(0), ints(1), ints(0)], {})], "'Slice' at node 'n0': .*batch axis"),
    "batch widened": (("N", 4), [("Add", ["x", W[3, 4]], {})], "'Add' at node 'n0': .*batch axis"),
    "batch contracted": ((1, 4), [("MatMul", [W[3, 4][:, :1], "x"], {})], "'MatMul' at node 'n0': .*batch axis"),
    "batch concatenated": ((1, 4), [("Concat", ["x", "x"], {"axis": 0})], "'Concat' at node 'n0': .*batch axis"),
    "slopes": (("N", 4), [("PRelu", ["x", W[4,]], {})], "'PRelu' at node 'n0': 4 different slopes"),
    "empty clip": (("N", 4), [("Clip", ["x", real(1), real(-1)], {})], "'Clip' at node 'n0': the range"),
    "nan clip": (("N", 4), [("Clip", ["x", real(np.nan)], {})], "'Clip' at node 'n0': the range"),
    "reflecting pad": (MAP, [("Pad", ["x", ints(0, 0, 1, 1, 0, 0, 1, 1)], {"mode": "reflect"})], "mode 'reflect'"),
    "division by zero": (("N", 4), [("Div", ["x", real(0)], {})], "NaN or Inf"),
    "infinite slope": (("N", 4), [("LeakyRelu", ["x"], {"alpha": np.inf})], "slope inf"),
    "shapes": (("N", 4), [("Gemm", ["x", W[3, 4]], {})], r"node 'n0' \(Linear\) does not fit its input \(4,\)"),
    "index": (("N", 4), [("Gather", ["x", ints(4)], {"axis": 1})], "'Gather' at node 'n0': .*out of range"),
    "dangling": (("N", 4), [("Relu", ["nowhere"], {})], "node 'n0' reads 'nowhere'"),
    "constant output": (("N", 4), [("Relu", ["x"], {}), ("Constant", [], {"value_float": 1.0})], "does not depend on"),
    "constant unfit": (("N", 4), [("MatMul", [W[3, 4], W[3, 4]], {}), ("Add", ["x", "v0"], {})], "cannot be evaluated"),
    "malformed": (("N", 4), [("LeakyRelu", ["x"], {"alpha": "one"})], "malformed operator 'LeakyRelu' at node 'n0'"),
    "weight of rank 1": (("N", 4), [("Gemm", ["x", W[4,]], {}), ("Gemm", ["v0", W[3, 4]], {})], "is not a matrix"),
    "stride zero": (MAP, [("MaxPool", ["x"], {"kernel_shape": [2, 2], "strides": [0, 0]})], "malformed .* 'n0'"),
    "integers": (("N", 4), [("Cast", ["x"], {"to": TensorProto.INT64})], "conversions to float32"),
    "half precision": (("N", 4), [("Cast", ["x"], {"to": TensorProto.FLOAT16})], "conversions to float32"),
    "batch squeezed with all": ((1, 4), [("Squeeze", ["x"], {})], "'Squeeze' at node 'n0': .*batch axis"),
    "batch gathered": ((1, 4), [("Gather", ["x", ints(0, -1)], {"axis": -2})], "'Gather' at .*batch axis"),
    "batch expanded": ((1, 4), [("Expand", ["x", ints(2, 4)], {})], "'Expand' at node 'n0': .*batch axis"),
    "batch multiplied": (
        ("N", 4),
        [("MatMul", ["x", W[4,]], {}), ("MatMul", ["v0", W[1, 4]], {})],
        "'n1': .*batch axis",
    ),
    "slopes with more axes": (
        (1, 4),
        [("PRelu", ["x", W[1, 1, 4][:, :, :1]], {})],
        "'PRelu' at node 'n0': .*changes the shape",
    ),
    "dilated padding": (
        MAP,
        [("MaxPool", ["x"], {"kernel_shape": [2, 2], "dilations": [2, 1], "auto_pad": "SAME_LOWER"})],
        "'MaxPool' at node 'n0': auto_pad SAME_LOWER with dilations",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    dims, nodes, reason, *opset = REFUSED[name]
    with pytest.raises(ModelError, match=reason):
        load(write(tmp_path / "net.onnx", dims, nodes, *opset))


HUGE: dict[str, tuple] = {
    "input": (("N", 2**31 - 1), [("Neg", ["x"], {})], "input", 2**31 - 1),
    "input of overflowing size": (("N", 2**40, 2**40), [("Neg", ["x"], {})], "input", 2**80),
    "constant": (("N", 4), [("ConstantOfShape", [ints(2**40)], {}), ("Add", ["x", "v0"], {})], "n0", 2**40),
    "repeated constant": (("N", 4), [("Tile", [W[4,], ints(2**40)], {}), ("Add", ["x", "v0"], {})], "n0", 2**42),
}


@pytest.mark.parametrize("name", HUGE)
def test_no_memory_is_taken_for_nodes_of_huge_size(tmp_path: Path, name: str) -> None:
    dims, nodes, node, size = HUGE[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=f"net.onnx: node '{node}' has {size} values, more than {MOST_VALUES}; use"):
        load(write(tmp_path / "net.onnx", dims, nodes))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # 256 MiB


def test_what_onnxruntime_cannot_run_is_told_in_one_line_that_names_the_file(tmp_path: Path, capfd) -> None:
    axes = np.array([[1]])  # not a vector, which onnxruntime notices only when it runs
    model = load(write(tmp_path / "net.onnx", (1, 4), [("ReduceSum", ["x", axes], {"keepdims": 1})]))
    with pytest.raises(ModelError, match=r"net.onnx: onnxruntime cannot run .*; .* export it again") as told:
        model.native(np.zeros((1, 4), dtype=np.float32))
    assert "\n" not in str(told.value) and capfd.readouterr() == ("", "")


def test_an_output_without_an_axis_becomes_a_vector(tmp_path: Path) -> None:
    model = load(write(tmp_path / "net.onnx", ("N", 4), [("ReduceSum", ["x", ints(1)], {"keepdims": 0})]))
    x = np.ones((3, 4), dtype=np.float32)
    assert model.native(x).tolist() == [[4.0]] * 3 and model.graph.output_shape == (1,)


def test_activations_of_single_numbers_are_refused(tmp_path: Path) -> None:
    nodes = [("ReduceSum", ["x", ints(1)], {"keepdims": 0}), ("Relu", ["v0"], {})]
    with pytest.raises(ModelError, match=r"'Relu' at node 'n1': it reads a single number .* keep the axis"):
        load(write(tmp_path / "net.onnx", ("N", 4), nodes))


def test_a_large_softmax_says_that_the_logits_suffice(tmp_path: Path) -> None:
    nodes = [("Gemm", ["x", np.ones((4, 65), dtype=np.float32)], {}), ("Softmax", ["v0"], {})]
    with pytest.raises(ModelError, match=r"'Softmax' at node 'n1': .* logits"):
        load(write(tmp_path / "net.onnx", ("N", 4), nodes))


ROOT = Path(os.environ.get("VERIFIER_DATA") or Path(__file__).parents[3] / "shared" / "data").parent
BENCHMARKS = sorted((ROOT / "benchmarks" / "vnncomp").glob("*/onnx/*.onnx.gz"))


@pytest.mark.skipif(not BENCHMARKS, reason="no VNN-COMP networks: set VERIFIER_DATA to a folder beside benchmarks/")
@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: f"{path.parts[-3]}/{path.name.partition('.')[0]}")
def test_benchmark_networks_agree_with_onnxruntime(path: Path) -> None:
    assert_agrees(load(path), samples=20, low=-0.5, high=0.5)
