"""How robust a model is, told by proofs: bounds first, the complete verifier for what they leave open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from verifier.attack.pgd import Pgd
from verifier.bounds.backward import concretise, pull_back
from verifier.bounds.crown import Crown, fixed_slopes
from verifier.bounds.interval import margins, output_form, propagate
from verifier.data import Dataset
from verifier.graph import Graph
from verifier.load import from_module
from verifier.spec.robustness import label_margin
from verifier.train.adversary import Adversary
from verifier.train.batch import Batch
from verifier.train.intervals import label_rows
from verifier.train.network import live_graph
from verifier.types import Box

ATTACK = Pgd(steps=40, restarts=2)
QUICK_ATTACK = Adversary(steps=10, step_size=0.3)
BATCH = 200
SLACK = 1e-2
"""A float32 bound is believed this far from zero, a thousand times its rounding error on such networks; closer to it
float64 decides."""
SLACK_FLOAT64 = 1e-9

METHODS = ("interval", "crown_ibp", "crown")
"""From the cheapest to the strongest; the attack comes before the last."""

ANSWERS = {True: "robust", False: "broken", None: "undecided"}
Complete = Callable[[int], bool | None]
"""The complete verifier on image number i: whether it is robust, None when it was not decided."""


@dataclass(frozen=True)
class Evaluation:
    """Fractions of a data set.

    clean: right. attacked: not broken by `ATTACK`, nor by the complete verifier. certified: proved, by method; what a
    cheaper method proves counts for the dearer ones. complete: after branch and bound with `timeout` seconds an image,
    None where it was not asked; undecided: right, neither broken nor proved.
    """

    eps: float
    images: int
    clean: float
    attacked: float
    certified: dict[str, float]
    complete: float | None
    undecided: float
    timeout: float | None = None


def evaluate(
    model: nn.Module,
    data: Dataset,
    eps: float,
    *,
    complete: Complete | None = None,
    timeout: float | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[str], None] | None = None,
) -> Evaluation:
    """Certify every image of `data` at linf radius eps.

    An image that is proved withstands every attack, so only the others are attacked. report: called with a
    line on how far it is.
    """
    graph, model = from_module(model.eval(), data.shape).to(device=device), model.to(device)
    right, attacked, proved = [], [], {name: [] for name in METHODS}  # type: ignore[var-annotated]
    for images, labels in _batches(data, device):
        exact = images.double()  # so that rounding does not shrink the ball
        box = Box((exact - eps).clamp(min=data.lower), (exact + eps).clamp(max=data.upper))
        with torch.no_grad():
            wanted = model(images).argmax(1) == labels
        right.append(wanted)
        done = torch.zeros_like(wanted)
        for name in METHODS:
            if name == METHODS[-1]:
                wanted = _survivors(model, box.to(images.dtype), labels, wanted & ~done) | done
                attacked.append(wanted)
            done = done | _prove(name, graph, box, labels, wanted & ~done)
            proved[name].append(done)
        if report is not None:
            report(f"bounds and attack: {sum(map(len, right))} of {len(data)} images")
    survivors, answers = torch.cat(attacked), torch.cat(proved[METHODS[-1]]).clone()
    undecided = survivors & ~answers
    if complete is not None:
        for index in undecided.nonzero().flatten().tolist():
            answer = complete(index)
            answers[index], undecided[index], survivors[index] = answer is True, answer is None, answer is not False
            if report is not None:
                report(f"branch and bound: image {index} is {ANSWERS[answer]}")
    certified = {name: _fraction(torch.cat(parts)) for name, parts in proved.items()}
    whole = None if complete is None else _fraction(answers)
    clean = _fraction(torch.cat(right))
    return Evaluation(eps, len(data), clean, _fraction(survivors), certified, whole, _fraction(undecided), timeout)


def _survivors(model: nn.Module, box: Box, labels: Tensor, wanted: Tensor) -> Tensor:
    """Which of the wanted images (batch,) the attack does not break."""
    chosen = wanted.nonzero().flatten()
    survives = torch.zeros_like(wanted)
    if len(chosen):
        survives[chosen] = ATTACK(model, box.select(chosen), label_margin(labels[chosen])).margin > 0
    return survives


class Estimate(NamedTuple):
    """Fractions of a few images: right; right under a short attack; proved by CROWN-IBP."""

    clean: float
    attacked: float
    certified: float


def estimate(model: nn.Sequential, sample: Batch) -> Estimate:
    """How a model under training does on a sample at its radius, in float32 on the model's own device."""
    graph, box = live_graph(model.eval(), sample.x), sample.ball(sample.eps)
    points = QUICK_ATTACK(graph, sample, box)
    with torch.no_grad():
        clean, attacked = (graph(x).argmax(1) == sample.y for x in (sample.x, points))
        proved = (leads("crown_ibp", graph, box, sample.y) > 0).all(1)
    return Estimate(_fraction(clean), _fraction(clean & attacked), _fraction(proved))


def _batches(data: Dataset, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in zip(data.images.split(BATCH), data.labels.split(BATCH), strict=True):
        yield images.to(device), labels.to(device)


def _fraction(mask: Tensor) -> float:
    return mask.double().mean().item()


@torch.no_grad()
def _prove(method: str, graph: Graph, box: Box, labels: Tensor, wanted: Tensor) -> Tensor:
    """Which of the wanted images (batch,) a bound proves: in float32 with slack, what is close to it in float64."""
    proved, open_ = torch.zeros_like(wanted), wanted.nonzero().flatten()
    for dtype, slack in ((torch.float32, SLACK), (torch.float64, SLACK_FLOAT64)):
        if len(open_):
            lower = leads(method, graph.to(dtype), box.select(open_).to(dtype), labels[open_])
            proved[open_] = (lower > slack).all(1)
            open_ = open_[~proved[open_] & ~(lower < -SLACK).any(1)]
    return proved


def leads(method: str, graph: Graph, box: Box, labels: Tensor) -> Tensor:
    """Lower bounds (batch, classes) of the label's lead over each class, by "interval", "crown_ibp" or "crown".

    The lead of the label over itself is +inf, so that all leads are positive where the label is proved.
    """
    C = label_rows(labels, graph.output_shape[0], box.lower)
    if method == "crown":
        lower = Crown()(graph, box, C).lower
    else:
        values, nodes = propagate(graph, box)
        lower = margins(graph, box, C, values)
        if method == "crown_ibp":
            A = output_form(graph, C, box.batch)
            lines = fixed_slopes(graph, "adaptive")(graph.output + 1, nodes)
            form, constant = pull_back(graph, {graph.output: A}, A.new_zeros(A.shape[:2]), lines)
            lower = torch.maximum(lower, concretise(form, constant, box, {}))
    return lower.scatter(1, labels.unsqueeze(1), torch.inf)
