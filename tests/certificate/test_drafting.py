"""Certificates written as they are checked: lemmas where they are needed, rehearsals; bounds by what is not zero."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from certified import NO_HINTS, Files, bounds, flat_proof, random_files, read_at, row_bounds, shifted

from verifier.certificate import living, mending
from verifier.certificate.analysis import Analysis
from verifier.certificate.checker import Unproved, check
from verifier.certificate.mending import checked
from verifier.certificate.refining import FIRST, undecided
from verifier.certificate.rounded import Rounded
from verifier.certificate.trees import unpack
from verifier.certificate.writer import Subject
from verifier.proof import Leaf, Lemma, Proof

SEEDS = range(12)


def with_lemmas(files: Files) -> Proof:
    """A flat proof, refined by FIRST, with a lemma about either side of every hidden neuron."""
    network = files.network
    sizes = [network.nodes[j].size for j in network.activations]
    lemmas = [Lemma((i, k), upper, Leaf()) for i, n in enumerate(sizes) for k in range(n) for upper in (False, True)]
    return replace(flat_proof(files), lemmas=lemmas, refine=[FIRST] * len(sizes))


@pytest.mark.parametrize("seed", SEEDS)
def test_lemmas_are_written_where_the_neuron_is_undecided(seed: int) -> None:
    """What the file says is what was checked: the checker accepts its bytes, with the same margin."""
    files = shifted(random_files(seed), 1000.0)
    subject = Subject.read(files.model, files.text)
    content, accepted = checked(subject, [with_lemmas(files)], "real", math.inf, 0)
    assert check(content, files.model, files.text, "rounded", 0) == accepted
    hints, network = unpack(content), files.network
    analysis = Analysis(network, Rounded, False, hints)
    d = bounds(analysis, files.statements[0])
    for i, j in enumerate(network.activations):
        stated = hints.get(f"target.a{i}", np.zeros((2, 0), dtype=int))[0]
        open_ = np.flatnonzero(undecided(network.nodes[j], *d.z[j])[0])
        assert set(open_.tolist()) <= set(stated.tolist())  # a lemma itself may decide


@pytest.mark.parametrize("seed", SEEDS)
def test_lemmas_spare_neurons_that_the_search_left_open_all_else(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are for other neurons alone; what the file says is what was checked all the same."""
    files = shifted(random_files(seed), 1000.0)
    network = files.network
    d = bounds(files.analysis(Rounded, refine=True), files.statements[0])
    known = {i: (d.z[j][0][0], d.z[j][1][0]) for i, j in enumerate(network.activations)}
    improve = Analysis.improve

    def watched(
        self: Analysis, j: int, l: np.ndarray, u: np.ndarray, is_open: np.ndarray, *rest: Any, **more: Any
    ) -> None:
        assert not (is_open[0] & undecided(network.nodes[j], *d.z[j])[0]).any()
        improve(self, j, l, u, is_open, *rest, **more)

    monkeypatch.setattr(Analysis, "improve", watched)
    proof = replace(with_lemmas(files), bounds=known)
    content, accepted = checked(Subject.read(files.model, files.text), [proof], "real", math.inf, 0)
    assert accepted.margin == pytest.approx(check(content, files.model, files.text, "rounded", 0).margin)


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_by_parallel_lines_first_hold_at_samples(seed: int) -> None:
    files = random_files(seed)
    network, draw = files.network, np.random.default_rng(seed)
    analysis = Analysis(network, Rounded, False, {**NO_HINTS, "refine": [FIRST] * len(network.activations)})
    for s in files.statements:
        d = bounds(analysis, s)
        lower, upper = s.region.box
        x = draw.uniform(lower, upper, (200, lower.shape[1]))
        for j, read in read_at(network, x):
            l, u = d.z[j]
            assert (read >= l - 1e-9).all() and (read <= u + 1e-9).all()


def test_what_is_zero_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds by dense layers without dead neurons are those by whole layers."""
    narrow, used = living.Left.narrow, 0

    def counted(self: living.Left, v: np.ndarray) -> object:
        nonlocal used
        found = narrow(self, v)
        used += found is not None
        return found

    for seed in SEEDS:
        files = random_files(seed)
        found = []
        for way in (counted, lambda self, v: None):
            monkeypatch.setattr(living.Left, "narrow", way)
            found.append([row_bounds(files.analysis(Rounded), s) for s in files.statements])
        one, two = (np.array([float(bound) for rows in way for bound in rows]) for way in found)
        assert np.allclose(one, two, rtol=1e-12, atol=1e-12)
    assert used


def test_coefficients_of_values_that_are_not_zero_count() -> None:
    """A layer of four values of which the second is zero; a column that comes later is taken in."""
    lower, upper = np.array([[0.0, 0.0, -1.0, 0.0]]), np.array([[1.0, 0.0, 0.0, 2.0]])
    files = random_files(0)
    node = next(n for n in files.network.nodes if n.op == "affine" and n.shape[:2] == (1, 1))
    weight = np.arange(1.0, 13.0).reshape(1, 4, 3)
    small = replace(node, size=3, sources=[0], width=4, index=None, shape=(1, 1, 4, 3), weight=living.Weight(weight))
    left = living.Living([lower], [upper]).of(7, small)
    assert left.seen.tolist() == [0, 2, 3]
    for v in (np.array([[0.0, 2.0, 0.0]]), np.array([[0.0, 0.0, -1.0], [0.0, 0.5, 0.0]])):
        narrow = left.narrow(v)
        assert narrow is not None
        wide = left.wide(v[:, narrow[0]] @ narrow[1].array)
        assert (wide[:, [0, 2, 3]] == (v @ weight[0].T)[:, [0, 2, 3]]).all() and not wide[:, 1].any()


def test_a_claim_that_fails_the_rehearsal_is_not_checked_further(monkeypatch: pytest.MonkeyPatch) -> None:
    files = shifted(random_files(0), -1.0)
    subject = Subject.read(files.model, files.text)
    proof = with_lemmas(files)
    d = bounds(files.analysis(Rounded), files.statements[0])
    known = {i: (d.z[j][0][0], d.z[j][1][0]) for i, j in enumerate(files.network.activations)}
    monkeypatch.setattr(mending.Mender, "check", lambda *_, **__: pytest.fail("the check went on"))
    with pytest.raises(Unproved):
        checked(subject, [replace(proof, bounds=known)], "float32", math.inf, 0, rehearse=True)
