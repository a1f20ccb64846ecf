"""Maps made larger or smaller, axis by axis. One part of the stand-alone checker; it needs only numpy.

Where a new place lies among the old ones is a fraction, by ONNX's formulas and the scale as it is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

if __package__:
    from verifier.certificate.building import Building, Wire
    from verifier.certificate.nodes import MOST_VALUES, UNIT, Array, need
else:  # run as a file, with the others beside it
    from building import Building, Wire  # type: ignore
    from nodes import MOST_VALUES, UNIT, Array, need  # type: ignore

HALF = Fraction(1, 2)
ROUNDING = Fraction(1, 1 << 18)  # relative: more than runtimes' rounding moves a place


def centred(i: Any, scale: Any) -> Any:
    """Where the middle of the new place i lies, in the arithmetic of i."""
    half = type(i)(0.5)
    return (i + half) / scale - half


NEAREST: dict[bytes, Callable[[Any], int]] = {
    b"floor": math.floor,
    b"ceil": math.ceil,
    b"round_prefer_floor": lambda x: math.ceil(x - HALF),
    b"round_prefer_ceil": lambda x: math.floor(x + HALF),
}
COORDINATES: dict[bytes, Callable[..., Any]] = {
    # of a new place i, the scale, and how many places there were and are, all in one arithmetic
    b"asymmetric": lambda i, scale, n, m: i / scale,
    b"align_corners": lambda i, scale, n, m: i * (n - 1) / max(m - 1, 1),
    b"half_pixel": lambda i, scale, n, m: centred(i, scale),
    b"pytorch_half_pixel": lambda i, scale, n, m: centred(i, scale) if m > 1 else 0 * scale,
    b"half_pixel_symmetric": lambda i, scale, n, m: n / 2 * (1 - m / (scale * n)) + centred(i, scale),
}


def resize(net: Building, op: str, inputs: list[Any], a: dict[str, Any]) -> Any:
    """`Resize` and `Upsample`."""
    x, early = inputs[0], op == "Upsample" or (inputs[2] is None and inputs[3] is None)  # before operator set 11
    scales, sizes = (a.get("scales", inputs[1]), None) if early else inputs[2:4]
    by_size = sizes is not None and np.size(sizes) > 0
    given = np.ravel(np.asarray(sizes if by_size else scales)).tolist()
    axes, mode = [i % x.ndim for i in a.get("axes", range(x.ndim))], a.get("mode", b"nearest")
    way = b"asymmetric" if early else a.get("coordinate_transformation_mode", b"half_pixel")
    rule = b"floor" if early else a.get("nearest_mode", b"round_prefer_floor")
    plain = not a.get("antialias") and a.get("keep_aspect_ratio_policy", b"stretch") == b"stretch"
    known = mode in (b"nearest", b"linear") and way in COORDINATES and rule in NEAREST
    need(plain and known and len(given) == len(set(axes)) == len(axes), f"{op} of this kind is not supported")
    need(all(0 < value < MOST_VALUES for value in given), f"{op} by this scale")
    for axis, value in zip(axes, given, strict=True):
        n, exact = x.shape[axis], Fraction(value)
        m = int(value) if by_size else math.floor(n * exact)
        scale = Fraction(m, n) if by_size else exact
        if scale == 1 and m == n:
            continue
        need(m > 0 and (not early or scale > 1) and x.size // n * m < MOST_VALUES, f"{op} by this scale")
        need(by_size or m == math.floor(np.float32(n) * np.float32(value)), f"the size after {op} hangs on rounding")
        need(m != n, f"{op} to the same size by a scale other than 1")  # which some take for no change
        places = [COORDINATES[way](Fraction(i), scale, Fraction(n), Fraction(m)) for i in range(m)]
        x = taken(x, axis, places, scale, way, rule) if mode == b"nearest" else between(net, x, axis, places)
    return x


def taken(x: Any, axis: int, places: list[Fraction], scale: Fraction, way: bytes, rule: bytes) -> Any:
    """The values nearest to places along an axis, if nothing hangs on how a runtime rounds."""
    n, m = x.shape[axis], len(places)
    nearest = [chosen(place, n, rule) for place in places]
    for i, place in enumerate(places):
        room = ROUNDING * (1 + abs(place))
        apart = chosen(place - room, n, rule) == chosen(place + room, n, rule)
        if not apart:  # then it must be a place where the choice changes, and every arithmetic must meet it
            numbers = (i, float(scale), n, m)
            met = [COORDINATES[way](*map(kind, numbers)) == place for kind in (np.float32, np.float64)]
            plain = (2 * place).denominator == 1 and way != b"half_pixel_symmetric"  # a sum, in whatever order
            need(plain and all(met), "the nearest place hangs on rounding")
    return x.take(nearest, axis)


def chosen(place: Fraction, n: int, rule: bytes) -> int:
    """The one of n places that is taken for a fractional one."""
    return min(max(NEAREST[rule](place), 0), n - 1)


def between(net: Building, x: Any, axis: int, places: list[Fraction]) -> Any:
    """Linear interpolation at places along an axis. In float32 the shares are rounded, which no claim covers."""
    net.double = True
    moved, n = np.moveaxis(x, axis, -1), x.shape[axis]
    below = [math.floor(place) for place in places]
    shares = [place - i for place, i in zip(places, below, strict=True)]
    weight: Array = np.array([[[float(1 - share)], [float(share)]] for share in shares])
    exact = all(Fraction(float(share)) == share for share in shares)
    index = np.clip(np.array([below, [i + 1 for i in below]]).T, 0, n - 1)
    read = np.moveaxis(moved[..., index].reshape(-1, *index.shape), 1, 0).view(Wire)
    y = net.affine(read, weight, 0.0, 2, 0.0 if exact else 2 * UNIT)
    return np.moveaxis(np.moveaxis(y[..., 0], 0, -1).reshape(*moved.shape[:-1], len(places)), -1, axis)
