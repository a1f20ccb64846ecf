"""Bounds of what activations read, improved by backward passes. One part of the stand-alone checker."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

if __package__:
    from verifier.certificate.cones import cones
    from verifier.certificate.nodes import Array, Node
    from verifier.certificate.pulling import Domains, Pulling
    from verifier.certificate.relaxation import Sides
else:  # run as a file, with the others beside it
    from cones import cones  # type: ignore
    from nodes import Array, Node  # type: ignore
    from pulling import Domains, Pulling  # type: ignore
    from relaxation import Sides  # type: ignore

BATCH = 1 << 16  # numbers of an array
PARALLEL, FIRST = 2, 3  # in the header's `refine`: by parallel lines; by these first


class Refining(Pulling):
    """Backward passes for hidden neurons."""

    def refine(self, j: int, l: Array, u: Array, d: Domains) -> None:
        """Improve, in place, bounds (d, n) of an activation's undecided inputs by backward passes.

        By parallel lines, where the certificate says so; by others what these leave undecided. Where it says that both
        are to be tried, neither is for neurons of which lemmas bound both sides.
        """
        node, number = self.network.nodes[j], self.network.activations.index(j)
        how = self.hints["refine"][number]
        if not how:
            return
        done = number == 0 or how == PARALLEL  # no lines below the first
        free = np.full(node.size, True) if how != FIRST else ~self.bounded(j)
        if done or (how == FIRST and node.curve is None):
            wide = replace(d, prepared=d.prepared | d.parallel)
            self.improve(j, l, u, undecided(node, l, u) & free, wide, parallel=True)
        if not done:
            self.improve(j, l, u, undecided(node, l, u) & free, d, parallel=False)

    def bounded(self, j: int) -> Array:
        """A mask of the inputs of activation j of which lemmas bound both sides."""
        sides = np.zeros((2, self.network.nodes[j].size), dtype=bool)
        position, side = self.hints.get(f"target.a{self.network.activations.index(j)}", np.zeros((2, 0), np.int64))
        sides[side, position] = True
        return sides[0] & sides[1]

    def improve(self, j: int, l: Array, u: Array, is_open: Array, d: Domains, parallel: bool) -> None:
        """Improve, in place, bounds (d, n) of open inputs of activation j."""
        if not is_open.any():
            return
        if self.round is None and cones(self.network, j) is not None:
            self.refine_windows(j, l, u, is_open, d, parallel)
            return
        width = 2 * max(math.prod(n.shape[:3]) + n.size for n in self.network.nodes[: j + 1])
        step = max(8, at_once(width))
        for regions, places in chunks(is_open, step):
            start, rows, added = self.units(j, places, d, regions)
            at = regions[:, None], places
            take(at, l, u, is_open, self.sides(start, rows, d, regions, parallel, added))

    def refine_windows(self, j: int, l: Array, u: Array, is_open: Array, d: Domains, parallel: bool) -> None:
        """Improve, in place, bounds (d, n) of open inputs of activation j, which few values determine each."""
        for cone in cones(self.network, j) or ():
            columns, inner, count = cone.columns[j], copy.copy(self), len(cone.columns[j])
            step = max(8, 4 * BATCH // sum(node.size for node in cone.nodes))
            for pairs, places in chunks(is_open[:, columns].reshape(-1, columns.shape[1]), step):
                regions, windows = pairs // count, pairs % count
                inner.network = cone.at(windows)  # type: ignore[assignment]
                rows = np.zeros((*places.shape, columns.shape[1]))
                np.put_along_axis(rows, places[..., None], 1, axis=2)
                seen = d.seen(regions, {i: own[windows] for i, own in cone.columns.items()}, cone.shared)
                at = regions[:, None], columns[windows[:, None], places]
                found = inner.sides(cone.nodes[j], rows, seen, np.arange(len(pairs)), parallel, None)
                take(at, l, u, is_open, found)

    def units(self, j: int, places: Array, d: Domains, regions: Array) -> tuple[Node, Array, Sides | None]:
        """What to pull (see `sides`) for bounds of inputs of activation j at places (regions, k).

        A dense layer below needs no product.
        """
        node, i = self.network.nodes[j], self.network.alone.get(j)
        if i is None or self.network.nodes[i].shape[:2] != (1, 1) or self.network.nodes[i].repeats > 1:
            rows = np.zeros((*places.shape, node.size))
            np.put_along_axis(rows, places[..., None], 1, axis=2)
            return node, rows, None
        rows = self.network.nodes[i].weight.array[0].T[places]
        low, high = (x[0][places] if len(x) == 1 else x[regions[:, None], places] for x in d.constants[i])
        low, high = (x - 4 * self.arithmetic.loss * np.abs(x) for x in (low, -high))
        return self.network.nodes[i], rows, (low, high)


def at_once(width: int) -> int:
    """How many rows of so many numbers are pulled back together: products of few rows are slow."""
    return max(1, BATCH // width, min(64, 32 * BATCH // width))


def leaves_at_once(nodes: list[Node]) -> int:
    """How many leaves are checked together that concern these nodes: many, unless windows take their room."""
    windows = any(node.op == "affine" and node.shape[:2] != (1, 1) and node.shape[2] > 1 for node in nodes)
    return at_once(sum(node.size for node in nodes)) * (1 if windows else 4)


def undecided(node: Node, l: Array, u: Array) -> Array:
    """A mask of the inputs in [l, u] of an activation that may be on either side of a bend, or on a curve."""
    found: Array = np.any([(l < b) & (b < u) for b in node.breaks], axis=0) | ((l < u) & (node.curve is not None))
    return found


def take(at: tuple[Array, Array], l: Array, u: Array, is_open: Array, found: Sides) -> None:
    """Take over, in place, bounds of open numbers, lower ones and negative upper ones."""
    low, high = found
    l[at] = np.where(is_open[at] & (low > l[at]), low, l[at])
    u[at] = np.where(is_open[at] & (-high < u[at]), -high, u[at])


def chunks(is_open: Array, most: int) -> Iterator[tuple[Array, Array]]:
    """Regions (m,) with open neurons (m, k) of each, about `most` at a time; closed ones where fewer are open."""
    counts, places = is_open.sum(axis=1), np.argsort(~is_open, axis=1, kind="stable")
    order = np.argsort(counts)[(counts == 0).sum() :]
    while len(order):
        count = int(counts[order[-1]])
        some = order[-max(1, most // count) :]
        order = order[: -len(some)]
        for i in range(0, count, most):
            yield some, places[some, i : min(count, i + most)]
