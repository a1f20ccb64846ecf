"""The journal: what is written is read back, a torn tail is cut off, and nothing else is ever lost or accepted."""

from __future__ import annotations

import base64
import os
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from verifier.batch.journal import SEAL, SEALED, Journal, Line, read, save, sealed, unsealed
from verifier.batch.merging import Results, read_all
from verifier.batch.records import VERIFIED, Record, Run, decoded, encoded
from verifier.errors import InputError

LINES = [{"kind": "run", "n": 1}, {"kind": "result", "text": 'é"\n}', "value": 0.1}, {"kind": "result", "none": None}]


def written(path: Path) -> bytes:
    with Journal(path) as journal:
        journal.append(LINES[:1])
        journal.append(LINES[1:])
    return path.read_bytes()


def test_lines_come_back(tmp_path: Path) -> None:
    content = written(tmp_path / "a")
    lines, size = read(tmp_path / "a")
    assert [{k: v for k, v in line.items() if k != "crc32"} for line in lines] == LINES and size == len(content)


def test_every_torn_tail_is_cut_off_and_the_rest_kept(tmp_path: Path) -> None:
    content = written(tmp_path / "a")
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        (tmp_path / "b").write_bytes(content[:cut])
        whole = [end for end in ends if end <= cut]
        with Journal(tmp_path / "b", resume=True) as journal:
            assert len(journal.lines) == len(whole)
            assert journal.repaired == cut - max([0, *whole])
            journal.append(LINES[2:])
        assert len(read(tmp_path / "b")[0]) == len(whole) + 1


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    line = sealed(LINES[1])
    assert unsealed(line) == {k: v for k, v in LINES[1].items()}
    for i in range(len(line)):
        for flip in (1, 32, 128):
            assert unsealed(line[:i] + bytes([line[i] ^ flip]) + line[i + 1 :]) is None


def test_damage_before_the_end_is_refused(tmp_path: Path) -> None:
    content = written(tmp_path / "a")
    place = content.index(b"result")
    (tmp_path / "a").write_bytes(content[:place] + b"R" + content[place + 1 :])
    with pytest.raises(InputError, match="line 2: is damaged"):
        Journal(tmp_path / "a", resume=True)
    assert len((tmp_path / "a").read_bytes()) == len(content)


@pytest.mark.parametrize("content", [b"a file of mine", b"a,b\n1,2\n", b'{"kind": "run"}\n', b"\x00" * 40])
def test_other_files_are_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    for resume in (False, True):
        with pytest.raises(InputError):
            Journal(tmp_path / "a", resume)
    assert (tmp_path / "a").read_bytes() == content


def test_an_existing_journal_needs_resume_and_a_second_writer_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "a")
    with pytest.raises(InputError, match="--resume"):
        Journal(tmp_path / "a")
    with Journal(tmp_path / "a", resume=True), pytest.raises(InputError, match="another run"):
        Journal(tmp_path / "a", resume=True)
    with Journal(tmp_path / "a", resume=True) as journal:
        assert len(journal.lines) == 3


def test_folders_and_places_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "a"):
        with pytest.raises(InputError, match="cannot be written"):
            Journal(path, resume=True)


FULL = """
import resource, sys
from pathlib import Path
from verifier.batch.journal import Journal, read
from verifier.errors import InputError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
with Journal(path) as journal:
    journal.append([{"kind": "run"}])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    kept = 1
    try:
        while True:
            journal.append([{"kind": "result", "n": kept, "text": "x" * 80}])
            kept += 1
    except InputError as error:
        print(kept, error)
"""


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "a")], capture_output=True, text=True, check=True)
    kept, _, message = done.stdout.partition(" ")
    assert "cannot be written (File too large); make room and go on with --resume" in message
    lines, size = read(tmp_path / "a")
    assert len(lines) == int(kept) > 3 and size == os.path.getsize(tmp_path / "a") <= 1000
    with Journal(tmp_path / "a", resume=True) as journal:
        journal.append([{"kind": "result"}])
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_saved_files_are_whole_or_absent(tmp_path: Path) -> None:
    assert save(tmp_path / "certificates", "a.cert", b"content") == "a.cert"
    assert (tmp_path / "certificates" / "a.cert").read_bytes() == b"content"
    assert os.listdir(tmp_path / "certificates") == ["a.cert"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save(tmp_path / "file", "a.cert", b"content")


def nested(depth: int) -> bytes:
    text = sealed({"kind": "run"})[:-SEALED] + b', "n": ' + b"[" * depth + b"]" * depth
    return text + f'{SEAL}{zlib.crc32(text):08x}"}}\n'.encode()


def test_deep_nesting_is_damage(tmp_path: Path) -> None:
    assert unsealed(nested(3)) == {"kind": "run", "n": [[[]]]}
    (tmp_path / "a").write_bytes(nested(100_000) + sealed(LINES[0]))
    with pytest.raises(InputError, match="a, line 1: is damaged, or the file is no journal; give another file"):
        read(tmp_path / "a")


RUN = Run("net.pt", "ab" * 32, "", "digits", "cd" * 32, 8, ("0.1", "2/10"), "linf", "auto", "1", ("first", "second"))
RECORD = Record(3, "0.1", 1, 1, VERIFIED, "crown", 0.5, 1.25, stages={"predict": 0.1}, unstable=(4, 0), point=None)


def with_lines(path: Path, run: Line, record: Line) -> Path:
    path.write_bytes(sealed(run) + sealed(record))
    return path


def test_runs_and_results_come_back(tmp_path: Path) -> None:
    held = read_all([with_lines(tmp_path / "a", RUN.line(), RECORD.line(RUN))])
    assert held == {RUN.identity: Results(RUN, {RECORD.case: RECORD})}


STRANGE = [None, True, -1, 1.5, -2, 10**400, "x", "1/0", [], ["x", None], [[1]], {}, {"a": "b"}]
FITTING = {  # which of the strange values a field may hold
    **dict.fromkeys(
        ("model", "sha256", "arch", "dataset", "inputs", "norm", "method", "version", "semantics"), "x 1/0"
    ),
    **dict.fromkeys(("stage", "reason"), "x 1/0"),
    **dict.fromkeys(("certificate", "point"), "None x 1/0"),
    **dict.fromkeys(("label", "prediction", "count", "format"), "-1"),
    **dict.fromkeys(("proved", "found"), "None -1 -2 1.5"),
    **{"certified": "True", "layers": "[]", "unstable": "[]", "seconds": "-1 -2 1.5", "stages": "{}"},
}


@pytest.mark.parametrize("about", ["run", "result"])
def test_values_of_other_kinds_are_refused_by_file_and_line(tmp_path: Path, about: str) -> None:
    lines = {"run": RUN.line(), "result": RECORD.line(RUN)}
    for name in set(lines[about]) - {"kind", "key"}:
        for value in STRANGE:
            if str(value) in FITTING.get(name, "").split():
                continue
            changed = {**lines, about: {**lines[about], name: value}}
            path = with_lines(tmp_path / "a", changed["run"], changed["result"])
            with pytest.raises(InputError, match=rf"a, line {2 - (about == 'run')}: .*; give another file") as told:
                read_all([path])
            assert "\n" not in str(told.value), (name, value)


@pytest.mark.parametrize("change", [{"eps": "0.3"}, {"eps": "0.2"}, {"verdict": "MAYBE"}, {"more": 1}])
def test_results_that_their_run_does_not_ask_for_are_refused(tmp_path: Path, change: dict) -> None:
    path = with_lines(tmp_path / "a", RUN.line(), {**RECORD.line(RUN), **change})
    with pytest.raises(InputError, match=r"a, line 2: .*; give another file"):
        read_all([path])


@pytest.mark.parametrize("eps", [[], ["0.2", "0.1"], ["0.1", "one"], ["one\ntwo"], ["1e999999999"], ["nan"]])
def test_radii_that_make_no_sense_are_refused(tmp_path: Path, eps: list[str]) -> None:
    path = with_lines(tmp_path / "a", {**RUN.line(), "eps": eps}, RECORD.line(RUN))
    with pytest.raises(InputError, match="a, line 1: is a run whose eps are no radii in ascending order") as told:
        read_all([path])
    assert "\n" not in str(told.value)


def test_counterexamples_come_back_and_other_texts_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    assert np.array_equal(decoded(encoded(x), (2, 3)), x)
    bomb = base64.b64encode(zlib.compress(bytes(1 << 24))).decode()
    for text in ("x", "é", "", "AAAA", encoded(x)[:-8], encoded(x[:1]), encoded(np.ones(7)), bomb):
        with pytest.raises(InputError, match=r"is no input of shape \(2, 3\); give another journal"):
            decoded(text, (2, 3))
