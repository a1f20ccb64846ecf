"""What a certificate is about: ONNX models as lists of affine ops and activations.

The part of the stand-alone checker that reads models; like `checker.py` it needs only numpy and onnx.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

MOST_VALUES, MOST_CASES = 1 << 25, 1 << 14
UNIT = 2.0**-53
SMOOTH = {"Sigmoid": (1.0, 1.0, 0.0), "Tanh": (2.0, 2.0, -1.0)}  # a sigmoid(b z) + c
Array = np.ndarray


class Refused(Exception):
    """The certificate is not accepted; says why."""


def need(condition: Any, reason: str) -> None:
    if not condition:
        raise Refused(reason)


# --- The model. Scalars carry numbers: ops that move data about move these, and only ops that compute become nodes. ---
@dataclass(frozen=True, eq=False)
class Weight:
    """An array (G, K, N), taken exactly."""

    array: Array


@dataclass(eq=False)
class Node:
    """`size` values computed from those of the nodes `sources`, joined end to end (`width`) and picked by `index`.

    "affine": y[g, p, n] = sum_k weight[g, k, n] x[index[g, p, k]] + bias, true weights lying within `deviation`; in
    float32 a rounded sum of `terms` products (0: exact). Other ops are activations of x[index] with `parameters`.
    copies: of a ReLU's values made from others', the numbers of what it reads, and of what is read in its place.
    """

    op: str
    size: int
    sources: list[int] = field(default_factory=list)
    width: int = 0
    index: Array | None = None  # None: as they stand
    repeats: int = 1  # how often one value is read
    shape: tuple[int, ...] = (1, 1, 1, 1)  # G, P, K, N
    weights: list[Weight] = field(default_factory=list)  # all, the positive ones, the negative ones
    deviation: Array | None = None
    bias: Any = 0.0
    terms: int = 0
    parameters: tuple[float, ...] = ()  # left, low, high: z -> min(max(z, left z if z < 0, low), high)
    breaks: tuple[float, ...] = ()
    slopes: tuple[float, float] = (0.0, 1.0)  # the least and the greatest
    copies: tuple[Array, Array] | None = None

    @functools.cached_property
    def magnitude(self) -> Array:
        """The absolute values of an affine op's weights."""
        return np.abs(self.weights[0].array)

    def gather(self, values: list[Array]) -> Array:
        """What is read, (d, *index.shape), from the values of every node, (d or 1, size)."""
        most = max(len(values[i]) for i in self.sources)
        parts = [values[i] if len(values[i]) == most else values[i].repeat(most, axis=0) for i in self.sources]
        x = np.concatenate(parts, axis=1) if parts[1:] else parts[0]
        return x if self.index is None else x[:, self.index]

    @functools.cached_property
    def rounds(self) -> list[tuple[Array, Array]]:
        """What is read and by which reads, in rounds that read nothing twice; without the constant zero."""
        reads = np.ravel(np.asarray(self.index))
        order = np.argsort(reads, kind="stable")
        order = order[reads[order] > 0] if self.sources[0] == 0 else order
        sorted_reads = reads[order]
        begins = np.searchsorted(sorted_reads, sorted_reads)
        turn = np.arange(len(order)) - begins
        return [(sorted_reads[turn == k], order[turn == k]) for k in range(self.repeats)]

    def values(self, z: Array, single: bool) -> tuple[Array, Array]:
        """An enclosure of what an activation makes of z, exactly and, if `single`, in float32."""
        if self.op in SMOOTH:
            a, b, c = SMOOTH[self.op]
            y = a * logistic(b * z) + c
            return y - 2.0**-42, y + 2.0**-42
        left, low, high = self.parameters
        y = np.clip(np.where(z < 0, left * z, z), low, high)
        if left in (-1, 0, 1):
            return y, y
        error = np.where(z < 0, np.abs(y) * 2.0 ** (-23 if single else -52) + 2.0**-148, 0.0)
        return y - error, y + error

    def scatter(self, A: Array) -> Array:
        """The transpose of gathering: coefficients (rows, ...) of what is read -> (rows, width) of the sources."""
        A = A.reshape(len(A), -1)
        if self.index is None:
            return A
        full = np.zeros((len(A), self.width), dtype=A.dtype)
        for places, reads in self.rounds:
            full[:, places] += A[:, reads]
        return full

    def forward(self, x: Array, weight: Array) -> Array:
        """The linear part: what is read, (d, ...), to (d, size)."""
        G, P, K, _ = self.shape
        return batched(x.reshape(-1, G, P, K), weight)

    def backward(self, A: Array, weight: Array) -> Array:
        """Its transpose, from (rows, size) to (rows, width)."""
        G, P, K, N = self.shape
        if P == 1 or self.index is None:
            return self.scatter(batched(A.reshape(-1, G, P, N), weight.transpose(0, 2, 1)))
        # Windows: rows last, so that what is read is added up in long runs.
        terms = np.matmul(weight[:, None], A.reshape(-1, G, P, N).transpose(1, 2, 3, 0)).reshape(G * P * K, -1)
        full = np.zeros((self.width, len(A)))
        for places, reads in self.rounds:
            full[places] += terms[reads]
        return np.ascontiguousarray(full.T)


def logistic(z: Array) -> Array:
    """1 / (1 + exp(-z)) within 2^-44: a Taylor sum after reduction by powers of two, no library function."""
    x = -np.minimum(np.abs(z), 700.0)
    k = np.rint(x / math.log(2))
    series = functools.reduce(lambda sum, i: 1 + (x - k * math.log(2)) / i * sum, range(18, 0, -1), np.ones_like(x))
    t = np.ldexp(series, k.astype(np.int64))
    return np.where(z < 0, t, 1.0) / (1 + t)


def batched(x: Array, weight: Array) -> Array:
    """(d, G, P, K) times (G, K, N), as (d, G P N)."""
    d, G, P, K = x.shape
    if G == P == 1:
        return x.reshape(d, K) @ weight[0]
    y = x.transpose(1, 0, 2, 3).reshape(G, d * P, K)
    y = y * weight if weight.shape[1:] == (1, 1) else y @ weight
    return y.reshape(G, d, P, -1).transpose(1, 0, 2, 3).reshape(d, -1)


class Wire(np.ndarray):
    """A tensor that depends on the input: the numbers of its scalars. Number 0 is the constant zero."""


MOVES = {"Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Gather",
         "Expand", "Tile", "Pad", "Shape", "Constant", "DepthToSpace", "SpaceToDepth"}  # fmt: skip
COUNTS = {"Add", "Sub", "Mul", "Range", "ConstantOfShape", "Cast", "ReduceProd"}  # on integers alone
JOINS = {"Concat", "Add", "Sum", "Sub", "Max", "Min", "Mul"}  # ops of which any input may depend on the network's


class Network:
    """An ONNX model as a list of nodes: node 0 is the constant zero, node 1 the input, `output` reads the output.

    merge: whether ReLUs that read the same number but for its sign become one, as relu(-z) = relu(z) - z; in float32
    both differ by what the numbers that they read may err. double: whether some of it is computed in float64.
    """

    def __init__(self, content: bytes, merge: bool = False) -> None:
        self.model, self.merge, self.double = onnx.ModelProto.FromString(content), merge, False
        graph = self.model.graph
        self.nodes, self.starts, self.total = [Node("zero", 1)], [0], 1
        values: dict[str, Any] = {tensor.name: constant(tensor) for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in values]
        plain = len(inputs) == len(graph.output) == 1 and not graph.sparse_initializer and not self.model.functions
        need(plain, "the model must be plain ONNX with one input and one output")
        need(all(o.version >= 7 for o in self.model.opset_import if not o.domain), "operator sets before 7")
        kind = inputs[0].type.tensor_type
        need(kind.elem_type == onnx.TensorProto.FLOAT, "the model's input must hold float32 numbers")
        dims = [max(d.dim_value, 1) for d in kind.shape.dim]
        values |= {inputs[0].name: self.add(Node("input", math.prod(dims)), dims), "": None}
        for node in graph.node:
            need(node.domain in ("", "ai.onnx"), f"operator {node.domain}.{node.op_type} is not supported")
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            results = self.evaluate(node.op_type, [values[n] for n in node.input], attributes, len(node.output))
            for name, value in zip(node.output, results, strict=False):
                need(name not in values, f"'{name[:40]}' is computed twice")
                values[name] = value
        need(isinstance(values[graph.output[0].name], Wire), "the output does not depend on the input")
        self.output = self.reader("output", values[graph.output[0].name].ravel())
        self.activations = [i for i, node in enumerate(self.nodes) if node.op not in ("zero", "input", "affine")]
        readers = Counter(i for node in (*self.nodes, self.output) for i in node.sources)
        self.alone = {  # activations that read a whole affine op, which nothing else reads, as it stands
            j: i
            for j, (i, *others) in ((j, self.nodes[j].sources) for j in self.activations)
            if not others and self.nodes[j].index is None and self.nodes[i].op == "affine" and readers[i] == 1
        }

    def add(self, node: Node, shape: Any) -> Any:
        need(self.total + node.size < MOST_VALUES, "the model is too large")
        self.nodes.append(node)
        self.starts.append(self.total)
        self.total += node.size
        return np.arange(self.total - node.size, self.total).reshape(shape).view(Wire)

    def reader(self, op: str, ids: Array) -> Node:
        """A node that reads these scalars; all but affine ones read none twice."""
        need(0 < ids.size < 4 * MOST_VALUES, "the model is too large")
        if op != "affine" and len(np.unique(ids)) < ids.size:
            ids = self.scaled(ids, 1.0, 0.0, 0)
        owner = np.searchsorted(self.starts, np.asarray(ids), side="right") - 1
        sources, shift = np.unique(owner), np.zeros(len(self.nodes), dtype=np.int64)
        sizes = np.array([self.nodes[i].size for i in sources])
        shift[sources] = np.cumsum(sizes) - sizes - np.array(self.starts)[sources]
        index, width = np.asarray(ids) + shift[owner], int(sizes.sum())
        plain = np.array_equal(index.ravel(), np.arange(width))
        repeats = int(np.bincount(index[np.asarray(ids) > 0], minlength=1).max())
        return Node(op, ids.size, sources.tolist(), width, None if plain else index, repeats)

    def affine(self, ids: Any, weight: Any, bias: Any, terms: int, deviation: float = 0.0) -> Any:
        """Append an affine node; ids (G, P, K), weight (G, K, N), bias to (G, P, N). Returns the numbers (G, P, N).

        deviation: relative to the weights.
        """
        (G, P, K), weight = ids.shape, np.asarray(weight, dtype=np.float64)
        need(np.isfinite(weight).all() and np.isfinite(bias).all(), "the model holds NaN or infinite weights")
        need(weight.shape[:2] == (G, K) and terms < 1 << 20, "the inputs of an operator do not fit")
        node = self.reader("affine", ids)
        node.shape, node.size, node.terms = (G, P, K, weight.shape[2]), G * P * weight.shape[2], terms
        node.weights = [Weight(weight), Weight(np.maximum(weight, 0)), Weight(np.minimum(weight, 0))]
        node.deviation = np.abs(weight) * deviation if deviation else None
        node.bias = np.broadcast_to(np.asarray(bias, dtype=np.float64), (G, P, weight.shape[2])).reshape(1, -1)
        return self.add(node, (G, P, -1))

    def activation(self, op: str, ids: Any, left: float = 0.0, low: float = -1e300, high: float = 1e300) -> Any:
        """z, or left * z below zero, clipped to [low, high]; or an S-shaped function."""
        need(math.isfinite(left) and -1e300 <= low < high <= 1e300, f"{op} with these parameters is not supported")
        node = self.reader(op, ids.ravel())
        node.parameters, node.breaks = (left, low, high), (low, high) if op == "Clip" else (0.0,)
        node.slopes = (min(left, 1.0), max(left, 1.0))
        if op in SMOOTH:
            node.slopes = (0.0, SMOOTH[op][0] * SMOOTH[op][1] / 4)
        elif op == "Clip":
            node.slopes = (0.0, 1.0)
        return self.add(node, ids.shape)

    def merged_relu(self, ids: Any) -> Any:
        """ReLUs of a dense layer's outputs, one for all that read a number or its negative."""
        rows = self.rows_of(np.asarray(ids).ravel())
        if rows is None:
            return self.activation("Relu", ids)
        sign = np.where(rows[np.arange(len(rows)), (rows != 0).argmax(1)] < 0, -1.0, 1.0)
        kinds: dict[bytes, int] = {}
        which = np.array([kinds.setdefault(row.tobytes(), len(kinds)) for row in rows * sign[:, None] + 0.0])
        kept = np.unique(which, return_index=True)[1]
        read = np.asarray(ids).ravel()[kept].view(Wire)
        pairs = np.stack((self.activation("Relu", read), read), axis=-1)[which]
        weight = np.stack((np.ones(len(which)), -(sign != sign[kept][which]).astype(float)), axis=-1)
        y = self.affine(pairs[:, None], weight[:, :, None], 0.0, 0)
        self.nodes[-1].copies = np.asarray(ids).ravel(), np.asarray(read)[which]
        return y.reshape(ids.shape)

    def rows_of(self, ids: Array) -> Array | None:
        """What scalars are: weights of the values that one dense layer reads, its bias, a constant added to it."""
        place = np.searchsorted(self.starts, int(ids.min()), side="right") - 1
        layer, columns = self.nodes[place], ids - self.starts[place]
        if layer.op != "affine" or layer.deviation is not None or columns.min() < 0 or columns.max() >= layer.size:
            return None
        if layer.shape[:2] == (1, 1):
            return np.concatenate((layer.weights[0].array[0], layer.bias, np.zeros_like(layer.bias))).T[columns]
        if layer.shape[1:] != (1, 1, 1) or len(layer.sources) > 1 or (layer.weights[0].array != 1).any():
            return None
        index = np.arange(layer.size) if layer.index is None else layer.index.ravel()
        rows = self.rows_of(index[columns] + self.starts[layer.sources[0]])
        if rows is None or rows[:, -1].any():
            return None
        return np.concatenate((rows[:, :-1], layer.bias.T[columns]), axis=1)

    def scaled(self, x: Any, weight: Any, bias: Any, terms: int, deviation: float = 0.0) -> Any:
        """x * weight + bias, elementwise with broadcasting."""
        arrays = np.broadcast_arrays(x, weight, bias)
        x, weight, bias = (array.reshape(-1, 1, 1) for array in arrays)
        return self.affine(x, weight, bias, terms, deviation).reshape(arrays[0].shape)

    def sum(self, a: Any, b: Any, sign: int, terms: int = 2) -> Any:
        """a + sign * b, either of them constant."""
        if not (isinstance(a, Wire) and isinstance(b, Wire)):
            return self.scaled(a, 1.0, sign * b, terms) if isinstance(a, Wire) else self.scaled(b, sign, a, terms)
        pairs = np.stack(np.broadcast_arrays(a, b), axis=-1)
        return self.affine(pairs.reshape(1, -1, 2), [[[1], [sign]]], 0.0, terms).reshape(pairs.shape[:-1])

    def extreme(self, a: Any, b: Any, sign: int) -> Any:
        """max(a, b) = b + relu(a - b), min(a, b) = b - relu(b - a): exact on whatever a and b were computed to."""
        difference = self.sum(a, b, -1, 0) if sign > 0 else self.sum(b, a, -1, 0)
        return self.sum(b, self.activation("Relu", difference), sign, 0)

    def mean(self, read: Any, inside: Array, factor: bool) -> Any:
        """Over the last axis, the mean (or sum) of the entries that are inside."""
        weight, count = inside / inside.sum(-1, keepdims=True) if factor else inside, read.shape[-1]
        y = self.affine(read.reshape(-1, 1, count), weight.reshape(-1, count, 1), 0.0, count, 2 * UNIT * factor)
        return y.reshape(read.shape[:-1])

    def reference(self, op: str, arrays: list[Any], a: dict[str, Any], outputs: int = 1) -> list[Array]:
        """ONNX's own definition of an operator."""
        names = [[f"{letter}{i}" for i in range(count)] for letter, count in (("x", len(arrays)), ("y", outputs))]
        feed = {name: np.asarray(value) for name, value in zip(names[0], arrays, strict=True) if value is not None}
        node = helper.make_node(op, [name * (name in feed) for name in names[0]], names[1], **a)
        ends: Any = [[helper.make_value_info(name, onnx.TypeProto()) for name in some] for some in (feed, names[1])]
        model = helper.make_model(helper.make_graph([node], op, *ends), opset_imports=self.model.opset_import)
        return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feed)]

    def windows(self, x: Any, kernel: Any, a: dict[str, Any], op: str = "Conv") -> tuple[Any, Array]:
        """The windows of one map (1, channels, *space): (channels, *places, kernel size), and what is no padding."""
        a = {name: a[name] for name in ("strides", "pads", "dilations", "auto_pad", "output_padding") if name in a}
        sizes, count = [n for value in a.values() if isinstance(value, list) for n in value], math.prod(kernel)
        need(len(x) == 1 and max(sizes, default=1) < 256 and x.size * count < MOST_VALUES, f"{op} is too large")
        units = np.eye(count).reshape((count, 1, *kernel) if op == "Conv" else (1, count, *kernel))
        read = np.moveaxis(self.reference(op, [x[0][:, None] + 1.0, units], a)[0], 1, -1).astype(np.int64)
        return np.maximum(read - 1, 0), read > 0

    def evaluate(self, op: str, inputs: list[Any], a: dict[str, Any], outputs: int) -> list[Any]:
        """The values of one ONNX operator, by ONNX's own reference where it only moves data."""
        wires = [isinstance(value, Wire) for value in inputs]
        wired = any(wires)
        need(not wired or op in JOINS or (wires[0] and not any(wires[1:])), f"{op} with such inputs is not supported")
        if op in ("Dropout", "Cast") and wired:
            need(not np.any(inputs[2:]) and a.get("to", 1) in (1, 11), f"this {op} is not supported")
            self.double |= a.get("to") == 11
            return inputs[:1]
        if op == "Constant" and "value" in a:
            return [constant(a["value"])]
        if op not in MOVES and wired:
            return [self.computed(op, *inputs, *[None] * (5 - len(inputs)), a=a, inputs=inputs)]
        whole = all(value is None or value.dtype.kind in "iub" for value in inputs)
        need(op in MOVES or (op in COUNTS and whole), f"{op} on constants is not supported")
        if op == "Concat" and wired:
            inputs = [v if isinstance(v, Wire) else self.scaled(np.zeros(v.shape, int), 1.0, v, 0) for v in inputs]
        if op == "Pad":
            need(not a.get("value") and not any(map(np.any, inputs[2:3])), "padding with other than 0")
            inputs[2:3] = [None] * len(inputs[2:3])
        results = self.reference(op, inputs, a, outputs)
        if not wired or op == "Shape":
            return results
        need(all(r.dtype == np.int64 and r.size and r.min() >= 0 and r.max() < self.total for r in results), op)
        return [result.view(Wire) for result in results]

    def computed(self, op: str, x: Any, y: Any, z: Any, *more: Any, a: dict[str, Any], inputs: list[Any]) -> Any:
        """The result of an operator that computes: x, y, z, ... are its inputs, `a` its attributes."""
        if op == "Relu" and self.merge:
            return self.merged_relu(x)
        if op in ("Relu", "Abs", *SMOOTH):
            return self.activation(op, x, -1.0 if op == "Abs" else 0.0)
        if op in ("LeakyRelu", "PRelu"):
            slopes = [a.get("alpha", float(np.float32(0.01)))] if op == "LeakyRelu" else np.unique(y).tolist()
            need(len(slopes) == 1, "PRelu with several slopes is not supported")
            return self.activation("LeakyRelu", x, slopes[0])
        if op == "Clip":
            low = max(float(a.get("min", -1e300) if y is None else y), -1e300)
            high = min(float(a.get("max", 1e300) if z is None else z), 1e300)
            return self.activation(op, x, 1.0, low, high)
        if op in ("Max", "Min", "Add", "Sum", "Sub"):
            combine = self.extreme if op in ("Max", "Min") else self.sum
            return functools.reduce(lambda one, two: combine(one, two, -1 if op in ("Min", "Sub") else 1), inputs)
        if op == "Neg":
            return self.scaled(x, -1.0, 0.0, 0)
        if op in ("Mul", "Div"):
            x, y = (x, y) if isinstance(x, Wire) or op == "Div" else (y, x)
            need(isinstance(x, Wire) and not isinstance(y, Wire), f"{op} of two values is not linear")
            return self.scaled(x, y if op == "Mul" else 1 / y, 0.0, 1, 2 * UNIT * (op == "Div"))
        if op == "BatchNormalization":
            need(not a.get("training_mode") and a.get("spatial", 1) == 1, "BatchNormalization in training mode")
            scale, shift, mean, variance = (np.reshape(v, (-1,) + (1,) * (x.ndim - 2)) for v in (y, z, *more))
            factor = scale / np.sqrt(variance + a.get("epsilon", 1e-5))
            return self.scaled(self.sum(x, mean, -1), factor, shift, 8, 8 * UNIT)
        if op in ("ReduceMean", "ReduceSum", "GlobalAveragePool"):
            given = range(2, x.ndim) if op[0] == "G" else a.get("axes", range(x.ndim)) if y is None else y.tolist()
            axes = {i % x.ndim for i in given}
            need(axes and not a.get("noop_with_empty_axes"), f"{op} over no axes is not supported")
            kept = [i for i in range(x.ndim) if i not in axes]
            read = x.transpose(*kept, *axes).reshape(*(x.shape[i] for i in kept), -1)
            shape = [1 if i in axes else n for i, n in enumerate(x.shape) if i in kept or a.get("keepdims", 1)]
            return self.mean(read, np.ones(read.shape), op != "ReduceSum").reshape(shape)
        if op in ("AveragePool", "MaxPool"):
            need(not a.get("ceil_mode"), "pooling in ceil mode is not supported")
            read, inside = self.windows(x, a["kernel_shape"], a)
            if op == "AveragePool":
                inside = np.ones_like(inside) if a.get("count_include_pad") else inside
                return self.mean(read, inside.astype(float), True)[None]
            need(inside.any(-1).all(), "a window lies wholly in the padding")  # which else repeats the first entry
            read = np.where(inside, read, np.take_along_axis(read, inside.argmax(-1)[..., None], -1)).view(Wire)
            level = [read[..., i] for i in range(read.shape[-1])]
            while len(level) > 1:  # a tree over the kernel's positions, neighbours first
                pairs = [self.extreme(level[i], level[i + 1], 1) for i in range(0, len(level) - 1, 2)]
                level = pairs + level[len(pairs) * 2 :]
            return level[0][None]
        if op == "Gemm":
            x, weight = x.T if a.get("transA") else x, y.T if a.get("transB") else y
            alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
            need(alpha == beta == 1 or np.array_equal(y, np.float32(y)), "Gemm with scaled float64 weights")
            return self.affine(x[None], alpha * weight[None], 0.0 if z is None else beta * z, len(weight) + 2)[0]
        if op == "MatMul":
            need(not isinstance(y, Wire) and y.ndim <= 2, "MatMul needs one constant matrix, on the right")
            product = self.affine(x.reshape(1, -1, x.shape[-1]), y.reshape(1, len(y), -1), 0.0, len(y))
            return product.reshape(*x.shape[:-1], *y.shape[1:])
        need(op in ("Conv", "ConvTranspose"), f"operator {op} is not supported")
        G, kernel = a.get("group", 1), y.shape[2:]
        y = (
            y.reshape(G, len(y) // G, *y.shape[1:])
            if op == "Conv"
            else y.reshape(G, len(y) // G, *y.shape[1:]).swapaxes(1, 2)
        )
        read, _ = self.windows(x, kernel, a, op)
        places, read = read.shape[1:-1], read.reshape(G, len(read) // G, -1, read.shape[-1]).transpose(0, 2, 1, 3)
        weight, bias = y.reshape(*y.shape[:2], -1).swapaxes(1, 2), 0.0 if z is None else z.reshape(G, 1, -1)
        values = self.affine(read.reshape(*read.shape[:2], -1), weight, bias, weight.shape[1])
        return values.swapaxes(1, 2).reshape(1, -1, *places)


def constant(tensor: Any) -> Array:
    """A stored tensor, floats as float64."""
    need(tensor.data_location != onnx.TensorProto.EXTERNAL, "weights in other files are not supported")
    array = numpy_helper.to_array(tensor)
    need(array.dtype.kind in "fiub", "the model holds an unsupported kind of numbers")
    return array.astype(np.float64) if array.dtype.kind == "f" else array
