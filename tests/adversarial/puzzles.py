"""Questions about networks whose answers are known, and what counts as a wrong verdict about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from nets import Native

from verifier.certificate import checker
from verifier.certified import CertifiableSubject, verify_certified
from verifier.graph import Graph, GraphBuilder
from verifier.load.export import onnx_bytes
from verifier.ops.affine import Linear
from verifier.ops.relu import ReLU
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.strategy import Settings, verify
from verifier.verdict import Verdict

Layers = list[tuple[np.ndarray, np.ndarray]]  # weight (out, in) and bias (out,); ReLU between any two
TRIES = 32


@dataclass(frozen=True, eq=False)
class Subject(Native):
    """A graph as a model that certificates can be about."""

    def onnx(self) -> bytes:
        return onnx_bytes(self.graph)


@dataclass(frozen=True, eq=False)
class Puzzle:
    """The claim that every output + shift is above zero for all inputs in a box.

    layers: the network. lower, upper: (inputs,) Fractions. lowest: an exact bound of the least output, and where it is
    reached, if it is. safe: whether the claim is true in real arithmetic.
    """

    layers: Layers
    lower: np.ndarray
    upper: np.ndarray
    shift: float
    safe: bool
    lowest: np.ndarray

    @cached_property
    def graph(self) -> Graph:
        return network(self.layers)

    @property
    def subject(self) -> CertifiableSubject:
        return Subject(self.graph)

    @property
    def prop(self) -> Property:
        outputs = len(self.layers[-1][1])
        sets = tuple(
            HalfSpaces(row.unsqueeze(0), torch.tensor([self.shift], dtype=torch.float64))
            for row in torch.eye(outputs, dtype=torch.float64)
        )
        return Property(Region(self.lower, self.upper), sets)

    def margin(self, point: np.ndarray) -> Fraction:
        """The exact margin at a point of Fractions."""
        return min(output(self.layers, point)) + Fraction(self.shift)

    def single(self, draw: np.random.Generator, x: np.ndarray) -> Fraction:
        """The margin at a float32 point by float32 sums in a random order."""
        values = x.astype(np.float32)
        for i, (weight, bias) in enumerate(self.layers):
            values = np.maximum(values, 0) if i else values
            order = draw.permutation(len(values) + 1)
            terms = np.concatenate((weight.astype(np.float32) * values, bias.astype(np.float32)[:, None]), axis=1)
            values = np.zeros(len(bias), dtype=np.float32)
            for k in order:
                values = values + terms[:, k]
        return Fraction(float(values.min())) + Fraction(self.shift)


def network(layers: Layers) -> Graph:
    """The graph of dense layers."""
    builder, x = GraphBuilder((layers[0][0].shape[1],)), 0
    for i, (weight, bias) in enumerate(layers):
        x = builder.add(ReLU(), x) if i else x
        x = builder.add(Linear(torch.from_numpy(weight), torch.from_numpy(bias)), x)
    return builder.finish()


def output(layers: Layers, point: np.ndarray) -> np.ndarray:
    """The exact output (outputs,) at a point of Fractions."""
    values = point
    for i, (weight, bias) in enumerate(layers):
        values = np.maximum(values, Fraction(0)) if i else values
        values = exact(weight) @ values + exact(bias)
    return values


# --- Verdicts. --------------------------------------------------------------------------------------------------------
def judged(puzzle: Puzzle, method: str, timeout: float = 1.0) -> Verdict:
    """The verdict of a method of `verify`, or with a certificate; fails when it is wrong.

    A solver's word is no verdict of ours: it counts as UNKNOWN.
    """
    draw, semantics, certificate = np.random.default_rng(0), "real", None
    if method == "certified":
        found = verify_certified(puzzle.subject, puzzle.prop, Settings(timeout=timeout, device="cpu"))
        result, certificate = found.result, found.certificate
    else:
        result = verify(puzzle.subject, puzzle.prop, Settings(method=method, timeout=timeout, device="cpu"))
    if result.solver_word:
        return Verdict.UNKNOWN
    if result.verdict is Verdict.VERIFIED:
        assert puzzle.safe, "a false claim is VERIFIED"
        if certificate is not None:
            semantics = checker.check(certificate.content, certificate.model, certificate.statement).semantics
        assert method != "certified" or certificate is not None
        if semantics.startswith("float32"):
            for x in candidates(puzzle, draw):
                assert puzzle.single(draw, x) > 0, "a claim about float32 is false"
    if result.verdict is Verdict.FALSIFIED:
        x = result.counterexample
        assert x is not None and puzzle.prop.region.admits(x)
        assert not puzzle.safe, "a true claim is FALSIFIED"
        assert puzzle.margin(puzzle.prop.region.point(x)) <= 0, "safe in real arithmetic"
        single = Subject(puzzle.graph).native(x[np.newaxis])[0]
        assert Fraction(float(single.min())) + Fraction(puzzle.shift) <= 0, "safe in float32"
    return result.verdict


def candidates(puzzle: Puzzle, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Float32 points of the region: near the least output, corners, and any."""
    low, high = (puzzle.prop.region.inner_box().lower[0].numpy(), puzzle.prop.region.inner_box().upper[0].numpy())
    nearest = np.clip(puzzle.lowest.astype(np.float64).astype(np.float32), low, high)
    if puzzle.prop.region.admits(nearest):
        yield nearest
    for i in range(TRIES):
        share = draw.random(len(low)).astype(np.float32)
        x = np.clip(low + (np.rint(share) if i % 2 else share) * (high - low), low, high)
        if puzzle.prop.region.admits(x):
            yield x
