"""Symbolic bounds against backward CROWN, whose bounds they must equal, and against samples."""

import pytest
import torch
from nets import random_case
from torch import Tensor

from verifier.bounds import symbolic
from verifier.bounds.backward import concretise, pull_back
from verifier.bounds.crown import Crown, fixed_slopes
from verifier.bounds.interval import output_form, propagate
from verifier.bounds.symbolic import Form, forward_bounds, moving, symbolic_bounds
from verifier.types import Box


def start_of(lower: torch.Tensor, upper: torch.Tensor) -> Form:
    """The input forms (1, 1 + inputs, *shape) of one box in which every input varies."""
    size = lower.numel()
    form = torch.zeros(1, 1 + size, size, dtype=lower.dtype)
    form[:, 0] = ((lower + upper) / 2).flatten(1)
    form[:, 1:] = torch.diag(((upper - lower) / 2).flatten())
    return Form(form.view(1, 1 + size, *lower.shape[1:]), torch.zeros_like(lower))


@pytest.mark.parametrize("seed", range(30))
def test_they_equal_backward_crown(seed: int) -> None:
    case = random_case(seed)
    graph, box = case.graph, case.prop.region.box()
    C, d, _ = case.prop.rows
    crown = Crown()(graph, box, C.unsqueeze(0))
    start = start_of(box.lower, box.upper)
    found = symbolic_bounds(graph, start, crown.nodes, C.unsqueeze(0), d.unsqueeze(0))
    for node, z in crown.nodes.items():
        torch.testing.assert_close(found.nodes[node].lower, z.lower, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.nodes[node].upper, z.upper, rtol=1e-9, atol=1e-9)
    lines = fixed_slopes(graph, "adaptive")(len(graph.nodes), crown.nodes)
    A = output_form(graph, C.unsqueeze(0), 1)
    form, constant = pull_back(graph, {graph.output: A}, A.new_zeros(A.shape[:2]), lines)
    torch.testing.assert_close(found.lower, concretise(form, constant, box, {}) + d, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_hidden_bounds_lie_between_crown_and_what_was_known(seed: int) -> None:
    case = random_case(seed)
    graph, box = case.graph, case.prop.region.box()
    C, d, _ = case.prop.rows
    known = propagate(graph, box)[1]
    found = symbolic_bounds(graph, start_of(box.lower, box.upper), known, C.unsqueeze(0), d.unsqueeze(0)).nodes
    crown = Crown()(graph, box, C.unsqueeze(0)).nodes
    first = min(known)
    for node in known:
        assert (found[node].lower >= known[node].lower).all() and (found[node].upper <= known[node].upper).all()
        values = graph.values(box.lower + torch.rand(200, *graph.input_shape).to(box.lower) * (box.upper - box.lower))
        assert (values[node] >= found[node].lower - 1e-9).all() and (values[node] <= found[node].upper + 1e-9).all()
    torch.testing.assert_close(found[first].lower, crown[first].lower, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_the_linear_functions_stay_below_the_rows(seed: int) -> None:
    case = random_case(seed)
    graph, box = case.graph, case.prop.region.box()
    C, d, _ = case.prop.rows
    start = start_of(box.lower, box.upper).terms
    found = symbolic_bounds(
        graph, start_of(box.lower, box.upper), propagate(graph, box)[1], C.unsqueeze(0), d.unsqueeze(0)
    )
    t = (
        2 * torch.rand(500, start.shape[1] - 1, dtype=box.lower.dtype, generator=torch.Generator().manual_seed(seed))
        - 1
    )
    inputs = (start[0, 0].flatten() + t @ start[0, 1:].flatten(1)).view(-1, *graph.input_shape)
    rows = graph(inputs).flatten(1) @ C.T + d
    below = found.linear[0, 0] + t @ found.linear[0, 1:]
    assert (rows >= below - 1e-9).all()
    # The blame accounts for the distance: it bounds what is lost between a row and its linear function.
    assert ((rows - below).amax(0) <= found.blame[0].sum(0) + 1e-9).all()


@pytest.mark.parametrize("seed", range(10))
def test_sparse_products_change_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two boxes at once, one within the other, whose symbols then are one sparse matrix."""
    case = random_case(seed)
    graph, box = case.graph, case.prop.region.box()
    boxes = Box(torch.cat((box.lower, box.center)), torch.cat((box.upper, box.upper)))
    C = case.prop.rows[0].expand(2, -1, -1)
    found = [forward_bounds(graph, boxes, propagate(graph, boxes)[1], C, 1 << 30)]
    monkeypatch.setattr(symbolic, "LARGE", 1)
    monkeypatch.setattr(symbolic, "SPARSE", 1)
    sparse: list[Tensor] = []
    compressed = symbolic._compressed
    monkeypatch.setattr(symbolic, "_compressed", lambda read: sparse.append(compressed(read)) or sparse[-1])
    found.append(forward_bounds(graph, boxes, propagate(graph, boxes)[1], C, 1 << 30))
    assert sparse and all(read.is_sparse for read in sparse if read.numel())
    (lower, nodes), (other, same) = found
    torch.testing.assert_close(lower, other, rtol=1e-12, atol=1e-12)
    for node, z in nodes.items():
        torch.testing.assert_close(z.lower, same[node].lower, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(z.upper, same[node].upper, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_inputs_fixed_at_decimals_are_errors_not_variables(seed: int) -> None:
    """An interval as narrow as rounding takes no term; the bounds still hold at its ends."""
    case = random_case(seed)
    graph, box = case.graph, case.prop.region.box()
    fixed = torch.rand(box.lower.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    lower = torch.where(fixed, box.center, box.lower)
    upper = torch.where(fixed, box.center + 2.0**-44 * box.center.abs(), box.upper)
    narrow = Box(lower, upper)
    assert moving(narrow).tolist() == (~fixed & (upper > lower)).flatten().nonzero().flatten().tolist()
    C = case.prop.rows[0].unsqueeze(0)
    found, nodes = forward_bounds(graph, narrow, propagate(graph, narrow)[1], C, 1 << 30)
    points = torch.where(torch.rand(200, *graph.input_shape) < 0.5, lower, upper)
    values = graph.values(points)
    assert (values[-1].flatten(1) @ C[0].T >= found - 1e-12).all()
    for node, z in nodes.items():
        assert (values[node] >= z.lower - 1e-12).all() and (values[node] <= z.upper + 1e-12).all()


def test_forms_that_take_too_much_memory_or_time_are_given_up() -> None:
    case = random_case(1)
    graph, box, C = case.graph, case.prop.region.box(), case.prop.rows[0].unsqueeze(0)
    known = propagate(graph, box)[1]
    for lower, nodes in (forward_bounds(graph, box, known, C, 1), forward_bounds(graph, box, known, C, 1 << 30, 0.0)):
        assert lower.isneginf().all() and nodes.keys() == known.keys()
        assert all(nodes[i] is known[i] for i in known)
