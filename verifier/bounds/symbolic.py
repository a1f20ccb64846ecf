"""CROWN over symbols: every node as an affine form of the varying inputs and of the outputs of unstable neurons.

Stable neurons compose away exactly, so that replacing symbols by lines costs what the few unstable neurons cost, not
what the width of the layers does. The bounds are those of backward CROWN (Zhang et al. 2018) with the same lines. It
pays when few inputs vary and few neurons are unstable, as deep in a search that splits the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verifier.bounds.crown import tightened, unstable_rows
from verifier.bounds.interval import read_by_activations
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine, PiecewiseLinear, Relaxation
from verifier.types import Interval

ROUNDING = 8
"""How many units of rounding, relative to its terms, a linear function is lowered by: an allowance, not a proof."""


@dataclass(frozen=True)
class SymbolicBounds:
    """What is found for k varying inputs t, each measured from its middle in units of half its width.

    nodes: bounds of every node that activations read. lower: (batch, rows), bounds of the rows. linear: (batch, 1 + k,
    rows), the linear functions of t below the rows. blame: (batch, k, rows), how much of the distance between a row and
    its linear function is due to each input's width.
    """

    nodes: dict[int, Interval]
    lower: Tensor
    linear: Tensor
    blame: Tensor


def symbolic_bounds(graph: Graph, start: Tensor, known: Mapping[int, Interval], C: Tensor, d: Tensor) -> SymbolicBounds:
    """Bounds of the rows C . output + d, C (batch, rows, outputs), d (batch, rows), over boxes of inputs.

    start: (batch, 1 + k, *input_shape), the middle of each box and how its inputs depend on every t. known: valid
    bounds of every node that activations read; the neurons that are unstable under them are bounded anew.
    """
    forms, readers = Forms(start.shape[1] - 1), read_by_activations(graph)
    nodes: dict[int, Interval] = {}
    reach: dict[int, Tensor] = {}
    values = [start]
    for index, node in enumerate(graph.nodes):
        if index:
            read = [values[i] for i in node.inputs]
            if isinstance(node.op, Affine):
                values.append(_through_affine(node.op, node.at_zero if node.has_constant else None, read))
            else:
                assert isinstance(node.op, Activation)
                source = node.inputs[0]
                values.append(forms.activated(node.op, read[0], nodes[source], reach[source]))
        if index in readers:
            nodes[index], reach[index] = forms.tightened(values[index], known[index], readers[index])
    rows = values[-1].flatten(2) @ C.transpose(1, 2)
    rows[:, 0] += d
    linear, blame = forms.below(rows), forms.blame(rows)
    return SymbolicBounds(nodes, _least(linear), linear, blame)


@dataclass(frozen=True)
class Symbols:
    """The unstable neurons of one activation layer. Lines are (batch, symbols, 1), without an axis for the parameters.

    start: where they stand among the terms. read: (batch, start, symbols), what each neuron reads. below, above:
    (batch, symbols, 1), the widest distance between the activation and its lower and upper line. reach: (batch, k,
    symbols), the share of each input in what moves a neuron.
    """

    start: int
    read: Tensor
    lines: Relaxation
    below: Tensor
    above: Tensor
    reach: Tensor


@dataclass(eq=False)
class Forms:
    """Affine forms over terms: the constant, the k inputs t in [-1, 1]^k, then the symbols, layer by layer.

    A form is a tensor (batch, terms, *shape); terms that it lacks at the end are zero.
    """

    inputs: int
    symbols: list[Symbols] = field(default_factory=list)

    @property
    def terms(self) -> int:
        last = self.symbols[-1] if self.symbols else None
        return 1 + self.inputs if last is None else last.start + last.read.shape[2]

    def below(self, form: Tensor) -> Tensor:
        """Linear functions of the inputs (batch, 1 + k, m) below forms (batch, terms, m), even after rounding."""
        for group in reversed(self.symbols):
            form = _replaced(form, group)[0]
        rounding = ROUNDING * torch.finfo(form.dtype).eps * form.abs().sum(1, keepdim=True)
        return torch.cat((form[:, :1] - rounding, form[:, 1:]), 1)

    def blame(self, form: Tensor) -> Tensor:
        """How much of the distance between forms (batch, terms, m) and `below` each input is to blame for."""
        total = form.new_zeros(len(form), self.inputs, form.shape[2])
        for group in reversed(self.symbols):
            form, (above, under) = _replaced(form, group)
            total = torch.baddbmm(total, group.reach, above * group.below - under * group.above)
        return total

    def tightened(self, form: Tensor, known: Interval, readers: list[Activation]) -> tuple[Interval, Tensor]:
        """The bounds of a node, and the share (batch, k, neurons) of each input in what moves its unstable neurons."""
        index, counts = unstable_rows(known, readers)
        terms, size = form.shape[1], form[0, 0].numel()
        reach = form.new_zeros(len(form), self.inputs, size)
        if not index.shape[1]:
            return known, reach
        rows = form.flatten(2).gather(2, index.unsqueeze(1).expand(-1, terms, -1))
        linear = self.below(torch.cat((rows, -rows), 2))
        low, negative = _least(linear).chunk(2, 1)
        moved = torch.stack(linear[:, 1:].abs().chunk(2, 2)).mean(0)
        share = moved / moved.sum(1, keepdim=True).clamp(min=torch.finfo(moved.dtype).tiny)
        reach.scatter_(2, index.unsqueeze(1).expand(-1, self.inputs, -1), share)
        return tightened(known, index, counts, low, -negative), reach

    def activated(self, op: Activation, form: Tensor, z: Interval, reach: Tensor) -> Tensor:
        """The form of an activation's output: stable neurons through their exact line, unstable ones as new symbols."""
        index, counts = unstable_rows(z, [op])
        unstable = torch.zeros_like(z.lower, dtype=torch.bool).flatten(1).scatter(1, index, counts).view_as(z.lower)
        lines = op.relax(z, op.initial(z, "adaptive"))
        terms, start, found = form.shape[1], self.terms, index.shape[1]
        out = form.new_zeros(len(form), start + found if found else terms, *form.shape[2:])
        torch.mul(form, torch.where(unstable, 0.0, lines.lower_slope).unsqueeze(1), out=out[:, :terms])
        if lines.lower_offset is not None:
            out[:, 0] += torch.where(unstable, 0.0, lines.lower_offset)
        if not found:
            return out
        out[:, start:].flatten(2).scatter_(2, index.unsqueeze(2), counts.to(form.dtype).unsqueeze(2))
        own = _padded(form.flatten(2).gather(2, index.unsqueeze(1).expand(-1, terms, -1)), start)
        reach = reach.gather(2, index.unsqueeze(1).expand(-1, self.inputs, -1))
        narrow = Interval(z.lower.flatten(1).gather(1, index), z.upper.flatten(1).gather(1, index))
        self.symbols.append(_symbols(op, start, own, op.relax(narrow, op.initial(narrow, "adaptive")), narrow, reach))
        return out


def _symbols(op: Activation, start: int, read: Tensor, lines: Relaxation, z: Interval, reach: Tensor) -> Symbols:
    """The symbols of neurons with the lines and bounds (batch, symbols)."""
    points = [z.lower, z.upper, *_bends(op, z)]
    below, above = torch.zeros_like(z.lower), torch.zeros_like(z.lower)
    for point in points:
        value = op.forward(point)
        low, high = lines.lower_slope * point, lines.upper_slope * point
        below = torch.maximum(below, value - (low if lines.lower_offset is None else low + lines.lower_offset))
        above = torch.maximum(above, (high if lines.upper_offset is None else high + lines.upper_offset) - value)
    columns = Relaxation(*(None if t is None else t.unsqueeze(2) for t in vars(lines).values()))  # type: ignore[arg-type]
    return Symbols(start, read, columns, below.unsqueeze(2), above.unsqueeze(2), reach)


def _bends(op: Activation, z: Interval) -> list[Tensor]:
    """Where, besides the ends, to look for the widest gap."""
    if not isinstance(op, PiecewiseLinear):
        return [z.center]
    return [z.lower.clamp(min=point).minimum(z.upper) for point in op.breakpoints]


def _replaced(form: Tensor, group: Symbols) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Forms below, without the symbols of a group (the last ones left), and the symbols' weights by sign."""
    if form.shape[1] <= group.start:
        none = form.new_zeros(len(form), group.read.shape[2], form.shape[2])
        return form, (none, none)
    weight, lines = form[:, group.start :], group.lines
    above = weight.clamp(min=0)
    under = weight - above
    form = torch.baddbmm(form[:, : group.start], group.read, above * lines.lower_slope + under * lines.upper_slope)
    for side, offset in ((above, lines.lower_offset), (under, lines.upper_offset)):
        if offset is not None:
            form[:, 0] += (side * offset).sum(1)
    return form, (above, under)


def _least(linear: Tensor) -> Tensor:
    """The minimum (batch, m) of linear functions (batch, 1 + k, m) over t in [-1, 1]^k."""
    return linear[:, 0] - linear[:, 1:].abs().sum(1)


def _padded(form: Tensor, terms: int) -> Tensor:
    """The form with zeros for the terms that it lacks."""
    missing = terms - form.shape[1]
    return form if not missing else torch.cat((form, form.new_zeros(len(form), missing, *form.shape[2:])), 1)


def _through_affine(op: Affine, at_zero: Tensor | None, read: list[Tensor]) -> Tensor:
    most = max(form.shape[1] for form in read)
    padded = [_padded(form, most) for form in read]
    out = op.forward(*(form.flatten(0, 1) for form in padded)).unflatten(0, padded[0].shape[:2])
    if at_zero is not None:
        out[:, 1:] -= at_zero
    return out
