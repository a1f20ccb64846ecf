"""The page of a report: self-contained, escaped, with the numbers of the journal; its figures and its table."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from verifier.batch.merging import Results
from verifier.batch.records import ERROR, FALSIFIED, UNKNOWN, VERIFIED, Record, Run, encoded
from verifier.report.figures import Example, drawable, examples, gallery, png
from verifier.report.page import accuracy_table, draw, page, table_csv
from verifier.report.summary import hardest, stage_rows, summary

PNG = b"\x89PNG"
RUN = Run("m/net.pt", "ab" * 32, "", "digits", "cd" * 32, 8, ("0.1", "0.2"), "linf", "auto", "1", ("first", "second"))


def result(index: int, eps: str, verdict: str, stage: str = "crown", **more) -> Record:
    return Record(index, eps, 1, 1, verdict, stage, 0.5, stages={"predict": 0.1, stage: 0.4}, **more)


@pytest.fixture
def results() -> Results:
    """Of 8 inputs: two proved at both radii, one broken at the larger one by an attack, one at both by the search, one
    misclassified, one undecided, one an error, and one without a result."""
    point = encoded(np.full((1, 2, 2), 0.5, np.float32))
    records = [
        result(0, "0.2", VERIFIED, proved=1.5, unstable=(3, 1)),
        result(1, "0.2", VERIFIED, "alpha", proved=0.5, unstable=(5, 2)),
        result(2, "0.1", VERIFIED, proved=0.25, unstable=(4, 4)),
        result(2, "0.2", FALSIFIED, "attack", found=-0.5, point=point),
        result(3, "0.1", FALSIFIED, "bab", found=-0.1, point=point),
        result(4, "0.1", FALSIFIED, "predict", found=-2.0),
        result(5, "0.1", VERIFIED, proved=0.1),
        result(5, "0.2", UNKNOWN, "bab", proved=-0.3, found=0.2, reason="the time <limit> was reached"),
        result(6, "0.1", ERROR, "", reason="it died"),
    ]
    return Results(RUN, {record.case: record for record in records})


def test_the_summary_counts(results: Results) -> None:
    total = summary(results)
    assert (total.inputs, total.answered, total.clean, total.errors) == (8, 7, 6, 1)
    assert [(p.eps, p.verified, p.falsified, p.undecided) for p in total.points] == [("0.1", 4, 2, 1), ("0.2", 2, 3, 2)]
    assert total.attacked == (6, 5) and total.undecided == 3
    assert total.table()[1][0] == ("0.1", "85.71 %", "85.71 %", "57.14 %", "28.57 %", "14.29 %")
    assert "of the 7 of 8 digits images with an answer" in total.sentence()
    assert "4 (57.14 %) within 0.1 to 2 (28.57 %)" in total.sentence()
    assert total.sentence().endswith(", up to 2 are undecided at some radius, 1 have no answer yet.")
    assert total.record()["radii"][1] == {"eps": "0.2", "verified": 2, "falsified": 3, "undecided": 2, "attack": 5}


def test_stages_and_the_hardest(results: Results) -> None:
    rows = {row[0]: row[1:] for row in stage_rows(results.records.values())[1]}
    assert rows["predict"] == ("9", "0", "1", "1.20") and rows["bab"] == ("2", "0", "1", "0.80")
    assert [record.verdict for record in hardest(results.records.values(), 3)][:2] in (
        [UNKNOWN, ERROR],
        [ERROR, UNKNOWN],
    )


class Checker(HTMLParser):
    """Notes the tags that are open, the sources of images and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("img", "meta"):
            self.stack.append(tag)
        self.sources += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_self_contained(results: Results) -> None:
    runs = {"net <1>": results, "other": Results(RUN, dict(list(results.records.items())[:2]))}
    drawn = {name: png(figure) for name, figure in draw(runs).items()}
    assert set(drawn) == {"accuracy", "margins", "stages", "unstable"}
    assert all(content.startswith(PNG) for content in drawn.values())
    images = np.zeros((8, 1, 2, 2), np.float32)
    found = examples(results, images)
    assert [example.record.index for example in found] == [3, 2]
    text = page(runs, drawn, {"net <1>": png(gallery(found))}, ("a note & more",))
    checker = Checker()
    checker.feed(text)
    assert not checker.stack and len(checker.sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in checker.sources)
    assert not re.search(r"https?://|<script|<link", text)
    assert "net <1>" in checker.text and "the time <limit> was reached" in checker.text and "57.14 %" in checker.text


def test_pictures_of_a_gallery_stand_apart_and_keep_their_shape(results: Results) -> None:
    shapes = [(4, 8), (8, 4, 3), (6, 6)]
    record = next(iter(results.records.values()))
    figure = gallery([Example(record, np.zeros(shape), np.ones(shape)) for shape in shapes])
    [panel] = figure.axes
    boxes = []
    for image, shape in zip(panel.images, [shape for shape in shapes for _ in range(3)], strict=True):
        assert image.get_array().shape == shape
        left, right, bottom, top = image.get_extent()
        (x, y), (u, v) = panel.transData.transform([(left, bottom), (right, top)]) / figure.dpi
        assert 0 <= x < u <= figure.get_figwidth() and 0 <= y < v <= figure.get_figheight()
        assert (u - x) / (v - y) == pytest.approx(shape[1] / shape[0])
        assert all(u <= other[0] or other[2] <= x or v <= other[1] or other[3] <= y for other in boxes)
        boxes.append((x, y, u, v))
    assert len(panel.texts) == 9 and panel.texts[2].get_text() == "difference x 1"


def test_the_table_as_csv(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(accuracy_table({"a, b": summary(results)})))))
    assert [row["run"] for row in rows] == ["a, b", "a, b"] and rows[1]["certified"] == "28.57 %"


def test_a_run_without_margins_or_pictures_is_drawn_all_the_same() -> None:
    record = Record(0, "0.1", 1, 1, ERROR, "", 0.0, reason="it died")
    runs = {"net": Results(RUN, {record.case: record})}
    assert all(png(figure).startswith(PNG) for figure in draw(runs).values())
    assert examples(runs["net"], np.zeros((8, 5), np.float32)) == []


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((2, 3), (2, 3)),
        ((1, 4, 5), (4, 5)),
        ((4, 5, 1), (4, 5)),
        ((3, 4, 5), (4, 5, 3)),
        ((7,), None),
        ((2, 4, 5), None),
    ],
)
def test_which_inputs_are_pictures(shape: tuple[int, ...], drawn: tuple[int, ...] | None) -> None:
    picture = drawable(np.zeros(shape))
    assert (None if picture is None else picture.shape) == drawn
