"""Every affine op against the Jacobian that torch's autograd gives."""

import math

import pytest
import torch
from torch import Tensor

from verifier.graph import GraphBuilder
from verifier.ops.affine import Add, Linear, Reduce, Rescale
from verifier.ops.base import Affine
from verifier.ops.convolution import AvgPool2d, Conv2d, ConvTranspose2d
from verifier.ops.patches import Coefficients, dense
from verifier.ops.product import QuarterDifference, SumDifference
from verifier.ops.registry import OPS
from verifier.ops.shape import Concat, Pad, Reindex, Reshape
from verifier.types import Interval, Shape

torch.manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


MAP = (2, 5, 6)
CASES: list[tuple[str, Affine, tuple[Shape, ...]]] = [
    ("linear", Linear(rand(4, 3), rand(4)), ((3,),)),
    ("linear over the last axis", Linear(rand(4, 3), None), ((2, 3),)),
    ("rescale", Rescale(rand(2, 1, 1), rand(2, 5, 1)), (MAP,)),
    ("rescale all", Rescale(rand(3), rand(1)), ((3,),)),
    ("difference", Add((1, -1)), ((3,), (3,))),
    ("sum of three", Add((-1, 1, 1)), (MAP, MAP, MAP)),
    ("reduce", Reduce((0, 2), False, -0.5), (MAP,)),
    ("reduce, keeping axes", Reduce((1,), True, 1.0), (MAP,)),
    ("convolution", Conv2d(rand(3, 2, 3, 2), rand(3), (1, 1), (0, 0), (1, 1), 1), (MAP,)),
    ("strided", Conv2d(rand(3, 2, 2, 3), None, (2, 3), (1, 1), (1, 1), 1), (MAP,)),
    ("stride beyond the kernel", Conv2d(rand(3, 2, 1, 1), rand(3), (3, 2), (0, 1), (1, 1), 1), (MAP,)),
    ("rows left over", Conv2d(rand(3, 2, 2, 2), None, (3, 4), (0, 0), (1, 1), 1), (MAP,)),
    ("dilated", Conv2d(rand(3, 2, 2, 2), None, (1, 2), (2, 1), (3, 2), 1), (MAP,)),
    ("grouped", Conv2d(rand(4, 1, 3, 3), rand(4), (1, 1), (1, 1), (1, 1), 2), (MAP,)),
    ("transposed", ConvTranspose2d(rand(2, 3, 3, 2), rand(3), (2, 1), (1, 0), (1, 0), (1, 1), 1), (MAP,)),
    ("transposed, grouped", ConvTranspose2d(rand(2, 2, 2, 2), None, (1, 2), (0, 1), (0, 0), (2, 1), 2), (MAP,)),
    ("average", AvgPool2d((2, 3), (2, 1), (1, 1), True, False), (MAP,)),
    ("average counting", AvgPool2d((2, 2), (2, 2), (1, 0), False, True), (MAP,)),
    ("reshape", Reshape((10, 6)), (MAP,)),
    ("reindex, repeating", Reindex(torch.tensor([[5, 0], [5, 59], [7, 5]])), (MAP,)),
    ("concatenation", Concat(1), ((2, 1, 3), (2, 4, 3))),
    ("padding", Pad((1, 0, 0, 2), 0.75), (MAP,)),
    ("sum and difference", SumDifference(rand(2, 3).abs() + 0.1), ((2, 3), (2, 3))),
    ("quarter of the difference", QuarterDifference(), ((2, 3, 4),)),
]


@pytest.fixture(params=CASES, ids=lambda case: case[0])
def case(request: pytest.FixtureRequest) -> tuple[Affine, tuple[Shape, ...]]:
    return request.param[1:]


def jacobians(op: Affine, shapes: tuple[Shape, ...]) -> list[Tensor]:
    """For each input its matrix (outputs, inputs)."""
    zeros = tuple(torch.zeros(1, *shape, dtype=torch.float64) for shape in shapes)
    found = torch.autograd.functional.jacobian(op.forward, zeros)
    size = op.forward(*zeros).numel()
    return [j.reshape(size, math.prod(shape)) for j, shape in zip(found, shapes, strict=True)]


def output_shape(op: Affine, shapes: tuple[Shape, ...]) -> Shape:
    return tuple(op.forward(*(torch.zeros(1, *shape, dtype=torch.float64) for shape in shapes)).shape[1:])


def assert_coefficients(found: list[Coefficients], expected: list[Tensor], shapes: tuple[Shape, ...]) -> None:
    assert len(found) == len(expected) == len(shapes)
    for A, wanted, shape in zip(found, expected, shapes, strict=True):
        wanted = wanted.view(*wanted.shape[:2], *shape)
        torch.testing.assert_close(dense(A).expand_as(wanted), wanted, rtol=1e-12, atol=1e-12)


def test_every_affine_op_has_a_case() -> None:
    assert {type(op) for _, op, _ in CASES} == {op for op in OPS if issubclass(op, Affine)}


def test_forward_is_affine(case: tuple[Affine, tuple[Shape, ...]]) -> None:
    op, shapes = case
    x = [rand(4, *shape) for shape in shapes]
    constant = op.forward(*(torch.zeros(1, *shape, dtype=torch.float64) for shape in shapes)).flatten(1)
    linear = sum(v.flatten(1) @ j.T for v, j in zip(x, jacobians(op, shapes), strict=True))
    torch.testing.assert_close(op.forward(*x).flatten(1), linear + constant, rtol=1e-12, atol=1e-12)


def test_the_homogeneous_map_lacks_the_constant_alone(case: tuple[Affine, tuple[Shape, ...]]) -> None:
    op, shapes = case
    x = [rand(4, *shape) for shape in shapes]
    linear = sum(v.flatten(1) @ j.T for v, j in zip(x, jacobians(op, shapes), strict=True))
    torch.testing.assert_close(op.homogeneous.forward(*x).flatten(1), linear, rtol=1e-12, atol=1e-12)


def test_transpose_is_the_jacobian_from_the_left(case: tuple[Affine, tuple[Shape, ...]]) -> None:
    op, shapes = case
    A = rand(2, 3, *output_shape(op, shapes))
    assert_coefficients(op.transpose(A, *shapes), [A.flatten(2) @ j for j in jacobians(op, shapes)], shapes)


def test_rows_are_rows_of_the_jacobian(case: tuple[Affine, tuple[Shape, ...]]) -> None:
    op, shapes = case
    shape = output_shape(op, shapes)
    index = torch.randint(math.prod(shape), (2, 7))
    found = op.rows(index, torch.float64, shape, *shapes)
    assert_coefficients(found, [j[index] for j in jacobians(op, shapes)], shapes)


def test_magnitude_is_the_absolute_jacobian(case: tuple[Affine, tuple[Shape, ...]]) -> None:
    op, shapes = case
    radii = [rand(3, *shape).abs() for shape in shapes]
    expected = sum(r.flatten(1) @ j.abs().T for r, j in zip(radii, jacobians(op, shapes), strict=True))
    torch.testing.assert_close(op.magnitude(*radii).flatten(1), expected, rtol=1e-12, atol=1e-12)


def test_interval_is_attained_and_never_exceeded(case: tuple[Affine, tuple[Shape, ...]]) -> None:
    """The bound of each output is its value at the corner of the box that the signs of its row pick."""
    op, shapes = case
    boxes = [Interval(-rand(1, *shape).abs(), rand(1, *shape).abs()) for shape in shapes]
    bounds = op.interval(*boxes)
    matrices = jacobians(op, shapes)
    lower, upper = bounds.lower.flatten(), bounds.upper.flatten()
    for row in range(len(lower)):
        for sign, expected in ((1, upper), (-1, lower)):
            corner = [
                torch.where(sign * j[row] > 0, b.upper.flatten(), b.lower.flatten()).view(b.lower.shape)
                for j, b in zip(matrices, boxes, strict=True)
            ]
            torch.testing.assert_close(op.forward(*corner).flatten()[row], expected[row], rtol=1e-12, atol=1e-12)


def test_mixing_says_whether_coordinates_meet(case: tuple[Affine, tuple[Shape, ...]]) -> None:
    op, shapes = case
    if not op.mixing:
        for j in jacobians(op, shapes):
            assert (j != 0).sum(0).max() <= 1 and (j != 0).sum(1).max() <= 1


# Folding -----------------------------------------------------------------------------------------------------------

FOLDED: list[tuple[str, Shape, list[Affine]]] = [
    ("batch norm after linear", (3,), [Linear(rand(4, 3), rand(4)), Rescale(rand(4), rand(4))]),
    ("one number after linear", (3,), [Linear(rand(4, 3), None), Rescale(rand(1), rand(1))]),
    ("linear after normalisation", (3,), [Reshape((3,)), Rescale(rand(3), rand(1)), Linear(rand(4, 3), rand(4))]),
    ("two rescales", (3,), [Reshape((1, 3)), Rescale(rand(1, 3), rand(1, 1)), Rescale(rand(1, 1), rand(1, 3))]),
    (
        "batch norm after convolution",
        MAP,
        [Conv2d(rand(3, 2, 2, 2), rand(3), (1, 2), (1, 0), (1, 1), 1), Rescale(rand(3, 1, 1), rand(3, 1, 1))],
    ),
    (
        "batch norm after groups",
        MAP,
        [Conv2d(rand(4, 1, 2, 2), None, (1, 1), (0, 0), (1, 1), 2), Rescale(rand(4, 1, 1), rand(1, 1, 1))],
    ),
    (
        "convolution after normalisation",
        MAP,
        [
            Reshape(MAP),
            Rescale(rand(2, 1, 1), rand(2, 1, 1)),
            Conv2d(rand(3, 2, 2, 2), rand(3), (1, 1), (0, 0), (1, 1), 1),
        ],
    ),
    ("reshapes", MAP, [Reshape((60,)), Reshape((3, 20))]),
    ("reindexing", MAP, [Reindex(torch.randperm(60)), Reindex(torch.randint(60, (4, 2)))]),
]


@pytest.mark.parametrize(("shape", "ops"), [c[1:] for c in FOLDED], ids=[c[0] for c in FOLDED])
def test_folding_keeps_the_function(shape: Shape, ops: list[Affine]) -> None:
    builder, x = GraphBuilder(shape), rand(3, *shape)
    expected = x
    for op in ops:
        builder.add(op, len(builder.nodes) - 1)
        expected = op.forward(expected)
    graph = builder.finish()
    assert len(graph.nodes) < len(ops) + 1
    torch.testing.assert_close(graph(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(graph.nodes[-1].at_zero, graph(torch.zeros(1, *shape, dtype=torch.float64)))


UNFOLDED: list[tuple[str, Shape, list[Affine]]] = [
    (
        "padding comes between",
        MAP,
        [
            Reshape(MAP),
            Rescale(rand(2, 1, 1), rand(2, 1, 1)),
            Conv2d(rand(3, 2, 2, 2), None, (1, 1), (1, 1), (1, 1), 1),
        ],
    ),
    (
        "varying over the map",
        MAP,
        [Conv2d(rand(3, 2, 1, 1), None, (1, 1), (0, 0), (1, 1), 1), Rescale(rand(1, 1, 6), rand(1, 1, 1))],
    ),
    ("varying over another axis", (2, 3), [Linear(rand(4, 3), None), Rescale(rand(2, 1), rand(2, 1))]),
]


@pytest.mark.parametrize(("shape", "ops"), [c[1:] for c in UNFOLDED], ids=[c[0] for c in UNFOLDED])
def test_what_cannot_be_folded_is_kept(shape: Shape, ops: list[Affine]) -> None:
    test = GraphBuilder(shape)
    x = expected = rand(3, *shape)
    for op in ops:
        test.add(op, len(test.nodes) - 1)
        expected = op.forward(expected)
    torch.testing.assert_close(test.finish()(x), expected, rtol=1e-12, atol=1e-12)
    assert any(isinstance(node.op, Rescale) for node in test.finish().nodes)


def test_a_value_that_is_read_twice_is_not_folded_away() -> None:
    builder, first, second = GraphBuilder((3,)), Linear(rand(4, 3), rand(4)), Rescale(rand(4), rand(4))
    y = builder.add(first, 0)
    builder.add(Add((1, -1)), y, builder.add(second, y))
    graph, x = builder.finish(), rand(5, 3)
    value = first.forward(x)
    torch.testing.assert_close(graph(x), value - second.forward(value), rtol=1e-12, atol=1e-12)
    assert len(graph.nodes) == 4
