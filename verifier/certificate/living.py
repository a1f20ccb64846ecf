"""Products of dense layers with what is not zero. One part of the stand-alone checker; it needs only numpy.

Over a region many ReLUs are zero, and what they are multiplied by does not matter. Between the others, and the neurons
whose coefficients are not zero, a layer is a small matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

if __package__:
    from verifier.certificate.nodes import Array, Node, Weight
else:  # run as a file, with the others beside it
    from nodes import Array, Node, Weight  # type: ignore

MOST = 0.75  # which share of a layer's weights may be left


@dataclass(eq=False)
class Living:
    """What is left of dense layers over a region. lower, upper: bounds (1, size) of its values, by node."""

    lower: list[Array]
    upper: list[Array]
    layers: dict[int, Left] = field(default_factory=dict)

    def of(self, j: int, node: Node) -> Left:
        """Of the op that is node j."""
        if j not in self.layers:
            some = [(self.lower[i] != 0) | (self.upper[i] != 0) for i in node.sources]
            self.layers[j] = Left(node, np.flatnonzero(np.concatenate(some, axis=1)))
        return self.layers[j]


@dataclass(eq=False)
class Left:
    """What is left of one op. seen: the positions of what it reads, in its joined sources, that may not be zero.

    weight: (columns, seen), for coefficients that are zero but at `columns`.
    """

    node: Node
    seen: Array
    columns: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    weight: Weight | None = None

    def narrow(self, v: Array) -> tuple[Array, Weight] | None:
        """Columns outside which coefficients v (rows, size) are zero, and the weights there; None: as they are."""
        node = self.node
        if node.shape[:2] != (1, 1) or node.index is not None:
            return None
        some = np.asarray(v.any(axis=0))
        some[self.columns] = False
        if self.weight is None or some.any():
            columns = np.union1d(np.flatnonzero(some), self.columns)
            if len(columns) * len(self.seen) > MOST * node.width * node.size:
                return None
            self.columns, self.weight = columns, Weight(node.weight.array[0].T[np.ix_(columns, self.seen)])
        return self.columns, self.weight

    def wide(self, A: Array) -> Array:
        """Coefficients (rows, seen) among those of all that is read."""
        full = np.zeros((len(A), self.node.width))
        full[:, self.seen] = A
        return full
