"""Leaves that take over the bounds of a whole region. One part of the stand-alone checker."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np

if __package__:
    from verifier.certificate.arithmetic import Extra, Number, Prepared
    from verifier.certificate.nodes import Array, Node, need
    from verifier.certificate.planes import PLANE, Planing
    from verifier.certificate.pulling import Domains, Others
    from verifier.certificate.refining import at_once, leaves_at_once
    from verifier.certificate.relaxation import Sides, default_slopes, points, relaxed, scaled_up
    from verifier.certificate.trees import INPUT, Leaves, Some, Splits
else:  # run as a file, with the others beside it
    from arithmetic import Extra, Number, Prepared  # type: ignore
    from nodes import Array, Node, need  # type: ignore
    from planes import PLANE, Planing  # type: ignore
    from pulling import Domains, Others  # type: ignore
    from refining import at_once, leaves_at_once  # type: ignore
    from relaxation import Sides, default_slopes, points, relaxed, scaled_up  # type: ignore
    from trees import INPUT, Leaves, Some, Splits  # type: ignore

Combined = Callable[[int, Array], tuple[Array, Array]]


class Parts(Planing):
    """Lemmas about hidden neurons and trees of splits, by the slopes and multipliers that the certificate states."""

    def prove(self, j: int, l: Array, u: Array, d: Domains) -> None:
        """Improve, in place, bounds (1, n) of an activation's inputs by the certificate's lemmas about them."""
        node, name = self.network.nodes[j], f"a{self.network.activations.index(j)}"
        if f"kind.{name}" not in self.hints:
            return
        position, side = self.hints[f"target.{name}"]
        best, code, leaves = np.full(len(position), math.inf), self.hints[f"code.{name}"], Leaves(self.hints, name)
        need(leaves.count == len(position), f"the lemmas {name} are incomplete")
        planes = self.hints.get(f"planes.{name}", np.zeros(len(position), dtype=np.int64))
        for numbers in leaves.batches(leaves_at_once(self.network.nodes[:j])):
            for which in np.unique(planes[leaves.tree[numbers]]):
                some = leaves.some(numbers[planes[leaves.tree[numbers]] == which])
                rows = np.zeros((len(some), 1, node.size))
                rows[np.arange(len(some)), 0, position[some.tree]] = 1 - 2 * side[some.tree]
                found, empty = self.at_leaves(node, rows, some, code[some.number], self.planed(int(which), d), j)
                np.minimum.at(best, some.tree, np.where(empty, math.inf, self.arithmetic.down(found)))
        need(np.isfinite(best).all(), f"the lemmas {name} prove nothing")
        np.maximum.at(l, (0, position[side == 0]), best[side == 0])
        np.minimum.at(u, (0, position[side == 1]), -best[side == 1])

    def shaved(self, k: int, base: Domains, combined: Combined) -> Domains:
        """What is known of a region where the rows of unsafe set k are all at most zero, by what is stated about it.

        For weights w and a strength g, both nonnegative, L <= w . rows + g z says that z >= L / g there; with -z in the
        place of z, upper bounds. combined: rows and constants of combinations of the set's rows.
        """
        if f"target.s{k}" not in self.hints:
            return base
        number, position, side, turns = self.hints[f"target.s{k}"]
        weights, code, strength = (self.hints[f"{name}.s{k}"] for name in ("weights", "code", "extra"))
        need(((strength > 0) & (strength < math.inf)).all(), "what is bounded does not count")
        ends, known = np.full(len(number), -math.inf), base
        for turn in np.unique(turns):
            mine = np.nonzero(turns == turn)[0]
            for some in np.split(mine, range(at_once(self.network.total), len(mine), at_once(self.network.total))):
                rows, constants = combined(k, weights[some])
                others = []
                for i in np.unique(number[some]):
                    node = self.network.nodes[self.network.activations[i]]
                    also, own = np.zeros((len(some), node.size)), np.nonzero(number[some] == i)[0]
                    also[own, position[some[own]]] = ((1 - 2 * side) * strength)[some[own]]
                    others.append((node, also))
                whole = Some.unsplit(len(some))
                found, _ = self.at_leaves(self.network.output, rows[:, None], whole, code[some], known, None, others)
                least = np.nextafter(self.arithmetic.down(found) + constants, -math.inf)
                ends[some] = np.nextafter(least / strength[some], -math.inf)
            known = self.narrowed(known, number[mine], position[mine], side[mine], ends[mine])
        return known

    def narrowed(self, base: Domains, number: Array, position: Array, side: Array, ends: Array) -> Domains:
        """A region with lower bounds (side 0) of activations' inputs, or of their negatives; NaN bounds nothing."""
        d = copy.copy(base)
        d.z, d.prepared, d.empty = dict(base.z), dict(base.prepared), base.empty.copy()
        for i in np.unique(number):
            j = self.network.activations[i]
            l, u = (bounds.copy() for bounds in base.z[j])
            low, high = (number == i) & (side == 0), (number == i) & (side == 1)
            np.fmax.at(l, (0, position[low]), ends[low])
            np.fmin.at(u, (0, position[high]), -ends[high])
            d.z[j], slopes = (l, u), default_slopes(self.network.nodes[j], l, u, self.single)
            d.prepared[j] = self.lines(j, l, u, slopes, base.constants)
            d.empty |= (l > u).any(axis=1)
        return d

    def lines(self, j: int, l: Array, u: Array, slopes: Array, constants: dict[int, Sides]) -> Prepared:
        """What a pull pays at activation j."""
        node, paid = self.network.nodes[j], self.fused(j, constants)
        return relaxed(self.arithmetic, node, l, u, slopes, paid, self.single)

    def at_leaves(
        self,
        start: Node,
        rows: Array,
        batch: Some,
        code: Array,
        base: Domains,
        until: int | None,
        others: Others = (),
    ) -> tuple[Number, Array]:
        """Lower bounds of rows (leaves, 1, size) over what `start` reads, and which leaves are empty.

        Leaves take over bounds of the one region that holds them. until: the node before which `start` comes. others:
        nodes and rows (leaves, size) over what they read, which count as well.
        """
        splits, count = batch.splits, len(self.network.activations)
        need(not len(splits.kind) or splits.kind.max() < count + 2, "there is no such activation")
        d = self.parted(splits.at(splits.kind == INPUT), len(batch), base)
        for j in range(2, until or len(self.network.nodes)):
            if self.network.nodes[j].op == "affine":
                d.prepared[j] = base.prepared[j]
            else:
                self.split(j, splits.at(splits.kind == self.network.activations.index(j) + 2), code, base, d)
        return self.least(start, rows, d, np.arange(len(batch)), others=others), d.empty

    def parted(self, splits: Splits, count: int, base: Domains) -> Domains:
        """So many copies of a region, with the splits of its inputs."""
        if not len(splits.leaf):
            d = Domains(base.box, base.empty.repeat(count), base.slack, base.lower, base.upper, living=base.living)
            d.prepared[1] = base.prepared[1]
            return d
        lower, upper = (side.repeat(count, axis=0) for side in base.box)
        for bounds, tighter, mine in ((lower, np.fmax, splits.side > 0), (upper, np.fmin, splits.side < 0)):
            tighter.at(bounds, (splits.leaf[mine], splits.position[mine]), splits.point[mine])
        d = self.begun((lower, upper))
        d.living = base.living
        d.lower, d.upper = d.lower[:2] + base.lower[2:], d.upper[:2] + base.upper[2:]
        d.slack = d.slack + base.slack
        return d

    def split(self, j: int, splits: Splits, code: Array, base: Domains, d: Domains) -> None:
        """What is known of activation j in the parts of a region where its inputs are split, or slopes are stated."""
        slots = self.hints["slots"]
        touched = slots[1][slots[0] == self.network.activations.index(j)] if code.any() else slots[1][:0]
        regions, _, positions, sides, cuts, extra = splits
        columns = np.unique(np.concatenate((touched, positions)))
        need(not len(columns) or columns[-1] < self.network.nodes[j].size, "there is no such neuron")
        d.prepared[j] = base.prepared[j]
        if not len(columns):
            return
        l, u = (side[:, columns].repeat(len(d.empty), axis=0) for side in base.z[j])
        at = regions * len(columns) + np.searchsorted(columns, positions)
        for bounds, tighter, some in ((l, np.fmax, sides > 0), (u, np.fmin, sides < 0)):
            tighter.at(bounds.ravel(), at[some], cuts[some])
        pressed, added = np.unique(at[extra != 0]), np.bincount(at, extra, l.size)
        node, constants = self.network.nodes[j], self.fused(j, base.constants)
        slopes, kept = default_slopes(node, l, u, self.single), None
        self.stated(j, slopes, code, columns)
        if j in base.planes:
            shares = self.shares(j, base.planes[j], code, columns, (l < 0) & (u > 0))
            d.planes[j], kept = base.planes[j].at(columns, shares), 1 - shares
            slopes[1] *= kept
        if constants is not None:
            constants = constants[0][:, columns], constants[1][:, columns]
        d.empty |= (l > u).any(axis=1)
        own = relaxed(self.arithmetic, node, l, u, slopes, constants, self.single, kept)
        if len(pressed):
            cells = np.divmod(pressed, len(columns))
            own.low[cells] = own.high[cells] = 0  # what they cost is seen when the multipliers are
            z = l[cells], u[cells]
            below, above = (np.stack(points(node, *z, slopes[i][cells], i > 0, self.single)) for i in (0, 1))
            if kept is not None:
                above[:, 0] = scaled_up(above[:, 0], kept[cells])
            paid = np.stack([np.broadcast_to(x, l.shape)[cells] for x in constants or (np.zeros((1, 1)),) * 2])
            d.extra[j] = Extra(cells[0], columns[cells[1]], added[pressed], below, above, paid)
        d.prepared[j] = base.prepared[j].changed(columns, own)

    def stated(self, j: int, slopes: Array, code: Array, columns: Array) -> None:
        """Put slopes that rows of codes (d,) state (0: none) in the place of slopes (2, d, n), given at `columns`."""
        number, position, side = self.hints["slots"]
        mine = (number == self.network.activations.index(j)) & (side < PLANE)
        some, rows = np.nonzero(mine)[0], np.nonzero(code)[0]
        if len(some) and len(rows):
            low, high = self.network.nodes[j].slopes
            if "spans" in self.hints:
                low, high = self.hints["spans"][:, some]
            codes, levels = (self.hints["finer"], 65535) if "finer" in self.hints else (self.hints["codes"], 255)
            values = codes[code[rows, None] - 1, some] * ((high - low) / levels) + low
            slopes[side[some], rows[:, None], np.searchsorted(columns, position[some])] = values

    def fused(self, j: int, constants: dict[int, Sides]) -> Sides | None:
        """The constants of the affine op that activation j alone reads, if they are paid together with it."""
        return constants[self.network.alone[j]] if self.arithmetic.fuses and j in self.network.alone else None
