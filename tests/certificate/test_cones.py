"""Cones, and both sides from one pass: the same bounds as a pass of the whole network gives, row by row."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from certified import ARITHMETICS, NO_HINTS, Files, random_files, read_at, row_bounds
from onnx import helper, numpy_helper

from verifier.certificate import pulling, refining
from verifier.certificate.analysis import Analysis
from verifier.certificate.cones import cones, reads, shared
from verifier.certificate.exact import Exact
from verifier.certificate.pulling import Domains
from verifier.certificate.reading import Network
from verifier.certificate.refining import PARALLEL
from verifier.certificate.rounded import Rounded
from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Add, Linear
from verifier.ops.convolution import Conv2d
from verifier.ops.relu import Clip, LeakyReLU, ReLU
from verifier.ops.shape import Reshape
from verifier.spec.property import HalfSpaces, Property, Region, exact

SIDE = {False: 12, True: 16}  # of the inputs; whether there is a residual connection


def convolutions(seed: int, residual: bool) -> Graph:
    """Three convolutions with strides, padding and several activations, the last one added to what it reads."""
    generator = torch.Generator().manual_seed(seed)

    def conv(inputs: int, outputs: int, stride: int, padding: int) -> Conv2d:
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / 3
        return Conv2d(weight, torch.randn(outputs, generator=generator) / 5, *((n, n) for n in (stride, padding, 1)), 1)

    builder = GraphBuilder((1, SIDE[residual], SIDE[residual]))
    x = builder.add(ReLU(), builder.add(conv(1, 4, 1, 0), 0))
    x = builder.add(LeakyReLU(0.125) if seed % 2 else ReLU(), builder.add(conv(4, 4, 2 - residual, 1), x))
    z = builder.add(conv(4, 4, 1, 1), x)
    x = builder.add(Clip(-0.5, 0.75) if seed % 2 else ReLU(), builder.add(Add((1, 1)), z, x) if residual else z)
    size = 4 * (14 if residual else 5) ** 2
    x = builder.add(Reshape((size,)), x)
    builder.add(Linear(torch.randn(3, size, generator=generator) / 8, torch.zeros(3)), x)
    return builder.finish()


def files_of(seed: int) -> Files:
    graph = convolutions(seed, residual=seed >= 2)
    centre = np.random.default_rng(seed).random(graph.input_shape)
    region = Region(exact(centre - 0.02), exact(centre + 0.02))
    return Files.of(graph, Property(region, (HalfSpaces(torch.eye(3).double()[:1], torch.zeros(1).double()),)))


def found(files: Files, kind: type[Exact | Rounded], refine: int, single: bool = False) -> Domains:
    network = files.network
    hints = {**NO_HINTS, "refine": [refine] * len(network.activations)}
    with np.errstate(all="ignore"):
        return Analysis(network, kind, single, hints).bounds(files.statements[0].region.box)


def gap(one: Domains, other: Domains) -> float:
    """How far bounds of activations' inputs are from each other."""
    sides = zip(one.z.values(), other.z.values(), strict=True)
    return max(float(np.abs(x - y).max()) for pair in sides for x, y in zip(*pair, strict=True))


@pytest.mark.parametrize(("seed", "kind"), [*itertools.product(range(4), (Rounded,)), (1, Exact)])
def test_cones_give_the_bounds_of_the_whole_network(
    seed: int, kind: type[Exact | Rounded], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(seed)
    network = files.network
    assert cones(network, network.activations[1])
    small = {refine: found(files, kind, refine) for refine in (1, PARALLEL)}
    monkeypatch.setattr(refining, "cones", lambda network, j: None)
    for refine, bounds in small.items():
        whole = found(files, kind, refine)
        assert gap(bounds, whole) < 1e-9 < gap(bounds, found(files, kind, 0))


def sparse_files(seed: int, bias: float = 0.0) -> Files:
    """Dense layers in which every neuron but one, which reads nothing, reads two others with weights of its own."""
    generator = torch.Generator().manual_seed(seed)
    builder, x = GraphBuilder((2,)), 0
    x = builder.add(Linear(torch.randn(64, 2, generator=generator), torch.randn(64, generator=generator)), x)
    for _ in range(3):
        weight = torch.zeros(64, 64)
        for i in range(64):
            weight[i, [i, (i + 1) % 64]] = torch.randn(2, generator=generator) * (i != 5)
        x = builder.add(ReLU(), builder.add(Linear(weight, torch.randn(64, generator=generator) / 4 + bias), x))
    builder.add(Linear(torch.randn(2, 64, generator=generator) / 8, torch.zeros(2)), x)
    region = Region(exact(np.full(2, -0.5)), exact(np.full(2, 0.5)))
    graph, half = builder.finish(), HalfSpaces(torch.eye(2).double()[:1], torch.zeros(1).double())
    return Files.of(graph, Property(region, (half,)))


@pytest.mark.parametrize(("seed", "kind"), [*itertools.product(range(3), (Rounded,)), (0, Exact)])
def test_places_share_a_cone_where_weights_are_their_own(
    seed: int, kind: type[Exact | Rounded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cone for all neurons of a layer, with the weights side by side; the bounds are those of the whole network."""
    files = sparse_files(seed)
    network = files.network
    for j in network.activations:
        made = cones(network, j)
        assert made is not None and sum(cone.columns[j].size for cone in made) == 64 > 8 * len(made)
    small = {refine: found(files, kind, refine) for refine in (1, PARALLEL)}
    monkeypatch.setattr(refining, "cones", lambda network, j: None)
    for refine, bounds in small.items():
        assert gap(bounds, found(files, kind, refine)) < 1e-9 < gap(bounds, found(files, kind, 0))


def test_places_of_equal_weights_share_a_cone() -> None:
    """Away from the border all windows are alike; at a side or a corner they see less."""
    network = files_of(0).network
    made = cones(network, network.activations[1])
    assert made is not None
    places = sorted(len(cone.columns[network.activations[1]]) for cone in made)
    assert sum(places) == 5 * 5 and places[-1] == 4 * 4 and len(made) == 4
    assert all(not cone.shared for cone in made)


@pytest.mark.parametrize("files", [*map(files_of, range(4)), *map(sparse_files, range(2))])
def test_a_cone_is_what_a_value_depends_on(files: Files) -> None:
    """Place by place, the positions that are reached by following what is read."""
    network, checked = files.network, 0
    for j in network.activations:
        for cone in cones(network, j) or ():
            for place, own in enumerate(cone.columns[j]):
                reached = {(j, int(i)) for i in own}
                todo = [*reached]
                while todo:
                    i, position = todo.pop()
                    joined = [(k, n) for k in network.nodes[i].sources for n in range(network.nodes[k].size)]
                    read = [joined[r] for r in reads(network.nodes[i], np.array([position])).ravel()] if i > 1 else []
                    new = {pair for pair in read if pair[0] > 0} - reached
                    reached |= new
                    todo += new
                assert reached == {(i, int(n)) for i, positions in cone.columns.items() for n in positions[place]}
                checked += 1
    assert checked > 30


@pytest.mark.parametrize("bias", [0.0, -100.0])
@pytest.mark.parametrize("seed", range(3))
def test_coefficients_that_are_zero_are_left_out(seed: int, bias: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few count, none at all where every neuron is dead: the bounds are those of a pull of all."""
    files, counted = sparse_files(seed, bias), list[int]()
    everything = row_bounds(files.analysis(Rounded), files.statements[0]), found(files, Rounded, 1)

    def counting(self: Analysis, *args: Any) -> Any:
        some = own(self, *args)
        counted.append(-1 if some is None else len(some))
        return some

    own = Analysis.counting
    monkeypatch.setattr(pulling, "WIDE", 1)
    monkeypatch.setattr(pulling, "FEW", 1)
    monkeypatch.setattr(Analysis, "counting", counting)
    rows = row_bounds(files.analysis(Rounded), files.statements[0])
    assert abs(rows[0] - everything[0][0]) < 1e-9 and gap(found(files, Rounded, 1), everything[1]) < 1e-9
    assert counted and any(0 < some < 64 for some in counted) == (bias == 0)


def test_a_residual_connection_is_read_twice() -> None:
    network = files_of(2).network
    made = cones(network, network.activations[2])
    assert made is not None and all(cone.shared for cone in made)
    assert shared(network.nodes) >= made[0].shared


def test_a_window_that_reads_a_value_twice_has_no_cone() -> None:
    """Such weights would have to be added up, and rounded; bounds are those of the whole network."""
    weight = np.random.default_rng(0).normal(size=(4, 2, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["xx"], axis=1),
        helper.make_node("Conv", ["xx", "w"], ["z"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["z"], ["a"]),
        helper.make_node("Conv", ["a", "v"], ["y"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["y"], ["b"]),
        helper.make_node("Flatten", ["b"], ["out"]),
    ]
    weights = {"w": weight, "v": weight.repeat(2, axis=1)}
    graph = helper.make_graph(
        nodes,
        "twice",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 12, 12])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    network = Network(helper.make_model(graph).SerializeToString())
    assert all(cones(network, j) is None for j in network.activations)


@pytest.mark.parametrize("seed", range(12))
def test_both_sides_from_one_pass_are_those_of_two(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In rounded arithmetic, with a pass for either sign, and in exact arithmetic; never wider than intervals."""
    files = random_files(seed)
    for single in (False, True):
        one = found(files, Rounded, PARALLEL, single)
        with monkeypatch.context() as patch:
            patch.setattr(Rounded, "mirrors", False)
            assert gap(one, found(files, Rounded, PARALLEL, single)) < 1e-9
        assert gap(one, found(files, Exact, PARALLEL, single)) < 1e-9
        loose = found(files, Rounded, 0, single)
        for j, (l, u) in one.z.items():
            assert (l >= loose.z[j][0] - 1e-9).all() and (u <= loose.z[j][1] + 1e-9).all()


@pytest.mark.parametrize("kind", ARITHMETICS)
@pytest.mark.parametrize("seed", range(4))
def test_parallel_bounds_hold_at_samples(seed: int, kind: type[Exact | Rounded]) -> None:
    """The last activation's bounds, against the values before it in a network that ends there."""
    files = random_files(seed)
    d = found(files, kind, PARALLEL)
    network, draw = files.network, np.random.default_rng(seed)
    low, high = (side[0] for side in files.statements[0].region.box)
    x = low + draw.random((256, len(low))) * (high - low)
    for j, z in read_at(network, x):
        assert (z >= d.z[j][0] - 1e-9).all() and (z <= d.z[j][1] + 1e-9).all()
