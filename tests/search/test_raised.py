"""Planes above ReLUs, against sampled inputs, finite differences and linear programs over the whole convex hull."""

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from nets import Case, random_case, samples
from torch import nn

from verifier.bounds.crown import Crown
from verifier.graph import Graph
from verifier.load import from_module
from verifier.search.bab import BranchAndBound
from verifier.search.neurons import NeuronSplits
from verifier.search.planes import STEPS, Raised, can_be_raised, raised
from verifier.search.rows import Rows
from verifier.search.segments import SegmentEvaluator, for_graph
from verifier.search.task import Task
from verifier.search.tighten import Tightening
from verifier.search.units import Units
from verifier.spec.property import HalfSpaces
from verifier.types import Box

SEEDS = range(16)


def box_of(inputs: int) -> Box:
    """All inputs in [-1, 1]."""
    return Box(-torch.ones(1, inputs, dtype=torch.float64), torch.ones(1, inputs, dtype=torch.float64))


def planes_of(graph: Graph, box: Box, C: torch.Tensor) -> Raised | None:
    """Planes for the rows C; None where no unit is a ReLU."""
    nodes = dict(Crown()(graph, box, C.unsqueeze(0)).nodes)
    units, rows = Units.of(graph, nodes), Rows(C.unsqueeze(1), C.new_zeros(len(C), 1))
    if not can_be_raised(units):
        return None
    evaluator = for_graph(graph, box, nodes, units)
    assert isinstance(evaluator, SegmentEvaluator)
    plain = NeuronSplits(evaluator, rows, math.inf, 20, 4)
    return raised(plain, graph, nodes, time.monotonic() + 60)


def raised_case(seed: int) -> tuple[Case, Box, Raised]:
    """A random network with its box and planes."""
    case = random_case(seed, most=12)
    box = case.prop.region.box()
    better = planes_of(case.graph, box, case.C)
    if better is None:
        pytest.skip("no unit is a ReLU")
    return case, box, better


@pytest.mark.parametrize("seed", SEEDS)
def test_planes_are_above_what_their_neurons_compute(seed: int) -> None:
    case, box, better = raised_case(seed)
    values = [samples(box.lower, box.upper, 300)[0]]
    for node in case.graph.nodes[1:]:
        values.append(node.op.forward(*(values[i] for i in node.inputs)))
    radius, varying = box.radius.flatten(), better.evaluator.coordinates.varying
    x = ((values[0] - box.center).flatten(1) / radius)[:, varying]
    sources, checked = {0: x.T}, 0
    for layer in better.evaluator.layers:
        y = values[layer.activation].flatten(1)[:, layer.living].T
        if layer.above is not None:
            excess = layer.above.forward(sources) - y[: layer.count]
            assert float(excess.min()) >= -1e-9
            checked += layer.count
        sources[layer.activation] = y
    assert checked == int(better.evaluator.units.planes.sum())


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_with_planes_hold_and_their_gradient_is_that_of_the_bound(seed: int) -> None:
    case, box, better = raised_case(seed)
    evaluator, units = better.evaluator, better.evaluator.units
    generator, n = torch.Generator().manual_seed(seed), len(case.C)
    l, u = units.lower.expand(n, -1), units.upper.expand(n, -1)
    relaxed, gamma = units.relaxed(l, u), torch.zeros(n, len(units), dtype=torch.float64)
    alpha = 0.1 + 0.8 * torch.rand(n, 2, len(units), generator=generator, dtype=torch.float64)

    def bound(alpha: torch.Tensor) -> torch.Tensor:
        return evaluator.backward(relaxed.at(alpha), gamma, torch.zeros(n, dtype=torch.float64), case.C).bound

    least = (case.graph(samples(box.lower, box.upper, 300)[0]).flatten(1) @ case.C.T).amin(0)
    assert (bound(alpha) <= least + 1e-9).all()
    back = evaluator.backward(relaxed.at(alpha), gamma, torch.zeros(n, dtype=torch.float64), case.C)
    gradient = relaxed.gradient(alpha, back.v, evaluator.forward(back))
    # The bound is piecewise linear in each share alone: the middle of two near values tells where it is not smooth.
    for k, j in itertools.product(range(2), range(len(units))):
        step = torch.zeros_like(alpha)
        step[:, k, j] = 1e-6
        up, down = (bound(alpha + step) - bound(alpha)) / 1e-6, (bound(alpha) - bound(alpha - step)) / 1e-6
        smooth = (up - down).abs() < 1e-4 * (1 + up.abs())
        torch.testing.assert_close(gradient[:, k, j][smooth], up[smooth], rtol=1e-3, atol=1e-5)


def hull_bound(W: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[float, float]:
    """The least c . relu(W x + b) over x in [-1, 1]^n, each ReLU in the triangle over its input, and in the convex hull
    of its graph over the box (all facets of Anderson et al. 2020), by linear programs."""
    k, n = W.shape
    below = [np.concatenate((W[j], -np.eye(k)[j])) for j in range(k)]
    limits, triangles, facets = [-b[j] for j in range(k)], [], []
    for j in range(k):
        reach = abs(W[j]).sum()
        l, u = b[j] - reach, b[j] + reach
        if u <= 0 or l >= 0:
            slope = float(l >= 0)
            triangles.append((slope * W[j], slope * b[j], j))
            facets.append(triangles[-1])
            continue
        triangles.append((u / (u - l) * W[j], u / (u - l) * (b[j] - l), j))
        for chosen in itertools.product((0, 1), repeat=n):
            I = np.array(chosen, dtype=bool)
            gap = b[j] + abs(W[j][~I]).sum() - abs(W[j][I]).sum()  # of what I leaves at its best, and I at its worst
            for h in np.nonzero(~I)[0]:
                if gap >= 0 and gap - 2 * abs(W[j][h]) < 0:
                    slope = np.where(I, W[j], 0.0)
                    constant = abs(W[j][I]).sum()
                    slope[h] = gap / 2 * np.sign(W[j][h])
                    facets.append((slope, constant + gap / 2, j))
    answers = []
    for planes in (triangles, facets):
        rows = below + [np.concatenate((-slope, np.eye(k)[j])) for slope, _, j in planes]
        right = limits + [constant for _, constant, _ in planes]
        bounds = [(-1, 1)] * n + [(0, None)] * k
        answers.append(scipy.optimize.linprog(np.concatenate((np.zeros(n), c)), rows, right, bounds=bounds).fun)
    return answers[0], answers[1]


def narrow_case(seed: int) -> tuple[Graph, float, float]:
    """A network from five inputs to a sum of eight ReLUs, and its least outputs by triangles and by convex hulls."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    W, b, c = (p.detach().numpy() for p in (net[0].weight, net[0].bias, net[2].weight[0]))
    triangle, hull = (bound + float(net[2].bias.detach()) for bound in hull_bound(W, b, c))
    assert triangle + 0.01 < hull
    return from_module(net, (5,)).to(torch.float64), triangle, hull


@pytest.mark.parametrize("seed", range(8))
def test_the_ascent_comes_near_the_best_planes_of_the_convex_hull(seed: int) -> None:
    """At least two thirds of what the hull gains over triangles, and never more than all of it."""
    graph, triangle, hull = narrow_case(seed)
    better = planes_of(graph, box_of(5), torch.ones(1, 1, dtype=torch.float64))
    assert better is not None
    units = better.evaluator.units
    l, u = units.lower.unsqueeze(0), units.upper.unsqueeze(0)
    lines, zeros = units.relaxed(l, u).at(better.start[:, :-1].double()), torch.zeros_like(l)
    own = float(better.evaluator.backward(lines, zeros, zeros[:, 0], torch.ones(1, 1, dtype=torch.float64)).bound)
    assert own <= hull + 1e-9
    assert own >= triangle + 2 / 3 * (hull - triangle) - 1e-6


@pytest.mark.parametrize("seed", range(8))
def test_what_planes_prove_is_not_tightened_before(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the way from the triangles' bound to the hull's: no triangle proves it, planes do."""
    graph, triangle, hull = narrow_case(seed)
    tightened, original = list[int](), Tightening.__call__

    def noted(self: Tightening, *args: Any) -> Any:
        tightened.append(self.rounds)
        return original(self, *args)

    monkeypatch.setattr(Tightening, "__call__", noted)
    d = torch.full((1,), -(triangle + (hull - triangle) / 3), dtype=torch.float64)
    unsafe = {0: HalfSpaces(torch.ones(1, 1, dtype=torch.float64), d)}
    nodes = Crown()(graph, box_of(5), unsafe[0].C.unsqueeze(0)).nodes
    task = Task(graph, box_of(5), unsafe, nodes, 0.0, time.monotonic() + 60, lambda points: False)
    outcome = BranchAndBound(input_limit=0, trial_limit=0)(task)
    assert 0 < outcome.proved[0] <= 2 / 3 * (hull - triangle) + 1e-9
    assert outcome.nodes == 1 and tightened == [0]


@pytest.mark.parametrize("seed", range(8))
def test_an_ascent_gives_up_what_is_out_of_reach(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as far as the hull is better than triangles: the ascent ends early, unless it is to go on."""
    graph, triangle, hull = narrow_case(seed)
    count, original = [0], SegmentEvaluator.backward

    def counted(self: SegmentEvaluator, *args: Any) -> Any:
        count[0] += 1
        return original(self, *args)

    C, d = torch.ones(1, 1, 1).double(), torch.full((1, 1), -(hull + 10 * (hull - triangle)), dtype=torch.float64)
    nodes = dict(Crown()(graph, box_of(5), C[0].unsqueeze(0)).nodes)
    evaluator = for_graph(graph, box_of(5), nodes, Units.of(graph, nodes))
    assert isinstance(evaluator, SegmentEvaluator)
    splits, steps, lacking = NeuronSplits(evaluator, Rows(C, d), 0.0, 20, 4), dict[bool, int](), dict[bool, float]()
    monkeypatch.setattr(SegmentEvaluator, "backward", counted)
    for whole in (True, False):
        count[0] = 0
        lacking[whole] = raised(splits, graph, nodes, math.inf, whole).lacking
        steps[whole] = count[0]
    assert steps[True] == STEPS + 1 and steps[False] < STEPS / 2
    assert 0 < lacking[True] <= lacking[False] <= 1
