"""The nodes of a network: affine ops and activations. One part of the stand-alone checker; it needs only numpy."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

if __package__:
    from verifier.certificate.curves import Curve
else:  # run as a file, with the others beside it
    from curves import Curve  # type: ignore

MOST_VALUES = 1 << 25
GREATEST = 1e300  # in place of infinity
UNIT = 2.0**-53
SPARSE = 16  # how many times fewer weights of a layer must count than there are, if only these are to be stored
Array = np.ndarray


class Refused(Exception):
    """The certificate is not accepted; says why."""


def need(condition: Any, reason: str) -> None:
    if not condition:
        raise Refused(reason)


@dataclass(frozen=True, eq=False)
class Weight:
    """An array (G, K, N), taken exactly."""

    array: Array

    @functools.cached_property
    def signed(self) -> tuple[Weight, Weight]:
        """Its positive and its negative part."""
        return Weight(np.maximum(self.array, 0)), Weight(np.minimum(self.array, 0))


NOTHING = Weight(np.zeros((0, 0, 0)))


@dataclass(eq=False)
class Node:
    """`size` values computed from those of the nodes `sources`, joined end to end (`width`) and picked by `index`.

    "affine": y[g, p, n] = sum_k weight[g, k, n] x[index[g, p, k]] + bias, true weights lying within `deviation`; in
    float32 a rounded sum of `terms` products (0: exact). Other ops are activations of x[index] with `parameters`.
    curve: of smooth activations. copies: of a ReLU's values made from others', the numbers of what it reads, and of
    what is read in its place. dense: of a dense layer, whichever of its weights are stored.
    chosen: by region, which of the weights of a dense layer are its own; None where all regions share them.
    """

    op: str
    size: int
    sources: list[int] = field(default_factory=list)
    width: int = 0
    index: Array | None = None  # None: as they stand
    repeats: int = 1  # how often one value is read
    shape: tuple[int, ...] = (1, 1, 1, 1)  # G, P, K, N
    weight: Weight = NOTHING
    deviation: Array | None = None
    bias: Any = 0.0
    terms: int = 0
    parameters: tuple[float, ...] = ()  # left, low, high: z -> min(max(z, left z if z < 0, low), high)
    breaks: tuple[float, ...] = ()
    slopes: tuple[float, float] = (0.0, 1.0)  # the least and the greatest, where a certificate does not state them
    curve: Curve | None = None
    copies: tuple[Array, Array] | None = None
    dense: bool = False
    chosen: Array | None = None

    @functools.cached_property
    def magnitude(self) -> Array:
        """The absolute values of an affine op's weights."""
        return np.abs(self.weight.array)

    def gather(self, values: list[Array]) -> Array:
        """What is read, (d, *index.shape), from the values of every node, (d or 1, size)."""
        most = max(len(values[i]) for i in self.sources)
        parts = [values[i] if len(values[i]) == most else values[i].repeat(most, axis=0) for i in self.sources]
        x = np.concatenate(parts, axis=1) if parts[1:] else parts[0]
        return x if self.index is None else x[:, self.index]

    @functools.cached_property
    def rounds(self) -> list[tuple[Any, Array]]:
        """What is read (a slice if it can be) and by which reads, in rounds that read nothing twice; without the
        constant zero."""
        reads = np.ravel(np.asarray(self.index))
        order = np.argsort(reads, kind="stable")
        order = order[reads[order] > 0] if self.sources[0] == 0 else order
        sorted_reads = reads[order]
        begins = np.searchsorted(sorted_reads, sorted_reads)
        turn = np.arange(len(order)) - begins
        return [(run(sorted_reads[turn == k]), order[turn == k]) for k in range(self.repeats)]

    def range(self, l: Array, u: Array, single: bool) -> tuple[Array, Array]:
        """Bounds of what an activation makes of intervals."""
        if self.curve is not None:
            return self.curve.range(l, u)
        ends = (l, u) if self.slopes[0] >= 0 else (l, u, *(np.clip(b, l, u) for b in self.breaks))
        low, high = zip(*(self.values(z, single) for z in ends), strict=True)
        return functools.reduce(np.minimum, low), functools.reduce(np.maximum, high)

    def values(self, z: Array, single: bool) -> tuple[Array, Array]:
        """An enclosure of what a piecewise linear activation makes of z, exactly and, if `single`, in float32."""
        if self.op == "Relu":
            y = np.maximum(z, 0.0)
            return y, y
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
            full[:, places] += A.take(reads, axis=1)
        return full

    @property
    def adds(self) -> bool:
        """Whether all that it does is to add constants to what one node computes, in its order."""
        plain = self.op == "affine" and len(self.sources) == 1 and self.index is None and self.copies is None
        return plain and self.shape == (self.size, 1, 1, 1) and bool((self.weight.array == 1).all())

    @property
    def takes(self) -> bool:
        """Whether constants may be added to what it computes: a sum with one more term."""
        return self.op == "affine" and self.copies is None and not np.any(self.bias)

    def absorb(self, before: Node) -> None:
        """Compute what `before` does and add constants to it, instead of adding them to what `before` computed."""
        self.sources, self.width, self.index, self.repeats = before.sources, before.width, before.index, before.repeats
        self.shape, self.weight, self.deviation = before.shape, before.weight, before.deviation
        self.terms += before.terms

    def thin(self) -> None:
        """Of a dense layer in which few weights count, read only what has one."""
        dense = self.weight.array[0]
        rows, columns = np.nonzero(dense)
        each = np.bincount(columns, minlength=self.size)
        count = int(each.max())
        if count < 2 or SPARSE * count > len(dense) or SPARSE * int(np.bincount(rows).max()) > self.size:
            return
        order = np.argsort(columns, kind="stable")
        rows, columns = rows[order], columns[order]
        turn = np.arange(len(rows)) - (np.cumsum(each) - each)[columns]
        read = (np.arange(self.width) if self.index is None else self.index.ravel())[rows]
        if self.sources[0] > 0:
            self.sources, self.width, read = [0, *self.sources], self.width + 1, read + 1
        self.index = np.zeros((self.size, 1, count), dtype=np.int64)
        self.index[columns, 0, turn] = read
        weight = np.zeros((self.size, count, 1))
        weight[columns, turn, 0] = dense[rows, columns]
        self.weight, self.shape = Weight(weight), (self.size, 1, count, 1)
        self.repeats = int(np.bincount(read[read > 0], minlength=1).max())
        if self.deviation is not None:
            deviation, self.deviation = self.deviation[0], np.zeros(weight.shape)
            self.deviation[columns, turn, 0] = deviation[rows, columns]

    def part(self, columns: Array) -> Node:
        """Of an activation, or sums of what is picked for each, some values: what pulls need."""
        index = columns if self.index is None else self.index[columns]
        if self.op != "affine":
            return replace(self, size=len(columns), index=index)
        shape, weight = (len(columns), *self.shape[1:]), Weight(self.weight.array[columns])
        return replace(self, size=len(columns), index=index, shape=shape, weight=weight)

    def forward(self, x: Array, weight: Array) -> Array:
        """The linear part: what is read, (d, ...), to (d, size)."""
        G, P, K, _ = self.shape
        return batched(x.reshape(-1, G, P, K), weight)

    def backward(self, A: Array, weight: Array) -> Array:
        """Its transpose, from (rows, size) to (rows, width)."""
        G, P, K, N = self.shape
        if self.chosen is not None:
            rows = A.reshape(len(self.chosen), -1, N)
            return np.matmul(rows, weight[self.chosen].transpose(0, 2, 1)).reshape(len(A), -1)
        if P == N == 1 and K > 1 and self.index is not None:  # a few reads of each value
            full, columns = np.zeros((self.width, len(A))), np.ascontiguousarray(A.T)
            for places, reads in self.rounds:  # rows last, as below
                full[places] += columns[reads // K] * weight.ravel()[reads, None]
            return np.ascontiguousarray(full.T)
        if P == 1 or self.index is None:
            return self.scatter(batched(A.reshape(-1, G, P, N), weight.transpose(0, 2, 1)))
        # Windows: rows last, so that what is read is added up in long runs.
        terms = np.matmul(weight[:, None], A.reshape(-1, G, P, N).transpose(1, 2, 3, 0)).reshape(G * P * K, -1)
        full = np.zeros((self.width, len(A)))
        for places, reads in self.rounds:
            full[places] += terms[reads]
        return np.ascontiguousarray(full.T)


def run(places: Array) -> Any:
    """Increasing places, as a slice if they follow each other."""
    first, last = places[[0, -1]].tolist() if len(places) else (0, -1)
    return slice(first, last + 1) if last - first == len(places) - 1 else places


def batched(x: Array, weight: Array) -> Array:
    """(d, G, P, K) times (G, K, N), as (d, G P N)."""
    d, G, P, K = x.shape
    if G == P == 1:
        return x.reshape(d, K) @ weight[0]
    if P == 1 and weight.shape == (G, K, 1):
        return x.reshape(d, G) * weight.ravel() if K == 1 else np.einsum("dgk,gk->dg", x[:, :, 0], weight[..., 0])
    y = x.transpose(1, 0, 2, 3).reshape(G, d * P, K)
    y = y * weight if weight.shape[1:] == (1, 1) else y @ weight
    return y.reshape(G, d, P, -1).transpose(1, 0, 2, 3).reshape(d, -1)
