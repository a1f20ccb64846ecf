"""What a journal says: runs, and the results of inputs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from verifier.errors import InputError, SpecificationError
from verifier.spec.robustness import parse_eps

VERIFIED, FALSIFIED, UNKNOWN, ERROR = "VERIFIED", "FALSIFIED", "UNKNOWN", "ERROR"
VERDICTS = (VERIFIED, FALSIFIED, UNKNOWN, ERROR)
DECIDED = (VERIFIED, FALSIFIED)
FORMAT = 1


@dataclass(frozen=True, order=True)
class Case:
    """A question: is the prediction for input `index` of the data set right everywhere within distance `eps` of it?

    eps: an exact number as text, such as 0.1 or 8/255.
    """

    index: int
    eps: str


@dataclass(frozen=True)
class Run:
    """What the results of a run have in common, all that they depend on.

    sha256: of the model's bytes; arch: of bare weights, else "". inputs: sha256 of the data set's images and labels.
    count: how many of its first inputs are asked about. eps: the radii, as exact numbers in ascending order.
    layers: the names of the nodes that activations read, to which `Record.unstable` refers. certified: whether VERIFIED
    takes a certificate that the checker accepted.
    """

    model: str
    sha256: str
    arch: str
    dataset: str
    inputs: str
    count: int
    eps: tuple[str, ...]
    norm: str
    method: str
    version: str
    layers: tuple[str, ...] = ()
    certified: bool = False
    semantics: str = "real"
    format: int = FORMAT

    @property
    def identity(self) -> str:
        """The same for runs whose results may stand beside each other: of the same model, data, norm and method."""
        asked = (self.sha256, self.arch, self.inputs, self.norm, self.method, self.semantics, self.certified)
        return hashlib.sha256(json.dumps((*asked, self.version, self.format)).encode()).hexdigest()[:16]

    def key(self, case: Case) -> str:
        """What a result is about."""
        return f"{self.identity}:{case.index}:{case.eps}"

    def joined(self, other: Run) -> Run:
        """The run that asks what either of two runs of the same identity asks."""
        eps = sorted({*self.eps, *other.eps}, key=parse_eps)
        return replace(self, eps=tuple(eps), count=max(self.count, other.count))

    def line(self) -> dict[str, Any]:
        return {"kind": "run", **asdict(self)}


@dataclass(frozen=True)
class Record:
    """What came of one case.

    verdict: one of VERDICTS. stage: the one that decided, or the last one. seconds: of one core, its share of what was
    computed for several inputs at once. stages: the same by stage. proved: the margin's lower bound. found: the least
    margin seen at an allowed input. point: the counterexample as `encoded`; None when it is the input itself.
    unstable: unstable neurons by layer. certified: whether the checker has accepted a certificate; certificate: the
    name of its file in the folder of certificates, if there is one.
    """

    index: int
    eps: str
    label: int
    prediction: int
    verdict: str
    stage: str
    seconds: float
    proved: float | None = None
    found: float | None = None
    reason: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)
    unstable: tuple[int, ...] = ()
    point: str | None = None
    certified: bool = False
    certificate: str | None = None

    @property
    def case(self) -> Case:
        return Case(self.index, self.eps)

    @property
    def decided(self) -> bool:
        return self.verdict in DECIDED

    def line(self, run: Run) -> dict[str, Any]:
        return {"kind": "result", "key": run.key(self.case), **asdict(self)}


def parse(line: Mapping[str, Any], cls: type, drop: Iterable[str]) -> Any:
    """The Run or Record that a line holds. Raises InputError when it holds none."""
    what, kinds = f"is no {cls.__name__.lower()} of this version's journals", KINDS[cls]
    values = {name: value for name, value in line.items() if name not in drop}
    if not (REQUIRED[cls] <= values.keys() <= kinds.keys()):
        raise InputError(f"{what} (other fields); give another file")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    if unfit := [name for name, value in values.items() if not kinds[name](value)]:
        raise InputError(f"{what} (malformed {', '.join(unfit)}); give another file")
    return cls(**values)


Fits = Callable[[Any], bool]


def _fitting(kind: Any) -> Fits:
    """Tells whether a value read from JSON, its lists as tuples, is what a field's annotation says.

    Integers are counts and indices, or -1 where there is none; numbers are finite, as JSON's are.
    """
    kinds = [_fitting(each) for each in get_args(kind) if each is not Ellipsis]
    if get_origin(kind) is UnionType:
        return lambda value: any(fits(value) for fits in kinds)
    if get_origin(kind) is tuple:
        return lambda value: type(value) is tuple and all(map(kinds[0], value))
    if get_origin(kind) is Mapping:
        return lambda value: type(value) is dict and all(map(kinds[1], value.values()))
    if kind is float:
        return lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max
    if kind is int:
        return lambda value: type(value) is int and -1 <= value <= sys.maxsize
    return lambda value: type(value) is kind


KINDS: dict[type, dict[str, Fits]] = {
    cls: {name: _fitting(kind) for name, kind in get_type_hints(cls).items()} for cls in (Run, Record)
}
REQUIRED: dict[type, set[str]] = {
    cls: {field.name for field in fields(cls)[:count]} for cls, count in ((Run, 10), (Record, 7))
}


def as_run(line: Mapping[str, Any]) -> Run:
    """The run of a line of the kind `run`. Raises InputError when it holds none."""
    run: Run = parse(line, Run, ("kind",))
    try:
        radii = [parse_eps(eps) for eps in run.eps]
    except SpecificationError:
        radii = []
    if not radii or radii != sorted(radii):
        raise InputError("is a run whose eps are no radii in ascending order; give another file")
    return run


def as_record(line: Mapping[str, Any]) -> Record:
    """The result of a line of the kind `result`. Raises InputError when it holds none."""
    record: Record = parse(line, Record, ("kind", "key"))
    if record.verdict not in VERDICTS:
        raise InputError(f"is a result without a verdict (it is one of {', '.join(VERDICTS)}); give another file")
    if record.index < 0:
        raise InputError("is a result of an input of negative index; give another file")
    return record


def encoded(x: np.ndarray) -> str:
    """A float32 array as text."""
    return base64.b64encode(zlib.compress(x.astype("<f4").tobytes())).decode()


def decoded(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array of this shape that `encoded` made text of. Raises InputError when it is another text."""
    size = 4 * math.prod(shape)
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except (binascii.Error, ValueError, zlib.error):
        content = b""
    if len(content) != size:
        raise InputError(f"a counterexample of the journal is no input of shape {shape}; give another journal")
    return np.frombuffer(content, dtype="<f4").reshape(shape).copy()
