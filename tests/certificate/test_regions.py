"""Properties about several boxes: every box has lemmas, slots and slopes of its own."""

from __future__ import annotations

from dataclasses import replace

import brute_force
import numpy as np
import pytest
import torch
from certified import NO_HINTS, Files, flat_proof, leaf, neuron_tree, random_files

from verifier.certificate import checker
from verifier.certificate.statement import vnnlib
from verifier.certificate.trees import of_region
from verifier.certificate.writer import Subject, written
from verifier.proof import Leaf, Lemma, Proof
from verifier.spec.property import HalfSpaces, Property, Region


def test_a_region_sees_its_own_lemmas_and_slopes() -> None:
    """Of region 0 none of region 1's, and the other way round."""
    hints = {**NO_HINTS, "kind.a1": "first", "kind.a1.b1": "second", "slots.b2": "third", "kind.0": "tree"}
    assert of_region(hints, 0)["kind.a1"] == "first"
    assert of_region(hints, 1)["kind.a1"] == "second" and of_region(hints, 1)["kind.0"] == "tree"
    third = of_region(hints, 2)
    assert third["slots"] == "third" and "kind.a1" not in third and third["codes"].shape == (0, 0)
    assert of_region(hints, 3)["slots"].shape == (3, 0)


def halves(files: Files) -> list[Files]:
    """The same property about the lower and the upper half of the box along its widest input, far from unsafe."""
    region, found = files.prop.region, []
    widest = int(np.argmax([float(x) for x in (region.upper - region.lower).flat]))
    for side in (region.lower, region.upper):
        ends = [region.lower.copy(), region.upper.copy()]
        ends[side is region.lower].flat[widest] = (region.lower.flat[widest] + region.upper.flat[widest]) / 2
        sets = tuple(HalfSpaces(s.C, s.d + torch.full_like(s.d, 1000.0)) for s in files.prop.unsafe)
        prop = Property(Region(ends[0], ends[1]), sets)
        found.append(Files(files.graph, prop, files.model, vnnlib(prop).encode()))
    return found


def proved(files: Files, draw: np.random.Generator) -> Proof:
    """Splits of neurons, lemmas and slopes drawn at random."""
    analysis, statement = files.analysis(), files.statements[0]
    sizes = [files.network.nodes[j].size for j in files.network.activations]
    neurons = [(number, i) for number, size in enumerate(sizes) for i in range(size)]
    slots = [(neuron, False) for neuron in neurons]
    lemmas = [
        Lemma(neurons[i], bool(i % 2), Leaf(slopes=draw.uniform(0, 1, len(slots)))) for i in range(0, len(neurons), 3)
    ]
    proof = flat_proof(files, lambda s: neuron_tree(analysis, s) if s is statement else leaf(s))
    return replace(proof, slots=slots, lemmas=lemmas)


@pytest.mark.parametrize("seed", range(8))
def test_several_regions_are_bounded_by_brute_force(seed: int) -> None:
    parts = halves(random_files(seed))
    text = vnnlib(*(part.prop for part in parts)).encode()
    subject = Subject.read(parts[0].model, text)
    proofs = [proved(part, np.random.default_rng(seed + k)) for k, part in enumerate(parts)]
    content = written(subject, proofs, "float32")
    found = [checker.check(content, parts[0].model, text, a).margin for a in ("exact", "rounded")]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    first = [
        brute_force.worst(part.graph, part.prop).rows[np.nonzero(part.prop.rows[2].numpy() == k)[0][0]]
        for part in parts
        for k in range(len(part.prop.unsafe))
    ]
    assert max(found) <= min(first) + 1e-7
