"""Trees of splits as arrays: their shape, coded slopes, whole weights, and multipliers of what was split."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from verifier.certificate.planes import PLANE
from verifier.certificate.reading import Network
from verifier.certificate.trees import LEAF
from verifier.proof import Leaf, Neuron, Proof, Tree, preorder

SHARES = 64  # parts of which shares of planes are multiples: finer ones take more bytes and prove no more


class Coder:
    """Collects rows of coded slopes of a region's slots. least, greatest: (slots,), stated if they are no activation's
    own. dtype: of the codes, which use its whole range."""

    def __init__(
        self, slots: np.ndarray, least: np.ndarray, greatest: np.ndarray, dtype: np.dtype, stated: bool
    ) -> None:
        self.slots, self.least, self.greatest, self.stated = slots, least, greatest, stated
        self.dtype, self.levels = dtype, np.iinfo(dtype).max
        self.rows: dict[bytes, int] = {}  # the number of every row

    @classmethod
    def of(cls, network: Network, proof: Proof, fine: bool) -> Coder:
        """For the slopes that a proof states."""
        nodes = [network.nodes[network.activations[i]] for (i, _), _ in proof.slots]
        least, greatest = np.array([node.slopes for node in nodes]).reshape(-1, 2).T
        curved = any(node.curve is not None for node in nodes)
        if curved:
            least, greatest = spans(proof)
        slots = np.array([(*neuron, side) for neuron, side in proof.slots], dtype=np.int64).reshape(-1, 3).T
        least, greatest = (np.where(slots[2] == PLANE, end, side) for end, side in ((0, least), (1, greatest)))
        return cls(slots, least, greatest, np.dtype(np.uint16 if fine else np.uint8), curved)

    def __call__(self, slopes: Sequence[np.ndarray | None]) -> np.ndarray:
        """One plus the numbers of the rows that code slopes; 0 for none."""
        codes, some = np.zeros(len(slopes), dtype=np.int64), [i for i, one in enumerate(slopes) if one is not None]
        if some:
            shares, span = np.stack([one for one in slopes if one is not None]) - self.least, self.greatest - self.least
            shares *= np.divide(1, span, out=np.zeros(span.shape), where=span > 0)
            shares = shares.clip(0, 1, out=shares)
            stated, planes = np.rint(shares * self.levels).astype(self.dtype), np.flatnonzero(self.slots[2] == PLANE)
            of_planes = np.rint(shares[:, planes] * SHARES) * ((self.levels + 1) // SHARES)
            stated[:, planes] = of_planes - (2 * of_planes > self.levels)  # no code stands for the middle
            codes[some] = [self.rows.setdefault(row.tobytes(), len(self.rows)) + 1 for row in stated]
        return codes

    def used(self, activation: int) -> np.ndarray:
        """The positions of an activation whose planes some row so far uses."""
        rows = np.frombuffer(b"".join(self.rows), dtype=self.dtype).reshape(len(self.rows), -1)
        mine = (self.slots[0] == activation) & (self.slots[2] == PLANE)
        return np.unique(self.slots[1][mine & rows.any(axis=0)])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What says how the rows so far are read, and the rows."""
        codes = np.frombuffer(b"".join(self.rows), dtype=self.dtype).reshape(len(self.rows), len(self.least))
        found = {"slots": self.slots, "codes" if self.levels == 255 else "finer": codes}
        return {**found, "spans": np.stack((self.least, self.greatest))} if self.stated else found


def spans(proof: Proof) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest slope (slots,) that a proof states; zero where it states none."""
    trees = [*proof.trees, *(lemma.tree for lemma in proof.lemmas)]
    leaves = [node for tree in trees for node, _ in preorder(tree) if isinstance(node, Leaf)]
    leaves += [end.leaf for ends in proof.ends for end in ends]
    rows = [leaf.slopes.astype(np.float64) for leaf in leaves if leaf.slopes is not None]
    rows = rows or [np.zeros(len(proof.slots))]
    return functools.reduce(np.minimum, rows), functools.reduce(np.maximum, rows)


def flattened(
    trees: Sequence[Tree], row_count: int | None, coder: Coder, by_node: bool = False
) -> dict[str, np.ndarray]:
    """The arrays of trees, end to end; with weights for so many rows, or without.

    by_node: weights and codes are those of every node, not of leaves alone.
    """
    nodes: list[tuple[int, int, float]] = []  # kind, position, point
    slopes, extra, counts = list[np.ndarray | None](), list[float](), list[int]()
    weights: list[Sequence[float]] = []
    path: list[Neuron] = []
    stack = [(tree, 0) for tree in reversed(trees)]
    while stack:
        node, depth = stack.pop()
        del path[depth:]
        own: list[float] = []
        if isinstance(node, Leaf):
            nodes.append((LEAF, 0, 0.0))
            own, stated = pressure_of(node, path), node.slopes
        else:
            nodes.append((node.at[0] + 2, node.at[1], node.point))  # the input is 1
            path.append(node.at)
            stack += ((node.above, depth + 1), (node.below, depth + 1))
            stated = None
            if not by_node:
                continue
        weights.append(node.weights or [0.0] * (row_count or 0))
        slopes.append(stated)
        extra += own
        counts.append(len(own))
    kind, position, point = zip(*nodes, strict=True)
    arrays = {"kind": np.array(kind), "position": np.array(position), "point": np.array(point), "code": coder(slopes)}
    pressure = np.array(extra)
    if row_count is not None:
        given = np.array(weights, dtype=np.float64).reshape(len(weights), -1)
        arrays["weights"] = stated = quantised(given, row_count)
        sums = given.sum(axis=1), stated.sum(axis=1)  # multipliers go with the weights
        pressure = pressure * np.repeat(np.divide(sums[1], sums[0], out=np.ones(len(given)), where=sums[1] > 0), counts)
    return {**arrays, "extra": (pressure if pressure.any() else pressure[:0]).astype(np.float32)}


def pressure_of(leaf: Leaf, path: Sequence[Neuron]) -> list[float]:
    """What is added to the multipliers of the neurons that are split above a leaf; one that is cut twice has one."""
    neurons = [neuron for neuron in path if neuron[0] >= 0]
    if len(set(neurons)) == len(neurons):
        return [leaf.extra.get(neuron, 0.0) for neuron in neurons]
    last = {neuron: i for i, neuron in enumerate(neurons)}
    return [leaf.extra.get(neuron, 0.0) if last[neuron] == i else 0.0 for i, neuron in enumerate(neurons)]


def quantised(weights: np.ndarray, count: int) -> np.ndarray:
    """Rows of `count` weights as integers below 2^16; a single weight counts once."""
    if weights.shape[1:] != (count,):
        raise ValueError(f"a leaf has weights for {weights.shape[1]} rows of {count}")
    given = np.maximum(weights, 0)
    top = given.max(axis=1, initial=0.0, keepdims=True)
    whole = np.rint(np.divide(given, top, out=np.zeros_like(given), where=top > 0) * 65535).astype(np.int64)
    return whole // np.maximum(np.gcd.reduce(whole, axis=1, keepdims=True), 1)
