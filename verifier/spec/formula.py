"""VNN-LIB 1.0 text -> declared variables and assertions: a formula of `and`, `or` and exact linear inequalities.

The text is cut into tokens by one regular expression. A token's line and column are worked out only for an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NoReturn, TypeVar

from verifier.errors import SpecificationError

COMMENT = re.compile(r";[^\r\n]*")
TOKEN = re.compile(r"[()]|[^\s()]+", re.ASCII)
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d{1,3}))?", re.ASCII)
NUMBER_OF_ANY_SIZE = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
VARIABLE = re.compile(r"([XY])_(0|[1-9]\d{0,8})", re.ASCII)
LONGEST_NUMBER = 300
MOST_BITS = 20_000  # of a product's numerator or denominator: the longest literals have 4,300
DEEPEST = 200
ONE, ZERO = Fraction(1), Fraction(0)
T = TypeVar("T")


@dataclass(slots=True)
class Linear:
    """An affine expression: the sum of coefficient * variable (no coefficient is zero), plus a constant."""

    terms: dict[str, Fraction]
    constant: Fraction

    def scaled(self, factor: Fraction) -> Linear:
        if factor == 0:
            return Linear({}, ZERO)
        return Linear({name: factor * value for name, value in self.terms.items()}, factor * self.constant)

    def times(self, other: Linear) -> Linear | None:
        """The product; None when both factors have variables."""
        if self.terms and other.terms:
            return None
        return other.scaled(self.constant) if other.terms else self.scaled(other.constant)


def total(parts: Iterable[Linear]) -> Linear:
    """The sum, in time linear in its length."""
    terms: dict[str, Fraction] = {}
    constant = ZERO
    for part in parts:
        constant += part.constant
        for name, value in part.terms.items():
            terms[name] = terms.get(name, ZERO) + value
    return Linear({name: value for name, value in terms.items() if value}, constant)


def product(factors: Iterable[Linear]) -> Linear:
    """The product. Raises ValueError, with the reason, when it is not linear, or too long to go on with."""
    result = Linear({}, ONE)
    for factor in factors:
        found = result.times(factor)
        if found is None:
            raise ValueError("non-linear term: a product has at most one factor with variables")
        result = found
        values = (result.constant, *result.terms.values())
        if max(max(v.numerator.bit_length(), v.denominator.bit_length()) for v in values) > MOST_BITS:
            raise ValueError("the product has too many digits; multiply it out in the file")
    return result


@dataclass(frozen=True, slots=True)
class Atom:
    """The inequality `linear <= 0`, and the index of the token it starts at."""

    linear: Linear
    at: int

    def holds(self, values: Mapping[str, Fraction]) -> bool:
        return sum((a * values[name] for name, a in self.linear.terms.items()), self.linear.constant) <= 0


def difference(parts: Sequence[Linear]) -> Linear:
    """The first part less all others; of one part alone, its negative."""
    first, *others = parts
    return total([first, *(other.scaled(-ONE) for other in others)]) if others else first.scaled(-ONE)


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Formula, ...]

    def holds(self, values: Mapping[str, Fraction]) -> bool:
        return all(part.holds(values) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Formula, ...]

    def holds(self, values: Mapping[str, Fraction]) -> bool:
        return any(part.holds(values) for part in self.parts)


Formula = Atom | And | Or


@dataclass(frozen=True, eq=False)
class Source:
    """A text whose tokens can be pointed at. name: what errors call it."""

    name: str
    text: str
    tokens: list[str] = field(repr=False)

    @staticmethod
    def of(name: str, text: str) -> Source:
        # A comment reaches to the end of its line, so cutting it moves no other token.
        text = COMMENT.sub("", text)
        return Source(name, text, [*TOKEN.findall(text), ""])

    def error(self, at: int, reason: str) -> SpecificationError:
        """The error to raise about token `at`; the last, empty one stands for the end of the text."""
        starts = [match.start() for match in TOKEN.finditer(self.text)]
        start = starts[at] if at < len(starts) else len(self.text.rstrip())
        line, column = self.text.count("\n", 0, start) + 1, start - self.text.rfind("\n", 0, start)
        return SpecificationError(f"{self.name}: line {line}, column {column}: {reason}")


class Parser:
    """Recursive descent over the tokens. `declared`: variables and the token that declares each."""

    def __init__(self, source: Source) -> None:
        self.source, self.tokens, self.at, self.depth = source, source.tokens, 0, 0
        self.declared: dict[str, int] = {}
        self.assertions: list[Formula] = []
        self.numbers: dict[str, Fraction] = {}

    def parse(self) -> None:
        """Read all commands. Raises SpecificationError at the first fault."""
        if self.tokens[0] not in ("(", ""):
            self.next()
            self.fail(f"expected '(', found {quoted(self.tokens[0])}; is this a VNN-LIB file?")
        while self.tokens[self.at]:
            self.expect("(")
            command = self.next()
            if command == "declare-const":
                self.declare()
            elif command == "assert":
                self.assertions.append(self.formula())
            else:
                self.fail(f"unknown command {quoted(command)}; VNN-LIB 1.0 has declare-const and assert")
            self.expect(")")

    def declare(self) -> None:
        name = self.next()
        if not VARIABLE.fullmatch(name):
            self.fail(f"cannot declare {quoted(name)}; inputs are named X_0, X_1, ... and outputs Y_0, Y_1, ...")
        if name in self.declared:
            self.fail(f"{name} is declared twice; remove one declaration")
        self.declared[name] = self.at - 1
        if self.next() != "Real":
            self.fail(f"{name} must be declared as Real")

    def formula(self) -> Formula:
        self.expect("(")
        start, word = self.at, self.next()
        result: Formula
        if word in ("<=", ">="):
            left, right = self.linear(), self.linear()
            if word == ">=":
                left, right = right, left
            result = Atom(difference((left, right)), start)
        elif word in ("and", "or"):
            parts = tuple(self.operands(self.formula))
            result = parts[0] if len(parts) == 1 else (And if word == "and" else Or)(parts)
        elif word in ("<", ">"):
            self.fail(
                f"strict inequality '{word}': the sets of VNN-LIB are closed, so that ties count; write '{word}='"
            )
        else:
            self.fail(f"unknown relation {quoted(word)}; a formula is built from and, or, <= and >=")
        self.expect(")")
        return result

    def linear(self) -> Linear:
        token = self.next()
        if token in self.declared:
            return Linear({token: ONE}, ZERO)
        if token != "(":
            return Linear({}, self.number(token))
        start, operator = self.at, self.next()
        if operator not in ("+", "-", "*"):
            self.fail(f"unknown operator {quoted(operator)}; a linear term is built from +, - and *")
        operands = self.operands(self.linear)
        self.expect(")")
        if operator == "+":
            return total(operands)
        if operator == "-":
            return difference(operands)
        try:
            return product(operands)
        except ValueError as error:
            raise self.source.error(start, str(error)) from error

    def operands(self, read: Callable[[], T]) -> list[T]:
        """One or more of what `read` reads, up to the closing parenthesis."""
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail(f"nested deeper than {DEEPEST} levels; write it flatter")
        found = [read()]
        while self.tokens[self.at] != ")":
            found.append(read())
        self.depth -= 1
        return found

    def number(self, token: str) -> Fraction:
        known = self.numbers.get(token)
        if known is not None:
            return known
        if len(token) > LONGEST_NUMBER or not NUMBER.fullmatch(token):
            if VARIABLE.fullmatch(token):
                self.fail(f"unknown variable {token}: it is not declared above; declare it first")
            if NUMBER_OF_ANY_SIZE.fullmatch(token):
                limits = f"at most {LONGEST_NUMBER} digits, exponents of at most 3"
                self.fail(f"the number {quoted(token)} is out of range; the limits are {limits}")
            self.fail(f"expected a number, a declared variable or a term, found {quoted(token)}")
        value = self.numbers[token] = Fraction(token)
        return value

    def next(self) -> str:
        token = self.tokens[self.at]
        self.at += 1
        return token

    def expect(self, token: str) -> None:
        if self.next() != token:
            self.fail(f"expected '{token}', found {quoted(self.tokens[self.at - 1])}")

    def fail(self, reason: str) -> NoReturn:
        """Raise an error about the token just read."""
        raise self.source.error(self.at - 1, reason)


def quoted(token: str) -> str:
    """A token as errors show it."""
    if not token:
        return "the end of the file"
    token = "".join(letter if letter.isprintable() else "?" for letter in token)
    return f"'{token}'" if len(token) <= 40 else f"'{token[:40]}...'"
