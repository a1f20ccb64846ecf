"""Certified accuracy against eps: one bisection per input, because robustness is monotonic in eps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from verifier.batch.records import FALSIFIED, VERIFIED, Record
from verifier.errors import InputError
from verifier.spec.robustness import parse_eps

MOST_RADII = 10_000
HUNTED = 2  # so many positions that hunts broke, below what attacks had left, make a step one longer


def parse_radii(text: str) -> tuple[str, ...]:
    """The radii that `0.1` or `first:last:step` stand for, as exact decimals or fractions in ascending order.

    Raises InputError or SpecificationError when the text is something else.
    """
    parts = text.split(":")
    if len(parts) == 1:
        return (_text(parse_eps(text)),)
    if len(parts) != 3:
        raise InputError(f"eps must be a number or first:last:step, not '{text}'")
    first, last, step = map(parse_eps, parts)
    if step == 0 or last < first:
        raise InputError(f"eps '{text}' is empty: first:last:step must ascend")
    count = (last - first) // step + 1
    if count > MOST_RADII:
        raise InputError(f"eps '{text}' stands for {count} radii; {MOST_RADII} are the most")
    return tuple(_text(first + i * step) for i in range(count))


def _text(eps: Fraction) -> str:
    """A short text that stands for exactly this number."""
    short = f"{float(eps):.12g}"
    return short if parse_eps(short) == eps else f"{eps.numerator}/{eps.denominator}"


@dataclass
class Bisection:
    """What is known of one input on a grid of `count` ascending radii, and which radius to ask about next.

    verified: the largest position proved (-1: none). falsified: the smallest one broken (`count`: none). resisted: the
    largest one at which attacks alone found nothing. unknown: positions between them that were asked in vain.
    """

    count: int
    verified: int = -1
    falsified: int = 0
    resisted: int = -1
    unknown: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.falsified = self.count

    def next_attack(self) -> int | None:
        """The middle of the positions at which attacks alone may tell something; None when they may not."""
        low, high = max(self.verified, self.resisted) + 1, self.falsified
        return (low + high) // 2 if low < high else None

    def next(self) -> int | None:
        """A position whose answer tells most; None when there is no more to learn.

        Where attacks have been, the last one that they left: proofs near the limit are dear, and the one there serves
        all below it. If hunts break it after all, which is cheap, further below, in steps that grow with the way. Above
        the positions asked in vain only a counterexample is looked for, below them only a proof.
        """
        low, high = self.verified + 1, min([self.falsified, *self.unknown])
        if low < high:
            middle, below = (low + high - 1) // 2, max(0, self.resisted + 1 - high) // HUNTED
            return middle if self.unknown or self.resisted < 0 else max(middle, high - 1 - below)
        low, high = max([self.verified, *self.unknown]) + 1, self.falsified
        return (low + high) // 2 if low < high else None

    def tell(self, position: int, record: Record) -> None:
        """Take in an answer. An input that is misclassified as it is, is broken at every radius."""
        if record.verdict == VERIFIED:
            self.verified = max(self.verified, position)
        elif record.verdict == FALSIFIED:
            self.falsified = min(self.falsified, 0 if record.point is None else position)
        else:
            self.unknown.add(position)
            self.resist(position)
        self.unknown = {i for i in self.unknown if self.verified < i < self.falsified}
        if self.verified >= self.falsified:
            raise InputError(f"input {record.index} is proved at a radius at which it is broken; please report this")

    def resist(self, position: int) -> None:
        """Take in that attacks alone found nothing."""
        self.resisted = max(self.resisted, position)


@dataclass(frozen=True)
class Point:
    """A point of the curve: of all inputs, how many are proved, broken and neither at eps."""

    eps: str
    verified: int
    falsified: int
    undecided: int

    @property
    def radius(self) -> float:
        """eps as a float."""
        return float(parse_eps(self.eps))


def bisections(eps: Sequence[str], records: Iterable[Record]) -> dict[int, Bisection]:
    """What the records, of any order, say of each input."""
    place = {text: i for i, text in enumerate(eps)}
    found: dict[int, Bisection] = {}
    for record in records:
        found.setdefault(record.index, Bisection(len(eps))).tell(place[record.eps], record)
    return found


def curve(eps: Sequence[str], known: Mapping[int, Bisection]) -> list[Point]:
    """The curve over the inputs of which anything is known."""
    points = []
    for i, text in enumerate(eps):
        verified = sum(i <= one.verified for one in known.values())
        falsified = sum(i >= one.falsified for one in known.values())
        points.append(Point(text, verified, falsified, len(known) - verified - falsified))
    return points
