"""Formulas of `and` and `or` -> disjunctive normal form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, product

from verifier.spec.formula import And, Atom, Formula, Or

Conjunction = tuple[Atom, ...]


def count(formula: Formula) -> int:
    """How many conjunctions the disjunctive normal form has."""
    if isinstance(formula, Atom):
        return 1
    counts = map(count, formula.parts)
    return math.prod(counts) if isinstance(formula, And) else sum(counts)


def normal_form(parts: Sequence[Formula]) -> tuple[Conjunction, list[Conjunction]]:
    """The conjunction of `parts` as atoms that always hold, and a disjunction of conjunctions of further atoms."""
    common: list[Atom] = []
    choices: list[list[Conjunction]] = []
    for part in parts:
        if isinstance(part, Atom):
            common.append(part)
        elif isinstance(part, And):
            always, alternatives = normal_form(part.parts)
            common.extend(always)
            choices.append(alternatives)
        else:
            choices.append(_disjuncts(part))
    return tuple(common), [tuple(chain.from_iterable(pick)) for pick in product(*choices)]


def _disjuncts(formula: Or) -> list[Conjunction]:
    found: list[Conjunction] = []
    for part in formula.parts:
        if isinstance(part, Or):
            found.extend(_disjuncts(part))
        else:
            always, alternatives = normal_form((part,))
            found.extend(always + more for more in alternatives)
    return found
