"""Properties -> VNN-LIB 1.0 text, so that a certificate is about a file that anybody can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import torch

from verifier.errors import SpecificationError
from verifier.spec.property import HalfSpaces, Property, Region


def vnnlib(*properties: Property, comments: Sequence[str] = ()) -> str:
    """The text that states properties exactly: its reader gets the very same numbers. comments: lines to begin with.

    VNN-LIB states boxes; that inputs lie in an l2 or l1 ball is one more assertion of SMT-LIB, `(<= (+ (* d d) ...) r)`
    or `(<= (+ (abs d) ...) r)` for the differences d from the centre. Raises SpecificationError for several balls.
    """
    first = properties[0]
    if len(properties) > 1 and not all(prop.region.is_box for prop in properties):
        raise SpecificationError("a certificate is about one l2 or l1 ball, or about boxes")
    comments = [*comments, *(prop.about for prop in properties if prop.about)]
    lines = [f"; {' '.join(comment.split())}" for comment in comments]
    lines += declared(first.region.lower.size, first.unsafe[0].C.shape[1])
    if len(properties) == 1:
        lines += [f"(assert {atom})" for atom in (*_sides(first), *_ball(first.region))]
        return "\n".join([*lines, f"(assert {violated(first)})", ""])
    boxes = [f"    (and {' '.join(_sides(prop))} {violated(prop)})" for prop in properties]
    return "\n".join([*lines, "(assert (or", *boxes, "))", ""])


def declared(inputs: int, outputs: int) -> list[str]:
    """The lines that declare so many inputs and outputs."""
    return [f"(declare-const {name}_{i} Real)" for name, size in (("X", inputs), ("Y", outputs)) for i in range(size)]


def violated(prop: Property) -> str:
    """That the outputs lie in one of the unsafe sets."""
    return "\n".join(["(or", *(f"    (and {' '.join(_rows(unsafe))})" for unsafe in prop.unsafe), ")"])


def _sides(prop: Property) -> Iterator[str]:
    for i, (low, high) in enumerate(zip(prop.region.lower.flat, prop.region.upper.flat, strict=True)):
        yield side_of(">=", f"X_{i}", low)
        yield side_of("<=", f"X_{i}", high)


def _ball(region: Region) -> Iterator[str]:
    """That the distance from the centre is at most the radius, or its square at most the radius' square."""
    if region.is_box:
        return
    assert region.origin is not None and region.eps is not None
    away = [f"(- X_{i} {_number(c)})" for i, c in enumerate(region.origin.flat)]
    terms = [f"(abs {d})" if region.norm == 1 else f"(* {d} {d})" for d in away]
    yield f"(<= (+ {' '.join(terms)}) {_number(region.eps if region.norm == 1 else region.eps**2)})"


def _number(value: Fraction) -> str:
    """A number, as a quotient where no decimal equals it."""
    return _decimal(value) or f"(/ {value.numerator} {value.denominator})"


def side_of(relation: str, name: str, side: Fraction) -> str:
    """A bound of a variable; of a multiple of it where no decimal equals the fraction."""
    decimal = _decimal(side)
    if decimal is None:
        return f"({relation} (* {side.denominator} {name}) {side.numerator})"
    return f"({relation} {name} {decimal})"


def _rows(unsafe: HalfSpaces) -> Iterator[str]:
    for row, d in zip(unsafe.C.to("cpu", torch.float64).tolist(), unsafe.d.tolist(), strict=True):
        terms = [f"(* {_decimal(Fraction(c))} Y_{i})" for i, c in enumerate(row) if c]
        yield f"(<= (+ {' '.join([*terms, '0'])}) {_decimal(-Fraction(d))})"


def _decimal(value: Fraction) -> str | None:
    """The number in decimal digits; None when there are not finitely many, or too many for readers."""
    digits = max(_power(value.denominator, 2), _power(value.denominator, 5))
    scaled = value * 10**digits
    if scaled.denominator != 1 or digits > 300:
        return None
    text = str(abs(scaled.numerator)).rjust(digits + 1, "0")
    whole, part = text[: len(text) - digits], text[len(text) - digits :]
    return ("-" if value < 0 else "") + whole + (f".{part}" if part else "")


def _power(number: int, prime: int) -> int:
    """How often a prime divides a number."""
    count = 0
    while number % prime == 0:
        number, count = number // prime, count + 1
    return count
