"""Bounds that hold for the inputs of an unsafe set alone: valid whatever multipliers are stated, and worth stating."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from certified import ARITHMETICS, NO_HINTS, Files, bounds, random_files
from nets import mlp, samples
from test_forgeries import parts, refused

from verifier.bounds.crown import Crown
from verifier.certificate import checker
from verifier.certificate.checker import Checker, Refused
from verifier.certificate.claim import certificate
from verifier.certificate.exact import Exact
from verifier.certificate.format import pack
from verifier.certificate.rounded import Rounded
from verifier.certificate.trees import unpack
from verifier.certificate.writer import write
from verifier.errors import CertificateError
from verifier.ops.base import Activation
from verifier.proof import Proof
from verifier.search import bab, rounds
from verifier.search.record import Records
from verifier.search.task import Task
from verifier.spec.property import HalfSpaces, Property, Region, exact


def moved(files: Files, share: float) -> tuple[Files, list[np.ndarray]]:
    """A claim that this share of sampled inputs breaks, and what every activation reads at those: (inputs, neurons)."""
    region = files.prop.region.box()
    values = files.graph.values(samples(region.lower, region.upper, 4000)[0])
    rows = files.prop.unsafe[0].C
    margin = (values[-1].flatten(1) @ rows.T.to(values[-1])).amax(1)
    level = margin.quantile(share)
    unsafe = HalfSpaces(rows, -level.double().repeat(len(rows)))
    nodes = files.graph.nodes
    read = [values[n.inputs[0]].flatten(1)[margin <= level].numpy() for n in nodes if isinstance(n.op, Activation)]
    return Files.of(files.graph, Property(files.prop.region, (unsafe,))), read


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("kind", ARITHMETICS)
def test_any_multipliers_bound_what_unsafe_inputs_reach(kind: type[Exact | Rounded], single: bool) -> None:
    tighter = 0
    for seed in range(12):
        files, read = moved(random_files(seed), 0.1)
        network, draw, case = files.network, np.random.default_rng(seed), files.statements[0]
        sizes = [network.nodes[j].size for j in network.activations]
        assert sizes == [z.shape[1] for z in read]
        slots = np.array([(a, i, 0) for a, n in enumerate(sizes) for i in range(n)]).T
        n = 40
        number = draw.integers(len(sizes), size=n)
        position = np.array([draw.integers(sizes[a]) for a in number])
        hints = {
            **NO_HINTS,
            "refine": [1] * len(sizes),
            "slots": slots,
            "codes": draw.integers(256, size=(8, slots.shape[1])).astype(np.uint8),
            "target.s0": np.stack((number, position, draw.integers(2, size=n), draw.integers(3, size=n))),
            "weights.s0": draw.integers(4, size=(n, len(case.rows))),
            "code.s0": draw.integers(9, size=n),
            "extra.s0": np.exp(draw.normal(-1, 2, size=n)).astype(np.float32).astype(np.float64),
        }
        judge = Checker(hints, network, files.statements)
        analysis = files.analysis(kind, single)
        analysis.hints = hints
        base = bounds(analysis, case)
        with np.errstate(all="ignore"):
            d = analysis.shaved(0, base, judge.combined)
        for j, z in zip(network.activations, read, strict=True):
            l, u = d.z[j]
            assert len(z) and (z >= l - 1e-9).all() and (z <= u + 1e-9).all()
            tighter += int((l > base.z[j][0]).sum() + (u < base.z[j][1]).sum())
    assert tighter > 10


def searched(seed: int) -> tuple[Files, Proof]:
    """A claim that is true, though not by much, and what a search leaves behind."""
    graph = mlp(torch.Generator().manual_seed(seed), (4, 24, 24, 1))
    region = Region(exact(np.full(4, -0.5)), exact(np.full(4, 0.5)))
    box = region.box()
    least = float(graph.values(samples(box.lower, box.upper, 4000)[0])[-1].min())
    unsafe = HalfSpaces(torch.ones(1, 1).double(), torch.tensor([1.0 - least]).double())
    files = Files.of(graph, Property(region, (unsafe,)))
    records, double = Records(graph), graph.to(torch.float64)
    nodes = Crown()(double, box, unsafe.C.unsqueeze(0)).nodes
    task = Task(double, box, {0: unsafe}, nodes, 1e-6, time.monotonic() + 100, lambda x: False, records)
    with pytest.MonkeyPatch.context() as patch:  # rounds that do not go well give up at once
        patch.setattr(rounds, "GRACE", 0.0)
        patch.setattr(rounds, "WORTHWHILE", 0.0)
        patch.setattr(rounds, "SHORTEST", 0.02)
        bab.BranchAndBound(input_limit=0, trial_limit=0)(task)
    proof = records.proof(1)
    assert proof is not None
    return files, proof


@pytest.fixture(scope="module")
def shaved() -> tuple[Files, Proof]:
    """A search that shaved, and a proof that fails without what that found."""
    for seed in range(30):
        files, proof = searched(seed)
        if proof.ends[0]:
            return files, proof
    raise AssertionError("no search shaved")


def test_what_a_search_shaves_is_certified(shaved: tuple[Files, Proof]) -> None:
    files, proof = shaved
    found = certificate(files.model, files.text, [(files.prop, proof)])
    assert "target.s0" in unpack(found.content)
    for arithmetic in ("exact", "rounded"):
        checker.check(found.content, files.model, files.text, arithmetic)
    with pytest.raises(CertificateError):
        certificate(files.model, files.text, [(files.prop, replace(proof, ends=[[]]))])


FORGED: dict[str, dict[str, Any]] = {
    "no strength": {"extra.s0": 0.0},
    "a negative strength": {"extra.s0": -1.0},
    "an infinite strength": {"extra.s0": math.inf},
    "no such neuron": {"target.s0": 10**6},
    "rows of another set": {"weights.s0": np.ones((3, 2), dtype=int)},
    "no such slopes": {"code.s0": 10**6},
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_bounds_are_refused(shaved: tuple[Files, Proof], name: str) -> None:
    files, proof = shaved
    header, arrays = parts(write(files.model, files.text, proof, "real"))
    for array, value in FORGED[name].items():
        arrays[array] = value if isinstance(value, np.ndarray) else np.full_like(arrays[array], value)
    refused(files, pack(header, arrays))


def test_a_strength_that_is_nan_is_refused(shaved: tuple[Files, Proof]) -> None:
    files, proof = shaved
    hints = unpack(write(files.model, files.text, proof, "real"))
    hints["extra.s0"] = np.full_like(hints["extra.s0"], math.nan)
    for arithmetic in ("exact", "rounded"):
        with pytest.raises(Refused, match="does not count"):
            Checker(hints, files.network, files.statements).check(arithmetic, 0)


def test_false_claims_cannot_be_proved_by_bounds_for_unsafe_inputs(shaved: tuple[Files, Proof]) -> None:
    """Whatever is stated: of a set with inputs in it not all can be cut off."""
    files, proof = shaved
    [unsafe] = files.prop.unsafe
    false = Files.of(files.graph, Property(files.prop.region, (HalfSpaces(unsafe.C, unsafe.d - 1.5),)))
    header, arrays = parts(write(false.model, false.text, proof, "real"))
    draw = np.random.default_rng(0)
    for _ in range(6):
        n = len(arrays["code.s0"])
        changed = {
            "target.s0": np.concatenate((arrays["target.s0"][:2], draw.integers(3, size=(2, n)))),
            "extra.s0": np.exp(draw.normal(0, 4, size=n)).astype(np.float32),
            "code.s0": draw.integers(len(arrays["codes"]) + 1, size=n),
            "weights.s0": draw.integers(3, size=(n, 1)),
        }
        refused(false, pack(header, {**arrays, **changed}), "is not proved")
