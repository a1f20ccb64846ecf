"""Files that readers may take for different things: loader and checker read what onnxruntime runs, or refuse them."""

from __future__ import annotations

import io
import time
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from verifier.attack.replay import replay
from verifier.batch.merging import contents
from verifier.batch.records import Record, Run
from verifier.certificate.analysis import Analysis
from verifier.certificate.nodes import Refused
from verifier.certificate.properties import read_property
from verifier.certificate.reading import Network
from verifier.certificate.rounded import Rounded
from verifier.cli.main import main
from verifier.errors import InputError, ModelError
from verifier.load import load
from verifier.load.pickles import imports
from verifier.load.sniff import Format
from verifier.spec.vnnlib import parse

Stored = dict[str, np.ndarray]
HEAD = "(declare-const X_0 Real) (declare-const Y_0 Real)\n(assert (>= X_0 0)) (assert (<= X_0 2))\n"


def model_of(nodes: list[onnx.NodeProto], shape: Any = (1, 5), stored: Stored | None = None, opset: int = 13) -> bytes:
    """A model of x -> y."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, s)] for name, s in (("x", shape), ("y", None))]
    weights = [numpy_helper.from_array(value, name) for name, value in (stored or {}).items()]
    graph = helper.make_graph(nodes, "odd", *ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(model.SerializeToString())


def run(content: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def checked(content: bytes, x: np.ndarray) -> np.ndarray | None:
    """What the checker takes the model to make of x; None where it refuses it."""
    try:
        network = Network(content)
    except Refused:
        return None
    hints = {"refine": [0] * len(network.activations), "slots": np.zeros((3, 0)), "codes": np.zeros((0, 0))}
    point = x.reshape(1, -1).astype(np.float64)
    with np.errstate(all="ignore"):
        d = Analysis(network, Rounded, False, hints).bounds((point, point))
    return np.asarray(network.output.gather(d.lower) + network.output.gather(d.upper)).ravel() / 2


def loads(content: bytes, folder: Path) -> bool:
    (folder / "net.onnx").write_bytes(content)
    try:
        load(folder / "net.onnx")
    except ModelError:
        return False
    return True


# --- Models. ---
@pytest.mark.parametrize("second", ["value", "value_float", "__value"])
def test_a_constant_of_two_values_is_refused(second: str, tmp_path: Path) -> None:
    """onnxruntime takes the first attribute, whatever its name."""
    tensor = numpy_helper.from_array(np.float32([1.0]))
    node = helper.make_node("Constant", [], ["c"])
    for name, value in ((second, 5.0 if second == "value_float" else tensor), ("value", np.float32([3.0]))):
        stored = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        node.attribute.append(helper.make_attribute(name, stored))
    content, x = model_of([node, helper.make_node("Add", ["x", "c"], ["y"])]), np.zeros((1, 5), dtype=np.float32)
    assert (run(content, x) == (5 if second == "value_float" else 1)).all()
    with pytest.raises(Refused, match="contradict"):
        Network(content)
    assert not loads(content, tmp_path)


def test_an_attribute_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5)
    node.attribute.append(helper.make_attribute("alpha", -2.0))
    with pytest.raises(Refused, match="contradict"):
        Network(model_of([node]))
    assert not loads(model_of([node]), tmp_path)


def test_bytes_that_onnxruntime_takes_for_another_format_are_refused(tmp_path: Path) -> None:
    """A name of four letters, behind the version of the format, stands where that format has its mark."""
    model = onnx.ModelProto.FromString(model_of([helper.make_node("Neg", ["x"], ["y"])]))
    model.ClearField("ir_version")
    content = b"\x08\x08\x12\x04" + b"ORTM" + model.SerializeToString()
    plain = b"\x08\x08\x12\x04" + b"ORTN" + model.SerializeToString()
    assert onnx.ModelProto.FromString(content).producer_name == "ORTM" and loads(plain, tmp_path)
    assert Network(plain).output.size == 5 and run(plain, np.ones((1, 5), dtype=np.float32)).max() == -1
    with pytest.raises(Exception, match="ORT"):
        run(content, np.ones((1, 5), dtype=np.float32))
    with pytest.raises(Refused, match="another format"):
        Network(content)
    assert not loads(content, tmp_path)


@pytest.mark.parametrize("axes", [[2, 0], [1, 0], [-2, -1], [-1, -3], [0, 1], [-1, 0]])
@pytest.mark.parametrize("opset", [7, 11])
def test_new_axes_in_any_order_are_those_of_the_result(axes: list[int], opset: int) -> None:
    if opset == 7 and min(axes) < 0:
        axes = [axis % 4 for axis in axes]
    nodes = [helper.make_node("Unsqueeze", ["x"], ["u"], axes=axes)]
    content = model_of([*nodes, helper.make_node("ReduceSum", ["u"], ["y"], axes=[1], keepdims=0)], (2, 3), opset=opset)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = checked(content, x)
    assert found is not None and np.array_equal(found, run(content, x).ravel())


RESIZED: dict[str, tuple[int, float | int, str, str]] = {
    "to the same size": (3, 1.3, "asymmetric", "floor"),
    "a float32 size": (10, 0.7, "pytorch_half_pixel", "floor"),
    "near the middle of two places": (22, 112 / 23, "asymmetric", "round_prefer_floor"),
    "a sum in several orders": (9, 3, "half_pixel_symmetric", "floor"),
    "a sum that hangs on rounding": (17, 1.8, "half_pixel_symmetric", "round_prefer_ceil"),
}


def resized(n: int, to: float | int, way: str, rule: str) -> bytes:
    """One row of n places; to: a scale, or a size."""
    how = {"mode": "nearest", "coordinate_transformation_mode": way, "nearest_mode": rule}
    inputs = ["x", "", "s"] if isinstance(to, float) else ["x", "", "", "s"]
    given = np.array([1, 1, 1, to], dtype=np.float32 if isinstance(to, float) else np.int64)
    return model_of([helper.make_node("Resize", inputs, ["y"], **how)], (1, 1, 1, n), {"s": given})


@pytest.mark.parametrize("name", RESIZED)
def test_the_nearest_place_is_onnxruntimes_or_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        Network(resized(*RESIZED[name]))
    assert not loads(resized(*RESIZED[name]), tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_places_are_those_of_onnxruntime(seed: int, tmp_path: Path) -> None:
    draw, read, read_by_loader = np.random.default_rng(seed), 0, 0
    for _ in range(100):
        n, way = int(draw.integers(2, 30)), str(draw.choice(["half_pixel", "align_corners", "asymmetric"]))
        rule = str(draw.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
        scale = float(draw.choice([0.5, 2.0, 3.0, draw.integers(5, 60) / draw.integers(2, 12)]))
        to = scale if draw.random() < 0.7 else int(draw.integers(1, 60))
        content, x = resized(n, to, way, rule), np.arange(n, dtype=np.float32).reshape(1, 1, 1, n)
        found = checked(content, x) if to * n >= 1 else None
        if found is not None:
            read += 1
            assert np.array_equal(found, run(content, x).ravel()), (n, to, way, rule)
        if to * n >= 1 and loads(content, tmp_path):
            read_by_loader += 1
            values = load(tmp_path / "net.onnx").graph(torch.from_numpy(x).double())
            assert np.array_equal(values.ravel(), run(content, x).ravel()), (n, to, way, rule)
    assert read > 20 and read_by_loader > 20


def test_averages_in_ceil_mode_over_uneven_padding_are_refused(tmp_path: Path) -> None:
    """Windows that begin in the padding behind are not those of symmetric padding."""
    how = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1}
    for ceil_mode, read in ((0, True), (1, False)):
        node = helper.make_node("AveragePool", ["x"], ["y"], ceil_mode=ceil_mode, **how)
        assert loads(model_of([node], (1, 1, 4, 4)), tmp_path) == read


@pytest.mark.parametrize("shape", [None, [1, "n"], ["n", "m"]])
def test_inputs_of_unknown_size_are_refused(shape: Any) -> None:
    """Of a model that may read several sizes, a claim about one would say nothing of the others."""
    content = model_of([helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Shape", ["s"], ["r"]),
                        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
                        helper.make_node("Add", ["x", "f"], ["y"])], shape)  # fmt: skip
    with pytest.raises(Refused, match="unknown size"):
        Network(content)


def test_a_free_batch_axis_is_one() -> None:
    assert Network(model_of([helper.make_node("Neg", ["x"], ["y"])], ["n", 5])).output.size == 5


def test_parts_of_another_number_than_the_outputs_are_refused(tmp_path: Path) -> None:
    """They end onnxruntime's process."""
    split = helper.make_node("Split", ["x"], ["a", "b", "c"], num_outputs=2, axis=1)
    assert not loads(model_of([split, helper.make_node("Neg", ["a"], ["y"])], (1, 6), opset=18), tmp_path)


def test_values_that_are_computed_twice_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["w"]), helper.make_node("Abs", ["w"], ["w"])]
    content = model_of([*nodes, helper.make_node("Add", ["x", "w"], ["y"])])
    assert not loads(content, tmp_path)
    with pytest.raises(Refused, match="twice"):
        Network(content)


def test_every_pickle_of_an_archive_is_looked_at() -> None:
    """Two of one name: readers may take the first or the last."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("net/data.pkl", b"cos\nsystem\n.")
        archive.writestr("net/data.pkl", b"ccollections\nOrderedDict\n.")
    assert list(imports(packed.getvalue(), Format.TORCH_ZIP)) == ["os.system", "collections.OrderedDict"]


# --- Properties and counterexamples. ---
def test_a_comment_ends_with_the_line_however_that_ends() -> None:
    """SMT-LIB names both characters; text editors and Python's text files take either."""
    for end in ("\n", "\r", "\r\n"):
        text = f"{HEAD}(assert (or (<= Y_0 -9) ; below{end} (<= Y_0 1)))"
        assert len(read_property(text, 1, 1)) == 2
        [prop] = parse(text).properties((1,), 1)
        assert len(prop.unsafe) == 2


def test_numbers_of_many_digits_are_refused_at_once() -> None:
    began = time.monotonic()
    for term in ("(* " + "1e999 " * 3000 + ")", "(+ " + " ".join(f"(/ 1 {k})" for k in range(1, 30001, 2)) + ")"):
        with pytest.raises(Refused, match="digits"):
            read_property(f"{HEAD}(assert (<= Y_0 {term}))", 1, 1)
    assert time.monotonic() - began < 10


def test_a_property_is_violated_as_it_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """y = x = 1 is above a bound that float64 takes for 1: no counterexample, in float32 or in real arithmetic."""
    (tmp_path / "net.onnx").write_bytes(model_of([helper.make_node("Relu", ["x"], ["y"])], (1, 1)))
    model = load(tmp_path / "net.onnx")
    x = np.ones(1, dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    for bound, violated in (("0.99999999999999999999999", False), ("1.00000000000000000000001", True), ("1", True)):
        text = f"{HEAD}(assert (<= Y_0 {bound}))"
        [prop] = parse(text).properties((1,), 1)
        assert prop.unsafe[0].constants.tolist() == [-Fraction(bound)]
        found = replay(model.native, model.graph, prop, x)
        assert found.inside and found.float32 == found.accepted == violated and (found.real is True) == violated
        (tmp_path / "p.vnnlib").write_text(text)
        files = [f"--{name}={tmp_path / file}" for name, file in
                 (("counterexample", "x.npy"), ("model", "net.onnx"), ("property", "p.vnnlib"))]  # fmt: skip
        assert main(["check", *files]) == (0 if violated else 1)
        assert capsys.readouterr().out.startswith("ACCEPTED" if violated else "REFUSED")


HEADERS = ("(", "  {\n 'a'", "-" * 6000 + "1", "{'descr':'<f4','fortran_order':False,'shape':(" + "9" * 40 + ",)}",
           "{'descr':'<f4','fortran_order':False,'shape':(10**12,)}", "{'descr':'<f4'}",
           "{'descr':'<f4','fortran_order':False,'shape':(True,1)}")  # fmt: skip


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_arrays_without_a_header_are_told_in_one_line(
    header: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.onnx").write_bytes(model_of([helper.make_node("Relu", ["x"], ["y"])], (1, 2)))
    head = "(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)"
    box = " ".join(f"(assert (>= X_{i} 0)) (assert (<= X_{i} 2))" for i in (0, 1))
    (tmp_path / "p.vnnlib").write_text(f"{head}\n{box}\n(assert (<= Y_0 1))")
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0")
    files = [f"--{name}={tmp_path / file}" for name, file in
             (("counterexample", "x.npy"), ("model", "net.onnx"), ("property", "p.vnnlib"))]  # fmt: skip
    for command in (
        ["check", *files],
        ["verify", str(tmp_path / "net.onnx"), "--eps", "1", f"--input={tmp_path / 'x.npy'}"],
    ):
        assert main(command) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "x.npy: cannot be read as a .npy array" in err


# --- Journals. ---
def test_results_are_what_their_keys_and_runs_say() -> None:
    asked = Run("m", "0" * 64, "", "d", "1" * 64, 5, ("0.1",), "linf", "auto", "1", certified=True)
    record = Record(3, "0.1", 1, 1, "VERIFIED", "bab", 1.0, proved=0.5, certified=True)
    good = record.line(asked)
    assert contents([asked.line(), good], Path("j"))[asked.identity].records[record.case] == record
    beyond = {"index": 7, "key": f"{asked.identity}:7:0.1"}
    for change in ({"index": 2}, {"key": asked.key(record.case)[:-1] + "2"}, beyond, {"certified": False}):
        with pytest.raises(InputError, match="line 2"):
            contents([asked.line(), {**good, **change}], Path("j"))
