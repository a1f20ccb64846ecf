"""VNN-LIB 2.0 text -> query, through the syntax tree of the optional package `vnnlib`.

Read is what a version 1.0 file could say too: one network with one input and one output, and linear inequalities.
The package checks names, types and indices. Numbers are taken from their text, so they stay exact.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from verifier.errors import SpecificationError
from verifier.spec.formula import ONE, ZERO, And, Atom, Formula, Linear, Or
from verifier.spec.vnnlib import Query

INSTALL = "VNN-LIB 2.0 is read through the package vnnlib, which is not installed: pip install 'verifier[vnnlib2]'"
REAL_TYPES = ("Real", "F16", "F32", "F64")


@dataclass(frozen=True)
class Lines:
    """A text whose lines can be pointed at; the package keeps no columns. name: what errors call it."""

    name: str

    def error(self, at: int, reason: str) -> SpecificationError:
        return SpecificationError(f"{self.name}: line {at}: {reason}" if at else f"{self.name}: {reason}")


def parse(text: str, name: str) -> Query:
    """The query that a VNN-LIB 2.0 text states. Raises SpecificationError for what is malformed or not supported."""
    lines = Lines(name)
    try:
        import vnnlib
    except ImportError as error:
        raise lines.error(0, INSTALL) from error
    try:
        tree = vnnlib.parse_query_string(text)
    except vnnlib.VNNLibException as error:
        raise _translated(lines, str(error)) from error
    sizes = _sizes(lines, tree.networks)
    reader = _Reader(lines, vnnlib)
    assertions = tuple(reader.formula(assertion.expr) for assertion in tree.assertions)
    declared = {f"{letter}_{i}": 0 for letter, size in zip("XY", sizes, strict=True) for i in range(size)}
    return Query(lines, *sizes, assertions, declared | reader.seen)


def _translated(lines: Lines, message: str) -> SpecificationError:
    """The package's first complaint, in one line."""
    try:
        first = json.loads(message)["errors"][0]
    except ValueError:
        return lines.error(0, " ".join(message.split()))
    return lines.error(first["line"], f"{first['message']}: '{first['offendingSymbol']}'. {first['hint']}")


def _sizes(lines: Lines, networks: Sequence[Any]) -> tuple[int, int]:
    """How many inputs and outputs the one network has."""
    if len(networks) != 1:
        raise lines.error(0, f"relates {len(networks)} networks; properties of one network are supported")
    [network] = networks
    if network.hidden or network.equal_to or network.isometric_to:
        raise lines.error(0, f"network {network.name}: hidden nodes and relations to other networks are not supported")
    sizes = []
    for kind, found in (("input", network.inputs), ("output", network.outputs)):
        if len(found) != 1:
            raise lines.error(0, f"network {network.name} has {len(found)} {kind}s; one is supported")
        if found[0].dtype.name not in REAL_TYPES:
            raise lines.error(
                0, f"{kind} {found[0].name} holds {found[0].dtype.name} numbers; only floats are supported"
            )
        sizes.append(math.prod(found[0].shape))
    return sizes[0], sizes[1]


class _Reader:
    """The package's tree -> formula. seen: the first line of every variable; line: that of the last leaf read."""

    def __init__(self, lines: Lines, package: Any) -> None:
        self.lines, self.package, self.line = lines, package, 0
        self.seen: dict[str, int] = {}

    def formula(self, node: Any) -> Formula:
        package = self.package
        if isinstance(node, package.And | package.Or):
            parts = tuple(map(self.formula, node.args))
            return And(parts) if isinstance(node, package.And) else Or(parts)
        left, right = self.linear(node.lhs), self.linear(node.rhs)
        below = Atom(left.plus(right.scaled(-ONE)), self.line)
        above = Atom(right.plus(left.scaled(-ONE)), self.line)
        if isinstance(node, package.LessEqual):
            return below
        if isinstance(node, package.GreaterEqual):
            return above
        if isinstance(node, package.Equal):
            return And((below, above))
        raise self.lines.error(self.line, "strict inequalities and != are not supported: unsafe sets are closed")

    def linear(self, node: Any) -> Linear:
        package = self.package
        if isinstance(node, package.Var):
            self.line = node.line
            letter = "X" if node.kind == package.SymbolKind.Input else "Y"
            index = int(np.ravel_multi_index(tuple(node.indices), tuple(node.shape))) if node.indices else 0
            self.seen.setdefault(f"{letter}_{index}", node.line)
            return Linear({f"{letter}_{index}": ONE}, ZERO)
        if isinstance(node, package.Literal):
            self.line = node.line
            return Linear({}, Fraction(node.lexeme))
        if isinstance(node, package.Negate):
            return self.linear(node.expr).scaled(-ONE)
        if isinstance(node, package.Minus):
            first, *others = map(self.linear, (node.head, *node.rest))
            return _sum([first, *(other.scaled(-ONE) for other in others)])
        operands = list(map(self.linear, node.args))
        if isinstance(node, package.Plus):
            return _sum(operands)
        product = Linear({}, ONE)
        for operand in operands:
            factor = product.times(operand)
            if factor is None:
                raise self.lines.error(self.line, "non-linear term: a product has at most one factor with variables")
            product = factor
        return product


def _sum(operands: Sequence[Linear]) -> Linear:
    total = Linear({}, ZERO)
    for operand in operands:
        total = total.plus(operand)
    return total
