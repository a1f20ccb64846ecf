"""Bounds of many properties of one network together, before each is looked at by itself."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.bounds.balance import balanced
from verifier.bounds.crown import Crown
from verifier.bounds.enclosure import forward_error
from verifier.proof import Proof
from verifier.search.record import Records
from verifier.simplify import is_merged, simplified
from verifier.spec.property import Property
from verifier.strategy import ALLOWANCE, Subject, forms
from verifier.types import Box

CHUNK = 1 << 18  # values of the widest node that are bounded at a time
ROUNDS = 8  # how often the boxes of few inputs are halved, at most
FEW = 12  # inputs that vary, at most, if boxes are to be halved
WORTH = 20  # a round is idle if it proved less than one in so many of what was open
IDLE = 3  # such rounds in a row are the last


class Screen:
    """Bounds by CROWN of properties whose regions are boxes; with few inputs, of the parts of these boxes as well.

    evaluations: boxes bounded so far.
    """

    def __init__(self, subject: Subject, properties: Sequence[Property], device: torch.device) -> None:
        """Raises nothing of its own; the properties must fit the network."""
        self.subject, self.properties = subject, properties
        boxes = [prop.region.box() for prop in properties]
        self.low = torch.cat([box.lower for box in boxes]).to(device)
        self.high = torch.cat([box.upper for box in boxes]).to(device)
        hull = Box(self.low.amin(0, keepdim=True), self.high.amax(0, keepdim=True))
        self.graph = balanced(simplified(subject.graph).to(torch.float64, device), hull)
        rows = [prop.rows for prop in properties]
        most = max(len(d) for _, d, _ in rows)
        # A property with fewer rows has some of them twice.
        stacked = [[part[torch.arange(most) % len(part)] for part in parts] for parts in rows]
        self.C, self.d, self.sets = (torch.stack(parts).to(device) for parts in zip(*stacked, strict=True))
        self.evaluations, self.rows = 0, torch.full_like(self.d, -math.inf)
        C, d = self.C.flatten(0, 1).unique(dim=0), self.d.abs().max()
        errors = [forward_error(graph, hull, C, d.expand(len(C))) for graph in forms(subject, self.graph)]
        self.allowance = ALLOWANCE * float(torch.tensor(errors, dtype=torch.float64).max())  # NaN if one is

    def whole(self, deadline: float) -> Tensor:
        """The margins (properties,) over whole boxes; -inf where none is known by the time.monotonic() `deadline`."""
        owner = torch.arange(len(self.low), device=self.low.device)
        self.rows = self._bounds(owner, self.low, self.high, deadline)
        return self._margins(owner, self.rows)

    def halved(self, margins: Tensor, deadline: float) -> Tensor:
        """Better margins: of boxes with few inputs, those that are not proved are halved again and again.

        It ends where that proves little.
        """
        margins = margins.clone()
        owner = (~(margins > self.allowance)).nonzero().squeeze(1)
        low, high = self.low[owner].flatten(1), self.high[owner].flatten(1)
        whole = (high - low).clamp(min=torch.finfo(low.dtype).tiny)
        few = ((high > low).sum(1) <= FEW) & (high > low).any(1)
        owner, low, high, whole = owner[few], low[few], high[few], whole[few]
        proved = torch.full_like(margins, math.inf)  # over the parts that are closed
        idle = 0
        for _ in range(ROUNDS):
            if not len(owner) or time.monotonic() > deadline:
                break
            before = len(owner.unique())
            axis = ((high - low) / whole).argmax(1, keepdim=True)
            middle = (low + high).gather(1, axis) / 2
            low, high = torch.cat((low, low.scatter(1, axis, middle))), torch.cat((high.scatter(1, axis, middle), high))
            owner, whole = owner.repeat(2), whole.repeat(2, 1)
            shape = (-1, *self.low.shape[1:])
            found = self._margins(owner, self._bounds(owner, low.view(shape), high.view(shape), deadline))
            done = found > self.allowance
            proved = proved.scatter_reduce(0, owner[done], found[done], "amin")
            still = owner[~done].unique()
            closed = torch.isin(owner, still, invert=True)
            margins[owner[closed]] = proved[owner[closed]]
            owner, low, high, whole = owner[~done], low[~done], high[~done], whole[~done]
            idle = idle + 1 if WORTH * (before - len(still)) < before else 0
            if idle == IDLE:
                break
        return margins

    def proof(self, k: int) -> Proof | None:
        """What proves property k over its whole box: of each unsafe set the row that is bounded best."""
        records = Records(self.graph)
        for number, unsafe in enumerate(self.properties[k].unsafe):
            bounds = self.rows[k][self.sets[k] == number][: len(unsafe.d)]
            weights = torch.nn.functional.one_hot(bounds.argmax(), len(bounds))
            records.sets[number] = records.unsplit(weights, flat=False), 0
        return records.proof(len(self.properties[k].unsafe), is_merged(self.graph, self.subject.graph))

    def _bounds(self, owner: Tensor, low: Tensor, high: Tensor, deadline: float) -> Tensor:
        """Lower bounds (n, rows) of the half-spaces of the properties `owner` over boxes."""
        size = max(1, CHUNK // max(node.size for node in self.graph.nodes))
        parts = []
        for index in torch.arange(len(owner), device=owner.device).split(size):
            mine = owner[index]
            if time.monotonic() > deadline:
                parts.append(torch.full_like(self.d[mine], -math.inf))
                continue
            with torch.no_grad():
                rows = Crown().lower(self.graph, Box(low[index], high[index]), self.C[mine])[0]
            parts.append(rows + self.d[mine])
            self.evaluations += len(index)
        return torch.cat(parts)

    def _margins(self, owner: Tensor, rows: Tensor) -> Tensor:
        """The least over the unsafe sets of the greatest bound of their rows, (n,); NaN where a bound is NaN."""
        sets, margins = self.sets[owner], []
        for k in range(int(self.sets.max()) + 1):
            mine = sets == k
            margins.append(torch.where(mine.any(1), torch.where(mine, rows, -math.inf).amax(1), math.inf))
        return torch.stack(margins).amin(0)
