"""Trees of input splits that the checker's own bounds close: where a search saw further, leaves are split again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from verifier import proof
from verifier.certificate.checker import Accepted, Checker
from verifier.certificate.format import compressed
from verifier.certificate.nodes import Refused
from verifier.certificate.trees import INPUT, LEAF, Tree, unpack
from verifier.certificate.writer import Subject, written


@dataclass(eq=False)
class Mender(Checker):
    """Checks like the checker, but splits a leaf that is not proved in two.

    deadline: a time.monotonic(), until when it checks. splits: how many there may be.
    """

    deadline: float = 0.0
    splits: int = 0
    trees: dict[int, Tree] = field(default_factory=dict)

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
        self, k: int, tree: Tree, part: int, bound: float, lower: np.ndarray, upper: np.ndarray, slopes: np.ndarray
    ) -> None:
        width = upper - lower
        i = int((np.abs(slopes) * width + 1e-9 * width).argmax())
        middle = float((lower[i] + upper[i]) / 2)
        self.splits -= 1
        if self.splits < 0 or not lower[i] < middle < upper[i]:
            super().failed(k, tree, part, bound, lower, upper, slopes)
        self.trees[k] = tree
        first = len(tree.kind)
        tree.kind[part], tree.position[part], tree.point[part] = INPUT, i, middle
        tree.below[part], tree.above[part] = first, first + 1
        for name, value in (("kind", LEAF), ("position", 0), ("point", 0.0), ("below", 0), ("above", 0)):
            getattr(tree, name).extend([value] * 2)
        tree.weights.extend([tree.weights[part]] * 2)
        tree.code.extend([tree.code[part]] * 2)


def checked(
    subject: Subject, proved: Sequence[proof.Proof], semantics: str, deadline: float, splits: int, fine: bool = False
) -> tuple[bytes, Accepted]:
    """The certificate of proofs, with so many further splits of inputs at most, as the checker accepts it.

    fine: slopes are stated in two bytes. The check is in rounded arithmetic, without a sample of leaves in exact
    arithmetic. Raises Refused.
    """
    content = written(subject, proved, semantics, fine, level=0)
    mender = Mender(unpack(content), subject.network, subject.cases, deadline, splits)
    with np.errstate(all="ignore"):
        accepted = mender.check("rounded", sample=0)
    if mender.trees:  # what was checked is the tree as it is now
        content = written(subject, _mended(subject, proved, mender.trees), semantics, fine, level=0)
    return compressed(content), accepted


def _mended(subject: Subject, proved: Sequence[proof.Proof], new: Mapping[int, Tree]) -> list[proof.Proof]:
    """The proofs with new trees, by case."""
    trees = [list(one.trees) for one in proved]
    for k, tree in new.items():
        region, place = subject.places[k]
        trees[region][place] = _read(tree)
    return [replace(one, trees=own) for one, own in zip(proved, trees, strict=True)]


def _read(tree: Tree) -> proof.Tree:
    made: dict[int, proof.Tree] = {}
    for i in reversed(range(len(tree.kind))):
        if tree.kind[i] == LEAF:
            made[i] = proof.Leaf(tree.weights[i])
        else:
            at = (proof.INPUT, tree.position[i])
            made[i] = proof.Split(at, tree.point[i], made.pop(tree.below[i]), made.pop(tree.above[i]), tree.weights[i])
    return made[0]
