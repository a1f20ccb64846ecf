"""What a fresh process imports, and that the garbage collector is back at work afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest


def printed(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_imports_are_frozen_and_the_collector_is_on_again() -> None:
    program = """
import gc
from verifier.batch.startup import startup
with startup():
    assert not gc.isenabled()
    import torch
assert gc.isenabled() and gc.get_freeze_count() > 50_000
frozen = gc.get_freeze_count()
with startup():
    assert gc.isenabled()
print(gc.get_freeze_count() == frozen)
"""
    assert printed(program) == "True"


def test_the_collector_is_on_again_after_an_error() -> None:
    program = """
import gc
from verifier.batch.startup import startup
try:
    with startup():
        raise OSError
except OSError:
    print(gc.isenabled())
"""
    assert printed(program) == "True"


def test_questions_about_the_tool_load_no_torch() -> None:
    program = """
import sys
from verifier.cli.main import main
main(["supports", "--vnnlib-versions"])
print("torch" in sys.modules)
"""
    assert printed(program).splitlines()[-1] == "False"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_kept() -> None:
    """A block that is freed and taken again costs no page faults."""
    program = """
import resource
from verifier.batch.startup import keep_memory
{}
blocks = [bytearray(1 << 24) for _ in range(4)]
del blocks
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    blocks = [bytearray(1 << 24) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    with_it, without = (int(printed(program.format(call))) for call in ("keep_memory()", ""))
    assert with_it < 5000 < without
