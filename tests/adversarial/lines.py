"""ONNX networks of many operators on a segment: one input moves, so that every value is known exactly.

A network and its values grow together, operator by operator. The values are piecewise linear in one parameter t of
[0, 1], in rational numbers, so the least margin is exact, and so is any margin at a point, which is a segment as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from verifier.spec.property import exact

ZERO, ONE = Fraction(0), Fraction(1)
Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Course:
    """Values linear between the parameters `at`, (len(at), *shape), Fractions."""

    at: tuple[Fraction, ...]
    values: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[1:]

    def on(self, at: tuple[Fraction, ...]) -> Course:
        """The same at more parameters."""
        made, k = [], 0
        for t in at:
            while k + 2 < len(self.at) and self.at[k + 1] < t:
                k += 1
            share = (t - self.at[k]) / (self.at[k + 1] - self.at[k])
            made.append(self.values[k] * (1 - share) + self.values[k + 1] * share)
        return self if at == self.at else Course(at, np.array(made, dtype=object).reshape(len(at), *self.shape))

    def linear(self, function: Callable[[Array], Any]) -> Course:
        return Course(self.at, np.stack([np.asarray(function(v), dtype=object) for v in self.values]))

    def bent(self, bends: Sequence[Fraction], function: Callable[[Fraction], Fraction]) -> Course:
        """An elementwise function that is linear between its bends."""
        at, flat = set(self.at), self.values.reshape(len(self.at), -1)
        for k in range(len(self.at) - 1):
            for one, two in zip(flat[k], flat[k + 1], strict=True):
                for bend in bends:
                    if min(one, two) < bend < max(one, two):
                        at.add(self.at[k] + (self.at[k + 1] - self.at[k]) * (bend - one) / (two - one))
        return self.on(tuple(sorted(at))).linear(np.vectorize(function, otypes=[object]))


def together(*courses: Course) -> list[Course]:
    """On common parameters."""
    at = tuple(sorted(set().union(*(course.at for course in courses))))
    return [course.on(at) for course in courses]


def larger(one: Course, two: Course) -> Course:
    """The elementwise maximum."""
    one, two = together(one, two)
    over = Course(one.at, one.values - two.values).bent([ZERO], lambda v: max(v, ZERO))
    return Course(over.at, over.values + two.on(over.at).values)


class Net:
    """Appends ONNX operators; `course` holds their exact values by name. lower, upper: the segment's ends, flat."""

    def __init__(self, shape: Sequence[int], lower: Sequence[Fraction], upper: Sequence[Fraction]) -> None:
        self.shape, self.nodes, self.stored = tuple(shape), [], []
        ends = [np.array(side, dtype=object).reshape(self.shape) for side in (lower, upper)]
        self.course = {"x": Course((ZERO, ONE), np.stack(ends))}

    def content(self, output: str) -> bytes:
        ends = [("x", self.shape), (output, None)]
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        return bytes(model.SerializeToString())

    def store(self, values: Any, dtype: Any = np.float32) -> str:
        self.stored.append(numpy_helper.from_array(np.asarray(values, dtype), f"w{len(self.stored)}"))
        return self.stored[-1].name

    def add(self, operator: str, inputs: Sequence[str], course: Course, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        self.course[name] = course
        return name

    # --- Affine operators; constants are rounded to float32 and then exact. ---
    def with_constant(self, operator: str, x: str, constant: Any, first: bool = False) -> str:
        c, pair = exact(np.asarray(constant, np.float32)), [x, self.store(constant)]
        does = {"Add": lambda v: v + c, "Sub": lambda v: c - v if first else v - c, "Mul": lambda v: v * c,
                "Div": lambda v: v / c}[operator]  # fmt: skip
        return self.add(operator, pair[::-1] if first else pair, self.course[x].linear(does))

    def dense(self, x: str, weight: Array, bias: Array | None = None, alpha: float = 1.0, beta: float = 1.0) -> str:
        W, b = exact(weight.astype(np.float32)), ZERO if bias is None else exact(bias.astype(np.float32))
        a, e = Fraction(float(np.float32(alpha))), Fraction(float(np.float32(beta)))
        inputs = [x, self.store(weight), *([] if bias is None else [self.store(bias)])]
        course = self.course[x].linear(lambda v: v @ W.T * a + b * e)
        return self.add("Gemm", inputs, course, transB=1, alpha=alpha, beta=beta)

    def conv(self, x: str, weight: Array, bias: Array, pad: int) -> str:
        W, b = exact(weight.astype(np.float32)), exact(bias.astype(np.float32))

        def read(v: Array) -> Array:
            maps = np.pad(v[0], ((0, 0), (pad, pad), (pad, pad)), constant_values=ZERO)
            return np.stack([sum_windows(maps, kernel) + c for kernel, c in zip(W, b, strict=True)])[None]

        course = self.course[x].linear(read)
        return self.add("Conv", [x, self.store(weight), self.store(bias)], course, pads=[pad] * 4)

    def mean_pool(self, x: str, size: int) -> str:
        kernel = np.full((1, size, size), Fraction(1, size * size), dtype=object)
        course = self.course[x].linear(lambda v: np.stack([sum_windows(m[None], kernel) for m in v[0]])[None])
        return self.add("AveragePool", [x], course, kernel_shape=[size, size])

    def doubled(self, x: str, mode: str) -> str:
        """Resize to twice the size, "nearest" or "linear"; values between two are their mean."""

        def read(v: Array) -> Array:
            for axis in (2, 3):
                places = np.arange(2 * v.shape[axis])
                after = np.minimum((places + 1) // 2, v.shape[axis] - 1) if mode == "linear" else places // 2
                v = (v.take(places // 2, axis) + v.take(after, axis)) / 2
            return v

        inputs, way = [x, "", self.store([1, 1, 2, 2])], {"coordinate_transformation_mode": "asymmetric"}
        rule = {"nearest_mode": "floor"} if mode == "nearest" else {}
        return self.add("Resize", inputs, self.course[x].linear(read), mode=mode, **way, **rule)

    def norm(self, x: str, scale: Array, shift: Array, mean: Array, roots: Array) -> str:
        """BatchNormalization; roots: of the variances, powers of two."""
        terms = [a.astype(np.float32) for a in (scale, shift, mean, roots * roots)]
        rank = len(self.course[x].shape)
        s, t, m, r = (exact(a).reshape(-1, *[1] * (rank - 2)) for a in (*terms[:3], roots))
        course = self.course[x].linear(lambda v: (v - m) / r * s + t)
        return self.add("BatchNormalization", [x, *map(self.store, terms)], course, epsilon=0.0)

    def moved(self, operator: str, x: str, move: Callable[[Array], Array], *more: str, **attributes: Any) -> str:
        return self.add(operator, [x, *more], self.course[x].linear(move), **attributes)

    def combined(self, operator: str, one: str, two: str) -> str:
        a, b = together(self.course[one], self.course[two])
        if operator == "Max":
            return self.add(operator, [one, two], larger(a, b))
        return self.add(operator, [one, two], Course(a.at, a.values + b.values * (1 if operator == "Add" else -1)))

    def concat(self, *names: str) -> str:
        courses = together(*(self.course[name] for name in names))
        course = Course(courses[0].at, np.concatenate([c.values for c in courses], axis=2))
        return self.add("Concat", names, course, axis=1)

    # --- Activations. ---
    def relu(self, x: str) -> str:
        return self.add("Relu", [x], self.course[x].bent([ZERO], lambda v: max(v, ZERO)))

    def leaky(self, x: str, slope: float) -> str:
        s = Fraction(float(np.float32(slope)))
        return self.add("LeakyRelu", [x], self.course[x].bent([ZERO], lambda v: v if v > 0 else s * v), alpha=slope)

    def clip(self, x: str, low: float, high: float) -> str:
        ends = [Fraction(float(np.float32(end))) for end in (low, high)]
        course = self.course[x].bent(ends, lambda v: min(max(v, ends[0]), ends[1]))
        return self.add("Clip", [x, self.store(low), self.store(high)], course)

    def max_pool(self, x: str, size: int) -> str:
        whole, (height, width) = self.course[x], self.course[x].shape[2:]
        ends = height - size + 1, width - size + 1
        parts = [Course(whole.at, whole.values[:, :, :, i : i + ends[0], j : j + ends[1]])
                 for i in range(size) for j in range(size)]  # fmt: skip
        best = parts[0]
        for part in parts[1:]:
            best = larger(best, part)
        return self.add("MaxPool", [x], best, kernel_shape=[size, size])


def sum_windows(maps: Array, kernel: Array) -> Array:
    """Cross-correlation of (channels, height, width) maps with one kernel of that rank."""
    height, width = (n - k + 1 for n, k in zip(maps.shape[1:], kernel.shape[1:], strict=True))
    places = [(i, j) for i in range(kernel.shape[1]) for j in range(kernel.shape[2])]
    return sum((maps[:, i : i + height, j : j + width] * kernel[:, i : i + 1, j : j + 1]).sum(0) for i, j in places)
