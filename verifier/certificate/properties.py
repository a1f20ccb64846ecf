"""What a certificate states: VNN-LIB 1.0, closed sets, exact rationals; and an assertion that inputs lie in a ball.

One part of the stand-alone checker; like `checker.py` it needs only numpy and onnx. The ball is one more assertion,
`(<= (+ (abs (- X_0 c)) ...) eps)` in the 1-norm, `(<= (+ (* (- X_0 c) (- X_0 c)) ...) eps^2)` in the 2-norm.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

if __package__:
    from verifier.certificate.nodes import MOST_VALUES, Array, need
else:  # run as a file, with nodes.py beside it
    from nodes import MOST_VALUES, Array, need  # type: ignore

MOST_CASES = 1 << 14
MOST_BITS = 20_000  # of a numerator or denominator: the longest numbers have 4,700
NUMBER = re.compile(r"[+-]?(\d{1,400}\.?\d{0,400}|\.\d{1,400})([eE][+-]?\d{1,3})?", re.ASCII)
Sides = tuple[dict[int, Fraction], dict[int, Fraction]]  # lower and upper ones, by input
Form = Counter[str]  # a linear form: coefficients (Fractions) by variable, the constant under ""


class Ball(NamedTuple):
    """norm 1: sum |x_i - centre_i| <= limit; norm 2: the sum of squares; over the inputs that it names."""

    norm: int
    centre: dict[int, Fraction]
    limit: Fraction


def rounded(x: Fraction, side: int) -> float:
    """The greatest float64 number that is not above x (side -1), or the least that is not below it (side 1)."""
    near = float(x)
    whole, parts = near.as_integer_ratio()
    beyond = side * (x.numerator * parts - whole * x.denominator) > 0
    return math.nextafter(near, side * math.inf) if beyond else near


@dataclass(frozen=True, eq=False)
class Region:
    """The inputs that a case is about: a box, and a ball in which they lie, too."""

    lower: list[Fraction]
    upper: list[Fraction]
    ball: Ball | None

    @functools.cached_property
    def box(self) -> tuple[Array, Array]:
        """The least box of float64 numbers around the inputs, two arrays (1, inputs)."""
        lower, upper = ([rounded(x, side) for x in own] for own, side in ((self.lower, -1), (self.upper, 1)))
        return np.array([lower]), np.array([upper])


@dataclass(frozen=True, eq=False)
class Case:
    """An unsafe set on a region (cases about the same one share it): all rows . outputs + constants <= 0, Fractions."""

    region: Region
    rows: Array
    constants: list[Fraction]

    @property
    def lower(self) -> list[Fraction]:
        return self.region.lower

    @property
    def upper(self) -> list[Fraction]:
        return self.region.upper


def read_property(text: str, inputs: int, outputs: int) -> list[Case]:
    """The cases, none of which may happen; those whose box is empty are left out."""
    tokens = re.findall(r"[()]|[^\s()]+", re.sub(r";[^\r\n]*", "", text))
    need(len(tokens) < MOST_VALUES, "the property is too large")
    commands = nested(tokens)
    names = {f"{letter}_{i}" for letter, size in (("X", inputs), ("Y", outputs)) for i in range(size)}
    declared = [command[1:] for command in commands if command[0] == "declare-const"]
    need(sorted(declared) == sorted([name, "Real"] for name in names), "the property declares other variables")
    need(all(c[0] == "declare-const" or (c[0] == "assert" and len(c) == 2) for c in commands), "an unknown command")
    asserted = [command[1] for command in commands if command[0] == "assert"]
    balls = [(e, ball) for e in asserted if (ball := ball_of(e, names)) is not None]
    need(len(balls) < 2, "the property states several balls")
    sides, others = bounds_of(asserted, names)
    found = normal(["and", *(e for e in others if not any(e is stated for stated, _ in balls))], names)
    regions: dict[tuple[int, ...], Region | None] = {}  # by the forms that state them, which cases share
    distinct: dict[Any, Region] = {}
    of_inputs: dict[int, bool] = {}  # by form, of which cases share many
    cases = []
    for forms in found:
        for form in forms:
            if id(form) not in of_inputs:
                of_inputs[id(form)] = any(value and name[:1] == "X" for name, value in form.items())
        bounds = [form for form in forms if of_inputs[id(form)]]
        key = tuple(map(id, bounds))
        if key not in regions:
            region = region_of(sides, bounds, inputs, balls[0][1] if balls else None)
            regions[key] = region and distinct.setdefault((*region.lower, *region.upper), region)
        region, rows = regions[key], rows_of([form for form in forms if not of_inputs[id(form)]], outputs)
        if region is not None and rows is not None:
            cases.append(Case(region, *rows))
    need(cases, "the property's assertions contradict each other")
    return cases


def nested(tokens: list[str]) -> list[Any]:
    """Lists for what is between brackets."""
    stack: list[list[Any]] = [[]]
    for token in tokens:
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            need(stack, "a bracket is closed that was not opened")
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    need(len(stack) == 1, "a bracket is not closed")
    return stack[0]


def bounds_of(asserted: list[Any], names: set[str]) -> tuple[Sides, list[Any]]:
    """Lower and upper sides from the assertions that state one for one input; the other assertions."""
    sides: Sides = ({}, {})
    others, read = [], functools.cache(Fraction)
    for e in asserted:
        if (
            e[0] not in ("<=", ">=")
            or len(e) != 3
            or not (isinstance(e[1], str) and isinstance(e[2], str))
            or e[1] not in names
            or e[1][0] != "X"
            or not NUMBER.fullmatch(e[2])
        ):
            others.append(e)
            continue
        tighten(sides, e[0] == "<=", int(e[1][2:]), read(e[2]))
    return sides, others


def tighten(sides: Sides, upper: bool, index: int, bound: Fraction) -> None:
    """Take over a side of an input if it is the closest one so far."""
    known = sides[upper].get(index)
    if known is None or (bound < known) == upper:
        sides[upper][index] = bound


def linear(e: Any, names: set[str]) -> Form:
    """The linear form of an expression."""
    if isinstance(e, str):
        need(e in names or NUMBER.fullmatch(e), f"'{e[:20]}' is no number or variable")
        return Counter({e: Fraction(1)} if e in names else {"": Fraction(e)})  # type: ignore[dict-item]
    need(e[0] in ("+", "-", "*", "/") and len(e) > 1, "an operator other than +, -, * and /")
    total, *others = (linear(part, names) for part in (e[1:] if e[0] != "-" or e[2:] else ["0", e[1]]))
    for other in others:
        if e[0] in ("*", "/"):
            one, two = (total, other) if set(other) == {""} or e[0] == "/" else (other, total)
            need(set(two) == {""} and (e[0] == "*" or two[""]), "the property is not linear")
            factor = two[""] if e[0] == "*" else 1 / Fraction(two[""])
            total = Counter({name: value * factor for name, value in one.items()})  # type: ignore[misc]
        else:
            (total.update if e[0] == "+" else total.subtract)(other)
        values = [Fraction(total[name]) for name in other or total]
        short = all(max(abs(v.numerator), v.denominator).bit_length() < MOST_BITS for v in values)
        need(short, "a number has too many digits")
    return total


def normal(e: Any, names: set[str]) -> list[list[Form]]:
    """A disjunction of conjunctions of forms <= 0."""
    if e[0] in ("<=", ">="):
        need(len(e) == 3, "a relation has two sides")
        return [[linear(["-", *(e[1:] if e[0] == "<=" else e[:0:-1])], names)]]
    need(e[0] in ("and", "or"), f"'{e[0]}' is none of and, or, <= and >=")
    parts = [normal(part, names) for part in e[1:]]
    need(math.prod(map(len, parts)) <= MOST_CASES, "the property has too many cases")
    return [
        list(itertools.chain(*pick))
        for pick in (itertools.product(*parts) if e[0] == "and" else [[one] for part in parts for one in part])
    ]


def ball_of(e: Any, names: set[str]) -> Ball | None:
    """The ball that an assertion states; None for another assertion."""
    if e[0] != "<=" or len(e) != 3 or isinstance(e[1], str):
        return None
    terms = e[1][1:] if e[1][0] == "+" else [e[1]]
    absolute = [len(t) == 2 and t[0] == "abs" for t in terms]
    squares = [len(t) == 3 and t[0] == "*" and t[1] == t[2] and isinstance(t[1], list) for t in terms]
    if not terms or not (all(absolute) or all(squares)):
        return None
    centre: dict[int, Fraction] = {}
    for _, (minus, name, at), *_ in terms:
        need(minus == "-" and name in names and name[0] == "X", "a ball is about differences of inputs and numbers")
        need(int(name[2:]) not in centre, "a ball names an input twice")
        centre[int(name[2:])] = number(at, names)
    limit = number(e[2], names)
    need(limit >= 0, "a ball is empty")
    return Ball(1 if all(absolute) else 2, centre, limit)


def number(e: Any, names: set[str]) -> Fraction:
    form = linear(e, names)
    need(set(form) == {""}, "a number is expected")
    return Fraction(form[""])


def region_of(known: Sides, forms: list[Form], inputs: int, ball: Ball | None) -> Region | None:
    """The region of sides and a conjunction of bounds (forms <= 0) of inputs; None when its box is empty."""
    sides = (dict(known[0]), dict(known[1]))
    for form in forms:
        terms = [(name, Fraction(value)) for name, value in form.items() if value and name]
        need(len(terms) == 1, "inputs must lie in a box")
        [(name, slope)] = terms
        tighten(sides, slope > 0, int(name[2:]), -form[""] / slope)
    need(len(sides[0]) == len(sides[1]) == inputs, "an input is unbounded")
    lower, upper = ([Fraction(side[i]) for i in range(inputs)] for side in sides)
    empty = any(low > high for low, high in zip(lower, upper, strict=True))
    return None if empty else Region(lower, upper, ball)


def rows_of(forms: list[Form], outputs: int) -> tuple[Array, list[Fraction]] | None:
    """Of a conjunction of forms <= 0 about outputs: rows and constants; None when it cannot happen."""
    rows: list[list[Fraction]] = []
    constants: list[Fraction] = []
    for form in forms:
        constant, terms = Fraction(form[""]), {name: Fraction(v) for name, v in form.items() if v and name}
        if terms:
            scale, row = math.lcm(*(value.denominator for value in terms.values())), [Fraction(0)] * outputs
            scale //= scale & -scale  # float64 holds what is left of decimals
            for name, value in terms.items():
                row[int(name[2:])] = value * scale
            rows, constants = [*rows, row], [*constants, constant * scale]
        elif constant > 0:
            return None
    return np.array(rows, dtype=object).reshape(-1, outputs), constants
