"""Windows of coefficients against the dense rows that torch's autograd gives."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.ops.affine import Add, Rescale
from verifier.ops.convolution import Conv2d
from verifier.ops.patches import Patches, add, dense, dot, negated, unit_patches, with_negative
from verifier.types import Shape


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def conv(
    outputs: int, inputs: int, kernel: int, stride: int, padding: int, dilation: int = 1, groups: int = 1
) -> Conv2d:
    weight = rand(outputs, inputs // groups, kernel, kernel)
    return Conv2d(weight, rand(outputs), (stride, stride), (padding, padding), (dilation, dilation), groups)


def shape_after(op: Conv2d, shape: Shape) -> Shape:
    return tuple(op.forward(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])


def jacobian(function, shape: Shape) -> Tensor:
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    return torch.autograd.functional.jacobian(function, zero).reshape(-1, *shape)


CHAINS = list(itertools.product((1, 2, 3), (0, 1, 2), (1, 2), (1, 2)))  # stride, padding, dilation, groups


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), CHAINS)
def test_rows_pulled_back_through_two_convolutions(stride: int, padding: int, dilation: int, groups: int) -> None:
    torch.manual_seed(0)
    shape: Shape = (2, 13, 12)
    first, second = conv(4, 2, 3, stride, padding, dilation, groups), conv(3, 4, 2, 1, padding, 1, 1)
    middle = shape_after(first, shape)
    last = shape_after(second, middle)
    index = torch.randint(math.prod(last), (2, 9))
    scale = Rescale(rand(4, 1, 1), rand(4, 1, 1))
    (rows,) = second.rows(index, torch.float64, last, middle)
    (scaled,) = scale.transpose(rows, middle)
    (found,) = first.transpose(scaled, shape)
    expected = jacobian(lambda x: second.forward(scale.forward(first.forward(x))), shape)[index]
    torch.testing.assert_close(dense(found), expected, rtol=1e-12, atol=1e-12)
    if isinstance(found, Patches):
        for maps in (rand(1, *shape), rand(2, *shape)):
            torch.testing.assert_close(dot(found, maps), (expected * maps.unsqueeze(1)).flatten(2).sum(2))
            cut = found.masked().values * found.windows(maps)
            torch.testing.assert_close(cut.sum((3, 4, 5)).flatten(1), (expected * maps.unsqueeze(1)).flatten(2).sum(2))


def test_a_window_stays_a_window_until_it_fills_the_map() -> None:
    op = conv(3, 2, 3, 1, 1)
    for size, kept in ((12, True), (3, False)):
        shape = (2, size, size)
        (rows,) = op.rows(torch.arange(4).view(1, 4), torch.float64, shape_after(op, shape), shape)
        assert isinstance(rows, Patches) is kept


def test_many_windows_take_the_same_values_as_few() -> None:
    """From some number of rows on, convolutions of windows become one matrix product."""
    torch.manual_seed(0)
    shape: Shape = (2, 12, 12)
    first, second = conv(4, 2, 3, 2, 1), conv(3, 4, 3, 1, 1)
    middle = shape_after(first, shape)
    last = shape_after(second, middle)
    every = torch.arange(math.prod(last)).repeat(4).view(2, -1)
    assert every.numel() > 4 * 3 * 3 * 4
    (many,) = first.transpose(second.rows(every, torch.float64, last, middle)[0], shape)
    few = [first.transpose(second.rows(part, torch.float64, last, middle)[0], shape)[0] for part in every.split(5, 1)]
    torch.testing.assert_close(dense(many), torch.cat([dense(part) for part in few], 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_sums_of_windows_over_residual_branches(stride: int) -> None:
    torch.manual_seed(0)
    shape: Shape = (2, 12, 12)
    long, short = conv(3, 2, 3, stride, 1), conv(3, 2, 1, stride, 0)
    last = shape_after(long, shape)
    assert shape_after(short, shape) == last
    index = torch.randint(math.prod(last), (2, 9))
    unit = unit_patches(index, torch.float64, last)
    left, right = Add((1, -1)).transpose(unit, last, last)
    total = add(long.transpose(left, shape)[0], short.transpose(right, shape)[0])
    assert isinstance(total, Patches)
    expected = jacobian(lambda x: long.forward(x) - short.forward(x), shape)[index]
    torch.testing.assert_close(dense(total), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dense(add(total, expected)), 2 * expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dense(add(expected, total)), 2 * expected, rtol=1e-12, atol=1e-12)


def test_sums_of_windows_on_different_grids() -> None:
    torch.manual_seed(0)
    shape: Shape = (1, 12, 12)
    index = torch.tensor([[0, 5, 15]])
    operands = []
    for op in (conv(1, 1, 3, 3, 0), conv(1, 1, 3, 1, 0)):
        operands.append(op.rows(index, torch.float64, shape_after(op, shape), shape)[0])
    assert all(isinstance(A, Patches) for A in operands)
    torch.testing.assert_close(dense(add(*operands)), dense(operands[0]) + dense(operands[1]))


def test_negation_and_both_signs() -> None:
    op, shape = conv(3, 2, 3, 1, 1), (2, 12, 12)
    (rows,) = op.rows(torch.tensor([[0, 100, 431], [7, 8, 9]]), torch.float64, (3, 12, 12), shape)
    assert isinstance(rows, Patches)
    expected = rows.dense()
    torch.testing.assert_close(dense(negated(rows)), -expected)
    both = with_negative(rows)
    torch.testing.assert_close(dense(both), torch.cat((expected, -expected), 1))
    torch.testing.assert_close(with_negative(expected), torch.cat((expected, -expected), 1))
    maps = rand(2, *shape)
    values = (expected * maps.unsqueeze(1)).flatten(2).sum(2)
    torch.testing.assert_close(dot(both, maps), torch.cat((values, -values), 1))
    pulled = conv(2, 4, 3, 1, 1)
    torch.testing.assert_close(
        dense(pulled.transpose(both, (4, 12, 12))[0]),
        F.conv_transpose2d(dense(both).flatten(0, 1), pulled.weight, padding=1).unflatten(0, (2, 6)),
    )
