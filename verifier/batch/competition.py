"""VNN-COMP's conventions: instances.csv, expected.csv, its words for verdicts, its format of a counterexample; and
VNN-LIB 2.0's format of an answer."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from verifier.batch.journal import save_all
from verifier.errors import InputError, StorageError, VerifierError
from verifier.verdict import Result, Verdict, peak_memory

if TYPE_CHECKING:
    from verifier.batch.query import Answer
    from verifier.load import Model
    from verifier.spec.vnnlib import Query
    from verifier.strategy import Settings

WORDS = ("sat", "unsat", "unknown", "timeout", "error")
DECIDED = ("sat", "unsat")
DIGITS = 400  # a float32 has at most 149
INSTANCES, EXPECTED = "instances.csv", "expected.csv"


@dataclass(frozen=True)
class Instance:
    """A line of instances.csv. onnx, vnnlib: as written there, relative to `folder`. expected: a word, or ''."""

    category: str
    folder: Path
    onnx: str
    vnnlib: str
    timeout: float
    expected: str = ""


@dataclass(frozen=True)
class Finding:
    """What came of an instance: a word, the stage that decided, and the reason when nothing was decided.

    subdomains: how many branch and bound looked at, None when it did not run. peak: the worker's peak memory so far,
    MiB. certificate: the name of the file that proves unsat, if there is one; claim: the arithmetic that it is about.
    """

    result: str
    stage: str = ""
    reason: str = ""
    subdomains: int | None = None
    peak: int | None = None
    certificate: str = ""
    claim: str = ""


def read_instances(folder: Path, only: Iterable[str] = (), timeout: float | None = None) -> list[Instance]:
    """The instances of a folder that has an instances.csv, or of all its sub-folders that have one.

    only: categories to keep; a category is called as its folder. timeout: seconds, in place of each line's own.
    Raises InputError for what is missing or malformed.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    places = [folder] if (folder / INSTANCES).is_file() else sorted(p.parent for p in folder.glob(f"*/{INSTANCES}"))
    if not places:
        raise InputError(f"{folder}: neither the folder nor a folder in it has an {INSTANCES}")
    categories = {place.resolve().name: place for place in places}
    for name in only:
        if name not in categories:
            raise InputError(f"unknown category '{name}' (available: {', '.join(categories)})")
    chosen = tuple(only) or tuple(categories)
    return [instance for name in chosen for instance in _read_category(name, categories[name], timeout)]


def _read_category(name: str, folder: Path, timeout: float | None) -> list[Instance]:
    expected = _read_expected(folder / EXPECTED)
    found = []
    for number, fields in _lines(folder / INSTANCES):
        where = f"{folder / INSTANCES}, line {number}"
        if len(fields) != 3:
            raise InputError(f"{where}: has {len(fields)} fields, not the three onnx,vnnlib,timeout")
        onnx, vnnlib, limit = fields
        seconds = _seconds(limit)
        if not seconds > 0:
            raise InputError(f"{where}: the timeout must be a positive number of seconds, not '{limit}'")
        found.append(Instance(name, folder, onnx, vnnlib, timeout or seconds, expected.get((onnx, vnnlib), "")))
    return found


def _read_expected(path: Path) -> dict[tuple[str, str], str]:
    """The words by (onnx, vnnlib); none without the file."""
    if not path.is_file():
        return {}
    words = {}
    for number, fields in _lines(path):
        if fields == ["onnx", "vnnlib", "verdict"]:
            continue
        if len(fields) != 3 or fields[2] not in WORDS:
            raise InputError(f"{path}, line {number}: must be onnx,vnnlib,verdict with a verdict of {', '.join(WORDS)}")
        words[fields[0], fields[1]] = fields[2]
    return words


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """The lines of a CSV file that are not blank, with their numbers."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, [field.strip() for field in line]) for line in reader if any(line)]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV file ({error})") from error


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def word(result: Result, timeout: float) -> str:
    """The competition's word for a result that was allowed `timeout` seconds."""
    if result.verdict is Verdict.UNKNOWN:
        return "timeout" if result.seconds >= timeout else "unknown"
    return "sat" if result.verdict is Verdict.FALSIFIED else "unsat"


def assignments(point: np.ndarray, outputs: np.ndarray) -> str:
    """A counterexample as VNN-COMP wants it: `((X_0 v) ... (Y_0 v) ...)`, every number written to its last digit."""
    from verifier.spec.property import exact

    sides = (("X", exact(point)), ("Y", exact(outputs)))
    lines = [f"({letter}_{i} {decimal(value)})" for letter, side in sides for i, value in enumerate(side.flat)]
    return "(" + "\n".join(lines) + ")"


def decimal(value: Fraction) -> str:
    """The number in full; one without an end, such as 1/3, is cut after `DIGITS` digits."""
    return str(Context(prec=DIGITS).divide(Decimal(value.numerator), Decimal(value.denominator)))


def standard_text(query: Query, found: Answer, timeout: float) -> str:
    """The answer as VNN-LIB 2.0 wants it: a word, and below `sat` every variable with its numbers, one a line."""
    from verifier.spec.property import exact

    said = word(found.result, timeout)
    lines = ["timed-out" if said == "timeout" else said]
    if found.point is not None and found.result.outputs is not None:
        for variable, values in zip(query.variables, (found.point, found.result.outputs), strict=True):
            lines.append(f"{variable.name} {variable.kind} [{','.join(map(str, variable.shape))}]")
            lines += map(decimal, exact(values).flat)
    return "\n".join(lines) + "\n"


def result_text(found: Answer, timeout: float) -> str:
    """The result file of run_instance.sh: a word, and below `sat` the counterexample."""
    lines = [word(found.result, timeout)]
    if found.point is not None and found.result.outputs is not None:
        lines.append(assignments(found.point, found.result.outputs))
    return "\n".join(lines) + "\n"


def stored(folder: Path, name: str) -> Path:
    """The file that an instance names; it may be gzipped where the name is not, and the other way round."""
    path = folder / name
    other = path.with_suffix("") if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    return other if other.is_file() and not path.exists() else path


def worker(device: str, seed: int, certificates: Path | None = None) -> Callable[[Instance], Finding]:
    """The setup of a worker process: what it returns answers instances, and loads each network once.

    certificates: the folder for those of what is unsat, which then counts only with one.
    """
    from verifier.batch.startup import startup

    with startup():
        import onnxruntime  # noqa: F401  (imported here, so that no instance's time counts it)
        import torch

        import verifier.load.onnx  # noqa: F401
        from verifier.strategy import Settings

    torch.set_num_threads(1)
    settings = Settings(device=device, seed=seed)
    return partial(find, networks={}, settings=settings, certificates=certificates)


def find(
    instance: Instance, networks: dict[Path, Model], settings: Settings, certificates: Path | None = None
) -> Finding:
    """Answer an instance within its timeout, loading included. networks: those of its category loaded so far.

    Raises StorageError when a certificate cannot be written.
    """
    return replace(_find(instance, networks, settings, certificates), peak=peak_memory())


def _find(instance: Instance, networks: dict[Path, Model], settings: Settings, certificates: Path | None) -> Finding:
    from verifier.batch.query import answer, certified_answer
    from verifier.load import load
    from verifier.load.sniff import unzipped
    from verifier.spec.vnnlib import read_query

    began = time.monotonic()
    network = stored(instance.folder, instance.onnx)
    try:
        if network not in networks:
            if any(known.parent != network.parent for known in networks):
                networks.clear()
            networks[network] = load(network)
        prop = stored(instance.folder, instance.vnnlib)
        query, made = read_query(prop), None
        left = instance.timeout - (time.monotonic() - began)
        if not left > 0:
            return Finding("timeout", reason="reading the network and the property took all the time")
        settings = replace(settings, timeout=left)
        if certificates is None:
            result = answer(networks[network], query, settings).result
        else:
            statement = unzipped(prop.read_bytes()) if query.network is None else None
            found, certified = certified_answer(networks[network], query, statement, settings)
            result, made = found.result, certified.certificate
    except VerifierError as error:
        return Finding("error", reason=" ".join(str(error).split()))
    said = word(result, left)
    late = f"the time limit of {instance.timeout:g} s was reached"
    finding = Finding(said, result.stage, late if said == "timeout" else result.reason, subdomains(result))
    if certificates is None or made is None:
        return finding
    name = f"{network.name.split('.onnx')[0]}_{prop.name.split('.vnnlib')[0]}"
    files = {f"{name}.vnnlib": made.statement} if query.network is not None else {}  # a text of version 1.0
    try:
        save_all(certificates / instance.category, {**files, f"{name}.cert": made.content})
    except StorageError as error:  # the same command goes on, without an option
        raise StorageError(str(error).removesuffix(" with --resume")) from error
    return replace(finding, certificate=f"{instance.category}/{name}.cert", claim=made.accepted.semantics)


def subdomains(result: Result) -> int | None:
    """How many subdomains the stages report to have looked at, over all input boxes; None when none does."""
    counts = [stage.search.subdomains for stage in result.stages if stage.search is not None]
    return sum(counts) if counts else None
