"""The results of a run as a CSV file that grows line by line, from which a stopped run goes on."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from verifier.batch.competition import DECIDED, WORDS, Instance
from verifier.errors import InputError


@dataclass(frozen=True)
class Row:
    """One instance and what came of it, as strings; '' is for what is not known.

    seconds: wall clock, loading included. stage: the one that decided. expected: a word. subdomains, peak_mib, claim,
    certificate: see `competition.Finding`.
    """

    category: str
    onnx: str
    vnnlib: str
    result: str
    seconds: str
    stage: str
    expected: str
    timeout: str
    reason: str
    subdomains: str = ""
    peak_mib: str = ""
    claim: str = ""
    certificate: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.category, self.onnx, self.vnnlib

    @property
    def valid(self) -> bool:
        """Whether the fields that are counted with can be."""
        measured = re.fullmatch(r"\d+(\.\d+)?", self.seconds) and re.fullmatch(r"\d*", self.peak_mib)
        return self.result in WORDS and measured is not None

    @property
    def decided(self) -> bool:
        return self.result in DECIDED

    @property
    def judged(self) -> bool:
        """Whether both this verdict and the expected one are decided."""
        return self.decided and self.expected in DECIDED

    @property
    def wrong(self) -> bool:
        """Whether this verdict contradicts the expected one."""
        return self.judged and self.result != self.expected


HEADER = tuple(field.name for field in fields(Row))
EARLIER = (HEADER[:9], HEADER[:11])  # of files that were written before there were more columns


class Results:
    """Rows by key, in memory and in `path`."""

    def __init__(self, path: Path) -> None:
        """Raises InputError when `path` holds something else."""
        self.path = path
        self.rows: dict[tuple[str, str, str], Row] = {}
        text = self._stored()
        header = next((h for h in (HEADER, *EARLIER) if text.startswith(_line(h))), None)
        if header is None and not _line(HEADER).startswith(text):
            raise InputError(f"{path}: is no CSV file of results; give another --out")
        # A line without an end was cut short when the run was stopped: it does not count.
        self._read(text[: text.rfind("\n") + 1], header or HEADER)
        if header != HEADER or not text.endswith("\n"):
            self._rewrite()

    def left(self, instances: Sequence[Instance], certified: bool = False) -> list[Instance]:
        """The instances that have no row yet. Raises InputError when a row was found with another timeout.

        certified: a row that says unsat without a certificate counts for none.
        """
        for instance in instances:
            row = self.rows.get((instance.category, instance.onnx, instance.vnnlib))
            if row is not None and row.timeout != f"{instance.timeout:g}":
                limits = f"a timeout of {row.timeout} s, not {instance.timeout:g} s"
                raise InputError(f"{self.path}: holds results for {limits}; give another --out or the same --timeout")
        done = {key for key, row in self.rows.items() if not certified or row.result != "unsat" or row.certificate}
        return [i for i in instances if (i.category, i.onnx, i.vnnlib) not in done]

    def of(self, instances: Iterable[Instance]) -> list[Row]:
        """The rows of these instances, set against what is expected of them now."""
        return [replace(self.rows[i.category, i.onnx, i.vnnlib], expected=i.expected) for i in instances]

    def append(self, row: Row) -> None:
        """Keep a row and write it at once. Raises InputError when the file cannot be written."""
        self._write(self.path, "a", _line(tuple(asdict(row).values())))
        self.rows[row.key] = row

    def _stored(self) -> str:
        try:
            return self.path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); give another --out") from error
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: is no CSV file of results; give another --out") from None

    def _read(self, text: str, header: Sequence[str]) -> None:
        for number, line in enumerate(csv.reader(text.splitlines()), start=1):
            if number == 1:
                continue
            row = Row(*line) if len(line) == len(header) else None
            if row is None or not row.valid:
                raise InputError(f"{self.path}, line {number}: is no result; give another --out")
            self.rows[row.key] = row

    def _rewrite(self) -> None:
        """Write the whole file anew, in today's columns; a stop in between leaves the old one as it was."""
        part = self.path.with_name(self.path.name + ".part")
        self._write(
            part, "w", "".join(map(_line, (HEADER, *(tuple(asdict(row).values()) for row in self.rows.values()))))
        )
        os.replace(part, self.path)

    def _write(self, path: Path, mode: str, text: str) -> None:
        try:
            with path.open(mode, encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); give another --out") from error


def _line(values: Sequence[str]) -> str:
    """The values as a line of CSV, without line breaks inside."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(" ".join(value.split()) for value in values)
    return text.getvalue()
