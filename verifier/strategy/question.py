"""The state of one cascade: what is asked, and what is known so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from verifier.attack.replay import replay
from verifier.bounds.enclosure import forward_error
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.ops.product import SumDifference
from verifier.search.record import Records
from verifier.simplify import is_merged
from verifier.spec.property import HalfSpaces, Property
from verifier.strategy.settings import Settings, Sides
from verifier.types import Bounds, Box, Interval
from verifier.verdict import SearchStatistics

ALLOWANCE = 2
NOTICED = 1e-9
"""What rounding may do before it is worth being estimated more closely."""

RESERVE = 1e-3
"""Of the least margin that was found, what a proof leaves to rounding in float32."""

WORTHWHILE = 0.25
"""Of that margin, the most that a search proves beyond zero for the sake of float32: more may not be there."""


class Subject(Protocol):
    """What is verified: a graph, and the original model run in float32 (see `verifier.load.Model`)."""

    @property
    def graph(self) -> Graph: ...

    def native(self, x: np.ndarray) -> np.ndarray: ...


@dataclass(eq=False)
class Question:
    """The state of one cascade.

    lower: the best proved lower bound of each half-space row (rows,). searched: by unsafe set, that of its margin, from
    branch and bound. claims: by unsafe set, a bound that rests on a solver's word alone. nodes: bounds of what
    activations read. found, nearest: the least margin seen at an allowed input, and that input. doubts: why candidates
    were not accepted. wish: how much further than allowed margins must go until a search has had its turn. records:
    what branch and bound leaves behind, if proofs are wanted. by_interval: the unsafe sets that intervals alone prove.
    """

    subject: Subject
    prop: Property
    settings: Settings
    deadline: float
    graph: Graph
    lower: Tensor
    nodes: dict[int, Interval] = field(default_factory=dict)
    found: float = math.inf
    nearest: np.ndarray | None = None
    counterexample: np.ndarray | None = None
    outputs: np.ndarray | None = None
    doubts: list[str] = field(default_factory=list)
    wish: float = 0.0
    claims: dict[int, float] = field(default_factory=dict)
    searched: dict[int, float] = field(default_factory=dict)
    remark: str = ""
    search: SearchStatistics | None = None
    progress: Callable[[str], None] | None = None
    records: Records | None = None
    by_interval: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.box = self.prop.region.box().to(self.graph.device)
        C, d, self.sets = self.prop.rows
        self.C, self.d = C.to(self.graph.device), d.to(self.graph.device)
        self.rounding = self._rounding_allowance(None)
        self.records = Records(self.graph) if self.settings.proof else None

    @property
    def allowance(self) -> float:
        """How far a bound must lie above zero to count.

        A proof that shall hold for float32 execution needs a little more than real arithmetic does.
        """
        room = RESERVE * self.found if self.settings.proof and 0 < self.found < math.inf else 0.0
        return self.rounding + self.settings.slack + room

    def _rounding_allowance(self, known: Mapping[int, Interval] | None) -> float:
        """Twice what rounding does to a forward pass in the region: huge values inside must not pass for proof.

        known: bounds of what activations read in the network as analysed, if intervals alone do not do. NaN where an
        error is.
        """
        errors = []
        for graph in forms(self.subject, self.graph):
            own = None if known is None else _transferred(known, self.graph, graph)
            errors.append(forward_error(graph, self.box, self.C, self.d, own))
        return ALLOWANCE * float(torch.tensor(errors, dtype=torch.float64).max())

    def price(self, nodes: Mapping[int, Interval], unsafe: Iterable[HalfSpaces]) -> float:
        """What float32 execution may cost the margins of some of the sets; zero where that is too much to be proved.

        nodes: bounds of what activations read.
        """
        if self.settings.price is None or self.settings.slack or self.records is None:
            return 0.0
        known = {
            number: _flat(nodes[read])
            for index, number in self.records.numbers.items()
            if (read := self.graph.nodes[index].inputs[0]) in nodes
        }
        rows = np.concatenate([s.C.double().cpu().numpy() for s in unsafe])
        price = self.settings.price(_flat(self.box), known, rows, self.merged)
        return price if price < WORTHWHILE * self.found else 0.0

    @property
    def merged(self) -> bool:
        """Whether the network is analysed with mirrored neurons merged."""
        return is_merged(self.graph, self.subject.graph)

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return self.deadline - time.monotonic()

    @property
    def set_bounds(self) -> list[float]:
        """The best proved lower bound of every unsafe set's margin."""
        rows = [float(self.lower[self.sets == k].max()) for k in range(len(self.prop.unsafe))]
        return [max(bound, self.searched.get(k, -math.inf)) for k, bound in enumerate(rows)]

    @property
    def open_sets(self) -> list[int]:
        """The unsafe sets that are not yet proved unreachable; a bound that is NaN leaves its set open."""
        return [k for k, bound in enumerate(self.set_bounds) if not bound > self.allowance + self.wish]

    @property
    def open_rows(self) -> Tensor:
        """A mask of the half-space rows of the open sets."""
        return torch.isin(self.sets, torch.tensor(self.open_sets))

    @property
    def decided(self) -> bool:
        return self.counterexample is not None or not self.open_sets

    def improve(self, rows: Tensor, bounds: Bounds) -> None:
        """Take over bounds of the rows (a mask), in float64 on the CPU."""
        found = bounds.lower[0].detach().to("cpu", torch.float64) + self.d.cpu()[rows]
        best = self.lower[rows]
        self.lower[rows] = torch.where(found > best, found, best)
        self.know(bounds.nodes)

    def weigh(self) -> None:
        """Wish for margins that hold in float32 as well, if some that are proved may be too slim."""
        bounds, least = enumerate(self.set_bounds), WORTHWHILE * self.found
        slim = [self.prop.unsafe[k] for k, bound in bounds if self.allowance < bound < least]
        wanted = slim and self.nodes and self.settings.float32
        self.wish = self.price(self.nodes, slim) if wanted else 0.0

    def know(self, nodes: Mapping[int, Interval]) -> None:
        """Take over bounds of what activations read."""
        self.nodes = {node: z.known() for node, z in nodes.items()}
        if self.nodes and not self.rounding < NOTICED:  # intervals alone may be far too wide to tell it
            rounding = self._rounding_allowance(self.nodes)
            if rounding < self.rounding or math.isnan(self.rounding):
                self.rounding = rounding

    def judge(self, x: np.ndarray) -> None:
        """Replay a candidate (*input_shape) and keep it when it is a counterexample."""
        verdict = replay(self.subject.native, self.subject.graph, self.prop, x.astype(np.float32))
        if verdict.inside and verdict.margin < self.found:
            self.found, self.nearest = verdict.margin, x
        if verdict.accepted:
            self.counterexample, self.outputs = x.astype(np.float32), verdict.outputs
        elif verdict.float32 or verdict.real:
            self.doubts.append(verdict.reason)


def forms(subject: Subject, analysed: Graph) -> set[Graph]:
    """The network as analysed, loaded and stated, in float64: merging ops or neurons may cancel huge constants."""
    loaded = subject.graph
    return {analysed, loaded.to(torch.float64, analysed.device), loaded.stated.to(device=analysed.device)}


def _transferred(known: Mapping[int, Interval], analysed: Graph, graph: Graph) -> dict[int, Interval] | None:
    """Bounds of what activations read in one form of a network, for another form of it.

    Their activations are the same, one for one, unless neurons were merged: then None. What activations read is the
    same, but for the factors of products, which are scaled in one form: nothing is known of them in another.
    """
    theirs, ours = _read_in_order(graph), _read_in_order(analysed)
    if [graph.nodes[i].shape for i in theirs] != [analysed.nodes[k].shape for k in ours]:
        return None
    pairs = list(zip(theirs, ours, strict=True))
    scaled = {i for i, k in pairs if graph is not analysed and isinstance(analysed.nodes[k].op, SumDifference)}
    return {i: _unknown(known[k]) if i in scaled else known[k] for i, k in pairs}


def _flat(z: Interval | Box) -> Sides:
    """Both sides as arrays (1, n)."""
    lower, upper = (side.detach().to("cpu", torch.float64).reshape(1, -1).numpy() for side in (z.lower, z.upper))
    return lower, upper


def _unknown(z: Interval) -> Interval:
    return Interval(torch.full_like(z.lower, -math.inf), torch.full_like(z.upper, math.inf))


def _read_in_order(graph: Graph) -> list[int]:
    """What each activation reads."""
    return [node.inputs[0] for node in graph.nodes if isinstance(node.op, Activation)]
