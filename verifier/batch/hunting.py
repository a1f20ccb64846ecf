"""The attack that does not let go: hunts in the unsafe sets that are open, with linear programs where it is near."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from verifier import solvers
from verifier.attack.hunt import Hunt
from verifier.attack.pattern import PatternDescent, applies
from verifier.strategy import Question

SHARE, NEAR_SHARE = 0.1, 0.4  # of the time left, for all sets, and for those where a margin near zero was found
NEAR = 0.1  # of what the bound lies below zero: less than that above zero is near
TOGETHER = 4  # sets that are hunted in side by side
PATIENCE, PROGRESS = 2, 0.1  # a hunt goes on while that many rounds take this share off the least margin


@dataclass(eq=False)
class Target:
    """An unsafe set, and how far a hunt in it has come. bound: of its margin, negative. margins: the least by round.

    limit: a time.monotonic() at which the hunt ends. hunted: the least margin that gradients have found.
    """

    number: int
    bound: float
    limit: float
    margins: list[float] = field(default_factory=list)
    hunted: float = math.inf

    @property
    def margin(self) -> float:
        return self.margins[-1] if self.margins else math.inf

    @property
    def near(self) -> bool:
        return self.margin < NEAR * -self.bound

    @property
    def gains(self) -> bool:
        """Whether the last rounds were worth their time."""
        before = self.margins[:-PATIENCE]
        return not before or self.margin <= (1 - PROGRESS) * before[-1]


def hunt(question: Question) -> None:
    """Hunt in the open unsafe sets, in those that come near zero for longer, for a share of the time.

    What cheap bounds and short attacks leave open is close to the limit on either side; a tree of splits seldom meets
    a needle. Where rounds gain no more near zero, a hunt begins anew from other points, and again as long as that
    gains: hunts that end at the same margin have most likely found the least one.
    """
    began, left = time.monotonic(), question.remaining
    until, longer = began + SHARE * left, began + NEAR_SHARE * left
    limits = dict.fromkeys(question.open_sets, until)
    least = dict.fromkeys(limits, math.inf)
    for seed in count(question.settings.seed):
        near = [target for target in _hunted(question, limits, seed, longer) if target.near]
        limits = {t.number: longer for t in near if t.margin <= (1 - PROGRESS) * least[t.number]}
        least |= {t.number: t.margin for t in near}
        if question.decided or not limits:
            return


def _hunted(question: Question, limits: Mapping[int, float], seed: int, longer: float) -> list[Target]:
    """Hunt in some sets until rounds gain no more; returns those where a proof is not nearer than a counterexample.

    limits: a time.monotonic() by set, at which a hunt ends, and its set is left out; `longer` where it has come near.
    """
    graph, region = question.graph.to(torch.float32), question.prop.region.inner_box().to(question.graph.device)
    attack, bounds, unsafe = Hunt(seed=seed), question.set_bounds, question.prop.unsafe
    targets = sorted((Target(k, bounds[k], limit) for k, limit in limits.items()), key=lambda target: target.bound)
    some = [targets[i : i + TOGETHER] for i in range(0, len(targets), TOGETHER)]  # the worst bounds first
    packs = [(attack(graph, region, [unsafe[target.number].margin for target in own]), own) for own in some]
    left: list[Target] = []
    while packs:
        for pack, own in packs:
            found = pack.round()
            for target, point, margin in zip(own, *found, strict=True):
                _take(question, target, point, float(margin))
                target.limit = max(target.limit, longer) if target.near else target.limit
            if question.decided:
                return left
            wanted = [i for i, target in enumerate(own) if target.margin < -target.bound]
            left += [own[i] for i in wanted if not own[i].gains]
            going = [i for i in wanted if own[i].gains and time.monotonic() < own[i].limit]
            pack.keep(going)
            own[:] = [own[i] for i in going]
        packs = [(pack, own) for pack, own in packs if own]
    return left


def _take(question: Question, target: Target, point: Tensor, margin: float) -> None:
    """What a round has found, and a descent by linear programs from there where that is new and near."""
    question.judge(point.cpu().numpy())
    target.margins.append(min(margin, target.margin))
    better, target.hunted = margin < target.hunted, min(margin, target.hunted)
    if question.decided or not (better and target.near and applies(question.graph, question.box, question.nodes)):
        return
    graph, region = question.graph.to(torch.float64, "cpu"), question.prop.region.inner_box().to(torch.float64)
    nodes = {node: z.to("cpu", torch.float64) for node, z in question.nodes.items()}
    descent = PatternDescent(solvers.get(question.settings.solver), deadline=target.limit)
    found = descent(graph, region, question.prop.unsafe[target.number].margin, point[None].cpu().double(), nodes)
    question.judge(found.point[0].float().numpy())
    target.margins[-1] = min(target.margin, float(found.margin))
