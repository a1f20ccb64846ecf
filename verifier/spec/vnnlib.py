"""VNN-LIB files -> properties: one per distinct input box, with the unsafe sets that go with that box.

The assertions are brought into disjunctive normal form. Each conjunction is an input box and a set of half-spaces of
outputs; the network violates the specification when some input of some box lands in one of that box's sets.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from verifier.errors import InputError, SpecificationError
from verifier.spec.formula import Atom, Formula, Parser, Source
from verifier.spec.normal_form import Conjunction, count, normal_form
from verifier.spec.property import HalfSpaces, Property, Region, exact, round_down
from verifier.types import Shape

GZIP = b"\x1f\x8b"
MOST_CONJUNCTIONS = 100_000
LARGEST = Fraction(10) ** 38  # within float32

Sides = tuple[dict[int, Fraction], dict[int, Fraction]]  # lower and upper bounds by input


def read_vnnlib(path: str | Path, input_shape: Shape, outputs: int | None = None) -> tuple[Property, ...]:
    """The properties that a VNN-LIB file (gzipped or not) states of a network; all of them must be verified.

    Version 1.0 is read here, version 2.0 through the optional package `vnnlib`.

    Variables stand for the flattened input and output. Raises SpecificationError, in one line with file, line and
    column, for what is malformed, unbounded, empty, not linear, strict, or about inputs and outputs at once, and for
    sizes other than those of the network; InputError when the file cannot be read.
    """
    return read_query(path).properties(input_shape, outputs)


def read_query(path: str | Path) -> Query:
    """Read a VNN-LIB file. Raises as `read_vnnlib` does, save for what concerns the network."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the property ({error.strerror})") from error
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise SpecificationError(f"{path}: damaged or truncated gzip file ({error}); copy it again") from error
    return parse(content.decode("utf-8", errors="replace"), str(path))


def parse(text: str, name: str = "property") -> Query:
    """The query that a VNN-LIB text states. name: what errors call it."""
    source = Source.of(name, text)
    if source.tokens[:2] == ["(", "vnnlib-version"]:
        from verifier.spec import vnnlib2

        return vnnlib2.parse(source)
    if source.tokens == [""]:
        raise SpecificationError(f"{name}: the file is empty: it declares no variable; write or copy it again")
    parser = Parser(source)
    parser.parse()
    variables = []
    for letter, kind in (("X", "input"), ("Y", "output")):
        indices = sorted(int(variable[2:]) for variable in parser.declared if variable[0] == letter)
        gap = next((i for i, index in enumerate(indices) if i != index), len(indices))
        if gap < len(indices) or not indices:
            raise SpecificationError(f"{name}: {kind} {letter}_{gap} is not declared; declare it as Real")
        variables.append(Variable(letter, "real", (len(indices),)))
    return Query(source, (variables[0], variables[1]), tuple(parser.assertions), parser.declared)


class Places(Protocol):
    """A text with places, such as tokens or lines, that errors point at."""

    @property
    def name(self) -> str: ...

    def error(self, at: int, reason: str) -> SpecificationError: ...


@dataclass(frozen=True)
class Variable:
    """The input or the output as the file declares it. kind: the type of its numbers, `real` or `float32`."""

    name: str
    kind: str
    shape: Shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Query:
    """What a VNN-LIB file asks: is there an input X whose output Y satisfies all assertions?

    source: makes errors about places in the file. variables: the input and the output; in assertions their numbers are
    X_0, X_1, ... and Y_0, Y_1, ... whatever their names are. declared: the place of each number, as far as the file has
    one. network: the name that version 2.0 gives the network, None in version 1.0.
    """

    source: Places = field(repr=False)
    variables: tuple[Variable, Variable]
    assertions: tuple[Formula, ...] = field(repr=False)
    declared: dict[str, int] = field(repr=False)
    network: str | None = None

    @property
    def inputs(self) -> int:
        """How many numbers the input has."""
        return self.variables[0].size

    @property
    def outputs(self) -> int:
        """How many numbers the output has."""
        return self.variables[1].size

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.source.name).name

    def holds(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether x and y, floats or Fractions, satisfy all assertions, decided exactly; NaN and Inf never do."""
        if not all(math.isfinite(value) for value in chain(x.flat, y.flat)):
            return False
        values = {f"{letter}_{i}": v for letter, side in zip("XY", (x, y), strict=True) for i, v in _numbered(side)}
        return all(part.holds(values) for part in self.assertions)

    def properties(self, input_shape: Shape, outputs: int | None = None) -> tuple[Property, ...]:
        """One property per distinct input box; see `read_vnnlib`."""
        size = math.prod(input_shape)
        pair = "they are no pair; give the network that the file was written for"
        if self.inputs != size:
            raise SpecificationError(
                f"{self.source.name}: states {self.inputs} inputs, the network reads {size}: {pair}"
            )
        if outputs is not None and self.outputs != outputs:
            stated = f"states {self.outputs} outputs, the network has {outputs}"
            raise SpecificationError(f"{self.source.name}: {stated}: {pair}")
        cases = self._cases()
        found = []
        for number, (box, rows) in enumerate(cases, start=1):
            about = f"no input that {self.name} allows has a forbidden output"
            if len(cases) > 1:
                about += f" (input box {number} of {len(cases)})"
            lower, upper = (np.array([side[i] for i in range(size)], dtype=object).reshape(input_shape) for side in box)
            found.append(Property(Region(lower, upper), tuple(map(self._half_spaces, rows)), about))
        return tuple(found)

    def _cases(self) -> list[tuple[Sides, list[Conjunction]]]:
        """The distinct input boxes that are not empty, each with the conjunctions of output atoms that go with it."""
        size = math.prod(map(count, self.assertions))
        if size > MOST_CONJUNCTIONS:
            stated = f"{size:,}" if size < 10**12 else "more than 10^12"
            limit = f"the limit is {MOST_CONJUNCTIONS:,}; split the file into several"
            raise SpecificationError(f"{self.source.name}: the assertions expand to {stated} cases, {limit}")
        common, alternatives = normal_form(self.assertions)
        base, rows = self._split(common, ({}, {}))
        grouped: dict[tuple, tuple[Sides, list[Conjunction]]] = {}
        for alternative in alternatives:
            narrowed, own = self._split(alternative, base)
            if any(atom.linear.constant > 0 for atom in chain(rows, own) if not atom.linear.terms):
                continue
            key = tuple(frozenset(side.items()) for side in narrowed)
            if key not in grouped:
                lower, upper = ({**side, **more} for side, more in zip(base, narrowed, strict=True))
                grouped[key] = (lower, upper), []
            grouped[key][1].append(tuple(atom for atom in chain(rows, own) if atom.linear.terms))
        if not grouped:
            raise SpecificationError(f"{self.source.name}: the assertions contradict each other for every input")
        cases = [case for case in grouped.values() if _crossed(case[0]) is None]
        # Of several boxes an empty one asks nothing; when all are, the file is not what its author meant.
        if not cases:
            raise self._empty(next(iter(grouped.values()))[0])
        for box, _ in cases:
            self._check_bounded(box)
        return cases

    def _split(self, atoms: Iterable[Atom], base: Sides) -> tuple[Sides, list[Atom]]:
        """The bounds of inputs that are tighter than those of `base`, and the atoms about outputs."""
        sides: Sides = ({}, {})
        rows = []
        for atom in atoms:
            terms = atom.linear.terms
            letters = {name[0] for name in terms}
            if letters == {"X", "Y"}:
                reason = "a relation between inputs and outputs is not supported; bound inputs by numbers"
                raise self.source.error(atom.at, reason)
            if letters != {"X"}:
                rows.append(atom)
                continue
            if len(terms) > 1:
                raise self.source.error(atom.at, "a relation between inputs is not supported: inputs lie in a box")
            [(name, slope)] = terms.items()
            bound = -atom.linear.constant if slope == 1 else atom.linear.constant / -slope
            if abs(bound) > LARGEST:
                raise self.source.error(atom.at, f"the bound of {self._called(int(name[2:]))} is too large for float32")
            index, side = int(name[2:]), int(slope > 0)
            known = sides[side].get(index, base[side].get(index))
            if known is None or (bound < known if side else bound > known):
                sides[side][index] = bound
        return sides, rows

    def _empty(self, box: Sides) -> SpecificationError:
        index = _crossed(box)
        assert index is not None
        lower, upper = (float(side[index]) for side in box)
        name = self._called(index)
        reason = f"the input box is empty: {name} has the lower bound {lower} above the upper bound {upper}"
        return self.source.error(self.declared.get(f"X_{index}", 0), reason)

    def _check_bounded(self, box: Sides) -> None:
        for i in range(self.inputs):
            for side, word, relation in zip(box, ("lower", "upper"), (">=", "<="), strict=True):
                if i not in side:
                    name = self._called(i)
                    reason = f"input {name} is unbounded: it has no {word} bound; add (assert ({relation} {name} ...))"
                    raise self.source.error(self.declared.get(f"X_{i}", 0), reason)

    def _called(self, index: int) -> str:
        """An input as the file names it."""
        if self.network is None:
            return f"X_{index}"
        name, shape = self.variables[0].name, self.variables[0].shape
        return f"{name}[{','.join(str(i) for i in np.unravel_index(index, shape))}]" if shape else name

    def _half_spaces(self, atoms: Conjunction) -> HalfSpaces:
        """The unsafe set as float64: C exact, by scaling a row where needed, and d rounded so that the set grows.

        Without atoms it is the set of all outputs.
        """
        C, stated = np.zeros((max(len(atoms), 1), self.outputs)), [Fraction(0)] * max(len(atoms), 1)
        for row, atom in enumerate(atoms):
            linear = atom.linear
            if not all(map(_is_float, linear.terms.values())):
                values = linear.terms.values()
                whole = math.lcm(*(v.denominator for v in values))
                linear = linear.scaled(Fraction(whole, math.gcd(*(int(v * whole) for v in values))))
            if not all(map(_is_float, linear.terms.values())):
                raise self.source.error(atom.at, "the coefficients have too many digits for float64; give at most 15")
            if abs(linear.constant) > LARGEST:
                raise self.source.error(atom.at, "the constant is too large for float32")
            for name, value in linear.terms.items():
                C[row, int(name[2:])] = float(value)
            stated[row] = linear.constant
        d = round_down(np.array(stated, dtype=object))
        return HalfSpaces(torch.from_numpy(C), torch.from_numpy(d), tuple(stated))


def _crossed(box: Sides) -> int | None:
    """An input whose bounds cross."""
    lower, upper = box
    return next((i for i, low in lower.items() if i in upper and low > upper[i]), None)


def _is_float(value: Fraction) -> bool:
    return abs(value) <= LARGEST and Fraction(float(value)) == value


def _numbered(values: np.ndarray) -> Iterable[tuple[int, Fraction]]:
    return enumerate(exact(values).flatten())
