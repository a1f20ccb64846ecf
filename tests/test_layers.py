"""The house's walls: who may import whom (DESIGN, section 3), who may import torch, and who may print."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "verifier"

# Room -> the rooms it may import from. A room is a module or a package of `verifier`; `bounds/lp.py` and the table of
# methods stand above `encoding`, because the LP bound compiles programs, and the rest of bounds below it.
CORE = {"types", "errors", "graph", "ops"}
BELOW_SEARCH = {*CORE, "proof", "bounds", "program", "solvers", "spec", "encoding", "bounds above encoding", "attack"}
BASE = {*BELOW_SEARCH, "search", "verdict"}
MODELS = {*CORE, "load", "zoo", "data"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "types": {"errors"},
    "proof": set(),
    "verdict": {"errors", "types", "proof"},
    "graph": {"errors", "types"},
    "ops": {"errors", "types", "graph"},
    "load": {*CORE, "zoo"},
    "bounds": CORE,
    "spec": {"errors", "types", "graph"},
    "program": {"errors"},
    "solvers": {"errors", "program"},
    "encoding": {*CORE, "bounds", "program", "spec"},
    "bounds above encoding": {*CORE, "bounds", "program", "solvers", "spec", "encoding"},
    "attack": {"errors", "types", "graph", "ops", "spec", "bounds", "program", "solvers"},
    "certificate": {"errors", "spec", "proof"},
    "search": BELOW_SEARCH,
    "simplify": CORE,
    "strategy": {*BASE, "simplify"},
    "certified": {*BASE, "certificate", "strategy"},
    "radius": {*BASE, "strategy"},
    "batch": {*BASE, *MODELS, "simplify", "strategy", "certificate", "certified", "proof"},
    "data": {"errors", "types"},
    "zoo": {"errors", "types", "data"},
    "report": {"errors", "types", "verdict", "batch"},
    "train": {*BASE, *MODELS, "strategy"},
    "cli": {*BASE, *MODELS, "strategy", "certificate", "certified", "radius", "report", "batch", "train"},
    "__main__": {"cli"},
    "__init__": set(),
}
ABOVE_ENCODING = {"bounds/lp.py", "bounds/methods.py"}
NARROW = {  # finer than rooms: of these rooms only these modules
    ("attack", "bounds"): {"verifier.bounds.enclosure"},
    ("encoding", "bounds"): {"verifier.bounds.backward"},
}
# The stand-alone checker imports nothing else of ours.
PARTS = (
    "checker", "analysis", "parts", "planes", "refining", "pulling", "living", "relaxation", "cones", "balls", "trees",
    "arithmetic", "exact", "rounded", "properties", "reading", "operators", "products", "resizing", "folding",
    "building", "nodes", "curves", "elementary",
)  # fmt: skip
ALONE = tuple(f"certificate/{name}.py" for name in PARTS)
WITHOUT_TORCH = ("errors.py", "verdict.py", "program.py", "solvers/", *ALONE)
FILES = sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(file: str) -> str:
    """The room of a file, such as `solvers` for solvers/highs.py and `graph` for graph.py."""
    return "bounds above encoding" if file in ABOVE_ENCODING else file.split("/")[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """The dotted names of every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            yield from (resolved(str(node.module), alias.name) for alias in node.names)


def resolved(module: str, alias: str) -> str:
    """`from verifier import solvers` names a module, `from verifier.types import Box` does not."""
    if not module.startswith("verifier"):
        return module
    target = ROOT / module.replace(".", "/") / alias
    return f"{module}.{alias}" if target.is_dir() or target.with_suffix(".py").is_file() else module


def file_of(module: str) -> str:
    """The file, relative to the package, that a module of ours lives in."""
    path = ROOT / module.replace(".", "/")
    return name(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))


def ours(path: Path) -> set[str]:
    return {module for module in imports(path) if module.split(".")[0] == "verifier"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_arrows_point_one_way(path: Path) -> None:
    room = room_of(name(path))
    assert room in ALLOWED, f"{name(path)} is in no known room: give '{room}' its place in this table and in DESIGN"
    for module in ours(path):
        target = room_of(file_of(module))
        assert target in {room, *ALLOWED[room]}, f"{name(path)} imports {module}, which stands above it"
        narrow = NARROW.get((room, target))
        assert narrow is None or module in narrow, f"{name(path)} may import only {narrow} of {target}, not {module}"


def test_the_table_has_no_cycle() -> None:
    """Otherwise it would not say which way the arrows point."""
    done: set[str] = set()
    left = dict(ALLOWED)
    while ready := [room for room, allowed in left.items() if allowed <= done | {room}]:
        done.update(ready)
        left = {room: allowed for room, allowed in left.items() if room not in ready}
    assert not left


def test_the_table_names_only_rooms_that_exist() -> None:
    assert {room_of(name(path)) for path in FILES} == set(ALLOWED)


@pytest.mark.parametrize("path", [p for p in FILES if name(p).startswith(WITHOUT_TORCH)], ids=name)
def test_programs_and_solvers_do_not_name_torch(path: Path) -> None:
    assert not {module for module in imports(path) if module.split(".")[0] == "torch"}


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.strip()


def test_a_solve_loads_no_torch() -> None:
    code = """
import sys
import numpy as np
from scipy import sparse
import verifier.program, verifier.solvers
program = verifier.program.LinearProgram(np.ones(1), np.zeros(1), np.ones(1), sparse.csr_array((0, 1)), [], [])
assert verifier.solvers.get("highs").solve(program).objective == 0.0
print("torch" in sys.modules)
"""
    assert in_a_fresh_process(code) == "False"


def test_naming_solvers_loads_no_package() -> None:
    """Packages are imported where they are used: the command line must start fast."""
    packages = "{'highspy', 'cvxpy', 'pulp', 'scipy', 'torch'}"
    code = f"import sys, verifier.solvers as s; s.available(); print(sorted({packages} & set(sys.modules)))"
    assert in_a_fresh_process(code) == "[]"


@pytest.mark.parametrize("path", [PACKAGE / file for file in ALONE], ids=name)
def test_the_checker_stands_alone(path: Path) -> None:
    standard = set(sys.stdlib_module_names) | {"numpy", "onnx", *(Path(file).stem for file in ALONE)}
    assert ours(path) <= {f"verifier.certificate.{Path(file).stem}" for file in ALONE}
    assert {module.split(".")[0] for module in imports(path)} - {"verifier"} <= standard


def prints(file: str) -> bool:
    """Whether a file is part of a command line; the stand-alone checker is its own."""
    return room_of(file) in ("cli", "__main__") or file == "certificate/checker.py"


@pytest.mark.parametrize("path", [p for p in FILES if not prints(name(p))], ids=name)
def test_only_the_command_line_prints(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        stream = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr", "__stdout__", "__stderr__")
        written = stream and isinstance(node.value, ast.Name) and node.value.id == "sys"  # type: ignore[attr-defined]
        assert not called and not written, f"{name(path)}, line {getattr(node, 'lineno', 0)}: only verifier/cli prints"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    content = path.read_text(encoding="utf-8")
    assert not content.strip() or ast.get_docstring(ast.parse(content)), f"{name(path)} has no docstring"
