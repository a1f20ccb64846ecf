"""The README is true: every command and program in it runs, and prints what the README shows."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from verifier.cli.main import main, main_verify

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

# Set-up: what a fresh machine needs once, and the whole test suite. Everything else is run.
SET_UP = (
    "python3 -m venv .venv",
    ".venv/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu",
    ".venv/bin/pip install .",
    '.venv/bin/pip install -e ".[dev]"',
    ".venv/bin/pip install onnxscript",
    ".venv/bin/python -m pytest",
    ". .venv/bin/activate",
)
EXIT_CODES = {"VERIFIED": 0, "FALSIFIED": 1, "UNKNOWN": 3}

NUMBER = r"-?\d+\.\d+(?:e[+-]\d+)?"
TOKEN = re.compile(
    rf"(?P<time>\b\d+\.\d+ s\b)|(?P<count>\b\d+(?= subdomains?| steps))|(?P<number>{NUMBER})|(?P<any>\.\.\.)"
    r"|(?P<space>\s+)|(?P<text>.)"
)
SEARCH = re.compile(r"^bab |\(bab, ")  # lines that tell how branch and bound ended
FREE = {"time": r"\d+\.\d+ s", "count": r"\d+", "any": r"[\s\S]*?", "space": r"\s+"}


def mismatch(shown: str, printed: str) -> str:
    """Why the printed text is not the one shown, or "".

    Words and whole numbers must be the same; decimals agree to 2 % or 0.002. Times, counts of search steps and what
    branch and bound reaches depend on the machine and may be any; "..." stands for anything.
    """
    shown, pattern, numbers = shown.strip(), "", []
    for token in TOKEN.finditer(shown):
        kind = str(token.lastgroup)
        if kind == "number":
            line = shown[shown.rfind("\n", 0, token.start()) + 1 :].partition("\n")[0]
            numbers.append(math.nan if SEARCH.search(line) else float(token.group()))
            pattern += r"(-?\d+(?:\.\d+)?(?:e[+-]\d+)?)"
        else:
            pattern += FREE.get(kind, re.escape(token.group()))
    found = re.fullmatch(pattern, printed.strip())
    if found is None:
        return f"shown:\n{shown}\nprinted:\n{printed}"
    for want, text in zip(numbers, found.groups(), strict=True):
        if not (math.isnan(want) or abs(float(text) - want) <= max(0.02 * abs(want), 0.002)):
            return f"{text} was printed where {want} is shown:\n{printed}"
    return ""


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """The language and the content of every fenced block."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Every command of a console block, which starts with `$ `, and the output shown below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def lines(block: str) -> Iterator[str]:
    """The commands of an `sh` block: its lines, a here-document being part of its command."""
    left = iter(block.splitlines())
    for line in left:
        if here := re.search(r"<<'(\w+)'$", line):
            rest = list(iter(lambda: next(left), here[1]))
            line = "\n".join((line, *rest, here[1]))
        yield line


class Shell:
    """Runs the README's commands in this process, for speed, and keeps the last exit code."""

    def __init__(self) -> None:
        self.code = 0
        self.names: dict[str, object] = {"__name__": "__main__"}

    def run(self, command: str) -> str:
        """What the command prints. `a && b` is two commands."""
        if command.startswith(("cat ", "mkdir ", "scripts/", "python ")):
            return self._bash(command)
        return "".join(self._one(part.strip()) for part in command.split("&&") if part.strip() not in SET_UP)

    def _one(self, command: str) -> str:
        if command == "echo $?":
            return f"{self.code}\n"
        program, *arguments = shlex.split(command)
        entries = {"verify": main_verify, "verifier": main}
        entry = entries[program.removeprefix(".venv/bin/")]
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            try:
                self.code = entry(arguments)
            except SystemExit as stop:
                self.code = int(stop.code or 0)
        return out.getvalue()

    def _bash(self, command: str) -> str:
        environment = os.environ | {"VERIFIER_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        command = re.sub("(^scripts|verifier)/", rf"{ROOT}/\1/", command)
        command = re.sub("^python ", f"{sys.executable} ", command)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
        self.code = done.returncode
        return done.stdout + done.stderr

    def python(self, program: str) -> str:
        """What a program prints on stdout; programs share their names."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(program, str(README), "exec"), self.names)
        return out.getvalue()


def test_every_block_does_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(ROOT / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    shell, wrong, last = Shell(), [], ""
    for language, content in blocks(README.read_text(encoding="utf-8")):
        if language == "console":
            for command, shown in commands(content):
                printed = shell.run(command)
                wrong.append(command * bool(problem := mismatch(shown, printed)) + problem)
                word = printed.partition(":")[0].partition(" ")[0]
                if word in EXIT_CODES and shell.code != EXIT_CODES[word]:
                    wrong.append(f"{command}: {word} with exit code {shell.code}")
        elif language == "sh":
            for line in lines(content):
                shell.code = 0
                shell.run(line)
                wrong.append(line * (shell.code != 0))
        elif language == "python":
            last = shell.python(content)
        elif language == "text":
            wrong.append(mismatch(content, last))
    assert not any(wrong), "\n\n".join(filter(None, wrong))


def test_readme_shows_each_verdict_and_an_error():
    shown = [line for language, content in blocks(README.read_text(encoding="utf-8")) for line in content.splitlines()]
    for word in (*EXIT_CODES, "verify: error"):
        assert any(line.startswith(f"{word}:") or line.startswith(f"{word} (") for line in shown), word


def test_files_that_the_readme_names_exist():
    text = README.read_text(encoding="utf-8")
    named = re.findall(r"\b(?:benchmarks|models|scripts|tests|verifier)/[\w/]*\w\.(?:py|pt|json)\b", text)
    links = re.findall(r"\]\(([\w./]+)\)", text)
    assert named and links
    assert [name for name in {*named, *links} if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("VERIFIED: margin 13.49 (crown, 0.038 s).", "VERIFIED: margin 13.51 (crown, 1.20 s)."),
        ("bab  0.436 s  0.088  23 subdomains", "bab   12.50 s  0.631  27 subdomains"),
        ('{"verdict": "VERIFIED", ...}', '{"verdict": "VERIFIED", "seconds": 1}'),
    ],
)
def test_matcher_accepts(shown: str, printed: str):
    assert mismatch(shown, printed) == ""


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("VERIFIED: margin 13.49.", "FALSIFIED: margin 13.49."),
        ("VERIFIED: margin 13.49.", "VERIFIED: margin 14.49."),
        ("VERIFIED: margin 13.49.", "VERIFIED: margin -13.49."),
        ("VERIFIED: margin 13.49.", "VERIFIED: margin nan."),
        ("37 under crown", "38 under crown"),
        ("one line", "one line\nand another"),
        ("something", ""),
        ("", "something"),
    ],
)
def test_matcher_rejects(shown: str, printed: str):
    assert mismatch(shown, printed) != ""
