"""Products of what depends on the input, and what is made of them. One part of the stand-alone checker.

A product is a difference of squares, x y = ((a x + y / a)^2 - (a x - y / a)^2) / 4 for any a > 0; a certificate states
powers of two, with which the bounds of the squares are good.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

if __package__:
    from verifier.certificate.building import Building, Wire
    from verifier.certificate.folding import OFF, Near
    from verifier.certificate.nodes import UNIT, Array, need
else:  # run as a file, with the others beside it
    from building import Building, Wire  # type: ignore
    from folding import OFF, Near  # type: ignore
    from nodes import UNIT, Array, need  # type: ignore

MOST_CLASSES = 64  # of a softmax, whose exponentials are as many as pairs of classes


def multiplied(net: Building, x: Any, y: Any) -> Any:
    """The product of two tensors of scalars, elementwise with broadcasting."""
    x, y = (array.view(Wire) for array in np.broadcast_arrays(x, y))
    if np.array_equal(x, y):
        return net.smooth("Power", x, 2.0)
    known = gated(net, x, y)
    if known is not None:
        return known
    a = net.scale(x.size)[:, None, None]
    pairs = np.stack((x.ravel(), y.ravel()), axis=-1)[:, None].view(Wire)
    weight = np.concatenate((np.repeat(a, 2, axis=2), np.concatenate((1 / a, -1 / a), axis=2)), axis=1)
    if (a == 1).all():  # one weight for all
        pairs, weight = pairs.reshape(1, -1, 2).view(Wire), weight[:1]
    both = net.affine(pairs, weight, 0.0, 2).reshape(-1, 2)
    squares = net.smooth("Power", both.T, 2.0)
    return net.affine(squares.T[None], [[[0.25], [-0.25]]], 0.0, 2).reshape(x.shape)


def gated(net: Building, x: Any, y: Any) -> Any:
    """x sigmoid(x), and x (1 + erf(k x)), as one function; else None."""
    for value, gate in ((x, y), (y, x)):
        node, read = net.origin(gate)
        if node is None:
            continue
        if node.op == "Sigmoid" and np.array_equal(read, value.ravel()):
            return net.smooth("Silu", value)
        if node.op != "affine" or not ((node.weight.array == 1).all() and (node.bias == 1).all()):
            continue
        curve, inner = net.origin(read)
        scaled, source = net.origin(inner) if curve is not None and curve.op == "Erf" else (None, read)
        if scaled is None or scaled.op != "affine" or scaled.bias.any() or not np.array_equal(source, value.ravel()):
            continue
        factors = np.unique(scaled.weight.array)
        if len(factors) == 1 and 1e-9 < factors[0] < 1e9:
            k = math.sqrt(2) * float(factors[0])  # x (1 + erf(k x / sqrt(2))) is gelu(k x) 2 / k
            return net.scaled(net.smooth("Gelu", net.scaled(value, k, 0.0, 1, 8 * UNIT)), 2 / k, 0.0, 1, 8 * UNIT)
    return None


def product(net: Building, op: str, inputs: list[Any], a: dict[str, Any]) -> Any:
    """Mul and Div."""
    x, y = inputs[:2]
    if op == "Div" and isinstance(y, Wire):
        y = net.smooth("Reciprocal", y)
    elif op == "Div":
        need((np.abs(y) < 2.0**1000).all(), "a divisor is too large")  # for its inverse to be a normal number
        return net.scaled(x, 1 / y, 0.0, 1, 2 * UNIT)
    if isinstance(x, Wire) and isinstance(y, Wire):
        return multiplied(net, x, y)
    x, y = (x, y) if isinstance(x, Wire) else (y, x)
    return net.scaled(x, np.asarray(y), 0.0, 1, OFF * isinstance(y, Near))


def matmul(net: Building, op: str, inputs: list[Any], a: dict[str, Any]) -> Any:
    x, y = inputs[:2]
    if isinstance(x, Wire) and isinstance(y, Wire):
        need(min(x.ndim, y.ndim) >= 2 and x.shape[-1] == y.shape[-2], "MatMul of two values that are no matrices")
        terms = multiplied(net, x[..., None, :], np.swapaxes(y, -1, -2)[..., None, :, :])
        return net.mean(terms, np.ones(terms.shape), False)
    if not isinstance(x, Wire):
        need(x.ndim <= 2 <= y.ndim, "MatMul needs one constant matrix")
        found = matmul(net, op, [np.swapaxes(y, -1, -2), x.T], a)
        return found if x.ndim == 1 else np.swapaxes(found, -1, -2)
    while y.ndim > 2 and len(y) == 1 and y.ndim <= x.ndim:
        y = y[0]
    need(y.ndim <= 2, "MatMul needs one constant matrix")
    weight = np.asarray(y).reshape(1, len(y), -1)
    found = net.affine(x.reshape(1, -1, x.shape[-1]), weight, 0.0, len(y), OFF * isinstance(y, Near))
    return found.reshape(*x.shape[:-1], *y.shape[1:])


def softmax(net: Building, op: str, inputs: list[Any], a: dict[str, Any]) -> Any:
    """1 / sum_j exp(x_j - x_i), or minus the logarithm of that sum."""
    x, old = inputs[0], any(o.version < 13 for o in net.opsets if o.domain in ("", "ai.onnx"))
    axis = a.get("axis", 1 if old else -1) % x.ndim
    moved = x.reshape(*x.shape[:axis], -1) if old else np.moveaxis(x, axis, -1)
    n = moved.shape[-1]
    need(n <= MOST_CLASSES, f"{op} of more than {MOST_CLASSES} values is not supported")
    one: Array = np.eye(n)
    differences = (one[:, None, :] - one[:, :, None]).reshape(n, n * n)  # column (i, j): x_j - x_i
    terms = net.smooth("Exp", net.affine(moved.reshape(1, -1, n), differences[None], 0.0, 2).reshape(*moved.shape, n))
    total = net.mean(terms, np.ones(terms.shape), False)
    found = net.smooth("Reciprocal", total) if op == "Softmax" else net.scaled(net.smooth("Log", total), -1.0, 0.0, 0)
    return found.reshape(x.shape) if old else np.moveaxis(found, -1, axis)
