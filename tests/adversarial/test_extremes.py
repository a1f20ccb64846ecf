"""Certificates of one leaf about false claims, at the ends of what floats hold and where runtimes round otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bare import Claim, answers, bare, chain, model, node, statement
from onnx import TensorProto, helper, numpy_helper

from verifier.certificate import checker
from verifier.certificate.checker import Refused

ONE = np.ones(1, np.float32)


def divided(constant: Sequence[Any], claimed: str, inputs: int = 1) -> Claim:
    """About 3 / 3, for a divisor that nodes compute."""
    net = model([*constant, node("Div", ["x", "c"])], [inputs])
    return net, statement([(3, 3)] * inputs, f"({claimed})", outputs=inputs)


def huge(op: str, *others: str, side: tuple[float, float] = (0.001, 0.002), claimed: str = "(>= Y_0 5e34)") -> Claim:
    """0.001 * 1e304 = 1e301, let pass and scaled back to 1e35."""
    up, down = chain("x", *[("Mul", "s")] * 8), chain("a", *[("Mul", "t")] * 7)
    net = model([*up, node(op, ["x_7", *others], ["a"]), *down], [1], s=1e38, t=1e-38, zero=0.0)
    return net, statement([side], claimed)


def small_ball(centre: str) -> Claim:
    """c x > 0 where |x - centre| <= 0.1, for a c of which float64 does not hold the square."""
    net = model(chain("x", ("Mul", "w"), *[("Mul", "t")] * 5), [1], w=2.71e-12, t=1e-30)
    away = f"(- X_0 {centre})"
    return net, statement([(-10, 10)], f"(<= (* {away} {away}) 0.01)", "(<= Y_0 0)")


def tiny_ball() -> Claim:
    """A radius of which float64 does not hold the square."""
    net = model(chain("x", ("Mul", "one")), [1], one=1.0)
    return net, statement([(0, 1)], "(<= (* (- X_0 1e-170) (- X_0 1e-170)) 4e-340)", "(<= Y_0 0)")


def normalised(variance: float, scale: float, claimed: str, x: float, outputs: int = 1, **attributes: Any) -> Claim:
    names = ["y", *(f"y{i}" for i in range(1, outputs))]
    nodes = [node("BatchNormalization", ["x", "s", "b", "m", "v"], names, **attributes)]
    arrays = {"s": ONE * np.float32(scale), "b": 0 * ONE, "m": 0 * ONE, "v": ONE * np.float32(variance)}
    made = model(nodes, [1, 1], 9 if outputs > 1 else 13, **arrays)
    proto = onnx.ModelProto.FromString(made)
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    return proto.SerializeToString(), statement([(x, x)], claimed)


def scaled_gemm(alpha: float, weight: float, x: float, claimed: str) -> Claim:
    nodes = [node("Gemm", ["x", "w"], alpha=alpha)]
    return model(nodes, [1, 1], w=np.full((1, 1), weight, np.float32)), statement([(x, x)], claimed)


def scaled_bias(claimed: str) -> Claim:
    """A bias in float64, of which a multiple takes more digits, less the multiple that float64 holds."""
    bias, beta = 1 + 2.0**-52, float(np.float32(1 / 3))
    steps = [node("Cast", ["x"], ["d"], to=11), node("Gemm", ["d", "w", "c"], ["g"], beta=beta),
             node("Sub", ["g", "k"], ["e"]), node("Cast", ["e"], to=1)]  # fmt: skip
    net = model(steps, [1, 1], w=np.zeros((1, 1)), c=np.array([[bias]]), k=np.array([[bias * beta]]))
    return net, statement([(0, 1)], f"({claimed})")


FIXED = [node("Constant", [], ["c"], value_float=3.0)]
COUNTED = [node("Shape", ["x"], ["n"]), node("Cast", ["n"], ["c"], to=1)]
RELU, MEAN = node("Relu", ["x"]), node("ReduceMean", ["x"], keepdims=0)
EPSILON = 1 / math.sqrt(np.float32(1e-5))  # what BatchNormalization makes of 1, of the variance 0


def scaled_back(*inner: Any, by: float) -> bytes:
    """What the inner node computes, times a number."""
    return model([*inner, node("Mul", [inner[-1].output[0], "t"])], [1], t=by)


def both(semantics: str, make: Callable[..., Claim], *arguments: Any, **named: Any) -> tuple[str, Callable[[], Claim]]:
    return semantics, lambda: make(*arguments, **named)


def plain(semantics: str, content: bytes, side: tuple[float, float], claimed: str, count: int = 1) -> Any:
    return semantics, lambda: (content, statement([side] * count, claimed))


# Claims that are false of the real values, or of values computed in float32.
FALSE: dict[str, tuple[str, Callable[[], Claim]]] = {
    "a divisor that is an attribute, above": both("real", divided, FIXED, "<= Y_0 1"),
    "a divisor that is an attribute, below": both("real", divided, FIXED, ">= Y_0 1"),
    "a divisor that is counted, above": both("real", divided, COUNTED, "<= Y_0 1", 3),
    "a divisor that is counted, below": both("real", divided, COUNTED, ">= Y_0 1", 3),
    "values beyond 1e300": both("real", huge, "Clip", "zero"),
    "values beyond 1e300, their magnitude": both("real", huge, "Abs"),
    "a ball of little weight": both("real", small_ball, "0.09"),
    "a ball of little radius": both("real", tiny_ball),
    "a scaled bias, above": both("real", scaled_bias, "<= Y_0 -1e-30"),
    "a scaled bias, below": both("real", scaled_bias, ">= Y_0 1e-30"),
    "the usual epsilon": both("real", normalised, 0.0, 1.0, f"(>= Y_0 {EPSILON})", 1),
    "statistics of the batch": both("real", normalised, 1.0, 1.0, "(<= Y_0 0.5)", 1, outputs=5),
    "an operator set before 7": plain("real", model([RELU], [1], 6, "ai.onnx"), (1, 1), "(<= Y_0 0.5)"),
    "an infinite input": plain("float32", scaled_back(node("Relu", ["x"], ["r"]), by=1e-38), (1, 1e39), "(>= Y_0 11)"),
    "a slope that overflows": plain(
        "float32", scaled_back(node("LeakyRelu", ["x"], ["r"], alpha=1e30), by=1e-30), (-1e10, -1e9), "(<= Y_0 -2e10)"
    ),
    "a sum that overflows before it is a mean": plain(
        "float32", model([MEAN], [32]), (8e37, 8.1e37), "(>= Y_0 9e37)", 32
    ),
    "a product that overflows before it is scaled": both("float32", scaled_gemm, 1e-30, 1e30, 1e10, "(>= Y_0 2e10)"),
    "a product that underflows": both("float32", scaled_gemm, 1e30, 1e-30, 1e-15, "(<= Y_0 0.9999e-15)"),
    "a factor of few digits": both("float32", normalised, 1.7, 1.2345e-40, "(<= Y_0 0.00757453)", 8e37, epsilon=0.0),
}
# Claims beside them that are true by little, so that what is refused above is refused for its bound.
TRUE: dict[str, tuple[str, Callable[[], Claim]]] = {
    "a divisor that is an attribute": both("real", divided, FIXED, ">= Y_0 1.000000000001"),
    "a divisor that is counted": both("real", divided, COUNTED, "<= Y_0 0.999999999999", 3),
    "values below 1e300": both("real", huge, "Abs", side=(1e-6, 2e-6), claimed="(<= Y_0 5e31)"),
    "a ball of little weight": both("real", small_ball, "0.11"),
    "a scaled product": both("float32", scaled_gemm, 0.5, 2.0, 3.0, "(<= Y_0 2.99999)"),
    "the usual epsilon": both("real", normalised, 0.0, 1.0, f"(>= Y_0 {EPSILON * (1 + 1e-14)})", 1),
    "a mean": plain("float32", model([MEAN], [32]), (8, 8.1), "(>= Y_0 8.1001)", 32),
}


def widened(op: str, number: float, claimed: str, x: float) -> Claim:
    """The sum of the three numbers that a constant of three makes of one."""
    nodes = [node(op, ["x", "c"], ["w"]), node("ReduceSum", ["w"], keepdims=0)]
    return model(nodes, [1, 1], c=np.full(3, number, np.float32)), statement([(x, x)], claimed)


def turned() -> Claim:
    """A vector read backwards, once an axis is gone; stating no axes takes away all of size 1."""
    ends = {"first": [2], "last": [-4], "axis": [0], "step": [-1]}
    nodes = [node("Squeeze", ["x", "none"], ["s"]), node("Slice", ["s", *ends])]
    net = model(nodes, [1, 3], none=np.zeros(0, np.int64), **{key: np.array(v, np.int64) for key, v in ends.items()})
    return net, statement([(1, 1), (2, 2), (3, 3)], "(>= Y_0 2.5)", outputs=3)


FALSE |= {
    "exponents that widen": ("real", lambda: widened("Pow", 2.0, "(>= Y_0 20)", 3.0)),
    "exponents that repeat": ("real", lambda: widened("Pow", 1.0, "(>= Y_0 8)", 3.0)),
    "slopes that widen": ("float32", lambda: widened("PRelu", 0.5, "(<= Y_0 -4)", -3.0)),
    "no axes, taken for all": ("float32", turned),
}


@pytest.mark.parametrize("name", FALSE)
def test_false_claims_at_the_ends_of_what_floats_hold(name: str) -> None:
    semantics, make = FALSE[name]
    assert all(answers(make(), semantics)), f"a certificate of a false claim about {name} is accepted"


@pytest.mark.parametrize("name", TRUE)
def test_true_claims_beside_them_are_accepted(name: str) -> None:
    semantics, make = TRUE[name]
    assert "" in answers(make(), semantics)


def test_a_sum_in_any_order() -> None:
    """x - x + x - ... of 200 terms. What is added one by one, and the rest four by four, makes -2.1e-4 in float32."""
    x = np.float32(1.4427528)
    added = np.cumsum(np.full(100, x), dtype=np.float32)[-1]
    fours = np.cumsum(np.full(25, 4 * x), dtype=np.float32)[-1]
    claim = "(<= Y_0 -1.5e-4)"
    assert added - fours < np.float32(-1.5e-4)
    net = model([node("Neg", ["x"], ["n"]), node("Sum", ["x", "n"] * 100)], [1])
    statements = statement([(float(x), float(x))], claim)
    with pytest.raises(Refused, match="is not proved"):
        checker.check(bare((net, statements), "float32", False, False), net, statements.encode(), "rounded")


def test_a_model_of_which_only_the_first_part_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """x, and then as much text as is read of a file; what comes after it states the weight again: -x."""
    most, text = 4096, statement([(1, 2)], "(<= Y_0 0.5)")
    net = model([node("Mul", ["x", "w"])], [1], w=1.0)
    room = most - len(net) - 3
    first = net + bytes([6 << 3 | 2, room & 127 | 128, room >> 7]) + b"a" * room  # the field `doc_string`
    more = onnx.ModelProto()
    more.graph.initializer.append(numpy_helper.from_array(np.float32(-1), "w"))
    whole = first + more.SerializeToString()
    assert len(first) == most and onnx.ModelProto.FromString(whole).doc_string
    (tmp_path / "net.onnx").write_bytes(whole)
    (tmp_path / "prop.vnnlib").write_text(text)
    (tmp_path / "cert").write_bytes(bare((first, text), "real", False, False))
    assert checker.check((tmp_path / "cert").read_bytes(), first, text.encode()).leaves == 1
    names = ["cert", "--model", "net.onnx", "--property", "prop.vnnlib"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["checker.py", *names])
    monkeypatch.setattr(checker, "MOST_BYTES", most)
    assert checker.main() == 1 and "REFUSED: net.onnx is too large" in capsys.readouterr().out
