"""Constants that a model computes from constants."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from test_reading import model_of_many, weight

from verifier.certificate.folding import OFF, Near, folded
from verifier.certificate.nodes import Refused
from verifier.certificate.reading import Network

A, B = (weight(5, 5).astype(np.float64) for _ in range(2))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "MatMul"])
def test_rounded_constants_are_near_and_others_exact(op: str) -> None:
    to = np.frompyfunc(Fraction, 1, 1)
    exact = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "MatMul": np.matmul}[op](
        to(A.astype(object)), to(B.astype(object))
    )
    found = folded(op, [A, B])
    wrong = np.array([abs(Fraction(float(y)) - x) for x, y in zip(exact.ravel(), found.ravel(), strict=True)])
    assert all(w <= OFF * abs(x) for w, x in zip(wrong, exact.ravel(), strict=True))
    assert isinstance(found, Near) == any(wrong)
    assert not isinstance(folded("Mul", [A, np.float64(0.5)]), Near)  # both are float32 numbers


@pytest.mark.parametrize(
    ("base", "exponent"), [(16.0, -0.5), (16.0, 0.5), (3.0, 2.0), (2.0, 0.5), (3.0, -0.5), (3.0, -2.0)]
)
def test_powers(base: float, exponent: float) -> None:
    found = folded("Pow", [np.array([base]), np.array([exponent])])
    square = Fraction(float(found[0])) ** 2
    true = Fraction(base) ** int(2 * exponent)
    assert abs(square - true) <= 2 * OFF * true
    assert isinstance(found, Near) == (square != true)


@pytest.mark.parametrize("bad", [("Div", 1.0, 0.0), ("Pow", 2.0, 0.3), ("Pow", -2.0, 0.5), ("Add", np.inf, 1.0)])
def test_what_has_no_value_is_refused(bad: tuple[str, float, float]) -> None:
    with pytest.raises((Refused, ZeroDivisionError)):
        folded(bad[0], [np.array([bad[1]]), np.array([bad[2]])])


def test_rounded_constants_are_read_with_their_error_or_not_at_all() -> None:
    stored = {"A": weight(7, 7), "B": weight(7, 7)}
    product = ("MatMul", ["A", "B"], "P", {})
    network = Network(model_of_many([product, ("MatMul", ["x", "P"], "y", {})], stored))
    assert network.double and network.nodes[-1].deviation is not None
    assert (network.nodes[-1].deviation >= OFF * np.abs(network.nodes[-1].weight.array)).all()
    for reader in (("Add", ["x", "P"], "y", {}), ("Gemm", ["x", "P"], "y", {})):
        with pytest.raises(Refused, match="rounded"):
            Network(model_of_many([product, reader], stored))
    with pytest.raises(Refused, match="rounded"):
        Network(model_of_many([product, ("Identity", ["P"], "Q", {}), ("MatMul", ["x", "Q"], "y", {})], stored))
