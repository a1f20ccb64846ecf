"""A report as one self-contained HTML page, and its table as CSV."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from verifier.batch.merging import Results
from verifier.batch.records import Record
from verifier.report import figures
from verifier.report.summary import Summary, Table, hardest, stage_rows, summary

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 0.6rem 0 1.2rem; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
.scroll { overflow-x: auto; }
h2 { margin-top: 2.2rem; border-bottom: 2px solid #2f6690; }
small { color: #666; }
"""

CAPTIONS = {
    "accuracy": ("Accuracy against eps", "Solid: proved. Dashed: not broken. Between them: undecided."),
    "margins": ("Margins", "The lead of the right class over the best other one, over all allowed changes."),
    "stages": ("Time by stage", "Of all inputs together."),
    "unstable": ("Unstable neurons", "Median, quartiles and extremes over the inputs that reached backward bounds."),
}


def draw(runs: Mapping[str, Results]) -> dict[str, Figure]:
    """The figures that compare the runs, by name."""
    totals = {name: summary(results) for name, results in runs.items()}
    return {
        "accuracy": figures.accuracy(totals),
        "margins": figures.margins(runs),
        "stages": figures.stages(runs),
        "unstable": figures.unstable(runs),
    }


def page(
    runs: Mapping[str, Results], drawn: Mapping[str, bytes], galleries: Mapping[str, bytes], notes: tuple[str, ...] = ()
) -> str:
    """The page. drawn: the figures of `draw` as PNG files; galleries: by run, a PNG file of counterexamples."""
    title = "Certified robustness: " + ", ".join(runs)
    parts = [f"<h1>{escape(title)}</h1>", *(f"<p><small>{escape(note)}</small></p>" for note in notes)]
    totals = {name: summary(results) for name, results in runs.items()}
    for name, total in totals.items():
        parts += [f"<p><b>{escape(name)}</b>: {escape(total.sentence())}</p>"]
    parts += ["<h2>Accuracy</h2>", _table(accuracy_table(totals)), "<h2>Runs</h2>", _table(run_table(totals))]
    for name, content in drawn.items():
        heading, caption = CAPTIONS[name]
        parts += [f"<h2>{heading}</h2>", f"<p>{caption}</p>", _image(content, heading)]
    parts += ["<h2>Stages</h2>"]
    for name, results in runs.items():
        parts += [f"<h3>{escape(name)}</h3>", _table(stage_rows(results.records.values()))]
    parts += ["<h2>Counterexamples</h2>"] if galleries else []
    for name, content in galleries.items():
        parts += [f"<h3>{escape(name)}</h3>", _image(content, f"counterexamples of {name}")]
    parts += ["<h2>Hardest inputs</h2>"]
    for name, results in runs.items():
        parts += [f"<h3>{escape(name)}</h3>", _table(hard_table(hardest(results.records.values())))]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def accuracy_table(totals: Mapping[str, Summary]) -> Table:
    """The accuracies of all runs at all radii."""
    tables = {name: total.table() for name, total in totals.items()}
    [head] = {table[0] for table in tables.values()}
    return ("run", *head), [(name, *row) for name, (_, rows) in tables.items() for row in rows]


def run_table(totals: Mapping[str, Summary]) -> Table:
    """What the runs were about, and what they took."""
    about = ("run", "model", "sha256", "data", "norm", "method", "semantics")
    head = (*about, "inputs", "errors", "core seconds", "ms an input")
    rows: list[tuple[str, ...]] = []
    for name, total in totals.items():
        run = total.run
        named = (name, run.model, run.sha256[:12], run.dataset, run.norm, run.method, run.semantics)
        each = f"{1000 * total.seconds / max(total.answered, 1):.1f}"
        rows.append((*named, f"{total.answered} of {total.inputs}", str(total.errors), f"{total.seconds:.1f}", each))
    return head, rows


def hard_table(records: Sequence[Record]) -> Table:
    """Results with their seconds and margins."""
    head = ("input", "eps", "label", "verdict", "stage", "seconds", "margin >=", "margin found", "remark")
    rows = []
    for r in records:
        numbers = tuple("" if value is None else f"{value:.4g}" for value in (r.proved, r.found))
        rows.append((str(r.index), r.eps, str(r.label), r.verdict, r.stage, f"{r.seconds:.2f}", *numbers, r.reason))
    return head, rows


def table_csv(table: Table) -> str:
    """A table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table[0])
    writer.writerows(table[1])
    return text.getvalue()


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table[0])
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in table[1])
    return f'<div class="scroll"><table><tr>{head}</tr>\n{rows}</table></div>'


def _image(content: bytes, text: str) -> str:
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
