"""What a search is to prove, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from verifier.graph import Graph
from verifier.search.record import Records
from verifier.spec.property import HalfSpaces
from verifier.types import Box, Interval

Candidate = Callable[[Tensor], bool]  # judges points (k, *input_shape); True ends the search
Price = Callable[[Mapping[int, Interval], Iterable[HalfSpaces]], float]


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be proved.

    region: batch one. unsafe: at least one set. nodes: bounds of what activations read, over the whole region. enough:
    a margin bound above this proves a subdomain. deadline: a time.monotonic(). spare: seconds beyond it for a search
    that is nearly done then. judge: replays candidate inputs. records: where to keep what proves the sets, if that is
    wanted. trial: a time.monotonic(), at which a search ends that has not proved more than the share `success` of
    several sets, or not brought the worst bound of one set much nearer to zero. price: from bounds of what activations
    read and some of the sets, how much more than `enough` is wished for. wish: that much, until `relent`, a
    time.monotonic().
    """

    graph: Graph
    region: Box
    unsafe: Mapping[int, HalfSpaces]
    nodes: Mapping[int, Interval]
    enough: float
    deadline: float
    judge: Candidate
    records: Records | None = None
    trial: float = math.inf
    success: float = 0.0
    price: Price = lambda nodes, unsafe: 0.0
    wish: float = 0.0
    relent: float = math.inf
    spare: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """proved: by unsafe set, the margin bound over all its closed subdomains (-inf while any is open).

    best: the least bound over everything, open ones included. found: a candidate was accepted. nodes: subdomains
    bounded. stuck: subdomains that nothing could decide. open: those not decided yet. evaluations: bounds computed, one
    for each subdomain and step. seconds: by part (tightening of hidden bounds before the search, shaving, bounding,
    branching, attack, leaves, overhead), those of several processes added up.
    """

    proved: dict[int, float]
    best: float
    found: bool
    nodes: int
    stuck: int
    open: int = 0
    evaluations: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def decided(self, enough: float) -> bool:
        """Whether there is nothing left to search."""
        return self.found or all(bound > enough for bound in self.proved.values())

    def then(self, other: Outcome) -> Outcome:
        """Both, the other being about the sets that this left open."""
        settled = [bound for k, bound in self.proved.items() if k not in other.proved]
        return Outcome(
            self.proved | other.proved,
            min([other.best, *settled]),
            other.found,
            self.nodes + other.nodes,
            other.stuck,
            other.open,
            self.evaluations + other.evaluations,
            {k: self.seconds.get(k, 0.0) + other.seconds.get(k, 0.0) for k in self.seconds | other.seconds},
        )
