"""What a certificate's file holds, and its trees of splits; like `checker.py` it needs only numpy and onnx."""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

if __package__:
    from verifier.certificate.nodes import Array, need
else:  # run as a file, with nodes.py beside it
    from nodes import Array, need  # type: ignore

MAGIC, LEAF, INPUT = b"NN certificate 3\n", 0, 1  # kinds of tree nodes; kind 2 + i splits the input of activation i
TYPES = {"kind": "<u4", "position": "<u4", "point": "<f8", "weights": "<u2", "code": "<u4", "extra": "<f4",
         "slots": "<u4", "spans": "<f8", "scales": "|i1", "codes": "|u1", "finer": "<u2", "target": "<u4",
         "planes": "<u4", "unit": "<u4", "share": "|u1"}  # fmt: skip
DIFFERENCES = ("slots", "target", "unit", "code")  # of each number to the one before: mostly small ones that repeat
OWN = ("codes", "finer", "spans")  # of every region
MOST_BYTES, MOST_SPLITS = 1 << 28, 2000


def unpack(content: bytes) -> dict[str, Any]:
    """The header of a certificate file and its arrays, by name."""
    need(content.startswith(MAGIC), "this is no certificate of a known version")
    start = len(MAGIC) + 4
    size = int.from_bytes(content[start - 4 : start], "little")
    header = json.loads(content[start : start + size])
    kinds = [(name, np.dtype(TYPES[name.split(".")[0]]), shape) for name, shape in header["arrays"]]
    need(len({name for name, _, _ in kinds}) == len(kinds), "two arrays have the same name")
    ends = list(itertools.accumulate(math.prod(shape) * dtype.itemsize for _, dtype, shape in kinds))
    need(all(n >= 0 for _, _, shape in kinds for n in shape) and ends[-1] < MOST_BYTES, "the arrays are too large")
    stream = zlib.decompressobj()
    data = stream.decompress(content[start + size :], ends[-1] + 1)
    need(len(data) == ends[-1] and stream.eof and not stream.unused_data, "the arrays are damaged or truncated")
    for (name, dtype, shape), i, j in zip(kinds, [0, *ends], ends, strict=False):
        array = np.frombuffer(data[i:j], dtype).reshape(shape, order=order(name))
        if array.ndim and name.split(".")[0] in DIFFERENCES:
            array = np.cumsum(array, axis=-1, dtype=dtype)
        header[name] = as_read(name, array)
    return header


def order(name: str) -> Literal["C", "F"]:
    """How an array is stored: slopes by columns, as they change little from leaf to leaf, others by rows."""
    return "F" if name.split(".")[0] in ("codes", "finer") else "C"


def as_read(name: str, array: Array) -> Array:
    """What stands for a stored array when it is checked."""
    if name.split(".")[0] in ("codes", "finer", "share"):
        return array
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


def of_region(hints: dict[str, Any], b: int) -> dict[str, Any]:
    """What a certificate says where region b is concerned: its lemmas and slopes under the names of region 0's."""
    if b == 0:
        return hints
    own = {name.removesuffix(f".b{b}"): value for name, value in hints.items() if name.endswith(f".b{b}")}
    shared = {name: value for name, value in hints.items() if ".a" not in name and name not in OWN}
    return {**shared, "slots": np.zeros((3, 0), np.int64), "codes": np.zeros((0, 0), np.uint8), **own}


class Splits(NamedTuple):
    """Splits above some leaves, from these upwards: arrays (splits,).

    leaf: which of these. kind, position, point: as in the file. side: 1 where the leaf is in the upper half, else -1.
    extra: what is added to the multiplier.
    """

    leaf: Array
    kind: Array
    position: Array
    side: Array
    point: Array
    extra: Array

    def at(self, some: Array) -> Splits:
        return Splits(*(one[some] for one in self))


class Some(NamedTuple):
    """Some leaves of a list of trees: arrays (leaves,). number: of each. tree: which it is of. splits: those above."""

    number: Array
    tree: Array
    splits: Splits

    def __len__(self) -> int:
        return len(self.number)

    @classmethod
    def unsplit(cls, count: int) -> Some:
        """As many leaves that are whole trees."""
        none, nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
        return cls(np.arange(count), np.zeros(count, np.int64), Splits(none, none, none, none, nothing, nothing))


class Leaves:
    """The leaves of trees in preorder, lower halves first, end to end. count: of the trees.

    By node: twice the number of the node that it is a half of (one more for an upper half; negative: a root), and how
    many neurons are split above it. By leaf: its node, its tree, and where its multipliers begin.
    """

    def __init__(self, hints: dict[str, Any], name: str) -> None:
        self.kind, self.position, self.point, self.extra = (
            hints[f"{n}.{name}"] for n in ("kind", "position", "point", "extra")
        )
        half, depths, above, trees, stack = list[int](), list[int](), list[int](), list[int](), list[int]()
        self.count, kinds = 0, self.kind.tolist()
        for i, one in enumerate(kinds):
            if stack:
                own = stack.pop()
                depth, neurons = depths[own >> 1] + 1, above[own >> 1] + (kinds[own >> 1] != INPUT)
                need(depth < MOST_SPLITS, "a tree of splits is too deep")
            else:
                own, depth, neurons, self.count = -1, 0, 0, self.count + 1
            half.append(own)
            depths.append(depth)
            above.append(neurons)
            if one == LEAF:
                trees.append(self.count - 1)
            else:
                stack += (2 * i + 1, 2 * i)
        need(not stack, "a tree of splits is incomplete")
        need(len(self.position) == len(self.point) == len(kinds), "the tree of splits has loose ends")
        self.half, self.above, self.tree = (np.array(one, dtype=np.int64) for one in (half, above, trees))
        self.node = np.flatnonzero(self.kind == LEAF)
        ends = np.cumsum(self.above[self.node])
        self.begin = ends - self.above[self.node]
        need(not len(self.extra) or not len(ends) or ends[-1] <= len(self.extra), "a multiplier is missing")

    def some(self, numbers: Array) -> Some:
        """The leaves with these numbers."""
        leaf, half, found = np.arange(len(numbers)), self.half[self.node[numbers]], []
        while len(leaf := leaf[half >= 0]):
            half = half[half >= 0]
            found.append((leaf, half >> 1, half & 1))
            half = self.half[half >> 1]
        if not found:
            return Some(numbers, self.tree[numbers], Some.unsplit(0).splits)
        leaf, node, upper = (np.concatenate(parts) for parts in zip(*found, strict=True))
        kind, extra = self.kind[node], np.zeros(len(node))
        if len(self.extra):
            neurons = np.flatnonzero(kind != INPUT)
            extra[neurons] = self.extra[self.begin[numbers[leaf[neurons]]] + self.above[node[neurons]]]
        splits = Splits(leaf, kind, self.position[node], 2 * upper - 1, self.point[node], extra)
        return Some(numbers, self.tree[numbers], splits)

    def batches(self, size: int) -> Iterator[Array]:
        """The numbers of all leaves, so many at a time."""
        for first in range(0, len(self.node), size):
            yield np.arange(first, min(first + size, len(self.node)))


@dataclass(eq=False)
class Trees:
    """Trees by nodes, a half after what it is a half of; weights and codes are those of every node.

    sets: of which unsafe set each node's tree is. roots: the first node of every tree.
    """

    kind: list[int]
    position: list[int]
    point: list[float]
    below: list[int]
    above: list[int]
    weights: list[list[int]]
    code: list[int]
    sets: list[int]
    roots: list[int]

    @classmethod
    def of(cls, hints: dict[str, Any], sets: list[int]) -> Trees:
        """The trees of some unsafe sets from their arrays, which are in preorder."""
        found = cls([], [], [], [], [], [], [], [], [])
        for k in sets:
            names = ("kind", "position", "point", "weights", "code")
            kind, position, point, weights, code = (hints[f"{name}.{k}"].tolist() for name in names)
            sizes, begin = {len(kind), len(position), len(point), len(weights), len(code)}, len(found.kind)
            above, stack = [0] * len(kind), [-1]
            for i, one in enumerate(kind):
                need(stack, "the tree of splits has loose ends")
                above[stack.pop()] = begin + i  # what is written at -1 belongs to the last leaf, which has no halves
                stack += [i, -1] if one != LEAF else []
            need(not stack and len(sizes) == 1, "the tree of splits is incomplete")
            found.below += range(begin + 1, begin + len(kind) + 1)
            found.kind += kind
            found.position += position
            found.point += point
            found.above += above
            found.weights += weights
            found.code += code
            found.sets += [k] * len(kind)
            found.roots.append(begin)
        return found


def joined(regions: list[Any]) -> Any:
    """Parts, their boxes and what is known of them, of several batches."""
    if len(regions) == 1:
        return regions[0]
    *boxes, known = zip(*regions, strict=True)
    z = {j: tuple(np.concatenate([one[j][side] for one in known]) for side in (0, 1)) for j in known[0]}
    return *(np.concatenate(one) for one in boxes), z
