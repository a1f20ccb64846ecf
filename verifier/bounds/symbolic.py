"""CROWN over symbols: every node as an affine form of the varying inputs and of the outputs of unstable neurons.

Stable neurons compose away exactly, so that replacing symbols by lines costs what the few unstable neurons cost, not
what the width of the layers does. The bounds are those of backward CROWN (Zhang et al. 2018) with the same lines. It
pays when few inputs vary and few neurons are unstable, as deep in a search that splits the input.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verifier.bounds.crown import tightened, unstable_rows
from verifier.bounds.interval import read_by_activations
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine, PiecewiseLinear, Relaxation
from verifier.types import Interval

LARGE, SPARSE = 1 << 18, 50
"""What the neurons of a layer read is summed by sparse products where there are so many terms and, of so many, at most
one is not zero."""

STILL = 2.0**-40
"""An input that varies by less than this, relative to its size, is fixed at a decimal number that no float equals."""

COPIES = 4
"""How often the forms of a node are held at a time."""


@dataclass(frozen=True)
class SymbolicBounds:
    """What is found for k varying inputs t, each measured from its middle in units of half its width.

    nodes: bounds of every node that activations read. lower: (batch, rows), bounds of the rows. linear: (batch, 1 + k,
    rows), the linear functions of t below the rows. blame: (batch, k, rows), how much of the distance between a row and
    its linear function is due to each input's width. error: (batch, rows), how much was given up for rounding.
    """

    nodes: dict[int, Interval]
    lower: Tensor
    linear: Tensor
    blame: Tensor
    error: Tensor


def moving(box: Interval) -> Tensor:
    """The flat positions of the inputs that vary in any box by more than the rounding of a decimal number."""
    size = torch.maximum(box.lower.abs(), box.upper.abs())
    return (box.upper - box.lower > STILL * size).any(0).flatten().nonzero().squeeze(1)


def input_form(box: Interval, varying: Tensor) -> Form:
    """The inputs over each box as forms over those at the flat positions `varying` (k,); what others vary is error."""
    center, radius = box.center.flatten(1), box.radius.flatten(1)
    radius = radius + torch.finfo(radius.dtype).eps * (center.abs() + radius)  # the middle is rounded, too
    terms = center.new_zeros(len(center), 1 + len(varying), center.shape[1])
    terms[:, 0] = center
    terms[:, torch.arange(1, 1 + len(varying), device=varying.device), varying] = radius[:, varying]
    error = radius.clone()
    error[:, varying] = 0
    shape = box.lower.shape
    return Form(terms.view(shape[0], -1, *shape[1:]), error.view(shape))


def forward_bounds(
    graph: Graph, box: Interval, known: Mapping[int, Interval], C: Tensor, memory: int, deadline: float = math.inf
) -> tuple[Tensor, dict[int, Interval]]:
    """Lower bounds (batch, rows) of C . output, C (batch, rows, outputs), and bounds of what activations read.

    They take the time of a forward pass for every input that varies and every unstable neuron. memory: bytes that the
    forms of a node may take. Where they would take more, or at the time.monotonic() `deadline`, the rows' bounds are
    -inf and the rest is as `known`.
    """
    start = input_form(box, moving(box))
    try:
        found = symbolic_bounds(graph, start, known, C, C.new_zeros(C.shape[:2]), memory, deadline)
    except _GivenUpError as early:
        return C.new_full(C.shape[:2], -math.inf), {**known, **early.nodes}
    return found.lower, found.nodes


class _GivenUpError(Exception):
    """Forms would take more memory or time than is allowed. nodes: the bounds found before."""

    def __init__(self, nodes: dict[int, Interval]) -> None:
        super().__init__()
        self.nodes = nodes


def symbolic_bounds(
    graph: Graph,
    start: Form,
    known: Mapping[int, Interval],
    C: Tensor,
    d: Tensor,
    memory: float = math.inf,
    deadline: float = math.inf,
) -> SymbolicBounds:
    """Bounds of the rows C . output + d, C (batch, rows, outputs), d (batch, rows), over boxes of inputs.

    start: the inputs, terms (batch, 1 + k, *input_shape): the middle of each box and how its inputs depend on every t.
    known: valid bounds of every node that activations read; the neurons that are unstable under them are bounded anew.
    memory, deadline: see `forward_bounds`. The error of every rounded operation is bounded (Higham 2002, section 3.1)
    and paid for.
    """
    forms, readers = Forms.of(start.terms), read_by_activations(graph)
    nodes: dict[int, Interval] = {}
    reach: dict[int, Tensor] = {}
    nothing = start.error.new_zeros(0)
    last = {i: index for index, node in enumerate(graph.nodes) for i in node.inputs}
    values = [Form(start.terms, start.error + torch.finfo(start.terms.dtype).eps * start.terms[:, 0].abs())]
    for index, node in enumerate(graph.nodes):
        if index:
            read = [values[i] for i in node.inputs]
            size = COPIES * max(form.terms[0].numel() for form in read) * start.terms.element_size()
            if size > memory or time.monotonic() > deadline:
                raise _GivenUpError(nodes)
            if isinstance(node.op, Affine):
                values.append(forms.mapped(node.op, node.at_zero if node.has_constant else None, read))
            else:
                assert isinstance(node.op, Activation)
                source = node.inputs[0]
                values.append(forms.activated(node.op, read[0], nodes[source], reach[source]))
            for i in node.inputs:
                if last[i] == index:  # nothing reads it any more
                    values[i] = Form(nothing, nothing)
        if index in readers:
            nodes[index], reach[index] = forms.tightened(values[index], known[index], readers[index])
    out = Form(_flat(values[-1].terms), values[-1].error.reshape(len(start.error), -1))
    rows = out.terms @ C.transpose(1, 2)
    rows[:, 0] += d
    lost = out.error + _gamma(C.shape[2], C.dtype) * forms.size(out.terms)
    error = (C.abs() @ lost.unsqueeze(2)).squeeze(2) + torch.finfo(d.dtype).eps * d.abs()
    linear, error = forms.below(Form(rows, error))
    return SymbolicBounds(nodes, _least(linear), linear, forms.blame(rows), error)


@dataclass(frozen=True)
class Form:
    """Affine forms of a node: terms (batch, terms, *shape), and how far (batch, *shape) the node may be from them."""

    terms: Tensor
    error: Tensor


@dataclass(frozen=True)
class Symbols:
    """The unstable neurons of one activation layer. Lines are (batch, symbols, 1), without an axis for the parameters.

    start: where they stand among the terms. read: (batch, start, symbols), what each neuron reads, or the sparse matrix
    (batch start, batch symbols) of the same, box after box. below, above: (batch, symbols, 1), the widest distance
    between the activation and its lower and upper line. reach: (batch, k, symbols), the share of each input in what
    moves a neuron. onto: (batch, 2, symbols), the size of what a neuron reads and its error; of: (batch, 2, symbols),
    the size of its lines' offsets and the rounding of its lines.
    """

    start: int
    read: Tensor
    lines: Relaxation
    below: Tensor
    above: Tensor
    reach: Tensor
    onto: Tensor
    of: Tensor


@dataclass(eq=False)
class Forms:
    """Affine forms over terms: the constant, the k inputs t in [-1, 1]^k, then the symbols, layer by layer.

    Terms that a form lacks at the end are zero. scale: (batch, terms), how large each term's variable may be.
    """

    inputs: int
    scale: Tensor
    symbols: list[Symbols] = field(default_factory=list)

    @classmethod
    def of(cls, start: Tensor) -> Forms:
        """Forms over the inputs alone."""
        return cls(start.shape[1] - 1, start.new_ones(start.shape[:2]))

    def size(self, form: Tensor) -> Tensor:
        """The sum (batch, *shape) of the magnitudes of all terms of forms (batch, terms, *shape)."""
        flat = _flat(form).abs()
        return torch.bmm(self.scale[:, : form.shape[1]].unsqueeze(1), flat).view(len(form), *form.shape[2:])

    def lost(self, count: int) -> Tensor:
        """More (batch,) than underflow takes from `count` sums of products of coefficients with what they multiply."""
        finest = 4 * torch.finfo(self.scale.dtype).tiny
        return (count + 8) * finest * (1 + self.scale.sum(1))

    def mapped(self, op: Affine, at_zero: Tensor | None, read: list[Form]) -> Form:
        """The form of an affine op's output; at_zero: its constant."""
        most = max(form.terms.shape[1] for form in read)
        padded = [_padded(form.terms, most).flatten(0, 1) for form in read]
        out = op.homogeneous.forward(*padded).unflatten(0, (len(read[0].terms), most))
        count = sum(form.error[0].numel() for form in read)
        gamma = _gamma(count, out.dtype)
        error = op.magnitude(*(form.error + gamma * self.size(form.terms) for form in read))
        error = error + self.lost(count).view(-1, *(1,) * (error.dim() - 1))
        if at_zero is not None:
            out[:, 0] += at_zero
            error = error + gamma * at_zero.abs()
        return Form(out, error)

    def below(self, form: Form) -> tuple[Tensor, Tensor]:
        """Linear functions of the inputs (batch, 1 + k, m) below forms (batch, terms, m), and what rounding cost."""
        rows, size = form.terms, self.size(form.terms)
        error = form.error + _gamma(0, rows.dtype) * size
        for group in reversed(self.symbols):
            if rows.shape[1] > group.start:
                rows, weight, onto = _replaced(rows, group)
                read, drift = torch.bmm(group.onto, onto.abs()).unbind(1)
                offset, slack = torch.bmm(group.of, weight.abs()).unbind(1)
                size = size + read + offset
                error = error + drift + slack + _gamma(weight.shape[1], rows.dtype) * size
                error = error + self.lost(weight.shape[1]).unsqueeze(1)
        error = error + _gamma(self.inputs, rows.dtype) * size + self.lost(self.inputs).unsqueeze(1)
        return torch.cat((rows[:, :1] - error.unsqueeze(1), rows[:, 1:]), 1), error

    def blame(self, form: Tensor) -> Tensor:
        """How much of the distance between forms (batch, terms, m) and `below` each input is to blame for."""
        total = form.new_zeros(len(form), self.inputs, form.shape[2])
        for group in reversed(self.symbols):
            if form.shape[1] > group.start:
                form, weight, _ = _replaced(form, group)
                gap = torch.where(weight >= 0, group.below, group.above)
                total = torch.baddbmm(total, group.reach, weight.abs() * gap)
        return total

    def tightened(self, form: Form, known: Interval, readers: list[Activation]) -> tuple[Interval, Tensor]:
        """The bounds of a node, and the share (batch, k, neurons) of each input in what moves its unstable neurons."""
        index, counts = unstable_rows(known, readers)
        terms, size = form.terms.shape[1], form.error[0].numel()
        reach = self.scale.new_zeros(len(index), self.inputs, size)
        if not index.shape[1]:
            return known, reach
        rows = form.terms.flatten(2).gather(2, index.unsqueeze(1).expand(-1, terms, -1))
        error = form.error.flatten(1).gather(1, index)
        linear, _ = self.below(Form(torch.cat((rows, -rows), 2), torch.cat((error, error), 1)))
        low, negative = _least(linear).chunk(2, 1)
        # Where the network folds the box, the linear function is flat and all that moves the neuron is in the gap.
        moved = torch.stack(linear[:, 1:].abs().chunk(2, 2)).mean(0) + self.blame(rows)
        share = moved / moved.sum(1, keepdim=True).clamp(min=torch.finfo(moved.dtype).tiny)
        reach.scatter_(2, index.unsqueeze(1).expand(-1, self.inputs, -1), share)
        return tightened(known, index, counts, low, -negative), reach

    def activated(self, op: Activation, form: Form, z: Interval, reach: Tensor) -> Form:
        """The form of an activation's output: stable neurons through their exact line, unstable ones as new symbols."""
        index, counts = unstable_rows(z, [op])
        unstable = torch.zeros_like(z.lower, dtype=torch.bool).flatten(1).scatter(1, index, counts).view_as(z.lower)
        lines = op.relax(z, op.initial(z, "adaptive"))
        slope = torch.where(unstable, 0.0, lines.lower_slope)
        terms, start, found = form.terms.shape[1], self.scale.shape[1], index.shape[1]
        out = self.scale.new_zeros(len(index), start + found if found else terms, *z.lower.shape[1:])
        torch.mul(form.terms, slope.unsqueeze(1), out=out[:, :terms])
        if lines.lower_offset is not None:
            out[:, 0] += torch.where(unstable, 0.0, lines.lower_offset)
        if found:
            out[:, start:].flatten(2).scatter_(2, index.unsqueeze(2), counts.to(out.dtype).unsqueeze(2))
            self._add(op, form, z, index, reach)
        return Form(out, slope.abs() * form.error)

    def _add(self, op: Activation, form: Form, z: Interval, index: Tensor, reach: Tensor) -> None:
        """Add the neurons at flat positions `index` (batch, symbols) of an activation as symbols."""
        terms, start = form.terms.shape[1], self.scale.shape[1]
        narrow = Interval(z.lower.flatten(1).gather(1, index), z.upper.flatten(1).gather(1, index))
        own = form.terms.flatten(2).gather(2, index.unsqueeze(1).expand(-1, terms, -1))
        onto = torch.stack((self.size(own), form.error.flatten(1).gather(1, index)), 1)
        reach = reach.gather(2, index.unsqueeze(1).expand(-1, self.inputs, -1))
        self.symbols.append(_symbols(op, start, _padded(own, start), narrow, reach, onto))
        ends = op.interval(narrow)
        self.scale = torch.cat((self.scale, torch.maximum(ends.lower.abs(), ends.upper.abs())), 1)


def _symbols(op: Activation, start: int, read: Tensor, z: Interval, reach: Tensor, onto: Tensor) -> Symbols:
    """The symbols of neurons with the bounds z (batch, symbols)."""
    lines = op.relax(z, op.initial(z, "adaptive"))
    zero = torch.zeros_like(z.lower)
    offsets = [zero if o is None else o for o in (lines.lower_offset, lines.upper_offset)]
    below, above = zero, zero
    for point in (z.lower, z.upper, *_bends(op, z)):
        value = op.forward(point)
        below = torch.maximum(below, value - lines.lower_slope * point - offsets[0])
        above = torch.maximum(above, lines.upper_slope * point + offsets[1] - value)
    offset = torch.maximum(offsets[0].abs(), offsets[1].abs())
    steepest = torch.maximum(lines.lower_slope.abs(), lines.upper_slope.abs())
    size = steepest * torch.maximum(z.lower.abs(), z.upper.abs()) + offset
    of = torch.stack((offset, _gamma(8, size.dtype) * size), 1)
    columns = Relaxation(*(None if t is None else t.unsqueeze(2) for t in vars(lines).values()))  # type: ignore[arg-type]
    return Symbols(start, _compressed(read), columns, below.unsqueeze(2), above.unsqueeze(2), reach, onto, of)


def _compressed(read: Tensor) -> Tensor:
    """Terms (batch, start, symbols), as one sparse matrix where they are many and few are not zero (see `Symbols`)."""
    if read.numel() < LARGE or read.requires_grad or int(read.count_nonzero()) * SPARSE > read.numel():
        return read
    box, term, symbol = read.nonzero(as_tuple=True)
    batch, start, symbols = read.shape
    places = torch.stack((box * start + term, box * symbols + symbol))
    values = read[box, term, symbol]
    size = (batch * start, batch * symbols)
    return torch.sparse_coo_tensor(places, values, size, is_coalesced=True, check_invariants=False)


def _bends(op: Activation, z: Interval) -> list[Tensor]:
    """Where, besides the ends, to look for the widest gap."""
    if not isinstance(op, PiecewiseLinear):
        return [z.center]
    return [z.lower.clamp(min=point).minimum(z.upper) for point in op.breakpoints]


def _replaced(form: Tensor, group: Symbols) -> tuple[Tensor, Tensor, Tensor]:
    """Forms below, without the symbols of a group (the last ones left).

    Also how much each symbol weighed in them, and with which factor what it reads took its place.
    """
    weight, lines = form[:, group.start :], group.lines
    above = weight.clamp(min=0)
    under = weight - above
    onto = above * lines.lower_slope + under * lines.upper_slope
    form = form[:, : group.start]
    if group.read.is_sparse:
        form = torch.addmm(form.flatten(0, 1), group.read, onto.flatten(0, 1)).view_as(form)
    else:
        form = torch.baddbmm(form, group.read, onto)
    for side, offset in ((above, lines.lower_offset), (under, lines.upper_offset)):
        if offset is not None:
            form[:, 0] += (side * offset).sum(1)
    return form, weight, onto


def _flat(form: Tensor) -> Tensor:
    """Forms of a node in one axis, which nodes of shape () lack."""
    return form.reshape(*form.shape[:2], -1)


def _least(linear: Tensor) -> Tensor:
    """The minimum (batch, m) of linear functions (batch, 1 + k, m) over t in [-1, 1]^k."""
    return linear[:, 0] - linear[:, 1:].abs().sum(1)


def _padded(form: Tensor, terms: int) -> Tensor:
    """The form with zeros for the terms that it lacks."""
    missing = terms - form.shape[1]
    return form if not missing else torch.cat((form, form.new_zeros(len(form), missing, *form.shape[2:])), 1)


def _gamma(terms: int, dtype: torch.dtype) -> float:
    """Relative to the magnitudes of so many terms, more than their sum of products errs by, in any order."""
    return (terms + 8) * torch.finfo(dtype).eps
