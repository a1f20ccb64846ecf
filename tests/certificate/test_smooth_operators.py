"""Smooth operators, products and interpolation as the checker reads them, against onnxruntime; and forgeries."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from certified import NO_HINTS
from test_reading import MAPS, ROW, Op, ints, model_of, model_of_many, weight

from verifier.certificate.analysis import Analysis
from verifier.certificate.checker import check
from verifier.certificate.exact import Exact
from verifier.certificate.nodes import Refused
from verifier.certificate.reading import Network
from verifier.certificate.rounded import Rounded
from verifier.certificate.writer import write
from verifier.proof import INPUT, Leaf, Proof, Split, Tree

Ops = list[tuple[str, list[str], str, dict[str, Any]]]
above = np.float32([2.5])


def resized(mode: str, way: str, **more: Any) -> Op:
    return (
        "Resize",
        ["x", None, np.float32([1, 1, 1.5, 2])],
        {"mode": mode, "coordinate_transformation_mode": way, **more},
    )


CASES: dict[str, tuple[tuple[int, ...], Op]] = {
    **{op: (ROW, (op, ["x"], {})) for op in ("Exp", "Sin", "Cos", "Erf", "Atan", "Softplus", "Softsign", "HardSwish",
                                             "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "Gelu")},
    "Elu steep": (ROW, ("Elu", ["x"], {"alpha": 1.75})),
    "Celu wide": (ROW, ("Celu", ["x"], {"alpha": 0.3})),
    "Selu other": (ROW, ("Selu", ["x"], {"alpha": 1.2, "gamma": 0.7})),
    "Pow 2": (ROW, ("Pow", ["x", np.float32([2])], {})),
    "Pow 3": (ROW, ("Pow", ["x", np.float32([3])], {})),
    "Pow 1": (ROW, ("Pow", ["x", np.float32([1])], {})),
    "square": (ROW, ("Mul", ["x", "x"], {})),
    "Softmax": (ROW, ("Softmax", ["x"], {})),
    "Softmax over maps": ((1, 3, 4), ("Softmax", ["x"], {"axis": 1})),
    "LogSoftmax": (ROW, ("LogSoftmax", ["x"], {"axis": -1})),
    "MatMul from the left": ((1, 4, 3), ("MatMul", [weight(2, 4), "x"], {})),
    **{f"linear {way}": (MAPS, resized("linear", way)) for way in
       ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")},
    "nearest by a fraction": (MAPS, resized("nearest", "asymmetric", nearest_mode="floor")),
    "linear to a size": (MAPS, ("Resize", ["x", None, None, ints(1, 4, 9, 3)], {"mode": "linear"})),
}  # fmt: skip
COMPOSED: dict[str, Ops] = {
    "product": [("Gemm", ["x", "A"], "u", {}), ("Gemm", ["x", "B"], "v", {}), ("Mul", ["u", "v"], "y", {})],
    "quotient": [("Gemm", ["x", "A"], "u", {}), ("Exp", ["x"], "v", {}), ("Div", ["u", "v"], "y", {})],
    "constant over value": [("Exp", ["x"], "v", {}), ("Div", ["b", "v"], "y", {})],
    "Log": [("Exp", ["x"], "v", {}), ("Add", ["v", "h"], "w", {}), ("Log", ["w"], "y", {})],
    "Sqrt": [("Exp", ["x"], "v", {}), ("Add", ["v", "h"], "w", {}), ("Sqrt", ["w"], "y", {})],
    "Reciprocal": [("Exp", ["x"], "v", {}), ("Reciprocal", ["v"], "y", {})],
    "SiLU": [("Sigmoid", ["x"], "v", {}), ("Mul", ["x", "v"], "y", {})],
    "SiLU, the other way": [("Sigmoid", ["x"], "v", {}), ("Mul", ["v", "x"], "y", {})],
    "GELU as exported": [
        ("Div", ["x", "k"], "u", {}), ("Erf", ["u"], "v", {}), ("Add", ["v", "one"], "w", {}),
        ("Mul", ["x", "w"], "z", {}), ("Mul", ["z", "h"], "y", {}),
    ],
    "gate that is none": [
        ("Mul", ["x", "k"], "u", {}), ("Erf", ["u"], "v", {}),
        ("Add", ["v", "h"], "w", {}), ("Mul", ["x", "w"], "y", {}),
    ],
    "gate of another value": [
        ("Gemm", ["x", "A"], "u", {}), ("Sigmoid", ["u"], "v", {}), ("Mul", ["x", "v"], "y", {}),
    ],
    "MatMul of two": [
        ("Gemm", ["x", "A"], "u", {}), ("Reshape", ["x", "column"], "v", {}), ("Reshape", ["u", "row"], "w", {}),
        ("MatMul", ["v", "w"], "y", {}),
    ],
}  # fmt: skip
STORED = {"A": weight(7, 7), "B": weight(7, 7), "b": weight(7), "h": np.float32([0.5]), "k": np.float32([2**0.5]),
          "one": np.float32([1]), "column": ints(1, 7, 1), "row": ints(1, 1, 7)}  # fmt: skip


def models() -> dict[str, bytes]:
    found = {name: model_of(*case, opset=20) for name, case in CASES.items()}
    found |= {name: model_of_many(ops, used(ops)) for name, ops in COMPOSED.items()}
    return found | {"Softmax before 13": model_of((1, 3, 2), ("Softmax", ["x"], {}), opset=11)}


def used(ops: Ops) -> dict[str, np.ndarray]:
    return {name: value for name, value in STORED.items() if any(name in op[1] for op in ops)}


MODELS = models()


@pytest.mark.parametrize("arithmetic", [Exact, Rounded])
@pytest.mark.parametrize("name", MODELS)
def test_bounds_hold_what_onnxruntime_computes(name: str, arithmetic: type[Exact | Rounded]) -> None:
    """At a point they are as narrow as rounding allows; in a box they hold samples, by intervals and by lines."""
    session = onnxruntime.InferenceSession(MODELS[name], providers=["CPUExecutionProvider"])
    generator, network = np.random.default_rng(1), Network(MODELS[name])
    shape = session.get_inputs()[0].shape
    for radius in (0.0, 0.01, 0.5):
        centre = generator.standard_normal(shape).astype(np.float32)
        lower, upper = ((centre + sign * radius).astype(np.float64).reshape(1, -1) for sign in (-1, 1))
        analysis = Analysis(network, arithmetic, False, {**NO_HINTS, "refine": [1] * len(network.activations)})
        with np.errstate(all="ignore"):
            d = analysis.bounds((lower, upper))
            eye = np.eye(network.output.size)
            rows = np.concatenate((eye, -eye))[None]
            found = analysis.arithmetic.down(analysis.least(network.output, rows, d, np.arange(1)))
        assert not d.outside.any()
        least, most = found[: len(eye)], -found[len(eye) :]
        low, high = (network.output.gather(side)[0] for side in (d.lower, d.upper))
        for _ in range(1 if radius == 0 else 40):
            x = generator.uniform(lower, upper).astype(np.float32).reshape(shape)
            y = session.run(None, {"x": x})[0].astype(np.float64).ravel()
            room = 1e-5 * (1 + np.abs(y))
            assert ((np.maximum(low, least) <= y + room) & (y - room <= np.minimum(high, most))).all()
        if radius == 0:
            assert (np.minimum(high, most) - np.maximum(low, least) <= 1e-9 * (1 + np.abs(y))).all()


def test_gates_are_one_function() -> None:
    def kinds(name: str) -> list[str]:
        return [node.op for node in Network(MODELS[name]).nodes if node.curve is not None]

    assert kinds("SiLU") == kinds("SiLU, the other way") == ["Silu"] and kinds("GELU as exported") == ["Gelu"]
    assert kinds("gate that is none") == ["Erf", "Power"] and kinds("gate of another value") == ["Sigmoid", "Power"]


REFUSED: dict[str, tuple[tuple[int, ...], Op]] = {
    "GELU by tanh": (ROW, ("Gelu", ["x"], {"approximate": "tanh"})),
    "several exponents": (ROW, ("Pow", ["x", np.float32([2] * 6 + [3])], {})),
    "a broken exponent": (ROW, ("Pow", ["x", np.float32([1.5])], {})),
    "an exponent that is NaN": (ROW, ("Pow", ["x", np.float32([np.nan])], {})),
    "falling ELU": (ROW, ("Elu", ["x"], {"alpha": -1.0})),
    "ELU with NaN": (ROW, ("Elu", ["x"], {"alpha": float("nan")})),
    "softmax of many": ((1, 65), ("Softmax", ["x"], {})),
    "cubic": (MAPS, resized("cubic", "half_pixel")),
    "cropped": (MAPS, resized("linear", "tf_crop_and_resize")),
    "antialiased": (MAPS, resized("linear", "half_pixel", antialias=1)),
    "nearest where that hangs on rounding": (
        (1, 1, 100, 1),
        ("Resize", ["x", None, np.float32([1, 1, 0.7, 1])], {"coordinate_transformation_mode": "asymmetric"}),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_certified_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        Network(model_of(*REFUSED[name], opset=20))


# --- Certificates. ---
def stated(low: float, high: float, count: int, least: float) -> bytes:
    """That the only output is above a number where inputs lie in an interval; it is stated by what contradicts it."""
    names = [*(f"X_{i}" for i in range(count)), "Y_0"]
    lines = [f"(declare-const {name} Real)" for name in names]
    lines += [f"(assert (<= X_{i} {high!r}))\n(assert (>= X_{i} {low!r}))" for i in range(count)]
    return "\n".join([*lines, f"(assert (<= Y_0 {least!r}))"]).encode()


def single(op: str, *extra: np.ndarray) -> bytes:
    return model_of((1, 1), (op, ["x", *extra], {}), opset=17)


def halves(low: float, high: float, depth: int) -> Tree:
    if not depth:
        return Leaf()
    middle = (low + high) / 2
    return Split((INPUT, 0), middle, halves(low, middle, depth - 1), halves(middle, high, depth - 1), (1.0,))


DOMAINS = {"Log": (-0.125, 1.0), "Sqrt": (0.0, 1.0), "Reciprocal": (-0.5, 1.0), "Exp": (0.0, 800.0)}


@pytest.mark.parametrize("arithmetic", ["exact", "rounded"])
@pytest.mark.parametrize("op", DOMAINS)
def test_beyond_a_domain_nothing_is_proved(op: str, arithmetic: str) -> None:
    """Not even what is far below everything the function is, without splits or with them."""
    model, (low, high) = single(op), DOMAINS[op]
    statement = stated(low, high, 1, -1e30)
    for depth in (0, 3):
        proof = Proof([halves(low, high, depth)], recompute=[depth > 0])
        with pytest.raises(Refused, match=r"domain|not bounded"):
            check(write(model, statement, proof, "real"), model, statement, arithmetic)
    inside = stated(0.5, 1.0, 1, -1e30)
    assert check(write(model, inside, Proof([Leaf()]), "real"), model, inside, arithmetic).margin > 0


@pytest.mark.parametrize("op", ["Exp", "Softplus", "Gelu", "Sin", "Atan"])
def test_no_claim_about_float32(op: str) -> None:
    model = model_of((1, 1), (op, ["x"], {}), opset=20)
    statement = stated(0.25, 0.5, 1, -1e3)
    with pytest.raises(Refused, match="float32"):
        check(write(model, statement, Proof([Leaf()]), "float32"), model, statement)


@pytest.mark.parametrize("arithmetic", ["exact", "rounded"])
def test_stated_slopes_and_scales_are_never_trusted(arithmetic: str) -> None:
    """Whatever slopes, spans and scales are, a false claim is refused; infinite slopes refuse a true one."""
    ops: Ops = [("Gemm", ["x", "A"], "u", {}), ("Softplus", ["u"], "v", {}), ("Sin", ["x"], "w", {}),
                ("Mul", ["v", "w"], "t", {}), ("ReduceSum", ["t", "axis"], "y", {})]  # fmt: skip
    model = model_of_many(ops, {"A": weight(7, 7) / 4, "axis": ints(1)})
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(3)
    inputs = generator.uniform(-0.5, 0.5, (2000, 7)).astype(np.float32)
    least = min(float(session.run(None, {"x": x[None]})[0].squeeze()) for x in inputs)
    false, true = (stated(-0.5, 0.5, 7, claim) for claim in (least + 1e-4, -1e3))
    network = Network(model)
    slots = [((number, i), bool(upper)) for number, j in enumerate(network.activations)
             for i in range(network.nodes[j].size) for upper in (0, 1)]  # fmt: skip
    for trial in range(20):
        size = 10.0 ** generator.uniform(-3, 6)
        proof = Proof(
            [Leaf((1.0,), generator.normal(size=len(slots)) * size)],
            slots=slots,
            scales=generator.integers(-7, 8, 7).tolist() if trial % 2 else (),
        )
        with pytest.raises(Refused, match="not proved"):
            check(write(model, false, proof, "real"), model, false, arithmetic)
    wild = write(model, true, Proof([Leaf((1.0,), np.full(len(slots), np.inf))], slots=slots), "real")
    with pytest.raises(Refused):
        check(wild, model, true, arithmetic)
    plain = write(model, true, Proof([Leaf()], scales=(1, -1, 2, 0, 0, 0, -3)), "real")
    assert check(plain, model, true, arithmetic).margin > 0
