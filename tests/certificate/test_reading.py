"""The checker's own readers against onnxruntime and the project's VNN-LIB reader."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import onnxruntime
import pytest
from certified import NO_HINTS, Files, random_files
from onnx import TensorProto, helper, numpy_helper

from verifier.certificate.analysis import Analysis
from verifier.certificate.exact import Exact
from verifier.certificate.nodes import Refused
from verifier.certificate.properties import Case, read_property
from verifier.certificate.reading import Network
from verifier.certificate.rounded import Rounded
from verifier.certificate.statement import vnnlib
from verifier.spec.property import exact
from verifier.spec.vnnlib import parse

draw = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return draw.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


Op = tuple[str, list[Any], dict[str, Any]]  # operator, inputs ("x" and arrays, None left out), attributes
MAPS, ROW = (1, 4, 6, 5), (1, 7)
positive = np.abs(weight(4)) + 0.5
CASES: dict[str, tuple[tuple[int, ...], Op]] = {
    "Gemm": (ROW, ("Gemm", ["x", weight(3, 7), weight(3)], {"transB": 1})),
    "Gemm scaled": (ROW, ("Gemm", ["x", weight(7, 3), weight(1)], {"alpha": 0.3, "beta": 0.7})),
    "MatMul": ((1, 3, 7), ("MatMul", ["x", weight(7, 2)], {})),
    "Add": (MAPS, ("Add", ["x", weight(4, 1, 1)], {})),
    "Add itself": (ROW, ("Add", ["x", "x"], {})),
    "Sub from constant": (ROW, ("Sub", [weight(7), "x"], {})),
    "Mul": (MAPS, ("Mul", ["x", weight(4, 1, 5)], {})),
    "Div": (MAPS, ("Div", ["x", weight(4, 1, 1)], {})),
    "Neg": (ROW, ("Neg", ["x"], {})),
    "Sum": (ROW, ("Sum", ["x", "x", weight(7)], {})),
    "Conv": (MAPS, ("Conv", ["x", weight(3, 4, 3, 2), weight(3)], {"pads": [1, 0, 1, 2], "strides": [2, 1]})),
    "Conv grouped": (MAPS, ("Conv", ["x", weight(6, 2, 3, 3)], {"group": 2, "pads": [1] * 4})),
    "Conv dilated": (MAPS, ("Conv", ["x", weight(2, 4, 2, 2)], {"dilations": [2, 3]})),
    "Conv same": (MAPS, ("Conv", ["x", weight(2, 4, 3, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]})),
    "Conv 1d": ((1, 2, 9), ("Conv", ["x", weight(3, 2, 4)], {"strides": [2]})),
    "ConvTranspose": (
        MAPS,
        ("ConvTranspose", ["x", weight(4, 3, 3, 3), weight(3)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ),
    "ConvTranspose grouped": (
        MAPS,
        ("ConvTranspose", ["x", weight(4, 1, 2, 3)], {"group": 2, "strides": [3, 1], "output_padding": [1, 0]}),
    ),
    "AveragePool": (MAPS, ("AveragePool", ["x"], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]})),
    "AveragePool counting": (
        MAPS,
        ("AveragePool", ["x"], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}),
    ),
    "AveragePool in ceil mode": (
        MAPS,
        ("AveragePool", ["x"], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 0], "ceil_mode": 1}),
    ),
    "GlobalAveragePool": (MAPS, ("GlobalAveragePool", ["x"], {})),
    "MaxPool": (MAPS, ("MaxPool", ["x"], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]})),
    "MaxPool in ceil mode": (
        MAPS,
        ("MaxPool", ["x"], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1, "dilations": [1, 2]}),
    ),
    "MaxPool in ceil mode, padded": (
        MAPS,
        ("MaxPool", ["x"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    ),
    "MaxPool in ceil mode, without windows that begin in the padding": (
        MAPS,
        ("MaxPool", ["x"], {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 0, 1, 1], "ceil_mode": 1}),
    ),
    "Max": (ROW, ("Max", ["x", weight(7)], {})),
    "Min": (ROW, ("Min", [weight(7), "x"], {})),
    "BatchNormalization": (MAPS, ("BatchNormalization", ["x", weight(4), weight(4), weight(4), positive], {})),
    "ReduceMean": (MAPS, ("ReduceMean", ["x"], {"axes": [1, 3], "keepdims": 0})),
    "ReduceSum": (MAPS, ("ReduceSum", ["x", ints(-1)], {})),
    "Relu": (ROW, ("Relu", ["x"], {})),
    "HardSigmoid": (ROW, ("HardSigmoid", ["x"], {"alpha": 0.5, "beta": 0.25})),
    "ReduceMax": (MAPS, ("ReduceMax", ["x"], {"axes": [3, 1], "keepdims": 0})),
    "ReduceMin": (MAPS, ("ReduceMin", ["x"], {"axes": [-2]})),
    "GlobalMaxPool": (MAPS, ("GlobalMaxPool", ["x"], {})),
    **{
        f"Resize {way} {rule}": (
            MAPS,
            (
                "Resize",
                ["x", None, np.float32([1, 1, 2, 3])],
                {"coordinate_transformation_mode": way, "nearest_mode": rule},
            ),
        )
        for way in ("half_pixel", "asymmetric")
        for rule in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    },
    "Abs": (ROW, ("Abs", ["x"], {})),
    "LeakyRelu": (ROW, ("LeakyRelu", ["x"], {"alpha": 0.1})),
    "PRelu": (ROW, ("PRelu", ["x", np.float32([0.3])], {})),
    "Clip": (ROW, ("Clip", ["x", np.float32(-0.3), np.float32(0.4)], {})),
    "Clip above": (ROW, ("Clip", ["x", None, np.float32(0.4)], {})),
    "Sigmoid": (ROW, ("Sigmoid", ["x"], {})),
    "Tanh": (ROW, ("Tanh", ["x"], {})),
    "Reshape": (MAPS, ("Reshape", ["x", ints(0, -1, 3)], {})),
    "Flatten": (MAPS, ("Flatten", ["x"], {"axis": 2})),
    "Transpose": (MAPS, ("Transpose", ["x"], {"perm": [0, 3, 1, 2]})),
    "Squeeze": (MAPS, ("Squeeze", ["x", ints(0)], {})),
    "Unsqueeze": (ROW, ("Unsqueeze", ["x", ints(1, 3)], {})),
    "Slice": (MAPS, ("Slice", ["x", ints(1, -1), ints(4, -5), ints(1, 3), ints(2, -1)], {})),
    "Split": (MAPS, ("Split", ["x", ints(1, 3)], {"axis": 1})),
    "Concat": (MAPS, ("Concat", ["x", weight(1, 2, 6, 5), "x"], {"axis": 1})),
    "Gather": (MAPS, ("Gather", ["x", ints(3, 0, 0)], {"axis": 1})),
    "Expand": (ROW, ("Expand", ["x", ints(2, 3, 7)], {})),
    "Pad": (MAPS, ("Pad", ["x", ints(0, 0, 1, 2, 0, 0, 0, 1), np.float32(0)], {})),
    "Pad with a constant": (MAPS, ("Pad", ["x", ints(0, 0, 1, 2, 0, 1, 0, 1), np.float32(0.3)], {})),
    "Pad by reflection": (MAPS, ("Pad", ["x", ints(0, 0, 1, 2, 0, 0, 0, 1), np.float32(0.3)], {"mode": "reflect"})),
    "Identity": (ROW, ("Identity", ["x"], {})),
    "Dropout": (ROW, ("Dropout", ["x"], {})),
}


def model_of(shape: tuple[int, ...], op: Op, opset: int = 13) -> bytes:
    """A model of one operator; its weights are initializers."""
    operator, inputs, attributes = op
    stored = {f"w{i}": value for i, value in enumerate(inputs) if isinstance(value, np.ndarray | np.generic)}
    names = ["" if v is None else v if isinstance(v, str) else f"w{i}" for i, v in enumerate(inputs)]
    outputs = ["y", "rest"] if operator == "Split" else ["y"]
    graph = helper.make_graph(
        [helper.make_node(operator, names, outputs, **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("name", CASES)
def test_operators_agree_with_onnxruntime(name: str) -> None:
    """On a point, the enclosure of real values is narrow and near; that of float32 values holds onnxruntime's."""
    shape, op = CASES[name]
    model = model_of(shape, op)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    network = Network(model)
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        y = session.run(None, {"x": x})[0].astype(np.float64).ravel()
        point = x.reshape(1, -1).astype(np.float64)
        for arithmetic in (Exact, Rounded):
            for single in (False, True):
                hints = {**NO_HINTS, "refine": [0] * len(network.activations)}
                with np.errstate(all="ignore"):
                    d = Analysis(network, arithmetic, single, hints).bounds((point, point))
                low, high = (network.output.gather(side)[0] for side in (d.lower, d.upper))
                assert low.shape == y.shape
                if single and name not in ("Sigmoid", "Tanh"):
                    assert ((low <= y) & (y <= high)).all()
                elif not single:
                    assert ((high - low) <= 1e-10 * (1 + np.abs(y))).all()
                    assert np.abs((low + high) / 2 - y).max() <= 1e-5 * (1 + np.abs(y).max())


def model_of_many(ops: list[tuple[str, list[str], str, dict[str, Any]]], stored: dict[str, np.ndarray]) -> bytes:
    """A model of ROW -> "y" from operators (name, inputs, output, attributes)."""
    graph = helper.make_graph(
        [helper.make_node(name, inputs, [output], **attributes) for name, inputs, output, attributes in ops],
        "several",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ROW)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


SQUARE = {"W": weight(7, 7), "b": weight(7), "c": weight(7), "r": ints(1, 7)}
# What is computed from x W, and how many nodes of the network compute something.
SHIFTED: dict[str, tuple[list[tuple[str, list[str], str, dict[str, Any]]], int]] = {
    "once": ([("Add", ["z", "b"], "y", {})], 1),
    "from the left, negative": ([("Sub", ["z", "b"], "v", {}), ("Relu", ["v"], "y", {})], 2),
    "twice": ([("Add", ["z", "b"], "v", {}), ("Add", ["v", "c"], "y", {})], 2),
    "read by another": ([("Add", ["z", "b"], "v", {}), ("Add", ["v", "z"], "y", {})], 3),
    "read later, reshaped": (
        [("Reshape", ["z", "r"], "u", {}), ("Add", ["z", "b"], "v", {}), ("Max", ["v", "u"], "y", {})],
        5,
    ),
    "the output": ([("Add", ["z", "b"], "v", {}), ("Concat", ["v", "z"], "y", {"axis": 1})], 2),
    "another order": ([("Transpose", ["z"], "u", {}), ("Add", ["u", "b1"], "y", {})], 1),
    "several times": ([("Concat", ["z", "z"], "u", {"axis": 1}), ("Add", ["u", "bc"], "y", {})], 2),
    "of a part": ([("Gather", ["z", "few"], "u", {"axis": 1}), ("Add", ["u", "c3"], "y", {})], 2),
    "and a value": ([("Add", ["z", "x"], "y", {})], 2),
}


@pytest.mark.parametrize("name", SHIFTED)
def test_constants_become_biases_where_nothing_else_reads_the_sum(name: str) -> None:
    ops, count = SHIFTED[name]
    stored = {**SQUARE, "b1": weight(7, 1), "bc": weight(14), "few": ints(2, 0, 5), "c3": weight(3)}
    used = {i for _, inputs, _, _ in ops for i in inputs} | {"W"}
    model = model_of_many(
        [("MatMul", ["x", "W"], "z", {}), *ops], {name: value for name, value in stored.items() if name in used}
    )
    assert len(Network(model).nodes) == 2 + count
    agree_on_a_point(model, 0)


@pytest.mark.parametrize("seed", range(3))
def test_layers_of_few_weights_read_few_values(seed: int) -> None:
    """A dense layer of 7 -> 64, one of 64 -> 48 with up to three weights in a column, and one that reads both."""
    generator = np.random.default_rng(seed)
    sparse = np.zeros((64, 48), dtype=np.float32)
    for columns in (48, 48, 20):
        sparse[generator.permutation(64)[:columns], np.arange(columns)] = generator.normal(size=columns)
    ops: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("MatMul", ["x", "W"], "u", {}),
        ("Gemm", ["u", "S", "c"], "v", {}),
        ("Relu", ["v"], "w", {}),
        ("Concat", ["w", "u"], "both", {"axis": 1}),
        ("MatMul", ["both", "T"], "y", {}),
    ]
    last = np.zeros((112, 112), dtype=np.float32)
    last[generator.permutation(112), np.arange(112)] = last[generator.permutation(112), np.arange(112)] = 1.5
    stored = {"W": weight(7, 64), "S": sparse, "c": weight(48), "T": last}
    network = Network(model_of_many(ops, stored))
    thin = [node.shape for node in network.nodes if node.op == "affine" and node.shape[:2] != (1, 1)]
    assert thin == [(48, 1, int((sparse != 0).sum(axis=0).max()), 1), (112, 1, 2, 1)]
    agree_on_a_point(model_of_many(ops, stored), seed)
    for j in (3, 5):
        node, generator = network.nodes[j], np.random.default_rng(seed)
        x, rows = generator.normal(size=(5, node.width)), generator.normal(size=(4, node.size))
        x[:, 0] = 0
        y = node.forward(x[:, node.index], node.weight.array)
        back = node.backward(rows, node.weight.array)
        assert np.allclose(y @ rows.T, x @ back.T)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("arithmetic", [Exact, Rounded])
def test_bounds_do_not_depend_on_what_is_stored(
    arithmetic: type[Exact | Rounded], single: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MatMul and Add with the zeros left out, against Gemm with all of them: bounds of boxes, and samples within."""
    generator = np.random.default_rng(0)
    sparse = np.zeros((64, 64), dtype=np.float32)
    for _ in range(3):
        sparse[generator.permutation(64), np.arange(64)] = generator.normal(size=64)
    stored = {"W": weight(7, 64), "b": weight(64), "S": sparse, "c": weight(64), "T": weight(64, 3)}
    last: list[tuple[str, list[str], str, dict[str, Any]]] = [("Relu", ["v"], "w", {}), ("MatMul", ["w", "T"], "y", {})]
    apart = model_of_many(
        [
            ("MatMul", ["x", "W"], "u", {}), ("Add", ["u", "b"], "p", {}), ("Relu", ["p"], "q", {}),
            ("MatMul", ["q", "S"], "r", {}), ("Add", ["r", "c"], "v", {}), *last,
        ],
        stored,
    )  # fmt: skip
    whole = model_of_many(
        [("Gemm", ["x", "W", "b"], "p", {}), ("Relu", ["p"], "q", {}), ("Gemm", ["q", "S", "c"], "v", {}), *last],
        stored,
    )
    thin = Network(apart)
    assert [node.shape[:2] for node in thin.nodes if node.op == "affine"] == [(1, 1), (64, 1), (1, 1)]
    monkeypatch.setattr("verifier.certificate.nodes.SPARSE", 1 << 20)
    full = Network(whole)
    assert {node.shape[:2] for node in full.nodes if node.op == "affine"} == {(1, 1)}
    x = generator.normal(size=(2, 7)).astype(np.float32).astype(np.float64)
    rows = np.concatenate((np.eye(3), -np.eye(3)))[None].repeat(2, axis=0)
    found = []
    with np.errstate(all="ignore"):
        for network in (thin, full):
            analysis = Analysis(network, arithmetic, single, {**NO_HINTS, "refine": [1, 1]})
            d = analysis.bounds((x - 0.125, x + 0.125))
            found.append(analysis.arithmetic.down(analysis.least(network.output, rows, d, np.arange(2))))
    assert np.abs(found[0] - found[1]).max() <= (1e-4 if single else 1e-9)
    session = onnxruntime.InferenceSession(apart, providers=["CPUExecutionProvider"])
    for _ in range(50):
        for low, centre in zip(found[0].reshape(2, 6), x, strict=True):
            point = (centre + generator.uniform(-0.125, 0.125, 7)).astype(np.float32)
            y = session.run(None, {"x": point[None]})[0][0].astype(np.float64)
            assert (low <= np.concatenate((y, -y)) + (0 if single else 1e-4)).all()


def agree_on_a_point(model: bytes, seed: int) -> None:
    """The enclosure of real values is narrow and near onnxruntime's; that of float32 values holds it."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(seed).standard_normal(session.get_inputs()[0].shape).astype(np.float32)
    y, network = session.run(None, {"x": x})[0].astype(np.float64).ravel(), Network(model)
    point = x.reshape(1, -1).astype(np.float64)
    for arithmetic in (Exact, Rounded):
        for single in (False, True):
            analysis = Analysis(network, arithmetic, single, {**NO_HINTS, "refine": [0] * len(network.activations)})
            with np.errstate(all="ignore"):
                d = analysis.bounds((point, point))
                rows = np.eye(network.output.size)[None]
                pulled = analysis.arithmetic.down(analysis.least(network.output, rows, d, np.arange(1)))
            low, high = (network.output.gather(side)[0] for side in (d.lower, d.upper))
            assert low.shape == y.shape
            if single:
                assert ((low <= y) & (y <= high) & (pulled <= y)).all()
            else:
                assert ((high - low) <= 1e-10 * (1 + np.abs(y))).all()
                assert max(np.abs(low - y).max(), np.abs(pulled - y).max()) <= 1e-5 * (1 + np.abs(y).max())


REFUSALS: dict[str, tuple[tuple[int, ...], Op]] = {
    "remainders": (ROW, ("Mod", ["x", "x"], {"fmod": 1})),
    "weights from the input": (ROW, ("Gemm", [weight(7, 7), "x"], {"transB": 1})),
    "indices from the input": (ROW, ("Gather", [weight(7), "x"], {})),
    "bias from the input": (ROW, ("Gemm", ["x", weight(7, 7), "x"], {})),
    "NaN weights": (ROW, ("Mul", ["x", np.float32([np.nan] * 7)], {})),
    "infinite weights": (ROW, ("Add", ["x", np.float32([np.inf] * 7)], {})),
    "ceil mode that counts padding": (
        MAPS,
        ("AveragePool", ["x"], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1}),
    ),
    "padding with NaN": (ROW, ("Pad", ["x", ints(0, 1, 0, 0), np.float32(np.nan)], {})),
    "several slopes": (ROW, ("PRelu", ["x", np.float32([0.1] * 6 + [0.2])], {})),
    "training": (
        MAPS,
        ("BatchNormalization", ["x", weight(4), weight(4), weight(4), positive], {"training_mode": 1}),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_read_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        Network(model_of(*REFUSALS[name], opset=14))


def holds(case: Case, x: list[Fraction], y: list[Fraction]) -> bool:
    inside = all(low <= v <= high for low, v, high in zip(case.lower, x, case.upper, strict=True))
    values = [sum(map(Fraction.__mul__, row, y), c) for row, c in zip(case.rows, case.constants, strict=True)]
    return inside and all(value <= 0 for value in values)


PROPERTIES = {
    "box": """(assert (<= X_0 0.3)) (assert (>= X_0 -1e-1)) (assert (<= -2.5 X_1)) (assert (>= 1 X_1))
        (assert (<= Y_0 Y_1))""",
    "or": """(assert (<= X_0 1)) (assert (>= X_0 0)) (assert (<= X_1 1)) (assert (>= X_1 0))
        ; a comment (with brackets
        (assert (or (and (>= Y_0 0.1) (<= Y_0 0.7)) (and (<= Y_1 (- 0.3)))))""",
    "boxes": """(assert (or (and (<= X_0 0.5) (>= X_0 0) (<= X_1 0.5) (>= X_1 0) (>= Y_0 0))
        (and (<= X_0 1) (>= X_0 0.25) (<= X_1 1) (>= X_1 0.1) (>= Y_1 0.5) (<= (+ Y_0 (* 2 Y_1)) 1.5))
        (and (<= X_0 0) (>= X_0 1) (<= X_1 0) (>= X_1 0) (>= Y_1 0))))""",
    "scaled": """(assert (<= (* 3 X_0) 1)) (assert (>= (* X_0 -7) -2)) (assert (>= (* 255 X_0) 8)) (assert (<= X_1 1))
        (assert (and (>= X_1 0) (<= (- (* 0.3 Y_0) Y_1 0.2) 0)))""",
}
DECLARED = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "Y_0", "Y_1"))


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties_mean_the_same_to_both_readers(name: str) -> None:
    text = DECLARED + PROPERTIES[name]
    query, cases = parse(text), read_property(text, 2, 2)
    grid = [Fraction(i, 20) for i in range(-30, 31)]
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(3000):
        x, y = ([grid[i] for i in generator.integers(10, len(grid), 2)] for _ in "xy")
        expected = query.holds(np.array(x, dtype=object), np.array(y, dtype=object))
        assert any(holds(case, x, y) for case in cases) == expected
        hits += expected
    assert hits


@pytest.mark.parametrize("seed", range(12))
def test_written_properties_are_read_back_exactly(seed: int) -> None:
    """By both readers: the same box, and rows equal up to a positive factor."""
    files = random_files(seed)
    region = files.prop.region
    (other,) = parse(vnnlib(files.prop)).properties(region.lower.shape)
    assert (other.region.lower == region.lower).all() and (other.region.upper == region.upper).all()
    for case, mine, theirs in zip(files.statements, files.prop.unsafe, other.unsafe, strict=True):
        assert case.lower == region.lower.flatten().tolist() and case.upper == region.upper.flatten().tolist()
        assert (exact(mine.C.numpy()) == case.rows).all() and (exact(mine.d.numpy()) == case.constants).all()
        assert (mine.C == theirs.C).all() and (mine.d == theirs.d).all()


def test_fractions_without_decimals_are_written_exactly() -> None:
    files = random_files(0)
    region = type(files.prop.region)(files.prop.region.lower - Fraction(8, 255), files.prop.region.upper)
    other = Files.of(files.graph, type(files.prop)(region, files.prop.unsafe))
    case = other.statements[0]
    assert case.lower == region.lower.flatten().tolist()
    low, high = case.region.box
    assert all(Fraction(f) <= x for f, x in zip(low[0].tolist(), case.lower, strict=True))
    assert all(Fraction(f) >= x for f, x in zip(high[0].tolist(), case.upper, strict=True))


BAD = [
    "(assert (< X_0 1))", "(assert (<= X_0 Y_0))", "(assert (<= (* X_0 X_1) 1))", "(assert (<= X_2 1))", "(assert",
    ")", "(assert (<= X_0 nan))", "(assert (<= X_0 1e99999))", "(check-sat)", "(assert (xor (<= X_0 1)))", "assert",
    "(" * 5000, "(assert ())", "(assert (<= X_0))", "(declare-const X_0 Real)", "(assert (<= (+ X_0 X_1) 1))",
    "(assert (<= X_0 0x10))", "(assert (<= X_0 1_000))", "(assert (not (<= X_0 1)))",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_properties_are_refused(number: int) -> None:
    text = DECLARED + PROPERTIES["box"] + BAD[number]
    with pytest.raises((Refused, SyntaxError, MemoryError, RecursionError, IndexError, ValueError, TypeError)):
        read_property(text, 2, 2)
    with pytest.raises(Refused):
        read_property(DECLARED + PROPERTIES["box"], 3, 2)
    with pytest.raises(Refused, match="unbounded"):
        read_property(DECLARED, 2, 2)
