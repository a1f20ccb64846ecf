"""Certificates of true claims, and claims close to them that are false: what lies are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from puzzles import Layers, Subject, network, output

from verifier.attack.pgd import Pgd
from verifier.certificate.claim import Certificate
from verifier.certificate.statement import vnnlib
from verifier.certificate.trees import TYPES, unpack
from verifier.certified import CertifiableSubject, verify_certified
from verifier.load.export import onnx_bytes
from verifier.spec.property import HalfSpaces, Property, Region, exact
from verifier.strategy import Settings

Header = dict[str, Any]
Arrays = dict[str, np.ndarray]
NEAR = 2.0**-20
TRIES = 16


@dataclass(frozen=True, eq=False)
class Claim:
    """A model and a statement as files hold them, which is false.

    about: how it differs from what was certified. single: whether it is false of float32 execution alone.
    """

    about: str
    model: bytes
    statement: bytes
    single: bool = False


@dataclass(frozen=True, eq=False)
class Victim:
    """A certificate of a true claim, and claims that are false, most of them barely."""

    certificate: Certificate
    false: Sequence[Claim]

    @property
    def parts(self) -> tuple[Header, Arrays]:
        """The header, and arrays that may be written to."""
        return taken_apart(self.certificate.content)


def taken_apart(content: bytes) -> tuple[Header, Arrays]:
    """The header of a certificate file and its arrays."""
    header = unpack(content)
    return header, {name: header.pop(name).astype(TYPES[name.split(".")[0]]) for name in dict(header.pop("arrays"))}


def question(low: np.ndarray, high: np.ndarray, sets: Sequence[tuple[np.ndarray, np.ndarray]]) -> Property:
    unsafe = tuple(HalfSpaces(torch.from_numpy(C), torch.from_numpy(d)) for C, d in sets)
    return Property(Region(low, high), unsafe)


def violated(layers: Layers, prop: Property, point: np.ndarray) -> bool:
    """Whether a point of the region is a counterexample, in exact arithmetic."""
    inside = (prop.region.lower <= point).all() and (point <= prop.region.upper).all()
    return bool(inside and margin(layers, prop, point) <= 0)


def margin(layers: Layers, prop: Property, point: np.ndarray) -> Fraction:
    """The exact margin at a point of Fractions."""
    y = output(layers, point)
    return min(max(exact(s.C.numpy()) @ y + exact(s.d.numpy())) for s in prop.unsafe)


def certified(subject: CertifiableSubject, prop: Property, wanted: Sequence[str] = ()) -> Certificate:
    """A certificate in which these arrays are not empty; what a search leaves behind depends on the clock."""
    for _ in range(TRIES):
        certificate = verify_certified(subject, prop, Settings(timeout=120, device="cpu")).certificate
        assert certificate is not None, "a victim has no certificate"
        if holds(certificate.content, wanted):
            return certificate
    raise AssertionError(f"no certificate has {', '.join(wanted)}")


def holds(content: bytes, wanted: Sequence[str]) -> bool:
    """Whether these arrays of a certificate are there and hold more than zeros."""
    arrays = unpack(content)
    return all(name in arrays and arrays[name].any() for name in wanted)


def victim(
    layers: Layers,
    prop: Property,
    point: np.ndarray,
    gap: float,
    wanted: Sequence[str] = (),
    subject: Subject | None = None,
) -> Victim:
    """Certifies a property whose margin at a point (Fractions) is `gap`; the false claims are violated there.

    subject: the network in another form than these layers.
    """
    subject = subject or Subject(network(layers))
    return Victim(certified(subject, prop, wanted), falsehoods(layers, prop, point, gap, subject))


def falsehoods(layers: Layers, prop: Property, point: np.ndarray, gap: float, subject: Subject) -> list[Claim]:
    """False claims near a property whose margin at a point (Fractions) is at most `gap`."""
    below = -(gap + NEAR)
    *others, (weight, bias) = layers
    lowered: Layers = [*others, (weight, bias + below)]
    lower = tuple(HalfSpaces(s.C, s.d + below * s.C.sum(dim=1)) for s in prop.unsafe)
    moved = Property(prop.region, lower)
    wide = Property(Region(prop.region.lower - 64, prop.region.upper + 64), prop.unsafe)
    far = farthest(layers, wide)
    false = []
    for name, net, model, claimed, place in (
        ("the half-spaces moved", layers, subject.graph, moved, point),
        ("another network", lowered, network(lowered), prop, point),
        ("a wider box", layers, subject.graph, wide, far),
    ):
        if violated(net, claimed, place):
            false.append(Claim(name, onnx_bytes(model), vnnlib(claimed).encode()))
    assert len(false) >= 2
    return false


def farthest(layers: Layers, prop: Property) -> np.ndarray:
    """A corner of a box where the margin is small."""
    draw = np.random.default_rng(0)
    low, high = prop.region.lower, prop.region.upper
    corners = [np.where(draw.random(low.shape) < 0.5, low, high) for _ in range(64)]
    return min(corners, key=lambda x: margin(layers, prop, x))


def attacked(
    layers: Layers, eps: Fraction, gap: float, wanted: Sequence[str], subject: Subject | None = None
) -> Victim:
    """The claim, in a box around zero, whose margin at the worst point that an attack finds is `gap`."""
    prop, point = aimed(layers, eps, gap)
    return victim(layers, prop, point, gap, wanted, subject)


def aimed(layers: Layers, eps: Fraction, gap: float) -> tuple[Property, np.ndarray]:
    """The claim about the only output, in a box around zero, whose margin at the worst point that an attack finds is
    `gap`; and that point."""
    side = np.full(layers[0][0].shape[1], eps, dtype=object)
    prop = question(-side, side, [(np.ones((1, 1)), np.full(1, 1e3))])
    graph = network(layers).to(torch.float32)
    points, margins = Pgd(steps=60, restarts=8)(graph, prop.region.inner_box(), prop.margin)
    point = exact(points[int(margins.argmin())].numpy())
    d = np.array([float(Fraction(gap) - output(layers, point)[0])])
    return question(-side, side, [(np.ones((1, 1)), d)]), point
