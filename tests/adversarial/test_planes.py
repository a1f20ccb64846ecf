"""Balls that end at, just before or just behind the nearest unsafe input: no wrong verdict by any way."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from forgery import about
from planes import NORMS, Plane, network, plane, question, radii, worst
from puzzles import Subject

from verifier.batch.cascade import METHODS, cascade
from verifier.batch.evidence import Evidence
from verifier.batch.problem import Problem
from verifier.batch.query import answer, certified_answer
from verifier.batch.records import Case, Record, decoded
from verifier.certificate import checker
from verifier.certificate.checker import Refused
from verifier.certificate.statement import vnnlib
from verifier.certificate.trees import MAGIC
from verifier.certified import verify_certified
from verifier.data import Dataset
from verifier.radius import radius
from verifier.spec.property import exact
from verifier.spec.robustness import local_robustness, parse_eps
from verifier.spec.vnnlib import parse
from verifier.strategy import Settings, verify
from verifier.verdict import Verdict

SAMPLE, MANY = 4, 1000
WAYS = ("certified", "auto", "interval", "crown", "alpha", "bab", "lp", "milp")


def judge(one: Plane, eps: Fraction, norm: str, way: str, timeout: float = 0.3, jobs: int = 1) -> Verdict:
    """The verdict about a ball; fails when it is wrong."""
    if norm == "l2" and way in ("lp", "milp"):
        return Verdict.UNKNOWN  # no linear program holds an l2 ball: these methods refuse it
    prop = local_robustness(one.x, one.label, eps, norm, one.target, classes=one.network.classes)
    subject = Subject(one.network.graph)
    settings = Settings("auto" if way == "certified" else way, timeout=timeout, device="cpu", jobs=jobs)
    if way == "certified":
        found = verify_certified(subject, prop, settings)
        result, certificate = found.result, found.certificate
        if certificate is not None:
            said = checker.check(certificate.content, certificate.model, certificate.statement)
            assert said.semantics == result.semantics
            if said.semantics.startswith("float32"):
                holds_in_float32(one, eps, norm)
        assert (result.verdict is Verdict.VERIFIED) == (certificate is not None)
    else:
        result = verify(subject, prop, settings)
    if result.verdict is Verdict.VERIFIED and not result.solver_word:
        assert one.safe(eps, norm), "a false claim is VERIFIED"
    if result.verdict is Verdict.FALSIFIED:
        assert result.counterexample is not None
        broken(one, eps, norm, result.counterexample)
    return Verdict.UNKNOWN if result.solver_word else result.verdict


def broken(one: Plane, eps: Fraction, norm: str, point: np.ndarray) -> None:
    """Fails unless the point is a counterexample within distance eps."""
    assert not one.safe(eps, norm), "a true claim is FALSIFIED"
    prop = local_robustness(one.x, one.label, eps, norm, one.target, classes=one.network.classes)
    assert prop.region.admits(point)
    assert one.margin(list(prop.region.point(point))) <= 0, "safe in real arithmetic"
    outputs = Subject(one.network.graph).native(point[np.newaxis])[0]
    assert worst(outputs, one.label, one.target) <= 0, "safe in float32"


def holds_in_float32(one: Plane, eps: Fraction, norm: str) -> None:
    """Fails where a float32 input of the ball near the nearest unsafe one is misclassified in float32."""
    found = one.nearest(norm)
    if found is None:
        return
    prop = local_robustness(one.x, one.label, eps, norm, one.target, classes=one.network.classes)
    single = np.array(found[1], dtype=np.float64).astype(np.float32)
    steps = [[np.nextafter(v, np.float32(k)) if k is not None else v for k in (-1, None, 2)] for v in single]
    points = np.array([[a, b] for a in steps[0] for b in steps[1]], dtype=np.float32)
    outputs = Subject(one.network.graph).native(points)
    assert all(
        worst(y, one.label, one.target) > 0 for x, y in zip(points, outputs, strict=True) if prop.region.admits(x)
    )


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 3])


def test_balls_around_inputs(seeds: range = range(SAMPLE), ways: tuple[str, ...] = ()) -> None:
    answers: Counter[Verdict] = Counter()
    for seed in seeds:
        one, draw = plane(seed), draws(seed)
        for k, norm in enumerate(NORMS):
            for j, eps in enumerate(radii(one, norm, draw)):
                for way in ways or ("certified", WAYS[1 + (seed + k + j) % 7]):
                    answers[judge(one, eps, norm, way)] += 1
    assert answers[Verdict.VERIFIED] and answers[Verdict.FALSIFIED]


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_many_balls_around_inputs(way: str) -> None:
    test_balls_around_inputs(range(MANY), (way,))


def many(draw: np.random.Generator, norm: str) -> tuple[Problem, list[Plane]]:
    """Several inputs of one network."""
    net = network(draw)
    ones = [question(net, draw, aimed=False) for _ in range(6)]
    images = torch.from_numpy(np.stack([one.x for one in ones]))
    data = Dataset("planes", images, torch.tensor([one.label for one in ones]), net.classes)
    return Problem(Subject(net.graph), data, norm), ones


def test_test_sets(seeds: range = range(4)) -> None:
    """The batched path, all radii of several inputs at once, with certificates or without."""
    answers: Counter[str] = Counter()
    for seed in seeds:
        for norm in NORMS:
            draw = draws(seed)
            problem, ones = many(draw, norm)
            cases = [Case(i, str(eps)) for i, one in enumerate(ones) for eps in radii(one, norm, draw)]
            for method in METHODS:
                for record in chain.from_iterable(cascade(problem, cases, method, math.inf)):
                    answers[recorded(ones[record.index], record, norm)] += 1
    assert answers["VERIFIED"] and answers["FALSIFIED"]


def recorded(one: Plane, record: Record, norm: str) -> str:
    """The verdict of a record; fails when it is wrong."""
    eps = Fraction(record.case.eps)
    if record.verdict == "VERIFIED":
        assert one.safe(eps, norm), "a false claim is VERIFIED"
    if record.verdict == "FALSIFIED":
        broken(one, eps, norm, one.x if record.point is None else decoded(record.point, (2,)))
    return record.verdict


def test_certified_test_sets(tmp_path: Path, seeds: range = range(3)) -> None:
    """What a worker of `verifier certify` does, with certificates: bounds of a batch, then searches."""
    answers: Counter[str] = Counter()
    for seed in seeds:
        draw = draws(seed)
        problem, ones = many(draw, NORMS[seed % 3])
        norm, folder = problem.norm, tmp_path / str(seed)
        folder.mkdir()
        evidence = Evidence(problem, problem.subject, folder)
        cases = [Case(i, str(eps)) for i, one in enumerate(ones) for eps in radii(one, norm, draw)]
        parts = cascade(problem, cases, "auto", math.inf, evidence.stages("auto"))
        records = [record for part in parts for record in evidence.of_bounds(part)]
        open_ = [record.case for record in records if record.verdict == "UNKNOWN"]
        records += [evidence.of_search(case, Settings(timeout=0.2, device="cpu")) for case in open_]
        for record in records:
            answers[recorded(ones[record.index], record, norm)] += 1
            if record.verdict == "VERIFIED":
                assert record.certificate is not None
                names = record.certificate, "model.onnx", record.certificate.replace("cert", "vnnlib.gz")
                content, model, statement = ((folder / name).read_bytes() for name in names)
                said = checker.check(content, model, gzip.decompress(statement))
                if said.semantics.startswith("float32"):
                    holds_in_float32(ones[record.index], Fraction(record.eps), norm)
    assert answers["VERIFIED"] and answers["FALSIFIED"]


@pytest.mark.parametrize("norm", NORMS)
def test_radii(norm: str, seeds: range = range(4)) -> None:
    """The largest eps proved is below the distance to the nearest unsafe input, the smallest broken one is not."""
    for seed in seeds:
        one = plane(seed)
        subject, settings = Subject(one.network.graph), Settings(timeout=2, device="cpu")
        found = radius(subject, one.x, one.label, one.target, norm, settings)
        for eps, verdict in found.steps:
            assert verdict is not Verdict.VERIFIED or one.safe(parse_eps(eps), norm)
            assert verdict is not Verdict.FALSIFIED or not one.safe(parse_eps(eps), norm)
        assert found.proved < found.broken
        if found.counterexample is not None:
            broken(one, parse_eps(found.broken), norm, found.counterexample)


@pytest.mark.parametrize("seed", range(8))
def test_the_truth_is_that_of_samples(seed: int) -> None:
    """Points nearer than the nearest unsafe one are safe, and that one is not."""
    one, draw = plane(seed), np.random.default_rng(0)
    for norm in NORMS:
        found = one.nearest(norm)
        if found is not None:
            assert one.margin(found[1]) <= 0
        for point in (exact(draw.random(2)) for _ in range(40)):
            near = one.x + (point - exact(one.x)) * Fraction(int(draw.integers(1, 9)), 8)
            step = abs(near - exact(one.x))
            size = {"linf": max(step), "l1": sum(step), "l2": sum(step * step)}[norm]
            assert one.margin(list(near)) > 0 or (found is not None and size >= found[0])


def test_many_boxes(seeds: range = range(6)) -> None:
    """Boxes of one query, about one class, that end before the nearest unsafe input; in odd cases one does not."""
    answers: Counter[Verdict] = Counter()
    for seed in seeds:
        draw = draws(seed)
        first = question(network(draw), draw, aimed=False)
        properties, safe = [], True
        while len(properties) < 12:
            x = draw.random(2).astype(np.float32)
            one = replace(first, x=x)
            found = one.nearest("linf")
            if one.margin(exact(x).tolist()) <= 0:
                continue
            near = Fraction(1) if found is None else found[0]
            gap = Fraction(10.0 ** -float(draw.uniform(0.3, 6)))
            last = len(properties) == 11 and seed % 2
            eps = near * (1 + (gap if draw.random() < 0.7 else 0)) if last else near * (1 - gap)
            safe &= one.safe(eps, "linf")
            properties.append(local_robustness(x, one.label, eps, classes=one.network.classes))
        query = parse(vnnlib(*properties))
        subject, settings = Subject(first.network.graph), Settings(timeout=2, device="cpu")
        for verdict in (
            answer(subject, query, settings).result.verdict,
            certified_answer(subject, query, None, settings)[0].result.verdict,
        ):
            assert verdict is not Verdict.VERIFIED or safe
            assert verdict is not Verdict.FALSIFIED or not safe
            answers[verdict] += 1
    assert answers[Verdict.VERIFIED] and answers[Verdict.FALSIFIED]


# --- Certificates told again of claims nearby. ------------------------------------------------------------------------
def retold(content: bytes, model: bytes, statement: bytes) -> bytes:
    """A certificate with the hashes of another claim."""
    start = len(MAGIC) + 4
    end = start + int.from_bytes(content[len(MAGIC) : start], "little")
    header = json.dumps(about(json.loads(content[start:end]), model, statement)).encode()
    return MAGIC + len(header).to_bytes(4, "little") + header + content[end:]


def false_nearby(one: Plane, eps: Fraction, norm: str) -> Iterator[tuple[Plane, Fraction]]:
    """False claims about networks of the same shape: a larger ball, and one weight or one constant of the last layer
    changed by the least power of two that makes the claim false."""
    found = one.nearest(norm)
    if found is not None:
        root = found[0] if norm != "l2" else next(e for e in nearly(found[0]) if e**2 >= found[0])
        yield one, root
    weight, bias = one.network.layers[-1]
    rival = one.target if one.target is not None else next(k for k in range(len(bias)) if k != one.label)
    for column in (None, int(np.abs(weight[rival]).argmax())):
        for power in range(-20, 12):
            layer = weight.copy(), bias.copy()
            if column is None:
                layer[1][rival] += 2.0**power
            else:
                layer[0][rival, column] += 2.0**power
            if any((a.astype(np.float32) != a).any() for a in layer):
                continue
            other = replace(one, network=replace(one.network, layers=[*one.network.layers[:-1], layer]))
            if not other.safe(eps, norm):
                yield other, eps
                break


def nearly(square: Fraction) -> list[Fraction]:
    """Floats about the root of a number, upwards."""
    root = float(square) ** 0.5
    return [Fraction(v) for v in (root, np.nextafter(root, 9), np.nextafter(np.nextafter(root, 9), 9))]


def test_certificates_told_again_of_false_claims_nearby(seeds: range = range(6)) -> None:
    told = 0
    for seed in seeds:
        one, norm = plane(seed), NORMS[seed % 3]
        for eps in radii(one, norm, draws(seed)):
            prop = local_robustness(one.x, one.label, eps, norm, one.target, classes=one.network.classes)
            settings = Settings(timeout=0.5, device="cpu")
            certificate = verify_certified(Subject(one.network.graph), prop, settings).certificate
            if certificate is None:
                continue
            for other, wider in false_nearby(one, eps, norm):
                claim = local_robustness(other.x, other.label, wider, norm, other.target, classes=other.network.classes)
                model, statement = Subject(other.network.graph).onnx(), vnnlib(claim).encode()
                with pytest.raises(Refused, match="is about another"):
                    checker.check(certificate.content, model, statement)
                for arithmetic in ("exact", "rounded"):
                    with pytest.raises(Refused):
                        checker.check(retold(certificate.content, model, statement), model, statement, arithmetic)
                    told += 1
            model, statement = certificate.model, certificate.statement
            assert checker.check(retold(certificate.content, model, statement), model, statement).margin >= 0
    assert told
