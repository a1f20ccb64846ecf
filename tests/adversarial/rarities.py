"""Certificates that hold what others have none of: bounds for unsafe inputs, planes that sets share, lemmas by region,
slopes of one byte, spans and scales, operators beside dense layers, and claims about real arithmetic alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import curves
import lines
import numpy as np
import pytest
import torch
from claims import NEAR, Claim, Victim, certified, holds, question
from families import FAMILIES
from puzzles import Layers, Subject, network, output
from valleys import coarse

from verifier.attack.pgd import Pgd
from verifier.bounds.crown import Crown
from verifier.certificate.claim import Certificate, certificate
from verifier.certificate.format import pack
from verifier.certificate.statement import vnnlib
from verifier.certified import verify_certified
from verifier.errors import CertificateError
from verifier.graph import Graph
from verifier.load import load
from verifier.load.model import Model
from verifier.proof import Proof
from verifier.search import bab, rounds
from verifier.search.record import Records
from verifier.search.task import Task
from verifier.spec.property import Property, exact
from verifier.strategy import Settings

GAP = 2.0**-4
ENDS = ("target.s0", "extra.s0", "share.p0", "kind.a1")


# --- Searches that split neurons, shave and raise planes whatever that takes. -----------------------------------------
def forced(graph: Graph, prop: Property) -> Proof | None:
    """What branch and bound proves with splits of neurons, in rounds that give up at once."""
    sets, box, double = dict(enumerate(prop.unsafe)), prop.region.box(), graph.to(torch.float64)
    rows = torch.cat([s.C for s in prop.unsafe]).unsqueeze(0)
    records, nodes = Records(graph), Crown()(double, box, rows).nodes
    task = Task(double, box, sets, nodes, 1e-6, time.monotonic() + 60, lambda x: False, records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "GRACE", 0.0)
        patch.setattr(rounds, "WORTHWHILE", 0.0)
        patch.setattr(rounds, "SHORTEST", 0.02)
        bab.BranchAndBound(input_limit=0, trial_limit=0)(task)
    return records.proof(len(sets))


def proved(model: bytes, graph: Graph, props: Sequence[Property]) -> Certificate | None:
    """The certificate of such searches, if they prove the claims."""
    proofs = [(prop, proof) for prop in props if (proof := forced(graph, prop)) is not None]
    try:
        return certificate(model, vnnlib(*props).encode(), proofs) if len(proofs) == len(props) else None
    except CertificateError:
        return None


def lowest(graph: Graph, prop: Property) -> np.ndarray:
    """The point of a box with the least margin that an attack finds, Fractions."""
    points, margins = Pgd(steps=60, restarts=8)(graph.to(torch.float32), prop.region.inner_box(), prop.margin)
    return exact(points[int(margins.argmin())].numpy())


def tight(layers: Layers, centre: np.ndarray, eps: Fraction) -> tuple[Property, np.ndarray, list[Fraction]]:
    """On a box, that the first output is above each other one by what it is at the worst points found, less `GAP`.

    With one output, that it is above zero. Also those points, one for every set, and the exact margins there.
    """
    outputs, sets, points = len(layers[-1][1]), [], []
    rows = [np.eye(outputs)[0] - np.eye(outputs)[k] for k in range(1, outputs)] or [np.ones(1)]
    for row in rows:
        prop = question(centre - eps, centre + eps, [(row[None], np.full(1, 1e3))])
        points.append(lowest(network(layers), prop))
        sets.append((row[None], np.array([float(Fraction(GAP) - exact(row) @ output(layers, points[-1]))])))
    prop = question(centre - eps, centre + eps, sets)
    values = [exact(C)[0] @ output(layers, p) + exact(d)[0] for (C, d), p in zip(sets, points, strict=True)]
    return prop, np.array(points, dtype=object), values


def dense(draw: np.random.Generator, *sizes: int) -> Layers:
    return [(coarse(draw, n, m), coarse(draw, n)) for m, n in pairwise(sizes)]


def searched(first: int, sizes: Sequence[int], boxes: int, wanted: Sequence[str]) -> Victim:
    """Of the first network that leaves a certificate with these arrays. False: any one half-space moved by little."""
    for seed in count(first):
        draw = np.random.default_rng(seed)
        layers = dense(draw, *sizes)
        centres = [exact(coarse(draw, sizes[0], most=8) * i) for i in range(boxes)]
        claims = [tight(layers, centre, Fraction(1, 2)) for centre in centres]
        subject, props = Subject(network(layers)), [prop for prop, _, _ in claims]
        found = proved(subject.onnx(), subject.graph, props)
        if found is None or not holds(found.content, wanted):
            continue
        false = []
        for b, (prop, _, values) in enumerate(claims):
            for k, value in enumerate(values):
                one = prop.unsafe[k]
                less = replace(one, d=one.d - float(value) - NEAR)
                lower = replace(prop, unsafe=(*prop.unsafe[:k], less, *prop.unsafe[k + 1 :]))
                assert exact(less.d.numpy())[0] - exact(one.d.numpy())[0] + value <= 0
                text = vnnlib(*props[:b], lower, *props[b + 1 :]).encode()
                false.append(Claim(f"set {k} of box {b} moved", subject.onnx(), text))
        return Victim(found, false)
    raise AssertionError


def shaved(number: int) -> Victim:
    """Bounds for the inputs of an unsafe set alone, with a tree beside them or without."""
    return searched(number, (4, 8, 8, 1), 1, ("target.s0", "extra.s0", "share.p0", "kind.a1"))


def ranked(_: int) -> Victim:
    """Several unsafe sets of one box, with bounds and planes of their own."""
    return searched(0, (4, 8, 8, 3), 1, ("target.s0", "share.p0", "kind.a1", "planes"))


def apart(_: int) -> Victim:
    """Two boxes, each with its own lemmas and slopes."""
    return searched(0, (4, 8, 8, 1), 2, ("share.p0", "kind.a1", "kind.a1.b1", "slots.b1"))


def of_bytes(number: int) -> Victim:
    """Slopes of one byte."""
    victim = shaved(number)
    header, arrays = victim.parts
    arrays["codes"] = (arrays.pop("finer") / 257).round()
    return Victim(replace(victim.certificate, content=pack(header, arrays)), victim.false)


# --- Other operators. -------------------------------------------------------------------------------------------------
def loaded(content: bytes) -> Model:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(content)
        return load(path)


def curved(kind: str) -> Victim:
    """Functions that are no lines, and products, whose values are known to sixty digits."""
    net = curves.Net(2, np.random.default_rng(len(kind)))
    x = net.dense("x", 2, 2.0)
    if kind == "product":
        x = net.both("Mul", net.function("Tanh", x), net.dense("x", 2))
    else:
        x = net.softmax(net.dense(net.function("Sigmoid", x), 2, 2.0))
    net.dense(x, 1)
    lower, upper = np.full(2, -0.5), np.full(2, 0.5)
    model, one = loaded(net.content()), np.ones((1, 1))
    everywhere = question(exact(lower), exact(upper), [(one, np.full(1, 1e3))])
    point = lowest(model.graph, everywhere).astype(np.float64)
    value = float(net.value(point[None])[0])
    true, false = (curves.Case(net, lower, upper, value + shift, point) for shift in (-GAP, NEAR))
    assert false.excess(point) < 0 < true.excess(point)
    found = proved(model.onnx(), model.graph, [true.prop]) or certified(model, true.prop)
    return Victim(found, [Claim("a higher floor", model.onnx(), vnnlib(false.prop).encode())])


def mixed(seed: int) -> Victim:
    """Convolutions, pools, a residual sum, BatchNorm, Resize and joined values, exactly known where one input moves."""
    draw = np.random.default_rng(seed)
    lower = [Fraction(int(n), 8) for n in draw.integers(-8, 9, 9)]
    upper = [*lower[:4], lower[4] + 2, *lower[5:]]
    net = lines.Net((1, 1, 3, 3), lower, upper)
    x = net.conv("x", coarse(draw, 2, 1, 2, 2), coarse(draw, 2), pad=0)
    y = net.norm(net.leaky(x, 0.25), coarse(draw, 2), coarse(draw, 2), coarse(draw, 2), np.array([2.0, 0.5]))
    x = net.max_pool(net.combined("Add", x, net.relu(y)), 2)
    x = net.mean_pool(net.combined("Add", net.doubled(x, "nearest"), net.doubled(x, "linear")), 2)
    x = net.moved("Flatten", x, lambda v: v.reshape(1, -1))
    x = net.dense(net.concat(x, net.clip(x, -1, 1)), coarse(draw, 1, 4), coarse(draw, 1))
    least = min(net.course[x].values.ravel())
    model, corners = loaded(net.content(x)), [np.array(side, dtype=object).reshape(1, 3, 3) for side in (lower, upper)]
    d = [np.array([float(GAP - least)]), np.array([float(-least) - NEAR])]
    assert Fraction(d[1][0]) + least < 0 < Fraction(d[0][0]) + least
    true, false = (question(*corners, [(np.ones((1, 1)), one)]) for one in d)
    return Victim(certified(model, true), [Claim("the half-space moved", model.onnx(), vnnlib(false).encode())])


def absorbed(first: int) -> Victim:
    """A claim that is true of real values alone: constants absorb the float32 ones."""
    for seed in count(first, 2):
        puzzle = FAMILIES["single_only"](seed)
        found = verify_certified(puzzle.subject, puzzle.prop, Settings(timeout=2, device="cpu")).certificate
        at = puzzle.lowest.astype(np.float64).astype(np.float32)
        assert puzzle.safe
        if found is None or puzzle.single(np.random.default_rng(0), at) > 0:
            continue
        assert found.accepted.semantics == "real" and puzzle.prop.region.admits(at)
        return Victim(found, [Claim("float32 execution", found.model, found.statement, single=True)])
    raise AssertionError


SOURCES: dict[str, tuple[Callable[..., Victim], Sequence[Any]]] = {
    "shaved": (shaved, (0, 1)),
    "ranked": (ranked, (0,)),
    "apart": (apart, (0,)),
    "of_bytes": (of_bytes, (3,)),
    "curved": (curved, ("product", "softmax")),
    "mixed": (mixed, (0, 1)),
    "absorbed": (absorbed, (0, 100)),
}
