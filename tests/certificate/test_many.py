"""Certificates of many boxes at once: the texts, boxes and margins are those of one after the other."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from certified import onnx_bytes
from nets import mlp
from onnx import helper

from verifier.bounds.interval import IntervalBounds
from verifier.certificate import checker
from verifier.certificate.many import Claims, Together
from verifier.certificate.properties import read_property
from verifier.certificate.statement import vnnlib
from verifier.errors import CertificateError
from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.smooth import Sigmoid
from verifier.spec.robustness import local_robustness
from verifier.types import Box

CLASSES, INPUTS, COUNT = 4, 6, 9
EPS = (Fraction(1, 20), Fraction(1, 3), Fraction(0))


def network(seed: int = 0) -> Graph:
    return mlp(torch.Generator().manual_seed(seed), (INPUTS, 12, 10, CLASSES))


def drawn(seed: int = 0) -> tuple[np.ndarray, list[int]]:
    """Inputs of which many numbers are equal, as in images, and labels."""
    draw = np.random.default_rng(seed)
    x = draw.choice(np.linspace(0, 1, 7), (COUNT, INPUTS)).astype(np.float32)
    return x, draw.integers(CLASSES, size=COUNT).tolist()


def claims(eps: Fraction, seed: int = 0) -> Claims:
    return Claims.around(*drawn(seed), eps, CLASSES, (0.0, 1.0))


@pytest.mark.parametrize("eps", EPS)
def test_texts_and_boxes_are_those_of_single_claims(eps: Fraction) -> None:
    made = claims(eps)
    for i, (x, label) in enumerate(zip(*drawn(), strict=True)):
        prop = local_robustness(x, label, eps, classes=CLASSES)
        assert made.statement(i).decode() == vnnlib(prop)
        cases = read_property(made.statement(i).decode(), INPUTS, CLASSES)
        lower, upper = cases[0].region.box
        assert np.array_equal(made.lower[[i]], lower) and np.array_equal(made.upper[[i]], upper)
        assert np.array_equal(made.rows[i], np.concatenate([case.rows for case in cases]).astype(float))


@pytest.mark.parametrize("seed", range(3))
def test_margins_are_those_that_the_checker_finds(seed: int) -> None:
    """Rightly classified inputs are proved by all ways, in exact arithmetic as well; none of the others is."""
    graph, eps = network(seed), Fraction(1, 100)
    x, _ = drawn(seed)
    outputs = graph.to(torch.float64)(torch.from_numpy(x).double())
    labels = outputs.argmax(1).tolist()
    labels[0] = int(outputs[0].argmin())  # wrong
    made, together = Claims.around(x, labels, eps, CLASSES, (0.0, 1.0)), Together(onnx_bytes(graph))
    assert len(together.ways) == 3
    proved = 0
    for way in together.ways:
        bounds, unstable = together.bounds(made, way)
        assert bounds.shape == (COUNT, CLASSES - 1) and unstable.shape == (COUNT, 2)
        assert not bounds[0].min() > 0
        for i, margin in enumerate(bounds.min(axis=1).tolist()):
            content, statement = together.certificate(made, i, way)
            if not margin > 0:
                with pytest.raises(CertificateError, match="not proved"):
                    together.checked(content, statement)
                continue
            proved += 1
            assert together.checked(content, statement).margin == pytest.approx(margin, abs=1e-9)
            accepted = checker.check(content, together.model, statement, "exact")
            assert accepted.margin == pytest.approx(margin, abs=1e-7) and "float32" in accepted.semantics
    assert proved > COUNT


def test_flat_lines_prove_what_intervals_prove() -> None:
    """Of lines of slope zero at the last activation nothing but the interval of its outputs is left."""
    graph, eps = network(), Fraction(1, 50)
    made, together = claims(eps), Together(onnx_bytes(graph))
    [flat] = [way for way in together.ways if way.flat]
    bounds, _ = together.bounds(made, flat)
    box = Box(torch.from_numpy(made.lower), torch.from_numpy(made.upper))
    intervals = IntervalBounds()(graph.to(torch.float64), box, torch.from_numpy(made.rows)).lower
    assert bounds == pytest.approx(intervals.numpy(), abs=1e-4) and (bounds <= intervals.numpy()).all()


def test_a_certificate_is_about_its_own_files() -> None:
    together, made = Together(onnx_bytes(network())), claims(Fraction(0))
    content, _ = together.certificate(made, 0, together.ways[0])
    with pytest.raises(CertificateError, match="another"):
        together.checked(content, made.statement(1))
    with pytest.raises(CertificateError, match="another"):
        Together(onnx_bytes(network(1))).checked(content, made.statement(0))


def test_what_may_overflow_is_not_proved() -> None:
    """The checker refuses such networks as a whole; then no claim of the batch has a bound."""
    builder = GraphBuilder((INPUTS,))
    x = builder.add(Linear(torch.full((CLASSES, INPUTS), 1e38), torch.zeros(CLASSES)), 0)
    builder.add(Linear(torch.full((CLASSES, CLASSES), 1e38), torch.zeros(CLASSES)), x)
    together = Together(onnx_bytes(builder.finish()))
    bounds, _ = together.bounds(claims(Fraction(1, 20)), together.ways[-1])
    assert np.isnan(bounds).all()


def test_claims_about_smooth_networks_are_real() -> None:
    builder = GraphBuilder((INPUTS,))
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(8, INPUTS, generator=generator), torch.randn(CLASSES, 8, generator=generator)]
    x = builder.add(Sigmoid(), builder.add(Linear(weights[0], torch.zeros(8)), 0))
    builder.add(Linear(weights[1], torch.zeros(CLASSES)), x)
    graph = builder.finish()
    together, (x, _) = Together(onnx_bytes(graph)), drawn()
    labels = graph.to(torch.float64)(torch.from_numpy(x).double()).argmax(1).tolist()
    made = Claims.around(x, labels, Fraction(1, 1000), CLASSES, (0.0, 1.0))
    bounds, _ = together.bounds(made, together.ways[-1])
    best = int(bounds.min(axis=1).argmax())
    accepted = together.checked(*together.certificate(made, best, together.ways[-1]))
    assert accepted.semantics == "real" and accepted.margin > 0


def test_a_model_that_the_checker_does_not_read_is_refused() -> None:
    with pytest.raises(CertificateError, match="does not read"):
        Together(b"no model")
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, INPUTS]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Sign", ["x"], ["y"])], "signs", value[:1], value[1:])
    with pytest.raises(CertificateError, match=r"does not read the model: .*Sign"):
        Together(helper.make_model(graph).SerializeToString())
