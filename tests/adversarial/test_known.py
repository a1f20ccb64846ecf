"""Networks of many inputs whose least value is known although nothing shows it: no wrong verdict by any way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import meeting
import numpy as np
import pytest
from disguises import DISGUISED
from puzzles import judged
from rising import case
from test_lines import judge, set_margin

from verifier.batch.query import answer, certified_answer
from verifier.certificate import checker
from verifier.load import load
from verifier.simplify import is_merged, simplified
from verifier.spec.property import exact
from verifier.spec.vnnlib import parse
from verifier.strategy import METHODS, Settings
from verifier.verdict import Verdict

HOW = (*METHODS, "certified")
SAMPLE, MANY = 12, 1000


def about(family: str, seeds: Iterable[int], ways: Iterable[str], timeout: float) -> Counter[Verdict]:
    """The verdicts on cases of a family, each by all of these ways."""
    balls = family == "sphere"  # of which no linear program holds those in l2
    ways = [way for way in ways if not (balls and way in ("lp", "milp"))]
    return Counter(judged(DISGUISED[family](seed), way, timeout) for seed in seeds for way in ways)


@pytest.mark.parametrize("family", DISGUISED)
def test_no_verdict_on_what_is_disguised_is_wrong(family: str) -> None:
    answers = about(family, range(SAMPLE), ("certified",), 2)
    for seed in range(SAMPLE):
        answers += about(family, [seed], (HOW[seed % len(HOW)],), 0.3)
    assert answers[Verdict.VERIFIED] and answers[Verdict.FALSIFIED]


@pytest.mark.parametrize("seed", [70024, 70114])
def test_merging_that_leaves_as_many_values_in_all_is_noticed(seed: int) -> None:
    """Two activations fewer and two sums more: a search that asked what float32 costs crashed."""
    puzzle = DISGUISED["sphere"](seed)
    graph = simplified(puzzle.graph)
    assert sum(n.size for n in graph.nodes) == sum(n.size for n in puzzle.graph.nodes) and is_merged(
        graph, puzzle.graph
    )
    assert judged(puzzle, "certified", 2) is not Verdict.FALSIFIED


@pytest.mark.long
@pytest.mark.parametrize("way", HOW)
@pytest.mark.parametrize("family", DISGUISED)
def test_no_verdict_on_much_that_is_disguised_is_wrong(family: str, way: str) -> None:
    about(family, range(SAMPLE, SAMPLE + MANY), (way,), 0.5)


@pytest.mark.parametrize("family", DISGUISED)
def test_no_point_is_below_the_least_value(family: str) -> None:
    """Of those that float32 holds, and next to the least one; there it is reached."""
    draw = np.random.default_rng(0)
    for seed in range(SAMPLE):
        puzzle = DISGUISED[family](seed)
        region = puzzle.prop.region
        least = puzzle.margin(puzzle.lowest)
        assert region.contains(puzzle.lowest) and (least > 0) == puzzle.safe
        for _ in range(8):
            x = puzzle.lower + exact(draw.random(len(puzzle.lower))) * (puzzle.upper - puzzle.lower)
            for point in (x, puzzle.lowest + (x - puzzle.lowest) / 64):
                assert not region.contains(point) or puzzle.margin(point) >= least


def test_verdicts_on_what_never_falls_are_right(tmp_path: Path) -> None:
    answers = Counter(judge(case(seed), "certified", tmp_path, 2).verdict.name for seed in range(SAMPLE))
    for seed in range(SAMPLE):
        answers[judge(case(seed), HOW[seed % len(HOW)], tmp_path, 0.3).verdict.name] += 1
    assert answers["VERIFIED"] and answers["FALSIFIED"]


@pytest.mark.long
@pytest.mark.parametrize("way", HOW)
def test_verdicts_on_much_that_never_falls_are_right(way: str, tmp_path: Path) -> None:
    for seed in range(SAMPLE, SAMPLE + MANY):
        judge(case(seed), way, tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_what_runs_is_what_never_falls(seed: int, tmp_path: Path) -> None:
    """At the corners it is what was computed exactly, up to rounding; between them no margin is smaller."""
    one = case(seed)
    path = tmp_path / "net.onnx"
    path.write_bytes(one.content)
    model, region = load(path), one.prop.region
    low, high = (side.astype(np.float64) for side in (region.lower, region.upper))
    shares = np.random.default_rng(seed).random((200, *low.shape))
    outputs = model.native((low + shares * (high - low)).astype(np.float32)).astype(np.float64)
    room = 1e-4 * (1 + np.abs(outputs).max())
    assert min(float(set_margin(one.prop, exact(y.ravel()))) for y in outputs) >= float(one.least[0]) - room
    worst = np.array([low, high][int(one.least[1])], np.float32)[None]
    assert (
        abs(float(set_margin(one.prop, exact(model.native(worst).ravel().astype(np.float64)) - one.least[0]))) <= room
    )


def told(seed: int, way: str, folder: Path, timeout: float = 2.0) -> str:
    """The verdict on a specification that is met at a vertex, or missed there by little; fails when it is wrong."""
    one = meeting.case(seed)
    (folder / "net.onnx").write_bytes(one.content)
    model, query, text = load(folder / "net.onnx"), parse(one.text), one.text.encode()
    settings, certificate = Settings(timeout=timeout, device="cpu"), None
    if way == "certified":
        found, proof = certified_answer(model, query, text, settings)
        certificate = proof.certificate
    else:
        found = answer(model, query, replace(settings, method=way))
    verdict = found.result.verdict
    if verdict is Verdict.FALSIFIED:
        assert not one.safe, f"{seed}: a true claim is FALSIFIED by {way}"
    if verdict is Verdict.VERIFIED and not found.result.solver_word:
        assert one.safe, f"{seed}: a false claim is VERIFIED by {way}"
    if certificate is not None:
        for arithmetic in ("exact", "rounded"):
            assert checker.check(certificate.content, certificate.model, text, arithmetic).margin >= 0
    return verdict.name


def test_sets_that_meet_a_network_in_one_vertex(tmp_path: Path) -> None:
    answers = Counter(told(seed, "certified", tmp_path) for seed in range(2 * SAMPLE))
    for seed in range(SAMPLE):
        answers[told(seed, HOW[seed % len(HOW)], tmp_path, 0.3)] += 1
    assert answers["VERIFIED"] and answers["FALSIFIED"], answers


@pytest.mark.long
@pytest.mark.parametrize("way", HOW)
def test_many_sets_that_meet_a_network_in_one_vertex(way: str, tmp_path: Path) -> None:
    for seed in range(2 * SAMPLE, 2 * SAMPLE + MANY):
        told(seed, way, tmp_path, 0.5)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_said_of_the_vertices_is_true(seed: int) -> None:
    """As the assertions are written: of true claims no corner satisfies them, of false ones some corner does."""
    one = meeting.case(seed)
    query = parse(one.text)
    points = [corner for box in one.boxes for corner in box]
    reached = [(np.array(x), np.array(meeting.outputs(seed, one.shape, x))) for x in points]
    holds = [query.holds(x, y) for x, y in reached]
    assert any(holds) != one.safe
