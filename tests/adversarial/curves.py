"""Networks of smooth operators and products with claims that a known point refutes, by little: none may be verified.

Values are computed by the operators' definitions, in float64 to look for the point and in many digits to be sure of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from scipy import special

from verifier.spec.property import HalfSpaces, Property, Region, exact

Array = np.ndarray
Function = Callable[[Any], Any]
DIGITS = 60
SAMPLES = 4000
ROUNDS = 12  # of samples, each nearer to the best one so far than those before


def many_digits(function: Callable[[Any], Any]) -> Function:
    return np.frompyfunc(function, 1, 1)


def floats(function: Function, digits: Callable[[Any], Any]) -> tuple[Function, Function]:
    return function, many_digits(digits)


def hard_swish(z: Any) -> Any:
    return z * min(max(z + 3, mpmath.mpf(0)), mpmath.mpf(6)) / 6


ANYWHERE: dict[str, tuple[Function, Function]] = {
    "Sigmoid": floats(special.expit, lambda z: 1 / (1 + mpmath.exp(-z))),
    "Tanh": floats(np.tanh, mpmath.tanh),
    "Exp": floats(np.exp, mpmath.exp),
    "Softplus": floats(lambda z: np.logaddexp(0, z), lambda z: mpmath.log1p(mpmath.exp(z))),
    "Elu": floats(lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), lambda z: z if z > 0 else mpmath.expm1(z)),
    "Gelu": floats(lambda z: z * special.ndtr(z), lambda z: z * mpmath.ncdf(z)),
    "Sin": floats(np.sin, mpmath.sin),
    "Cos": floats(np.cos, mpmath.cos),
    "Erf": floats(special.erf, mpmath.erf),
    "Atan": floats(np.arctan, mpmath.atan),
    "Softsign": floats(lambda z: z / (1 + abs(z)), lambda z: z / (1 + abs(z))),
    "HardSwish": floats(lambda z: z * np.clip(z + 3, 0, 6) / 6, hard_swish),
    "Relu": floats(lambda z: np.maximum(z, 0), lambda z: max(z, mpmath.mpf(0))),
}
ABOVE_ZERO: dict[str, tuple[Function, Function]] = {
    "Log": floats(np.log, mpmath.log),
    "Sqrt": floats(np.sqrt, mpmath.sqrt),
    "Reciprocal": floats(lambda z: 1 / z, lambda z: 1 / z),
}


class Net:
    """Appends ONNX operators, and steps that compute the same in floats (0) and in many digits (1)."""

    def __init__(self, inputs: int, draw: np.random.Generator) -> None:
        self.draw, self.inputs, self.sizes = draw, inputs, {"x": inputs}
        self.nodes: list[Any] = []
        self.stored: list[Any] = []
        self.steps: list[tuple[str, list[str], tuple[Callable[..., Any], Callable[..., Any]]]] = []

    def store(self, values: Any, dtype: Any = np.float32) -> str:
        self.stored.append(numpy_helper.from_array(np.asarray(values, dtype), f"w{len(self.stored)}"))
        return str(self.stored[-1].name)

    def add(self, operator: str, reads: list[str], extra: list[str], how: Any, size: int, **attributes: Any) -> str:
        """how: both computations, of arrays (points, size)."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [*reads, *extra], [name], name, **attributes))
        self.steps.append((name, reads, how))
        self.sizes[name] = size
        return name

    def dense(self, x: str, size: int, scale: float = 1.0) -> str:
        n = self.sizes[x]
        W = (self.draw.normal(size=(size, n)) * scale / n**0.5).astype(np.float32)
        b = (self.draw.normal(size=size) * scale / 2).astype(np.float32)

        def digits(v: Array) -> Array:
            return v @ numbers(W).T + numbers(b)

        how = (lambda v: v @ W.astype(float).T + b.astype(float), digits)
        return self.add("Gemm", [x], [self.store(W), self.store(b)], how, size, transB=1)

    def shifted(self, x: str, constant: float) -> str:
        c = float(np.float32(constant))
        return self.add("Add", [x], [self.store([c])], (lambda v: v + c,) * 2, self.sizes[x])

    def function(self, operator: str, x: str) -> str:
        how = {**ANYWHERE, **ABOVE_ZERO}[operator]
        return self.add(operator, [x], [], how, self.sizes[x])

    def both(self, operator: str, x: str, y: str) -> str:
        does = {"Mul": np.multiply, "Div": np.divide, "Add": np.add, "Sub": np.subtract}[operator]
        return self.add(operator, [x, y], [], (does, does), self.sizes[x])

    def power(self, x: str, exponent: int) -> str:
        return self.add("Pow", [x], [self.store(float(exponent))], (lambda v: v**exponent,) * 2, self.sizes[x])

    def softmax(self, x: str) -> str:
        def digits(v: Array) -> Array:
            e = ANYWHERE["Exp"][1](v)
            return e / e.sum(axis=1, keepdims=True)

        return self.add("Softmax", [x], [], (lambda v: special.softmax(v, axis=1), digits), self.sizes[x], axis=1)

    def positive(self, x: str) -> str:
        """A value above a constant that may be small."""
        kind, least = int(self.draw.integers(3)), 10.0 ** -float(self.draw.uniform(0, 2))
        up = self.power(x, 2) if kind == 0 else self.function(("Exp", "Softplus")[kind - 1], x)
        return self.shifted(up, least)

    def grow(self, x: str) -> str:
        """One more layer."""
        size = int(self.draw.integers(1, 5))
        kind = int(self.draw.integers(9))
        y = self.dense(x, size, float(self.draw.choice([0.5, 1.0, 3.0])))
        if kind < 4:
            return self.function(str(self.draw.choice([*ANYWHERE])), y)
        if kind == 4:
            return self.function(str(self.draw.choice([*ABOVE_ZERO])), self.positive(y))
        if kind == 5:
            return self.both("Mul", y, self.function(str(self.draw.choice([*ANYWHERE])), self.dense(x, size)))
        if kind == 6:
            return self.both("Div", y, self.positive(self.dense(x, size)))
        if kind == 7:
            return self.power(y, int(self.draw.integers(2, 5)))
        return self.softmax(y) if size > 1 else self.both("Mul", y, self.function("Sigmoid", y))

    def value(self, points: Array, digits: bool = False) -> Array:
        """The output (points,) at points (points, inputs)."""
        values = {"x": numbers(points) if digits else points}
        for name, reads, how in self.steps:
            values[name] = how[digits](*(values[read] for read in reads))
        return values[self.steps[-1][0]][:, 0]

    def content(self) -> bytes:
        ends = [("x", [1, self.inputs]), (self.steps[-1][0], [1, 1])]
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
        return bytes(model.SerializeToString())


numbers = np.vectorize(lambda v: mpmath.mpf(float(v)), otypes=[object])


@dataclass(frozen=True, eq=False)
class Case:
    """The claim that a network's output is above `floor` on a box. point: float64, where it is refuted."""

    net: Net
    lower: Array
    upper: Array
    floor: float
    point: Array

    @property
    def prop(self) -> Property:
        row = torch.ones(1, 1, dtype=torch.float64)
        region = Region(exact(self.lower), exact(self.upper))
        return Property(region, (HalfSpaces(row, torch.tensor([-self.floor], dtype=torch.float64)),))

    def excess(self, point: Array) -> Any:
        """By how much the output exceeds the floor, in many digits, at a point (inputs,) of floats or Fractions."""
        with mpmath.workdps(DIGITS):
            exact_point = [mpmath.mpf(f.numerator) / f.denominator for f in map(Fraction, point.tolist())]
            values = {"x": np.array([exact_point], dtype=object)}
            for name, reads, how in self.net.steps:
                values[name] = how[1](*(values[read] for read in reads))
            return values[self.net.steps[-1][0]][0, 0] - mpmath.mpf(self.floor)


def case(seed: int) -> Case | None:
    """Case `seed`; None where numbers get too large."""
    draw = np.random.default_rng([seed, 4])
    inputs = int(draw.integers(1, 4))
    net = Net(inputs, draw)
    x = "x"
    for _ in range(int(draw.integers(1, 4))):
        x = net.grow(x)
    net.dense(x, 1)
    middle, reach = draw.normal(size=inputs), 10.0 ** draw.uniform(-3, 0.7, inputs)
    lower, upper = (np.float32(middle + sign * reach).astype(np.float64) for sign in (-1, 1))
    best, spread = (lower + upper) / 2, (upper - lower) / 2
    with np.errstate(all="ignore"):
        values = net.value(lower + draw.random((SAMPLES, inputs)) * (upper - lower))
        low, high = values.min(), values.max()
        if not (np.isfinite(values).all() and max(abs(low), abs(high)) < 1e6 and high > low):
            return None
        for _ in range(ROUNDS):
            points = np.clip(best + spread * draw.uniform(-1, 1, (SAMPLES, inputs)), lower, upper)
            best, spread = points[net.value(points).argmin()], spread / 4
    gap = (high - low) * 10.0 ** draw.uniform(-9, -1)
    return Case(net, lower, upper, float(net.value(best[None])[0] + gap), best)
