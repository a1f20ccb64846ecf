"""VNN-LIB 2.0 text -> query, through the syntax tree of the optional package `vnnlib`.

Read is what a version 1.0 file could say too: one network with one input and one output, and linear inequalities.
The package checks names, types and indices. Numbers are taken from their text, so they stay exact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from verifier.errors import SpecificationError
from verifier.spec.formula import (
    DEEPEST,
    LONGEST_NUMBER,
    ONE,
    ZERO,
    And,
    Atom,
    Formula,
    Linear,
    Or,
    Source,
    difference,
    product,
    quoted,
    total,
)
from verifier.spec.vnnlib import Query, Variable

INSTALL = "VNN-LIB 2.0 is read through the package vnnlib, which is not installed: pip install 'verifier[vnnlib2]'"
KINDS = {"Real": "real", "F32": "float32"}  # networks are float32: another type would not be the network's own
LARGEST_SIZE = 10**9


@dataclass(frozen=True)
class Lines:
    """A text whose lines can be pointed at; the package keeps no columns. name: what errors call it."""

    name: str

    def error(self, at: int, reason: str) -> SpecificationError:
        return SpecificationError(f"{self.name}: line {at}: {reason}" if at else f"{self.name}: {reason}")


def parse(source: Source) -> Query:
    """The query that a VNN-LIB 2.0 text states. Raises SpecificationError for what is malformed or not supported."""
    lines = Lines(source.name)
    try:
        import vnnlib
    except ImportError as error:
        raise lines.error(0, INSTALL) from error
    try:
        _check_tokens(source)
        tree = vnnlib.parse_query_string(source.text)
    except vnnlib.VNNLibException as error:
        raise _translated(lines, str(error)) from error
    except IndexError as error:  # of C++'s std::stod and std::stoll
        raise lines.error(0, f"a number or an index is out of range ({error}); mend it") from error
    variables = _variables(lines, tree.networks)
    reader = _Reader(lines, vnnlib)
    assertions = tuple(reader.formula(assertion.expr) for assertion in tree.assertions)
    return Query(lines, variables, assertions, reader.seen, tree.networks[0].name)


def _check_tokens(source: Source) -> None:
    """Refuse what the package crashes on: deep nesting, long numbers, letters that are not ASCII."""
    depth = 0
    for at, token in enumerate(source.tokens):
        depth += (token == "(") - (token == ")")
        if depth > DEEPEST:
            raise source.error(at, f"nested deeper than {DEEPEST} levels; write it flatter")
        if not (token.isascii() and token.isprintable()):
            raise source.error(at, f"{quoted(token)} is no word of VNN-LIB, which is ASCII text")
        if len(token) > LONGEST_NUMBER:
            raise source.error(at, f"{quoted(token)} is longer than {LONGEST_NUMBER} characters; shorten it")


def _translated(lines: Lines, message: str) -> SpecificationError:
    """The package's first complaint, in one line."""
    try:
        first = json.loads(message)["errors"][0]
    except ValueError:
        return lines.error(0, " ".join(message.split()).removeprefix("Parse error: "))
    return lines.error(first["line"], f"{first['message']}: '{first['offendingSymbol']}'. {first['hint']}")


def _variables(lines: Lines, networks: Sequence[Any]) -> tuple[Variable, Variable]:
    """The input and the output of the one network."""
    if len(networks) != 1:
        names = ", ".join(network.name for network in networks)
        raise lines.error(0, f"relates {len(networks)} networks ({names}); properties of one network are supported")
    [network] = networks
    if network.hidden or network.equal_to or network.isometric_to:
        raise lines.error(0, f"network {network.name}: hidden nodes and relations to other networks are not supported")
    variables = []
    for kind, found in (("input", network.inputs), ("output", network.outputs)):
        if len(found) != 1:
            raise lines.error(0, f"network {network.name} has {len(found)} {kind}s; one is supported")
        name, dtype = found[0].name, found[0].dtype.name
        if dtype not in KINDS:
            reason = "networks are read in float32: declare float32 or real"
            raise lines.error(0, f"{kind} {name} holds {dtype} numbers; {reason}")
        variable = Variable(name, KINDS[dtype], tuple(found[0].shape))
        if variable.size > LARGEST_SIZE:
            raise lines.error(0, f"{kind} {name} has {variable.size} numbers; the limit is {LARGEST_SIZE}")
        variables.append(variable)
    return variables[0], variables[1]


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
        below, above = Atom(difference((left, right)), self.line), Atom(difference((right, left)), self.line)
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
            letter, indices, shape = "X" if node.kind == package.SymbolKind.Input else "Y", node.indices, node.shape
            if min(indices, default=0) < 0:
                raise self.lines.error(node.line, f"{node.name} has a negative index; indices count from 0")
            index = int(np.ravel_multi_index(tuple(indices), tuple(shape))) if indices else 0
            self.seen.setdefault(f"{letter}_{index}", node.line)
            return Linear({f"{letter}_{index}": ONE}, ZERO)
        if isinstance(node, package.Literal):
            self.line = node.line
            return Linear({}, Fraction(node.lexeme))
        if isinstance(node, package.Negate):
            return self.linear(node.expr).scaled(-ONE)
        if isinstance(node, package.Minus):
            return difference(list(map(self.linear, (node.head, *node.rest))))
        operands = list(map(self.linear, node.args))
        if isinstance(node, package.Plus):
            return total(operands)
        try:
            return product(operands)
        except ValueError as error:
            raise self.lines.error(self.line, str(error)) from error
