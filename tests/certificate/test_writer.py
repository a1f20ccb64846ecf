"""Certificates as written: hints of any value are valid and some help; sizes; refusals to write."""

from __future__ import annotations

from dataclasses import replace

import brute_force
import numpy as np
import pytest
import torch
from certified import Files, bounds, flat_proof, leaf, neuron_tree, random_files, shifted

from verifier.certificate import checker
from verifier.certificate.coding import quantised
from verifier.certificate.format import pack
from verifier.certificate.properties import Case as Statement
from verifier.certificate.writer import write
from verifier.graph import GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.relu import ReLU
from verifier.proof import Leaf, Lemma, Proof, Split, Tree
from verifier.spec.property import HalfSpaces, Property, Region, exact


def margin(files: Files, certificate: bytes) -> float:
    """The margin that a certificate proves, alike in both arithmetics."""
    found = [checker.check(certificate, files.model, files.text, a).margin for a in ("exact", "rounded")]
    assert found[0] == pytest.approx(found[1], abs=1e-7)
    return max(found)


@pytest.mark.parametrize("seed", range(16))
def test_random_hints_give_valid_bounds(seed: int) -> None:
    """Slopes, multipliers of split neurons and lemmas drawn at random never lift a margin above brute force."""
    draw = np.random.default_rng(seed)
    files = shifted(random_files(seed), 1000.0)
    sizes = [files.network.nodes[j].size for j in files.network.activations]
    neurons = [(number, i) for number, size in enumerate(sizes) for i in range(size)]

    slots = [(neuron, bool(draw.random() < 0.5)) for neuron in neurons if draw.random() < 0.7]

    def hinted(tree: Tree) -> Tree:
        if isinstance(tree, Split):
            return Split(tree.at, tree.point, hinted(tree.below), hinted(tree.above))
        extra = {neuron: float(draw.normal()) for neuron in neurons if draw.random() < 0.7}
        return Leaf(tree.weights, draw.uniform(-0.5, 1, len(slots)) if draw.random() < 0.8 else None, extra)

    def drawn(statement: Statement) -> Tree:
        return hinted(neuron_tree(files.analysis(), statement))

    lemmas = [Lemma(neuron, bool(side), drawn(files.statements[0])) for neuron in neurons for side in range(2)]
    proof = replace(flat_proof(files, drawn), slots=slots, lemmas=draw.permutation(lemmas)[:6])  # type: ignore[call-overload]
    truth = brute_force.worst(files.graph, files.prop).rows
    sets = files.prop.rows[2].numpy()
    first = [truth[np.nonzero(sets == k)[0][0]] for k in range(len(files.prop.unsafe))]
    for some in (proof, replace(proof, lemmas=())):
        assert margin(files, write(files.model, files.text, some)) <= min(first) + 1e-7


def valley() -> Files:
    """y = 11 - x + 3 relu(x - 1) on [-1, 2], least at x = 1, where it is 10; neuron 0 is stable."""
    builder = GraphBuilder((1,))
    hidden = builder.add(ReLU(), builder.add(Linear(torch.ones(2, 1), torch.tensor([1.0, -1.0])), 0))
    builder.add(Linear(torch.tensor([[-1.0, 3.0]]), torch.tensor([12.0])), hidden)
    row = HalfSpaces(torch.ones(1, 1).double(), torch.zeros(1).double())
    return Files.of(builder.finish(), Property(Region(exact(np.array([-1.0])), exact(np.array([2.0]))), (row,)))


def test_slopes_and_split_multipliers_close_the_gap() -> None:
    files = valley()

    def proved(tree: Tree) -> float:
        proof = replace(flat_proof(files, lambda s: tree), slots=[((0, 1), False)])
        return margin(files, write(files.model, files.text, proof))

    assert proved(Leaf()) == pytest.approx(9, abs=1e-4)
    assert proved(Leaf(slopes=np.array([1 / 3]))) == pytest.approx(10, abs=1e-4)
    assert proved(Split((0, 1), 0.0, Leaf(), Leaf())) == pytest.approx(6, abs=1e-4)
    below, above = Leaf(extra={(0, 1): 1.0}), Leaf(extra={(0, 1): -2.0})
    assert proved(Split((0, 1), 0.0, below, above)) == pytest.approx(10, abs=1e-4)
    for tree in (Split((0, 1), 0.0, above, below), Split((0, 1), 0.0, below, below), Split((0, 1), 0.0, above, above)):
        assert proved(tree) < 9


def test_leaves_are_small() -> None:
    """Many leaves, each with slopes and multipliers of its own, take less than 300 bytes each."""
    draw = np.random.default_rng(0)
    files = shifted(random_files(0), 1000.0)
    neurons = [(0, i) for i in range(files.network.nodes[files.network.activations[0]].size)]

    def grow(depth: int) -> Tree:
        if not depth:
            extra = {neuron: float(draw.normal()) for neuron in neurons}
            return Leaf(leaf(files.statements[0]).weights, draw.uniform(0, 1, len(neurons)), extra)
        return Split(neurons[depth % len(neurons)], 0.0, grow(depth - 1), grow(depth - 1))

    trees = [grow(7), *(leaf(s) for s in files.statements[1:])]
    slots = [(neuron, False) for neuron in neurons]
    assert len(write(files.model, files.text, Proof(trees, slots=slots))) < 300 * 128


def test_weights_become_small_integers() -> None:
    some = np.array([[0.0, 0.25], [0.5, 0.5], [0.0, 0.0], [1.0, 1 / 3], [-1.0, 2.0]])
    assert quantised(some, 2).tolist() == [[0, 1], [1, 1], [0, 0], [3, 1], [0, 1]]
    assert quantised(np.array([[0.3], [7.0]]), 1).tolist() == [[1], [1]]


def test_what_does_not_fit_is_not_written() -> None:
    files = random_files(0)
    count = len(files.statements)
    with pytest.raises(ValueError, match="trees"):
        write(files.model, files.text, Proof([Leaf()] * (count + 1)))
    with pytest.raises(ValueError, match="weights"):
        write(files.model, files.text, Proof([Leaf([1.0] * 7)] * count))
    with pytest.raises(ValueError, match="cannot"):
        pack({}, {"kind.0": np.array([-1])})


def test_bounds_of_refined_inputs_lie_within_intervals() -> None:
    for seed in range(8):
        files = random_files(seed)
        for s in files.statements:
            loose, tight = (bounds(files.analysis(refine=r), s) for r in (False, True))
            for j, (l, u) in tight.z.items():
                assert (l >= loose.z[j][0] - 1e-9).all() and (u <= loose.z[j][1] + 1e-9).all()
