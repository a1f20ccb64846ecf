"""Leaves that take over the bounds of a whole region. One part of the stand-alone checker."""

from __future__ import annotations

import math

import numpy as np

if __package__:
    from verifier.certificate.arithmetic import Extra, Number
    from verifier.certificate.nodes import Array, Node, need
    from verifier.certificate.pulling import Domains
    from verifier.certificate.refining import Refining, at_once
    from verifier.certificate.relaxation import Sides, default_slopes, points, relaxed
    from verifier.certificate.trees import INPUT, Leaf, batches, leaves
else:  # run as a file, with the others beside it
    from arithmetic import Extra, Number  # type: ignore
    from nodes import Array, Node, need  # type: ignore
    from pulling import Domains  # type: ignore
    from refining import Refining, at_once  # type: ignore
    from relaxation import Sides, default_slopes, points, relaxed  # type: ignore
    from trees import INPUT, Leaf, batches, leaves  # type: ignore

Split = tuple[int, int, int, float, float]  # region, position, side, point, what is added to the multiplier


def cut(lower: Array, upper: Array, at: tuple[int, int], side: int, point: float) -> None:
    """Keep of an interval, in place, what is above (side 1) or below a point."""
    lower[at], upper[at] = (max(lower[at], point), upper[at]) if side > 0 else (lower[at], min(upper[at], point))


class Parts(Refining):
    """Lemmas about hidden neurons and trees of splits, by the slopes and multipliers that the certificate states."""

    def prove(self, j: int, l: Array, u: Array, d: Domains) -> None:
        """Improve, in place, bounds (1, n) of an activation's inputs by the certificate's lemmas about them."""
        node, name = self.network.nodes[j], f"a{self.network.activations.index(j)}"
        if f"kind.{name}" not in self.hints:
            return
        position, side = self.hints[f"target.{name}"]
        best, code, last = np.full(len(position), math.inf), self.hints[f"code.{name}"], -1
        for batch in batches(leaves(self.hints, name), at_once(sum(n.size for n in self.network.nodes[:j]))):
            trees, last = np.array([leaf.tree for leaf in batch]), batch[-1].tree
            rows = np.zeros((len(batch), 1, node.size))
            rows[np.arange(len(batch)), 0, position[trees]] = 1 - 2 * side[trees]
            found, empty = self.at_leaves(node, rows, batch, code[batch[0].number :][: len(batch)], d, j)
            np.minimum.at(best, trees, np.where(empty, math.inf, self.arithmetic.down(found)))
        need(last == len(position) - 1 and np.isfinite(best).all(), f"the lemmas {name} are incomplete")
        np.maximum.at(l, (0, position[side == 0]), best[side == 0])
        np.minimum.at(u, (0, position[side == 1]), -best[side == 1])

    def at_leaves(
        self, start: Node, rows: Array, batch: list[Leaf], code: Array, base: Domains, until: int | None
    ) -> tuple[Number, Array]:
        """Lower bounds of rows (leaves, 1, size) over what `start` reads, and which leaves are empty.

        Leaves take over bounds of the one region that holds them. until: the node before which `start` comes.
        """
        lower, upper = (side.repeat(len(batch), axis=0) for side in base.box)
        splits: dict[int, list[Split]] = {}
        for i, leaf in enumerate(batch):
            extra = iter(leaf.extra)
            for kind, position, side, point in leaf.path:
                if kind == INPUT:
                    cut(lower, upper, (i, position), side, point)
                else:
                    j = self.network.activations[kind - 2]
                    splits.setdefault(j, []).append((i, position, side, point, next(extra)))
        d = self.begun((lower, upper))
        d.lower, d.upper = d.lower[:2] + base.lower[2:], d.upper[:2] + base.upper[2:]
        d.slack = d.slack + base.slack
        for j in range(2, until or len(self.network.nodes)):
            if self.network.nodes[j].op == "affine":
                d.prepared[j] = base.prepared[j]
            else:
                self.split(j, splits.get(j, []), code, base, d)
        return self.least(start, rows, d, np.arange(len(batch))), d.empty

    def split(self, j: int, splits: list[Split], code: Array, base: Domains, d: Domains) -> None:
        """What is known of activation j in the parts of a region where its inputs are split, or slopes are stated."""
        slots = self.hints["slots"]
        touched = slots[1][slots[0] == self.network.activations.index(j)] if code.any() else []
        columns = np.unique([*touched, *(split[1] for split in splits)]).astype(np.int64)
        need(not len(columns) or columns[-1] < self.network.nodes[j].size, "there is no such neuron")
        d.prepared[j] = base.prepared[j]
        if not len(columns):
            return
        l, u = (side[:, columns].repeat(len(d.empty), axis=0) for side in base.z[j])
        added: dict[tuple[int, int], float] = {}
        for i, position, side, point, extra in splits:
            place = int(np.searchsorted(columns, position))
            cut(l, u, (i, place), side, point)
            if extra:
                added[i, place] = added.get((i, place), 0.0) + extra
        node, constants = self.network.nodes[j], self.fused(j, base.constants)
        slopes = default_slopes(node, l, u, self.single)
        self.stated(j, slopes, code, columns)
        if constants is not None:
            constants = constants[0][:, columns], constants[1][:, columns]
        d.empty |= (l > u).any(axis=1)
        own = relaxed(self.arithmetic, node, l, u, slopes, constants, self.single)
        if added:
            at = regions, places = tuple(np.array(some) for some in zip(*added, strict=True))
            own.low[at] = own.high[at] = 0  # what they cost is seen when the multipliers are
            below, above = (np.stack(points(node, l[at], u[at], slopes[i][at], i > 0, self.single)) for i in (0, 1))
            paid = np.stack([np.broadcast_to(x, l.shape)[at] for x in constants or (np.zeros((1, 1)),) * 2])
            d.extra[j] = Extra(regions, columns[places], np.array([*added.values()]), below, above, paid)
        d.prepared[j] = base.prepared[j].changed(columns, own)

    def stated(self, j: int, slopes: Array, code: Array, columns: Array) -> None:
        """Put slopes that rows of codes (d,) state (0: none) in the place of slopes (2, d, n), given at `columns`."""
        number, position, side = self.hints["slots"]
        some, rows = np.nonzero(number == self.network.activations.index(j))[0], np.nonzero(code)[0]
        if len(some) and len(rows):
            low, high = self.network.nodes[j].slopes
            codes, levels = (self.hints["finer"], 65535) if "finer" in self.hints else (self.hints["codes"], 255)
            values = codes[code[rows, None] - 1, some] * ((high - low) / levels) + low
            slopes[side[some], rows[:, None], np.searchsorted(columns, position[some])] = values

    def fused(self, j: int, constants: dict[int, Sides]) -> Sides | None:
        """The constants of the affine op that activation j alone reads, if they are paid together with it."""
        return constants[self.network.alone[j]] if self.arithmetic.fuses and j in self.network.alone else None
