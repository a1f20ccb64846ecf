"""How robust a model is, told by proofs: bounds first, the complete verifier for what they leave open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from verifier.attack.pgd import Fgsm, Pgd
from verifier.bounds.crown import Crown
from verifier.bounds.interval import margins, propagate
from verifier.data import Dataset
from verifier.graph import Graph
from verifier.load import from_module
from verifier.spec.robustness import label_margin
from verifier.train.adversary import Adversary
from verifier.train.backward import backward_margins
from verifier.train.batch import Batch, linf_ball
from verifier.train.intervals import label_rows
from verifier.train.network import live_graph
from verifier.types import Ball, Box

ATTACK = Pgd(steps=40, restarts=2)
QUICK_ATTACK = Adversary(steps=10, step_size=0.3)
BATCH = 200
ATTACK_BATCH = 500
CROWN_BATCH = 8
"""On a processor: CROWN's rows of more images leave its caches, at 1.7 times the price an image."""
SLACK = 1e-2
"""A float32 bound is believed this far from zero, a thousand times its rounding error on such networks; closer to it
float64 decides."""
SLACK_FLOAT64 = 1e-9

METHODS = ("interval", "crown_ibp", "crown")
"""From the cheapest to the strongest; the attack comes before the last."""
RIGHT, ATTACKED = "right", "attacked"

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
    parts: list[dict[str, Tensor]] = []
    for images, labels in _batches(data, BATCH, device):
        box = around(images.double(), eps, data)  # so that rounding does not shrink the ball
        parts.append(_judge(model, graph, images, labels, box))
        if report is not None:
            report(f"bounds and attack: {sum(len(part[RIGHT]) for part in parts)} of {len(data)} images")
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    survivors, answers = found[ATTACKED], found[METHODS[-1]].clone()
    undecided = survivors & ~answers
    if complete is not None:
        for index in undecided.nonzero().flatten().tolist():
            answer = complete(index)
            answers[index], undecided[index], survivors[index] = answer is True, answer is None, answer is not False
            if report is not None:
                report(f"branch and bound: image {index} is {ANSWERS[answer]}")
    certified = {name: _fraction(found[name]) for name in METHODS}
    whole = None if complete is None else _fraction(answers)
    clean = _fraction(found[RIGHT])
    return Evaluation(eps, len(data), clean, _fraction(survivors), certified, whole, _fraction(undecided), timeout)


def _judge(model: nn.Module, graph: Graph, images: Tensor, labels: Tensor, box: Box) -> dict[str, Tensor]:
    """Which images (batch,) are right, withstand the attack, and are proved by each method."""
    with torch.no_grad():
        wanted = model(images).argmax(1) == labels
    found, done = {RIGHT: wanted}, torch.zeros_like(wanted)
    for name in METHODS:
        if name == METHODS[-1]:
            wanted = found[ATTACKED] = _survivors(model, box.to(images.dtype), labels, wanted & ~done) | done
        found[name] = done = done | _prove(name, graph, box, labels, wanted & ~done)
    return found


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


def around(x: Tensor, eps: float, data: Dataset, norm: str = "linf") -> Box:
    """The linf or l2 ball of radius eps around every x (batch, *shape), within the range of `data`."""
    box = linf_ball(x, eps, data.lower, data.upper)
    return box if norm == "linf" else Ball(box.lower, box.upper, x, x.new_full((len(x),), eps), 2)


def accuracy(model: nn.Module, data: Dataset, eps: float, attack: Fgsm | Pgd = ATTACK, norm: str = "linf") -> float:
    """The fraction of images that are right, also at the worst point that the attack finds around them."""
    right = 0
    for images, labels in _batches(data, ATTACK_BATCH):
        margin = label_margin(labels)
        with torch.no_grad():
            clean = margin(model(images)) > 0
        right += int((clean & (attack(model, around(images, eps, data, norm), margin).margin > 0)).sum())
    return right / len(data)


def _batches(data: Dataset, size: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in zip(data.images.split(size), data.labels.split(size), strict=True):
        yield images.to(device), labels.to(device)


def _fraction(mask: Tensor) -> float:
    return mask.double().mean().item()


@torch.no_grad()
def _prove(method: str, graph: Graph, box: Box, labels: Tensor, wanted: Tensor) -> Tensor:
    """Which of the wanted images (batch,) a bound proves: in float32 with slack, what is close to it in float64."""
    proved, open_ = torch.zeros_like(wanted), wanted.nonzero().flatten()
    size = CROWN_BATCH if method == "crown" and graph.device.type == "cpu" else BATCH
    for dtype, slack in ((torch.float32, SLACK), (torch.float64, SLACK_FLOAT64)):
        if len(open_):
            net, boxes, parts = graph.to(dtype), box.to(dtype), open_.split(size)
            lower = torch.cat([leads(method, net, boxes.select(part), labels[part]) for part in parts])
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
            lower = torch.maximum(lower, backward_margins(graph, box, C, nodes, "adaptive"))
    return lower.scatter(1, labels.unsqueeze(1), torch.inf)
