"""Lemmas about hidden neurons that rest on planes above ReLUs before these."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from certified import ARITHMETICS, Files, bounds, leaf, neuron_tree
from nets import samples
from test_certified_planes import random_proof, relu_files, with_margin
from test_forgeries import parts, refused, rehashed
from test_regions import halves

from verifier.certificate import checker
from verifier.certificate.claim import certificate
from verifier.certificate.exact import Exact
from verifier.certificate.format import pack
from verifier.certificate.rounded import Rounded
from verifier.certificate.statement import vnnlib
from verifier.certificate.trees import of_region, unpack
from verifier.certificate.writer import Subject, write, written
from verifier.graph import GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.base import Activation
from verifier.ops.relu import ReLU
from verifier.proof import INPUT, Leaf, Lemma, Plane, Proof
from verifier.spec.property import HalfSpaces, Property, Region, exact


def random_lemmas(files: Files, draw: np.random.Generator) -> Proof:
    """Lemmas about all hidden neurons, in trees of splits, by three lists of planes and by none."""
    network = files.network
    lists = [random_proof(files, draw, lambda case: neuron_tree(files.analysis(), case, most=2)) for _ in range(3)]
    neurons = [(a, i) for a, j in enumerate(network.activations) for i in range(network.nodes[j].size)]
    lemmas = []
    for neuron in neurons:
        for upper in (False, True):
            proof = lists[draw.integers(3)]
            planes = [plane for plane in proof.planes[0] if plane.activation < neuron[0] and draw.random() < 0.9]
            lemmas.append(Lemma(neuron, upper, proof.trees[0], planes))
    trees = [leaf(case) for case in files.statements]
    return Proof(trees, lemmas, slots=lists[0].slots, refine=[0] * len(network.activations))


def inside(files: Files, analysis_hints: dict, kind: type[Exact | Rounded], number: int = 0) -> bool:
    """Whether what is proved of hidden neurons holds at sampled inputs; and improves on intervals somewhere."""
    analysis, region = files.analysis(kind), files.prop.region.box()
    plain = bounds(analysis, files.statements[0])
    analysis.hints = of_region(analysis_hints, number)
    base = bounds(analysis, files.statements[0])
    values = files.graph.values(samples(region.lower, region.upper, 1000)[0])
    read = [node.inputs[0] for node in files.graph.nodes if isinstance(node.op, Activation)]
    better = False
    for i, j in zip(read, analysis.network.activations, strict=True):
        (l, u), (wide_l, wide_u), z = base.z[j], plain.z[j], values[i].flatten(1).numpy()
        assert (l <= z.min(0) + 1e-6).all() and (u >= z.max(0) - 1e-6).all()
        better |= bool(((l > wide_l) | (u < wide_u)).any())
    return better


@pytest.mark.parametrize("kind", ARITHMETICS)
def test_any_planes_bound_hidden_neurons(kind: type[Exact | Rounded]) -> None:
    better = 0
    for seed, files in enumerate(relu_files(8)):
        hints = unpack(write(files.model, files.text, random_lemmas(files, np.random.default_rng(seed))))
        assert {"planes.a1", "unit.p0", "share.p1"} <= {*hints}
        better += inside(files, {**hints, "refine": [0] * len(hints["refine"])}, kind)
    assert better


def test_planes_of_lemmas_of_several_regions_are_their_own() -> None:
    for seed, files in enumerate(relu_files(4)):
        draw, halves_ = np.random.default_rng(seed), halves(files)
        text = vnnlib(*(part.prop for part in halves_)).encode()
        content = written(Subject.read(files.model, text), [random_lemmas(part, draw) for part in halves_], "float32")
        hints = unpack(content)
        assert {"planes.a1", "planes.a1.b1"} <= {*hints}
        for number, part in enumerate(halves_):
            for kind in ARITHMETICS:
                inside(part, hints, kind, number)


def test_no_planes_of_lemmas_prove_a_false_claim() -> None:
    for seed, files in enumerate(relu_files(8)):
        false = with_margin(files, -1e-4)
        refused(false, write(false.model, false.text, random_lemmas(false, np.random.default_rng(seed))), "not proved")


def terrace() -> Files:
    """relu(x - relu(x + y - 1) + 0.1) > 0.05 over the unit square, where x - relu(x + y - 1) is at least 0."""
    builder = GraphBuilder((2,))
    first = Linear(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([-1.0, 0.0]))
    second = Linear(torch.tensor([[-1.0, 1.0]]), torch.tensor([0.1]))
    hidden = builder.add(ReLU(), builder.add(second, builder.add(ReLU(), builder.add(first, 0))))
    builder.add(Linear(torch.ones(1, 1), torch.zeros(1)), hidden)
    unsafe = HalfSpaces(torch.tensor([[1.0]]).double(), torch.tensor([-0.05]).double())
    return Files.of(builder.finish(), Property(Region(exact(np.zeros(2)), exact(np.ones(2))), (unsafe,)))


def proof_of_terrace(share: float = 1.0) -> Proof:
    """By a lemma under the plane x above the first ReLU, without which the second is undecided."""
    plane = Plane(0, np.array([0]), {INPUT: (np.zeros(2, dtype=np.int64), np.arange(2), np.array([1.0, 0.0]))})
    slots = [((0, 0), 0), ((0, 1), 0), ((1, 0), 0), ((0, 0), 2)]
    lemma = Lemma((1, 0), False, Leaf(slopes=np.array([0.0, 1.0, 0.0, share])), [plane])
    return Proof([Leaf(slopes=np.zeros(4))], [lemma], slots=slots, refine=[0, 0])


@pytest.mark.parametrize("arithmetic", ["exact", "rounded"])
def test_a_lemma_by_a_plane_decides_a_neuron(arithmetic: str) -> None:
    files = terrace()
    content = write(files.model, files.text, proof_of_terrace())
    found = checker.check(content, files.model, files.text, arithmetic)
    assert found.margin == pytest.approx(0.05, abs=1e-5)
    without = replace(proof_of_terrace(), lemmas=[replace(proof_of_terrace().lemmas[0], planes=())])
    for weaker in (proof_of_terrace(0.5), without):
        refused(files, write(files.model, files.text, weaker), "is not proved")
    assert certificate(files.model, files.text, [(files.prop, proof_of_terrace())]).accepted.margin > 0.049


def test_forged_lists_of_lemmas_are_refused() -> None:
    files = terrace()
    header, arrays = parts(write(files.model, files.text, proof_of_terrace()))
    assert arrays["planes.a1"].tolist() == [1]
    forged: list[tuple[object, str]] = [
        ([0], "is not proved"),
        ([2], "malformed"),
        ([], "malformed"),
        (2**32 - 1, "malformed"),
    ]
    for which, why in forged:
        refused(files, pack(rehashed(header, files), {**arrays, "planes.a1": np.array(which, dtype=np.int64)}), why)
    # A plane above what the lemma is about is not known before it.
    later = {"unit.p0": np.array([[1], [0]]), "share.p0": np.array([255, 255])}
    refused(files, pack(rehashed(header, files), {**arrays, **later}), ".")
