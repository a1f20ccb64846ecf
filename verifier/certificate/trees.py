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

MAGIC, LEAF, INPUT = b"NN certificate 2\n", 0, 1  # kinds of tree nodes; kind 2 + i splits the input of activation i
TYPES = {"kind": "<u4", "position": "<u4", "point": "<f8", "weights": "<u2", "code": "<u4", "extra": "<f4",
         "slots": "<u4", "spans": "<f8", "scales": "|i1", "codes": "|u1", "finer": "<u2", "target": "<u4",
         "planes": "<u4", "unit": "<u4", "share": "|u1"}  # fmt: skip
OWN = ("codes", "finer", "spans")  # of every region
MOST_BYTES, MOST_SPLITS = 1 << 28, 2000


def unpack(content: bytes) -> dict[str, Any]:
    """The header of a certificate file and its arrays, by name."""
    need(content.startswith(MAGIC), "this is no certificate of a known version")
    start = len(MAGIC) + 4
    size = int.from_bytes(content[start - 4 : start], "little")
    header = json.loads(content[start : start + size])
    kinds = [(name, np.dtype(TYPES[name.split(".")[0]]), shape) for name, shape in header["arrays"]]
    ends = list(itertools.accumulate(math.prod(shape) * dtype.itemsize for _, dtype, shape in kinds))
    need(all(n >= 0 for _, _, shape in kinds for n in shape) and ends[-1] < MOST_BYTES, "the arrays are too large")
    stream = zlib.decompressobj()
    data = stream.decompress(content[start + size :], ends[-1] + 1)
    need(len(data) == ends[-1] and stream.eof and not stream.unused_data, "the arrays are damaged or truncated")
    for (name, dtype, shape), i, j in zip(kinds, [0, *ends], ends, strict=False):
        header[name] = as_read(name, np.frombuffer(data[i:j], dtype).reshape(shape, order=order(name)))
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


class Leaf(NamedTuple):
    """A leaf of a list of trees. path: the splits (kind, position, side, point) above it. extra: its multipliers."""

    number: int
    tree: int
    path: list[tuple[int, int, int, float]]
    extra: list[float]


def leaves(hints: dict[str, Any], name: str) -> Iterator[Leaf]:
    """The leaves of trees in preorder, lower halves first, end to end."""
    kinds, positions, points, extra = (hints[f"{n}.{name}"].tolist() for n in ("kind", "position", "point", "extra"))
    stack: list[Any] = []
    number = at = 0
    tree = -1
    for kind, position, point in zip(kinds, positions, points, strict=True):
        if not stack:
            stack, tree = [[]], tree + 1
        need(len(stack[-1]) < MOST_SPLITS, "a tree of splits is too deep")
        path = stack.pop()
        if kind != LEAF:
            stack += [[*path, (kind, position, side, point)] for side in (1, -1)]
            continue
        neurons = sum(split[0] != INPUT for split in path)
        own = extra[at : at + neurons] if extra else [0.0] * neurons
        need(len(own) == neurons, "a multiplier is missing")
        yield Leaf(number, tree, path, own)
        number, at = number + 1, at + neurons
    need(not stack, "a tree of splits is incomplete")


@dataclass(eq=False)
class Tree:
    """One tree by nodes, a half after what it is a half of; weights and codes are those of every node."""

    kind: list[int]
    position: list[int]
    point: list[float]
    below: list[int]
    above: list[int]
    weights: list[list[int]]
    code: list[int]

    @classmethod
    def of(cls, hints: dict[str, Any], k: int) -> Tree:
        """The tree of an unsafe set from its arrays, which are in preorder."""
        names = ("kind", "position", "point", "weights", "code")
        kind, position, point, weights, code = (hints[f"{name}.{k}"].tolist() for name in names)
        sizes = {len(kind), len(position), len(point), len(weights), len(code)}
        above, stack = [0] * len(kind), [-1]
        for i, one in enumerate(kind):
            need(stack, "the tree of splits has loose ends")
            above[stack.pop()] = i  # what is written at -1 belongs to the last leaf, which has no halves
            stack += [i, -1] if one != LEAF else []
        need(not stack and len(sizes) == 1, "the tree of splits is incomplete")
        return cls(kind, position, point, list(range(1, len(kind) + 1)), above, weights, code)


def batches(items: Iterator[Leaf], size: int) -> Iterator[list[Leaf]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def joined(regions: list[Any]) -> Any:
    """Parts, their boxes and what is known of them, of several batches."""
    if len(regions) == 1:
        return regions[0]
    parts, lower, upper, known = zip(*regions, strict=True)
    z = {j: tuple(np.concatenate([one[j][side] for one in known]) for side in (0, 1)) for j in known[0]}
    return [*itertools.chain(*parts)], np.concatenate(lower), np.concatenate(upper), z
