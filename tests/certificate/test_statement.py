"""Statements: the text says of every point what the property says of it."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from verifier.certificate.properties import read_property
from verifier.certificate.statement import vnnlib
from verifier.errors import SpecificationError
from verifier.spec.property import NORMS, HalfSpaces, Property, Region, exact
from verifier.spec.robustness import ball

FOLDS = {"+": sum, "and": all, "or": any}


def expressions(text: str) -> list[Any]:
    """The commands of a file as nested lists."""
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text)):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    [commands] = stack
    return commands


def value(e: Any, names: dict[str, Fraction]) -> Any:
    """What an expression of SMT-LIB is, exactly."""
    if isinstance(e, str):
        return names[e] if e in names else Fraction(e)
    op, args = e[0], [value(part, names) for part in e[1:]]
    if op in FOLDS:
        return FOLDS[op](args)  # type: ignore[operator]
    if op == "abs":
        return abs(args[0])
    one, two = args
    return {
        "<=": lambda: one <= two,
        ">=": lambda: one >= two,
        "-": lambda: one - two,
        "*": lambda: one * two,
        "/": lambda: one / two,
    }[op]()


def unsafe(text: str, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether all assertions hold for inputs and outputs."""
    names = {f"X_{i}": Fraction(v) for i, v in enumerate(x.flat)} | {f"Y_{i}": Fraction(v) for i, v in enumerate(y)}
    return all(value(command[1], names) for command in expressions(text) if command[0] == "assert")


def property_about(region: Region, draw: np.random.Generator, sets: int = 2) -> Property:
    rows = [torch.from_numpy(np.round(draw.normal(size=(2, 3)), 2)) for _ in range(sets)]
    return Property(region, tuple(HalfSpaces(C, torch.from_numpy(np.round(draw.normal(size=2), 2))) for C in rows))


def region_about(draw: np.random.Generator, norm: str | None, eps: Fraction) -> Region:
    x = draw.random((1, 2, 2)).astype(np.float32)
    return Region(exact(x) - eps, exact(x) + eps) if norm is None else ball(x, eps, norm)


def says(prop: Property, x: np.ndarray, y: np.ndarray) -> bool:
    sets = [exact(s.C.numpy()) @ y + exact(s.d.numpy()) for s in prop.unsafe]
    return prop.region.contains(x) and any((rows <= 0).all() for rows in sets)


@pytest.mark.parametrize("eps", ["0.25", "1/3"])
@pytest.mark.parametrize("norm", [None, *NORMS])
def test_text_and_property_agree(norm: str | None, eps: str) -> None:
    draw = np.random.default_rng(len(norm or "") + len(eps))
    seen = set()
    for _ in range(10):
        prop = property_about(region_about(draw, norm, Fraction(eps)), draw)
        text = vnnlib(prop)
        for _ in range(30):
            step = exact(draw.uniform(-1.1, 1.1, (1, 2, 2))) * Fraction(eps)
            x = (prop.region.lower + prop.region.upper) / 2 + step
            y = exact(draw.normal(size=3))
            seen.add(said := says(prop, x, y))
            assert unsafe(text, x, y) == said
    assert seen == {False, True}


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_border_of_a_ball_belongs_to_it(norm: str) -> None:
    """3-4-5: the point (0.3, 0.4) has the 2-norm 0.5 and the 1-norm 0.7."""
    centre, limit = np.full(2, 0.5, dtype=np.float32), {"l1": Fraction(7, 10), "l2": Fraction(1, 2)}[norm]
    draw, x = np.random.default_rng(0), np.array([Fraction(8, 10), Fraction(9, 10)])
    for eps, inside in ((limit, True), (limit - Fraction(1, 10**30), False)):
        prop = Property(ball(centre, eps, norm), property_about(Region(x, x), draw).unsafe)
        y = np.array([Fraction(-100)] * 3) * exact(np.sign(prop.unsafe[0].C[0].numpy()))
        rows = HalfSpaces(prop.unsafe[0].C[:1], prop.unsafe[0].d[:1])
        assert unsafe(vnnlib(Property(prop.region, (rows,))), x, y) == inside


def test_the_checker_reads_what_is_written() -> None:
    draw = np.random.default_rng(5)
    for norm in (None, *NORMS):
        prop = property_about(region_about(draw, norm, Fraction(1, 7)), draw, sets=3)
        cases = read_property(vnnlib(prop), 4, 3)
        [region] = {id(case.region): case.region for case in cases}.values()
        assert (region.lower, region.upper) == (list(prop.region.lower.flat), list(prop.region.upper.flat))
        assert (region.ball is None) == prop.region.is_box and len(cases) == 3
        if region.ball is not None:
            assert prop.region.origin is not None and prop.region.eps is not None
            assert [region.ball.centre[i] for i in range(4)] == list(prop.region.origin.flat)
            assert region.ball.limit == prop.region.eps ** (1 if norm == "l1" else 2)


def test_several_boxes_in_one_file() -> None:
    draw = np.random.default_rng(6)
    props = [property_about(region_about(draw, None, Fraction(1, 10)), draw) for _ in range(3)]
    text = vnnlib(*props)
    assert len({id(case.region) for case in read_property(text, 4, 3)}) == 3
    for _ in range(100):
        some = props[draw.integers(3)]
        x = (some.region.lower + some.region.upper) / 2 + exact(draw.uniform(-0.12, 0.12, (1, 2, 2)))
        y = exact(draw.normal(size=3))
        assert unsafe(text, x, y) == any(says(prop, x, y) for prop in props)


def test_several_balls_have_no_text() -> None:
    prop = property_about(region_about(np.random.default_rng(7), "l2", Fraction(1, 10)), np.random.default_rng(7))
    with pytest.raises(SpecificationError, match="one l2 or l1 ball"):
        vnnlib(prop, prop)
