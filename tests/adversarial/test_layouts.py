"""Networks of odd but legal layouts: what onnxruntime runs is what the loader and the stand-alone checker read.

Or they refuse it. Enclosures of float32 execution hold what it computes, and no claim that a run refutes is verified.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from growing import session
from onnx import TensorProto, helper, numpy_helper
from rearranging import Net

from verifier.certificate.analysis import Analysis
from verifier.certificate.nodes import Refused
from verifier.certificate.reading import Network
from verifier.certificate.rounded import Rounded
from verifier.certified import verify_certified
from verifier.errors import ModelError
from verifier.load import load
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.strategy import Settings
from verifier.verdict import Verdict

SAMPLE, MANY = 150, 20_000
NEAR = 2e-3
SCALES = (1.0, 1.0, 1e3, 1e-3, 1e6)


def enclosure(content: bytes, x: np.ndarray, single: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """What the checker says of the outputs at a point, in float32 execution if `single`; None where it says nothing."""
    try:
        network = Network(content)
    except Exception:  # which the checker turns into a refusal
        return None
    if single and (network.double or any(node.curve is not None for node in network.nodes)):
        return None
    hints = {"refine": [0] * len(network.activations), "slots": np.zeros((3, 0)), "codes": np.zeros((0, 0))}
    point = x.reshape(1, -1).astype(np.float64)
    try:
        with np.errstate(all="ignore"):
            d = Analysis(network, Rounded, single, hints).bounds((point, point))
    except Refused:
        return None
    low, high = (network.output.gather(side)[0].ravel() for side in (d.lower, d.upper))
    return None if d.outside.any() else (low, high)


def agree(seed: int, folder: Path) -> str:
    """Who reads network `seed`; fails where it is read as something else."""
    net = Net(seed)
    if net.last == "x":
        return "empty"
    path, content = folder / "net.onnx", net.content()
    path.write_bytes(content)
    x, readers = net.draw.normal(size=net.shape).astype(np.float32), []
    expected = session(content).run(None, {"x": x})[0].ravel()
    room = NEAR * (1 + np.abs(expected).max())
    found = enclosure(content, x, single=False)
    if found is not None:
        assert found[0].shape == expected.shape and (np.abs(sum(found) / 2 - expected) <= room).all(), seed
        readers.append("checker")
    try:
        graph = load(path).graph
    except ModelError:
        return " ".join(readers)
    values = graph.stated(torch.from_numpy(x).double().reshape(1, *graph.input_shape)).numpy().ravel()
    assert values.shape == expected.shape and (np.abs(values - expected) <= room).all(), seed
    return " ".join([*readers, "loader"])


def test_odd_layouts_are_read_as_they_run(tmp_path: Path) -> None:
    answers = Counter(agree(seed, tmp_path) for seed in range(SAMPLE))
    assert answers["checker loader"] > SAMPLE // 4 and answers["checker"] > SAMPLE // 10, answers


@pytest.mark.long
def test_many_odd_layouts_are_read_as_they_run(tmp_path: Path) -> None:
    for seed in range(SAMPLE, SAMPLE + MANY):
        agree(seed, tmp_path)


def held(seed: int) -> int:
    """How often what float32 execution computes lay in its enclosure, as it must without any tolerance.

    With what the runtime merges and without, for inputs of several sizes, and for such as are almost equal.
    """
    net, count = Net(seed), 0
    if net.last == "x":
        return 0
    content = net.content()
    runs = [session(content, optimised) for optimised in (True, False)]
    for scale in (*SCALES, None):
        x = net.draw.normal(size=net.shape) * (scale or 1.0)
        if scale is None:
            x = x.flat[0] * (1 + 2.0**-20 * net.draw.integers(-3, 4, net.shape))
        found = enclosure(content, x.astype(np.float32), single=True)
        for run in runs if found is not None else ():
            y = run.run(None, {"x": x.astype(np.float32)})[0].ravel().astype(np.float64)
            assert found is not None and ((found[0] <= y) & (y <= found[1])).all(), seed
            count += 1
    return count


def test_float32_execution_stays_within_its_enclosure() -> None:
    assert sum(map(held, range(SAMPLE))) > SAMPLE


@pytest.mark.long
def test_much_float32_execution_stays_within_its_enclosure() -> None:
    for seed in range(SAMPLE, SAMPLE + MANY):
        held(seed)


def refuted(seed: int, folder: Path, timeout: float = 0.3) -> str:
    """The verdict, with a certificate, about a claim that the lowest of many runs refutes; fails if VERIFIED."""
    net = Net(seed)
    model = net.loaded(folder)
    if model is None:
        return "empty" if net.last == "x" else "refused"
    draw, shape = net.draw, model.graph.input_shape
    lower = exact(np.round(draw.normal(size=shape), 1))
    upper = lower + exact(draw.integers(0, 9, shape) / 8)
    low, high = (side.astype(np.float64) for side in (lower, upper))
    points = low + draw.choice([0.0, 1.0, 0.3, 0.6], (200, *shape)) * (high - low)
    values = model.graph.stated(torch.from_numpy(points)).flatten(1).numpy()
    row = draw.integers(-2, 3, values.shape[1]).astype(np.float64)
    scores = values @ row
    room = 1e-3 * (np.ptp(scores) + np.abs(values).max() * np.abs(row).sum())
    single = points[scores.argmin()].astype(np.float32)
    if not (row.any() and abs(float(model.native(single[None]).ravel() @ row) - scores.min()) <= room / 2):
        return "rounding"
    unsafe = HalfSpaces(torch.from_numpy(row[None]), torch.tensor([-scores.min() - room], dtype=torch.float64))
    prop = Property(Region(lower, upper), (unsafe,))
    verdict = verify_certified(model, prop, Settings(timeout=timeout, device="cpu")).result.verdict
    assert verdict is not Verdict.VERIFIED, seed
    return verdict.name


def test_what_a_run_of_an_odd_layout_refutes_is_not_verified(tmp_path: Path) -> None:
    answers = Counter(refuted(seed, tmp_path) for seed in range(SAMPLE // 3))
    assert answers["FALSIFIED"] > SAMPLE // 15, answers


@pytest.mark.long
def test_what_runs_of_odd_layouts_refute_is_not_verified(tmp_path: Path) -> None:
    for seed in range(SAMPLE, SAMPLE + MANY // 10):
        refuted(seed, tmp_path)


# Networks that were once read as something else, by the sums of their three outputs, or in their order.
FULL = np.full(3, 2.0, dtype=np.float32)
TURN = {"from": [2], "to": [-4], "axes": [0], "steps": [-1]}
ONCE_WRONG = {
    "exponents that widen": ((1, 1), [("Pow", ["x", "c"], ["y"])], {"c": FULL}),
    "exponents that repeat": ((1, 1), [("Pow", ["x", "c"], ["y"])], {"c": FULL / 2}),
    "slopes that widen": ((1, 1), [("PRelu", ["x", "c"], ["y"])], {"c": FULL / 4}),
    "no axes, taken for all": ((1, 3), [("Squeeze", ["x", "none"], ["s"]), ("Slice", ["s", *TURN], ["y"])],
                               {"none": [], **TURN}),
}  # fmt: skip


@pytest.mark.parametrize("name", ONCE_WRONG)
def test_what_was_once_read_wrongly_is_refused(name: str, tmp_path: Path) -> None:
    shape, operators, constants = ONCE_WRONG[name]
    stored = [
        numpy_helper.from_array(np.asarray(value, None if isinstance(value, np.ndarray) else np.int64), key)
        for key, value in constants.items()
    ]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, size) for end, size in (("x", shape), ("y", None))]
    graph = helper.make_graph([helper.make_node(*one) for one in operators], "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content, x = bytes(model.SerializeToString()), np.arange(1, 1 + shape[1], dtype=np.float32)[None]
    assert session(content).run(None, {"x": x})[0].size == 3
    with pytest.raises(Refused, match=operators[0][0]):
        Network(content)
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=operators[0][0]):
        load(tmp_path / "net.onnx")
