"""Lines below and above an activation, and what they cost. One part of the stand-alone checker; it needs only numpy."""

from __future__ import annotations

import numpy as np

if __package__:
    from verifier.certificate.arithmetic import Prepared
    from verifier.certificate.exact import Exact
    from verifier.certificate.nodes import Array, Node
    from verifier.certificate.rounded import Rounded
else:  # run as a file, with the others beside it
    from arithmetic import Prepared  # type: ignore
    from exact import Exact  # type: ignore
    from nodes import Array, Node  # type: ignore
    from rounded import Rounded  # type: ignore

Sides = tuple[Array, Array]  # lower and upper


def default_slopes(node: Node, l: Array, u: Array, single: bool) -> Array:
    """Of lines below and above an activation, (2, d, n): of a few, those best in the middle of [l, u]."""
    middle = (l + u) / 2
    if node.op == "Relu":  # the same in short
        chord = np.divide(u, u - l, out=(l >= 0).astype(np.float64), where=(l < 0) & (u > 0))
        return np.stack((np.where(u <= 0, 0.0, (middle > 0) | (l >= 0)), chord))
    if node.curve is not None:
        pieces, z, y = node.curve.slopes(l, u)
        slopes = np.stack(pieces)
    else:
        z = np.stack([l, u, *(np.clip(b, l, u) for b in node.breaks)])
        y = node.values(z, single)[0]
        chord = np.divide(y[1] - y[0], u - l, out=np.zeros_like(l), where=u > l)
        slopes = np.stack([*(np.full_like(l, slope) for slope in node.slopes), chord])
    offsets = y - slopes[:, None] * z
    last = np.arange(len(slopes)).reshape(-1, 1, 1) * (u - l) * 2.0**-30  # prefers the first of equals
    heights = (slopes * middle + offsets.min(1) - last, slopes * middle + offsets.max(1) + last)
    best = (heights[0].argmax(0), heights[1].argmin(0))
    return np.stack([np.take_along_axis(slopes, i[None], 0)[0] for i in best])


def points(node: Node, l: Array, u: Array, slope: Array, above: bool, single: bool) -> list[tuple[Array, Array]]:
    """Pairs (p, q) such that act(z) - slope z >= min of p - slope q (above: <= max) for every z in [l, u]."""
    if node.curve is not None:
        return node.curve.points(l, u, slope, above)
    pairs = []
    for z in (l, u, *(np.clip(b, l, u) for b in node.breaks)):
        low, high = node.values(z, single)
        pairs.append((high if above else low, z))
    return pairs


def relaxed(
    arithmetic: Exact | Rounded,
    node: Node,
    l: Array,
    u: Array,
    slopes: Array,
    constants: Sides | None,
    single: bool,
    kept: Array | None = None,
) -> Prepared:
    """What a pull pays at an activation. constants: of the affine op below it, where that is paid here as well.

    kept: above ReLUs, lines are to be above this share of them only, in [0, 1].
    """
    below, above = slopes
    low, high = np.zeros(l.shape), np.zeros(l.shape)
    bent = np.ones(l.shape, dtype=bool)
    if node.op == "Relu":  # beyond the bend, lines with the slope of ReLU are ReLU
        side = np.where(l >= 0, 1.0, np.where(u <= 0, 0.0, np.nan))
        bent = (below != side) | (above != side)
    l_, u_, a, b = (x[bent] for x in (l, u, below, above))
    low[bent] = arithmetic.offset(points(node, l_, u_, a, False, single), a)
    tops = points(node, l_, u_, b, True, single)
    if kept is not None:
        tops = [(scaled_up(p, kept[bent]), q) for p, q in tops]
    high[bent] = -arithmetic.offset([(-p, -q) for p, q in tops], b)
    reach = np.maximum(np.abs(l), np.abs(u))
    return arithmetic.activation(below, above, low, high, reach, constants)


def scaled_up(p: Array, kept: Array) -> Array:
    """Numbers not below p times shares in [0, 1], where p >= 0."""
    return np.where(kept < 1, np.where((p > 0) & (kept > 0), np.nextafter(p * kept, np.inf), 0.0), p)
