"""Certificates of one claim about many boxes: the checker's own bounds, of all boxes in one pass.

What is read, folded and laid out once for a network serves all inputs, and so do the numbers that their boxes have in
common. A certificate then is one leaf an unsafe set, and says only whether hidden bounds are refined.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from verifier.certificate.analysis import Analysis
from verifier.certificate.checker import Accepted, Checker
from verifier.certificate.nodes import Refused
from verifier.certificate.properties import Case, Region, read_property
from verifier.certificate.refining import PARALLEL
from verifier.certificate.rounded import Rounded
from verifier.certificate.statement import declared, side_of, violated
from verifier.certificate.trees import unpack
from verifier.certificate.writer import Subject, inexact, read_model, written
from verifier.errors import CertificateError
from verifier.proof import Leaf, Neuron, Proof
from verifier.spec.property import Property
from verifier.spec.robustness import ball, local_robustness

MOST_READ = 1 << 22  # numbers that an op reads of all boxes that are bounded at once
NO_DIGEST = "?" * 64


@dataclass(frozen=True, eq=False)
class Claims:
    """That predictions are `labels` (d,) on boxes [lower, upper], float64 arrays (d, inputs) rounded outwards.

    index: which of `sides` each input has, (d, inputs). sides: texts before, between and after the names of a variable.
    """

    lower: np.ndarray
    upper: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    sides: tuple[np.ndarray, np.ndarray, np.ndarray]
    classes: int

    @classmethod
    def around(
        cls, x: np.ndarray, labels: Sequence[int], eps: Fraction, classes: int, span: tuple[float, float]
    ) -> Claims:
        """About the linf balls of radius eps around x (d, inputs) in the data range. Raises SpecificationError."""
        values, index = np.unique(x, return_inverse=True)
        sides = [_sides(value, eps, span) for value in values.tolist()]
        lower, upper = (np.array(side) for side in zip(*(ends for ends, _ in sides), strict=True))
        before, between, after = np.array([texts for _, texts in sides], dtype=object).T
        index = index.reshape(x.shape)
        return cls(lower[index], upper[index], np.array(labels), index, (before, between, after), classes)

    @property
    def rows(self) -> np.ndarray:
        """The lead of each label over the other classes, (d, classes - 1, classes), in the order of the statements."""
        claims = [_claim(k, self.classes) for k in self.labels.tolist()]
        return np.stack([np.concatenate([s.C.double().numpy() for s in claim.unsafe]) for claim in claims])

    def part(self, some: slice | np.ndarray) -> Claims:
        """Of some of the boxes."""
        own = (self.lower[some], self.upper[some], self.labels[some], self.index[some])
        return Claims(*own, self.sides, self.classes)

    def statement(self, i: int) -> bytes:
        """The text of one claim; as `vnnlib` writes it."""
        count = self.index.shape[1]
        names, (head, tail) = _names(count), _frame(int(self.labels[i]), self.classes, count)
        before, between, after = (side[self.index[i]] for side in self.sides)
        return "".join([head, *(before + names + between + names + after), tail]).encode()


# What the images of a test set have in common, chunk after chunk.
@functools.lru_cache(maxsize=1 << 16)
def _sides(value: float, eps: Fraction, span: tuple[float, float]) -> tuple[tuple[float, float], list[str]]:
    """Of an input with this value: the ends of its interval, rounded outwards, and the texts around its name that
    state them.
    """
    region = ball(np.array([value]), eps, "linf", *span)
    [[lower], [upper]] = (side[0] for side in Region(list(region.lower), list(region.upper), None).box)
    below, above = side_of(">=", "{}", region.lower[0]), side_of("<=", "{}", region.upper[0])
    return (lower, upper), f"(assert {below})\n(assert {above})\n".split("{}")


@functools.lru_cache(maxsize=1 << 10)
def _claim(label: int, classes: int) -> Property:
    """That the prediction stays a label; the region is nothing."""
    return local_robustness(np.zeros(1), label, 0, classes=classes)


@functools.lru_cache(maxsize=1 << 10)
def _frame(label: int, classes: int, inputs: int) -> tuple[str, str]:
    """What comes before and after the inputs' intervals in the text of a claim."""
    about = _claim(label, classes)
    return "\n".join([f"; {about.about}", *declared(inputs, classes), ""]), f"(assert {violated(about)})\n"


@functools.lru_cache(maxsize=4)
def _names(count: int) -> np.ndarray:
    return np.array([f"X_{i}" for i in range(count)], dtype=object)


class Way(NamedTuple):
    """How claims are bounded. refine: as in a certificate's header. flat: whether the lines of the last activation have
    slope zero, so that intervals of its outputs are what is left: better where training was by intervals."""

    refine: tuple[int, ...]
    flat: bool = False


class Together:
    """Certifies many claims about one model."""

    def __init__(self, model: bytes) -> None:
        """Raises CertificateError for a model that the checker does not read."""
        self.model, self.digest = model, hashlib.sha256(model).hexdigest()
        try:
            self.network = read_model(model, False)
        except Exception as error:  # as `checker.check`: whatever goes wrong is a reason to refuse
            raise CertificateError(f"the checker does not read the model: {error}") from error
        self._written: dict[tuple[Way, int], bytes] = {}
        smooth = any(node.curve is not None for node in self.network.nodes)
        self.semantics = "real" if smooth or self.network.double else "float32"

    @functools.cached_property
    def ways(self) -> list[Way]:
        """Ways to bound, cheap ones first: on intervals of the hidden neurons, and on refined ones."""
        size = self.network.nodes[1].size
        nothing = [Fraction(0)] * size
        case = Case(Region(nothing, nothing, None), np.zeros((0, self.network.output.size), dtype=object), [])
        every = tuple(PARALLEL * wide for wide in inexact(self.network, [case]))
        if not any(every):
            return [Way(every)]
        none = tuple(0 for _ in every)
        return [Way(none), *([Way(none, flat=True)] if self.slots else []), Way(every)]

    @functools.cached_property
    def slots(self) -> list[tuple[Neuron, int]]:
        """The lines of the last activation, if a certificate can state that their slope is zero."""
        number = len(self.network.activations) - 1
        node = self.network.nodes[self.network.activations[number]]
        if node.curve is not None or min(node.slopes) != 0:
            return []
        return [((number, i), side) for side in (0, 1) for i in range(node.size)]

    def bounds(self, claims: Claims, way: Way) -> tuple[np.ndarray, np.ndarray]:
        """Lower bounds of the rows of claims, (d, classes - 1), NaN where there are none; and by activation how many
        of its inputs are unstable, (d, activations)."""
        most = max(int(np.prod(node.shape[:3])) for node in self.network.nodes)
        step = max(1, MOST_READ // most)
        parts = [self._bounds(claims.part(slice(i, i + step)), way) for i in range(0, len(claims.labels), step)]
        found, unstable = zip(*parts, strict=True)
        return np.concatenate(found), np.concatenate(unstable)

    def _bounds(self, claims: Claims, way: Way) -> tuple[np.ndarray, np.ndarray]:
        lines = self.slots if way.flat else []
        slots = np.array([(*neuron, side) for neuron, side in lines], dtype=np.int64).reshape(-1, 3).T
        hints = {"refine": way.refine, "slots": slots, "codes": np.zeros((1, slots.shape[1]), dtype=np.uint8)}
        code = np.ones(len(claims.labels), dtype=np.int64) if way.flat else None
        analysis, rows = Analysis(self.network, Rounded, self.semantics == "float32", hints), claims.rows
        try:
            with np.errstate(all="ignore"):
                d = analysis.bounds((claims.lower, claims.upper), code=code)
                found = analysis.least(self.network.output, rows, d, np.arange(len(rows)))
                bounds = analysis.arithmetic.down(found).reshape(rows.shape[:2])
        except Refused:
            return np.full(rows.shape[:2], np.nan), np.zeros((len(rows), 0), dtype=np.int64)
        unstable = [((l < 0) & (u > 0)).sum(axis=1) for l, u in d.z.values()]
        return np.where(d.outside[:, None], np.nan, bounds), np.stack(unstable, axis=1)

    def certificate(self, claims: Claims, i: int, way: Way) -> tuple[bytes, bytes]:
        """The certificate of a claim that these bounds prove, and its statement."""
        statement = claims.statement(i)
        if (way, claims.classes) not in self._written:
            self._written[way, claims.classes] = self._about(NO_DIGEST, way, claims.classes - 1)
        digest = hashlib.sha256(statement).hexdigest()
        return self._written[way, claims.classes].replace(NO_DIGEST.encode(), digest.encode(), 1), statement

    def _about(self, digest: str, way: Way, sets: int) -> bytes:
        """The certificate about a property with this digest; there is nothing else in it that tells claims apart."""
        region, row = Region([], [], None), np.zeros((1, self.network.output.size), dtype=object)
        cases = [Case(region, row, [Fraction(0)]) for _ in range(sets)]
        slots = self.slots if way.flat else []
        leaf = Leaf(slopes=np.zeros(len(slots)) if slots else None)
        proof = Proof([leaf for _ in cases], slots=slots, refine=way.refine)
        digests = {"model": self.digest, "property": digest}
        return written(Subject(self.network, cases, digests), [proof], self.semantics)

    def checked(self, content: bytes, statement: bytes) -> Accepted:
        """What the checker, which reads both files anew, says of a certificate. Raises CertificateError."""
        hints = unpack(content)
        digests = {"model": self.digest, "property": hashlib.sha256(statement).hexdigest()}
        if any(hints[name] != digest for name, digest in digests.items()):
            raise CertificateError("the certificate is about another model or property")
        cases = read_property(statement.decode(), self.network.nodes[1].size, self.network.output.size)
        try:
            with np.errstate(all="ignore"):
                return Checker(hints, self.network, cases).check("rounded", sample=0)
        except Refused as error:
            raise CertificateError(f"the checker refuses: {error}") from error
