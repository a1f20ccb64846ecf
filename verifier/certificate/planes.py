"""Planes above ReLUs, over what these read. One part of the stand-alone checker (see analysis.py).

Let z = w.p + b be what a ReLU reads, p the values of the activations (or inputs) below, in a box. For ANY R,

    relu(z) = max(0, z) <= R.p + r,    where r = max(-min R.p, -min (R.p - z)),

and of such planes the best have R = T w elementwise, T in [0, 1] (Anderson et al. 2020, section 3). A certificate
states T; a leaf, which share of a plane takes the place of a ReLU's own line (De Palma et al. 2021).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

if __package__:
    from verifier.certificate.arithmetic import MORE, Number
    from verifier.certificate.nodes import Array, Node, Weight, need
    from verifier.certificate.pulling import Domains, Planes
    from verifier.certificate.reading import Network
    from verifier.certificate.refining import Refining, at_once
else:  # run as a file, with the others beside it
    from arithmetic import MORE, Number  # type: ignore
    from nodes import Array, Node, Weight, need  # type: ignore
    from pulling import Domains, Planes  # type: ignore
    from reading import Network  # type: ignore
    from refining import Refining, at_once  # type: ignore

MOST_WEIGHTS = 1 << 26  # of the planes above one activation
LEVELS = 255  # of T
PLANE = 2  # the side of slots that state shares of planes
Step = Callable[[int, list[Number]], Number]


class Planing(Refining):
    """Planes that the certificate states."""

    def planed(self, which: int, base: Domains) -> Domains:
        """What is known of a region, with the planes of a list of the certificate; none where `which` is 0."""
        if not which:
            return base
        if which not in self.planes:
            self.planes.clear()  # what shares a list comes one after the other
            self.planes[which] = dict(self.stated_planes(f"p{which - 1}", base))
        return base.under(self.planes[which])

    def stated_planes(self, name: str, base: Domains) -> Iterator[tuple[int, Planes]]:
        """By node, the planes of a list."""
        (numbers, positions), shares, used = self.hints[f"unit.{name}"], self.hints[f"share.{name}"], 0
        for number in np.unique(numbers):
            need(number < len(self.network.activations), "there is no such activation")
            j, own = self.network.activations[number], positions[numbers == number]
            node = self.network.nodes[j]
            need(node.op == "Relu", "there are planes above ReLUs only")
            need((np.diff(own) > 0).all() and own[-1] < node.size, "planes are not in the order of their neurons")
            pattern = reads(self.network, j, own)
            count = sum(int(part.sum()) for part in pattern.values())
            need(used + count <= len(shares), "the planes are incomplete")
            yield j, self.plane(j, own, pattern, shares[used : used + count], base)
            used += count
        need(used == len(shares), "the planes have loose ends")

    def plane(self, j: int, positions: Array, pattern: dict[int, Array], shares: Array, base: Domains) -> Planes:
        """Above what activation j makes of its inputs at positions (k,), with shares T of the weights of a pattern.

        Only the constants need care: R may be any numbers.
        """
        arithmetic, size = self.arithmetic, self.network.nodes[j].size
        step = max(8, at_once(max(math.prod(n.shape[:3]) + n.size for n in self.network.nodes[: j + 1])))
        mask, found = np.concatenate([*pattern.values()], axis=1), list[tuple[Array, Array, Array]]()
        begins = np.append(0, np.cumsum(mask.sum(axis=1)))
        for some in np.split(np.arange(len(positions)), range(step, len(positions), step)):
            rows = np.zeros((len(some), size))
            rows[np.arange(len(some)), positions[some]] = -1
            totals: list[Number] = [np.repeat(base.slack, len(some))]
            read = {i: self.together(i, parts, base, totals) for i, parts in self.below(j, rows, base, totals).items()}
            own, low, flat, begin = [], [*totals], [np.repeat(base.slack, len(some))], 0
            T = np.zeros((len(some), mask.shape[1]))
            T[mask[some]] = shares[begins[some[0]] : begins[some[-1] + 1]] / LEVELS
            for i, v in read.items():
                part = T[:, begin : (begin := begin + self.network.nodes[i].size)] * -arithmetic.near(v)[0]
                R = np.nan_to_num(part.astype(np.float32), posinf=0, neginf=0).astype(np.float64)  # of few digits
                ends = arithmetic.plain(base.lower[i], base.upper[i], base.reach(i))
                low.append(arithmetic.least(self.together(i, [v, R], base, low), ends))
                flat.append(arithmetic.least(R, ends))
                own.append(R.astype(np.float32))
            mass = sum(np.abs(R).astype(np.float64) @ base.reach(i)[0] for i, R in zip(read, own, strict=True)) * MORE
            ends_ = (arithmetic.down(arithmetic.total(parts)) for parts in (low, flat))
            found.append((np.concatenate(own, axis=1), -np.minimum(*ends_), mass))
        R, r, mass = (np.concatenate(parts) for parts in zip(*found, strict=True))
        node = joined([*read], [self.network.nodes[i].size for i in read], R)
        # What rounding loses where a pull multiplies by shares, then by R.
        lost = (node.shape[3] * node.repeats + 8) * arithmetic.unit * mass
        high, reach = np.nextafter(r + lost * MORE, math.inf), (mass + np.abs(r) + lost) * MORE
        usable = np.isfinite(high) & np.isfinite(reach)
        high, reach = (np.where(usable, x, 0.0)[None] for x in (high, reach))
        prepared = arithmetic.plain(high, high, reach)
        return Planes(node, positions, usable, high, reach, prepared, np.zeros((0, len(positions))))

    def below(self, j: int, rows: Array, base: Domains, totals: list[Number]) -> dict[int, list[Number]]:
        """Rows over what activation j computes, as if it computed what it reads, pulled back through affine ops.

        Returns parts of coefficients of activations and inputs below, and adds to totals.
        """

        def step(i: int, parts: list[Number]) -> Number:
            cost, v = self.arithmetic.through(self.together(i, parts, base, totals), base.prepared[i])
            totals.append(cost)
            return self.backward(i, v, base)

        return pulled(self.network, j, rows, step)

    def together(self, i: int, parts: list[Number], base: Domains, totals: list[Number]) -> Number:
        """The sum of coefficients of node i; adds to totals."""
        if not parts[1:]:
            return parts[0]
        v, cost = self.arithmetic.sum(parts, base.reach(i))
        totals.append(cost)
        return v

    def shares(self, j: int, planes: Planes, code: Array, columns: Array, is_open: Array) -> Array:
        """The shares (d, n) of planes above activation j at columns (n,) that rows of codes (d,) state, where open."""
        number, position, side = self.hints["slots"]
        some = np.nonzero((number == self.network.activations.index(j)) & (side == PLANE))[0]
        rows, found = np.nonzero(code)[0], np.zeros(is_open.shape)
        if len(some) and len(rows):
            codes, levels = (self.hints["finer"], 1 << 16) if "finer" in self.hints else (self.hints["codes"], 1 << 8)
            stated = codes[code[rows, None] - 1, some]
            found[rows[:, None], np.searchsorted(columns, position[some])] = share(stated, levels)
        return np.where(is_open & np.isin(columns, planes.positions[planes.usable]), found, 0.0)


def share(code: Array, levels: int) -> Array:
    """The shares that codes 0 to levels - 1 stand for: from 0 to 1, and few bits."""
    whole = code.astype(np.int64)
    return (whole + (2 * whole >= levels)) / levels


def pulled(network: Network, j: int, rows: Array, step: Step) -> dict[int, list[Number]]:
    """Rows over what activation j reads, pulled back by `step` through affine ops, as far as other activations.

    Returns parts of coefficients by activation or input, in the order of these.
    """
    pending: dict[int, list[Number]] = {}

    def spread(node: Node, A: Number) -> None:
        for i, end in zip(node.sources, itertools.accumulate(network.nodes[i].size for i in node.sources), strict=True):
            some = slice(end - network.nodes[i].size, end)
            pending.setdefault(i, []).append(A[:, some] if isinstance(A, Array) else (A[0][:, some], A[1]))

    spread(network.nodes[j], network.nodes[j].scatter(rows))
    for i in range(j - 1, 1, -1):
        if i in pending and network.nodes[i].op == "affine":
            spread(network.nodes[i], step(i, pending.pop(i)))
    return {i: pending[i] for i in sorted(pending) if i > 0}


def reads(network: Network, j: int, positions: Array) -> dict[int, Array]:
    """By activation or input, masks (k, size) of what inputs of activation j at positions (k,) are computed from.

    By the weights that are not zero, not by their products, so that it does not depend on rounding.
    """

    def step(i: int, parts: list[Number]) -> Number:
        node, v = network.nodes[i], functools.reduce(np.add, parts)
        return (node.backward(v, (node.weight.array != 0).astype(np.float64)) > 0).astype(np.float64)

    chunk = max(8, at_once(max(math.prod(n.shape[:3]) + n.size for n in network.nodes[: j + 1])))
    found: list[dict[int, Array]] = []
    for some in np.split(positions, range(chunk, len(positions), chunk)):
        rows = np.zeros((len(some), network.nodes[j].size))
        rows[np.arange(len(some)), some] = 1
        found.append({i: functools.reduce(np.add, parts) > 0 for i, parts in pulled(network, j, rows, step).items()})
        width = sum(part.shape[1] for part in found[0].values())
        need(width * len(positions) <= MOST_WEIGHTS, "there are too many planes")
    return {i: np.concatenate([one[i] for one in found]) for i in found[0]}


def joined(sources: list[int], sizes: list[int], R: Array) -> Node:
    """The affine op (without its constants) of rows R (k, sum of sizes) over the values of these nodes."""
    used = np.nonzero((R != 0).any(axis=0))[0]
    used = used if len(used) else np.zeros(1, dtype=np.int64)
    node = Node("affine", len(R), sources, sum(sizes), used[None, None])
    node.shape, node.weight = (1, 1, len(used), len(R)), Weight(R[:, used].T.astype(np.float64)[None])
    node.thin()
    return node
