"""What a worker of `verifier certify` does: it loads the model and the data set once, and answers tasks."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.batch.certify import Answer, Task
    from verifier.batch.evidence import Evidence
    from verifier.batch.problem import Problem
    from verifier.batch.records import Record, Run
    from verifier.data import Dataset
    from verifier.load import Model
    from verifier.strategy import Settings

ANEW = 1 << 20  # added to the seed where a case is searched again: the same hunts would find the same


@dataclass(frozen=True)
class Workplace:
    """The setup of a worker, picklable: calling it returns what answers tasks.

    model, dataset: where they are, as absolute paths, or the name of the data set. certificates: the folder for those
    of a certified run, if they are to be kept.
    """

    run: Run
    model: str
    dataset: str
    device: str = "cpu"
    seed: int = 0
    certificates: str | None = None

    @classmethod
    def of(cls, run: Run, device: str = "cpu", seed: int = 0, certificates: Path | None = None) -> Workplace:
        """The workplace for a run whose files are found from here."""
        data = Path(run.dataset)
        dataset = str(data.resolve()) if data.suffix else run.dataset
        folder = None if certificates is None else str(certificates.resolve())
        return cls(run, str(Path(run.model).resolve()), dataset, device, seed, folder)

    def __call__(self) -> Answer:
        """Raises InputError when the model or the data are not those of the run."""
        from verifier.batch.startup import startup

        with startup():
            import torch

            from verifier.batch.problem import Problem
            from verifier.data import load_dataset
            from verifier.load import load
            from verifier.strategy import Settings

        torch.set_num_threads(1)
        model, data = load(self.model, self.run.arch or None), load_dataset(self.dataset)
        if model.sha256 != self.run.sha256 or digest(data) != self.run.inputs:
            raise InputError(f"{self.run.model} or {self.run.dataset} changed while the run went on")
        settings = Settings(device=self.device, seed=self.seed)
        problem = Problem(model, data, self.run.norm, str(settings.torch_device()))
        evidence = None
        if self.run.certified:
            from verifier.batch.evidence import Evidence

            evidence = Evidence(problem, model, Path(self.certificates) if self.certificates else None)
        return Answering(problem, settings, self.run.method, evidence)


@dataclass
class Pace:
    """How fast this process is: seconds that passed while it worked, on the wall and of the processor."""

    wall: float = 0.0
    processor: float = 0.0

    @property
    def slowness(self) -> float:
        """Seconds that pass for one of the processor's: more than one where other processes take their share."""
        return max(1.0, self.wall / self.processor) if self.processor > 0 else 1.0

    def kept(self, parts: Iterator[list[Record]]) -> Iterator[list[Record]]:
        """The same parts; the time that they take counts."""
        while True:
            began, used = time.monotonic(), time.process_time()
            part = next(parts, None)
            self.wall += time.monotonic() - began
            self.processor += time.process_time() - used
            if part is None:
                return
            yield part


@dataclass(frozen=True)
class Answering:
    """Answers tasks about one problem."""

    problem: Problem
    settings: Settings
    method: str
    evidence: Evidence | None = None
    pace: Pace = field(default_factory=Pace)

    def __call__(self, task: Task) -> Iterator[list[Record]]:
        return self.pace.kept(self._answers(task))

    def _answers(self, task: Task) -> Iterator[list[Record]]:
        from verifier.batch.cascade import ATTACKING, DEARER, METHODS, STAGES, cascade
        from verifier.batch.certify import SHORT, Pass
        from verifier.batch.remainder import search

        limit = min(SHORT * self.pace.slowness, task.seconds) if task.kind is Pass.SHORT else task.seconds
        seed = self.settings.seed + (ANEW if task.kind is Pass.LONG else 0)
        settings, evidence = replace(self.settings, timeout=limit, seed=seed), self.evidence
        if task.kind is Pass.ATTACK:
            attacks = {name: STAGES[name] for name in ATTACKING}
            return cascade(self.problem, task.cases, self.method, time.monotonic() + task.seconds, attacks)
        if task.kind in (Pass.BOUNDS, Pass.REST):
            stages = None if evidence is None else evidence.stages(self.method)
            stages = stages or {name: STAGES[name] for name in METHODS[self.method]}
            if self.method == "auto":
                stages = {name: s for name, s in stages.items() if (name in DEARER) == (task.kind is Pass.REST)}
            parts = cascade(self.problem, task.cases, self.method, time.monotonic() + task.seconds, stages)
            return parts if evidence is None else (evidence.of_bounds(part) for part in parts)
        if evidence is not None:
            return ([evidence.of_search(case, settings)] for case in task.cases)
        return ([search(self.problem, case, settings)] for case in task.cases)


def digest(data: Dataset) -> str:
    """The sha256 of a data set: images, labels and data range."""
    ranged = f"{tuple(data.images.shape)} {data.lower!r} {data.upper!r} {data.classes}".encode()
    content = data.images.contiguous().numpy().tobytes() + data.labels.contiguous().numpy().tobytes()
    return hashlib.sha256(ranged + content).hexdigest()


def describe(
    model: Model,
    data: Dataset,
    dataset: str,
    arch: str,
    count: int,
    eps: tuple[str, ...],
    norm: str,
    method: str,
    certified: bool = False,
) -> Run:
    """The run over the first `count` inputs. certified: whether VERIFIED takes an accepted certificate.

    Raises InputError when model and data do not fit, for a bad method, and CertificateError for a model that the
    checker does not read.
    """
    from verifier.batch.cascade import METHODS
    from verifier.batch.records import Run
    from verifier.bounds.interval import read_by_activations
    from verifier.simplify import simplified
    from verifier.types import same_layout

    if method not in METHODS:
        raise InputError(f"unknown method '{method}' (available: {', '.join(METHODS)})")
    if certified:
        from verifier.certificate.many import Together

        Together(model.onnx())
    graph = model.graph
    classes = math.prod(graph.output_shape)
    if not same_layout(data.shape, graph.input_shape):
        raise InputError(f"{data.name} has inputs of shape {data.shape}, {model.path} reads {tuple(graph.input_shape)}")
    if classes < 2 or max(graph.output_shape) < classes:
        wanted = "a prediction needs one score for each of at least two classes"
        raise InputError(f"{model.path} has outputs of shape {tuple(graph.output_shape)}: {wanted}")
    if int(data.labels.max()) >= classes:
        counts = f"{data.name} has {data.classes} classes, {model.path} has {classes} outputs"
        raise InputError(f"{counts}: number the labels from 0 on")
    analysed = simplified(graph)
    layers = tuple(analysed.nodes[node].name for node in sorted(read_by_activations(analysed)))
    return Run(
        model=str(Path(model.path)),
        sha256=model.sha256,
        arch=arch,
        dataset=dataset,
        inputs=digest(data),
        count=min(count, len(data)),
        eps=eps,
        norm=norm,
        method=method,
        version=version(),
        layers=layers,
        certified=certified,
    )


def version() -> str:
    """The version of this package."""
    from importlib import metadata

    return metadata.version("verifier")
