"""How the list of a network's nodes is made. One part of the stand-alone checker; it needs only numpy.

Scalars carry numbers: ops that move data about move these, and only ops that compute become nodes.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

if __package__:
    from verifier.certificate.curves import curve
    from verifier.certificate.nodes import MOST_VALUES, UNIT, Array, Node, Weight, need
else:  # run as a file, with the others beside it
    from curves import curve  # type: ignore
    from nodes import MOST_VALUES, UNIT, Array, Node, Weight, need  # type: ignore


class Wire(np.ndarray):
    """A tensor that depends on the input: the numbers of its scalars. Number 0 is the constant zero."""


class Building:
    """Nodes, which read those before them: node 0 is the constant zero, others are added one by one.

    opsets: of the model. merge: whether ReLUs that read the same number but for its sign become one. starts: the number
    of each node's first scalar. total: how many scalars there are. output: what reads the output. scales: exponents
    of two that factors of products are scaled by, of those yet to come. reads: what smooth functions and scalings read.
    double: whether some of it is computed in float64, or with factors that float32 does not hold as normal numbers.
    """

    output: Node

    def __init__(self, opsets: Any, merge: bool, scales: Array | None) -> None:
        self.opsets, self.merge = opsets, merge
        self.nodes, self.starts, self.total, self.double = [Node("zero", 1)], [0], 1, False
        self.scales, self.reads = np.zeros(0) if scales is None else scales, dict[int, Array]()

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

        deviation: relative to the weights, which then are not stored but computed.
        """
        (G, P, K), weight = ids.shape, np.asarray(weight, dtype=np.float64)
        need(np.isfinite(weight).all() and np.isfinite(bias).all(), "the model holds NaN or infinite weights")
        need(weight.shape[:2] == (G, K) and terms < 1 << 20, "the inputs of an operator do not fit")
        node = self.reader("affine", ids)
        node.shape, node.size, node.terms = (G, P, K, weight.shape[2]), G * P * weight.shape[2], terms
        node.weight = Weight(weight)
        if deviation:
            node.deviation, size = np.abs(weight) * deviation, np.abs(weight[weight != 0])
            self.double |= bool(((size < 2.0**-126) | (size >= 2.0**126)).any())
        node.bias = np.broadcast_to(np.asarray(bias, dtype=np.float64), (G, P, weight.shape[2])).reshape(1, -1)
        if G == P == 1:
            node.dense = True
            node.thin()
        return self.add(node, (G, P, -1))

    def activation(self, op: str, ids: Any, left: float = 0.0, low: float = -1e300, high: float = 1e300) -> Any:
        """z, or left * z below zero, clipped to [low, high]; or a smooth function."""
        need(math.isfinite(left) and -1e300 <= low < high <= 1e300, f"{op} with these parameters is not supported")
        node = self.reader(op, ids.ravel())
        node.parameters, node.breaks = (left, low, high), (low, high) if op == "Clip" else (0.0,)
        node.slopes = (min(left, 1.0), max(left, 1.0))
        if op == "Clip":
            node.slopes = (0.0, 1.0)
        return self.add(node, ids.shape)

    def smooth(self, op: str, ids: Any, parameter: float = 0.0) -> Any:
        """A smooth function; see `curves.curve`."""
        node = self.reader(op, ids.ravel())
        node.curve, node.slopes = curve(op, parameter), (0.0, 0.25 if op == "Sigmoid" else 1.0)
        self.reads[len(self.nodes)] = np.asarray(ids).ravel()
        return self.add(node, ids.shape)

    def scale(self, count: int) -> Array:
        """What as many products scale their first factors by, (count,)."""
        own, self.scales = self.scales[:count], self.scales[count:]
        return np.ldexp(np.ones(count), np.resize(own, count).astype(np.int64) if len(own) == count else 0)

    def origin(self, ids: Array) -> tuple[Node | None, Array]:
        """The smooth function or scaling of which these scalars are all, and what it reads; None if there is none."""
        flat = np.asarray(ids).ravel()
        i = int(np.searchsorted(self.starts, flat[0], side="right")) - 1
        whole = i in self.reads and np.array_equal(flat, np.arange(self.nodes[i].size) + self.starts[i])
        return (self.nodes[i], self.reads[i]) if whole else (None, flat)

    def scaled(self, x: Any, weight: Any, bias: Any, terms: int, deviation: float = 0.0) -> Any:
        """x * weight + bias, elementwise with broadcasting."""
        arrays = np.broadcast_arrays(x, weight, bias)
        x, weight, bias = (array.reshape(-1, 1, 1) for array in arrays)
        y = self.affine(x, weight, bias, terms, deviation).reshape(arrays[0].shape)
        self.reads[len(self.nodes) - 1] = np.asarray(x).ravel()
        return y

    def sum(self, a: Any, b: Any, sign: int, terms: int = 2) -> Any:
        """a + sign * b, one of them constant or none."""
        need(isinstance(a, Wire) or isinstance(b, Wire), "a sum of constants is not supported")
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

    def merged_relu(self, ids: Any) -> Any:
        """ReLUs of a dense layer's outputs, one for all that read a number or its negative."""
        found = self.rows_of(np.asarray(ids).ravel())
        if found is None:
            return self.activation("Relu", ids)
        reads, rows = found
        sign = np.where(rows[np.arange(len(rows)), (rows != 0).argmax(1)] < 0, -1.0, 1.0)
        kinds: dict[tuple[bytes, bytes], int] = {}
        turned = zip(reads, rows * sign[:, None] + 0.0, strict=True)
        which = np.array([kinds.setdefault((read.tobytes(), row.tobytes()), len(kinds)) for read, row in turned])
        kept = np.unique(which, return_index=True)[1]
        read = np.asarray(ids).ravel()[kept].view(Wire)
        pairs = np.stack((self.activation("Relu", read), read), axis=-1)[which]
        weight = np.stack((np.ones(len(which)), -(sign != sign[kept][which]).astype(float)), axis=-1)
        y = self.affine(pairs[:, None], weight[:, :, None], 0.0, 0)
        self.nodes[-1].copies = np.asarray(ids).ravel(), np.asarray(read)[which]
        return y.reshape(ids.shape)

    def rows_of(self, ids: Array) -> tuple[Array, Array] | None:
        """What scalars are: of one dense layer what each reads, if that is not all, and its weights, its bias, and a
        constant added to it.
        """
        place = np.searchsorted(self.starts, int(ids.min()), side="right") - 1
        layer, columns = self.nodes[place], ids - self.starts[place]
        if layer.op != "affine" or layer.deviation is not None or columns.min() < 0 or columns.max() >= layer.size:
            return None
        if layer.dense:
            weight, reads = layer.weight.array[0].T, np.zeros((layer.size, 0))
            if layer.shape[0] > 1:  # thinned
                weight, reads = layer.weight.array[..., 0], np.asarray(layer.index)
            numbers = np.concatenate((weight, layer.bias.T, np.zeros_like(layer.bias.T)), axis=1)
            return reads[columns], numbers[columns]
        if layer.shape[1:] != (1, 1, 1) or len(layer.sources) > 1 or (layer.weight.array != 1).any():
            return None
        index = np.arange(layer.size) if layer.index is None else layer.index.ravel()
        found = self.rows_of(index[columns] + self.starts[layer.sources[0]])
        if found is None or found[1][:, -1].any():
            return None
        return found[0], np.concatenate((found[1][:, :-1], layer.bias.T[columns]), axis=1)

    def simplify(self) -> None:
        """Let affine ops add the constants that are added to what they compute, if nothing else reads it.

        What nothing reads goes.
        """
        self.prune()
        readers = Counter(i for node in (*self.nodes, self.output) for i in node.sources)
        gone = set()
        for node in self.nodes:
            if node.adds and readers[node.sources[0]] == 1 and self.nodes[node.sources[0]].takes:
                gone.add(node.sources[0])
                node.absorb(self.nodes[node.sources[0]])
        self.keep([i for i in range(len(self.nodes)) if i not in gone])

    def prune(self) -> None:
        """Drop the nodes that the output does not depend on, but for the zero and the input."""
        needed = {0, 1, *self.output.sources}
        for i in range(len(self.nodes) - 1, 1, -1):
            if i in needed:
                needed.update(self.nodes[i].sources)
        self.keep(sorted(needed))

    def keep(self, kept: list[int]) -> None:
        """Keep these nodes only."""
        self.nodes, self.starts = [self.nodes[i] for i in kept], [self.starts[i] for i in kept]
        for node in (*self.nodes, self.output):
            node.sources = [kept.index(i) for i in node.sources]
