"""Certificates written as they are checked: lemmas where they are needed, and trees that the checker's bounds close.

Where a search saw further than the checker, leaves of trees of input splits are split again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verifier import proof
from verifier.certificate.analysis import Analysis
from verifier.certificate.checker import Accepted, Checker
from verifier.certificate.exact import Exact
from verifier.certificate.format import pack, stored
from verifier.certificate.nodes import Refused
from verifier.certificate.pricing import by_node, estimated
from verifier.certificate.properties import Case
from verifier.certificate.pulling import Domains
from verifier.certificate.refining import undecided
from verifier.certificate.rounded import Rounded
from verifier.certificate.trees import INPUT, LEAF, Trees, as_read, of_region
from verifier.certificate.writer import Author, Subject, suffixed

NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(eq=False)
class Drafting(Analysis):
    """Writes lemmas about a region's neurons just before they are needed: none where the rest decides the neuron.

    arrays: what is written of the region.
    """

    author: Author | None = None
    region: int = 0
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        kept = {name: stored(name, array) for name, array in arrays.items()}
        self.arrays |= kept
        self.hints |= {name: as_read(name, array) for name, array in kept.items()}

    def refine(self, j: int, l: np.ndarray, u: np.ndarray, d: Domains) -> None:
        assert self.author is not None
        i, node = self.network.activations.index(j), self.network.nodes[j]
        new = i in self.author.lemmas[self.region] and f"target.a{i}" not in self.arrays
        if not new:
            super().refine(j, l, u, d)
            return
        targets, before = self.author.targets(self.region, i), (l.copy(), u.copy())
        # What the search has not decided, the rest will not decide either.
        known = self.author.proofs[self.region].bounds.get(i, (np.zeros(node.size),) * 2)
        self.hints[f"target.a{i}"] = targets[:, undecided(node, *known).ravel()[targets[0]]]
        super().refine(j, l, u, d)
        del self.hints[f"target.a{i}"]
        self.write(self.author.about(self.region, i, undecided(node, l, u)[0]))
        self.write(self.author.coders[self.region].arrays)
        bounded = self.bounded(j)  # the checker will know of these what lemmas say
        l[:, bounded], u[:, bounded] = (side[:, bounded] for side in before)


@dataclass(eq=False)
class Mender(Checker):
    """Checks what an author writes like the checker, but splits a leaf that is not proved in two.

    deadline: a time.monotonic(), until when it checks. splits: how many there may be.
    """

    author: Author | None = None
    deadline: float = math.inf
    splits: int = 0
    drafts: list[Drafting] = field(default_factory=list)
    mended: dict[int, Trees] = field(default_factory=dict)

    def analysis(self, kind: type[Exact | Rounded], case: Case, region: int) -> Analysis:
        assert self.author is not None
        single, hints = self.hints["semantics"] == "float32", of_region(dict(self.hints), region)
        draft = Drafting(self.network, kind, single, hints, case.region.ball, self.author, region)
        draft.write(self.author.coders[region].arrays)
        self.drafts.append(draft)
        return draft

    def rehearse(self) -> None:
        """Check the leaves of trees alone, resting on what searches take for granted, less what float32 may cost it.

        Where lemmas take most of the time, a claim that does not hold is seen to be too much before they are checked.
        Raises Unproved.
        """
        assert self.author is not None
        for b, proved in enumerate(self.author.proofs):
            mine = [k for k, (region, _) in enumerate(self.author.subject.places) if region == b]
            if any(self.author.again[k] for k in mine) or not count(x.tree for x in proved.lemmas) > count(
                proved.trees
            ):
                continue
            slopes = {name: as_read(name, stored(name, array)) for name, array in self.author.coders[b].arrays.items()}
            region, flat = self.cases[mine[0]].region, {"refine": [0] * len(self.network.activations)}
            analysis = super().analysis(Rounded, self.cases[mine[0]], b)
            analysis.hints = analysis.hints | slopes | flat
            known = {i: (lower[None], upper[None]) for i, (lower, upper) in proved.bounds.items()}
            single, base = estimated(analysis, region.box, by_node(self.network, known))
            for k in mine:
                self.split(k, base, single, None, NOTHING)

    def part(self, *args: Any) -> Any:
        self.look_at_the_clock()
        return super().part(*args)

    def margin(self, *args: Any) -> Any:
        self.look_at_the_clock()
        return super().margin(*args)

    def look_at_the_clock(self) -> None:
        if time.monotonic() > self.deadline:
            raise Refused("there was no time left to check the whole tree")

    def failed(
        self, trees: Trees, part: int, bound: float, lower: np.ndarray, upper: np.ndarray, slopes: np.ndarray
    ) -> None:
        width = upper - lower
        i = int((np.abs(slopes) * width + 1e-9 * width).argmax())
        middle = float((lower[i] + upper[i]) / 2)
        self.splits -= 1
        if self.splits < 0 or not lower[i] < middle < upper[i]:
            super().failed(trees, part, bound, lower, upper, slopes)
        self.mended[trees.sets[part]] = trees
        first = len(trees.kind)
        trees.kind[part], trees.position[part], trees.point[part] = INPUT, i, middle
        trees.below[part], trees.above[part] = first, first + 1
        for name, value in (("kind", LEAF), ("position", 0), ("point", 0.0), ("below", 0), ("above", 0)):
            getattr(trees, name).extend([value] * 2)
        trees.weights.extend([trees.weights[part]] * 2)
        trees.code.extend([trees.code[part]] * 2)
        trees.sets.extend([trees.sets[part]] * 2)


def checked(
    subject: Subject,
    proved: Sequence[proof.Proof],
    semantics: str,
    deadline: float,
    splits: int,
    rehearse: bool = False,
) -> tuple[bytes, Accepted]:
    """The certificate of proofs, with so many further splits of inputs at most, as the checker accepts it.

    rehearse: whether to try the leaves of trees before anything else. The check, of the numbers that the file holds,
    is in rounded arithmetic, without a sample of leaves in exact arithmetic. Raises Refused.
    """
    author = Author(subject, proved, fine=True)
    header, trees = author.header(semantics), {name: stored(name, x) for name, x in author.trees().items()}
    hints = header | {name: as_read(name, array) for name, array in trees.items()}
    mender = Mender(hints, subject.network, subject.cases, author, deadline, splits)
    with np.errstate(all="ignore"):
        if rehearse:
            mender.rehearse()
        accepted = mender.check("rounded", sample=0)
    for k, found in mender.mended.items():  # what was checked is the tree as it is now
        trees |= author.tree(k, _read(found, k))
    for b, draft in enumerate(mender.drafts):
        trees |= suffixed(draft.arrays, b)
    return pack(header, trees), accepted


def count(trees: Iterable[proof.Tree]) -> int:
    """How many nodes trees have."""
    return sum(1 for tree in trees for _ in proof.preorder(tree))


def _read(trees: Trees, k: int) -> proof.Tree:
    made: dict[int, proof.Tree] = {}
    for i in reversed(range(len(trees.kind))):
        if trees.sets[i] != k:
            continue
        if trees.kind[i] == LEAF:
            made[i] = proof.Leaf(trees.weights[i])
        else:
            at, halves = (proof.INPUT, trees.position[i]), (made.pop(trees.below[i]), made.pop(trees.above[i]))
            made[i] = proof.Split(at, trees.point[i], *halves, trees.weights[i])
    [(_, tree)] = made.items()
    return tree
