"""Backward propagation of linear bounds (Zhang et al. 2018; Singh et al. 2019), the engine of CROWN and alpha.

Everything is a lower bound: an upper bound of z is minus the lower bound of -z.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from verifier.graph import Graph
from verifier.ops.base import Affine, Relaxation, unit_rows
from verifier.ops.patches import Coefficients, Patches, add, dense, dot, with_negative
from verifier.types import Ball, Box, Interval

Form = dict[int, Coefficients]


def start_rows(graph: Graph, node: int, index: Tensor, dtype: torch.dtype) -> tuple[Form, Tensor]:
    """The coordinates `index` (batch, spec) of a node as linear forms of its inputs.

    Returns coefficients (batch, spec, *shape) by input node, and constants (batch, spec).
    """
    op, shapes = graph.nodes[node].op, graph.input_shapes(node)
    form: Form = {}
    if isinstance(op, Affine):
        rows = op.rows(index, dtype, graph.nodes[node].shape, *shapes)
        for source, A in zip(graph.nodes[node].inputs, rows, strict=True):
            form[source] = add(form[source], A) if source in form else A
        constant = graph.nodes[node].at_zero.flatten()[index].to(dtype)
    else:
        form[node] = unit_rows(index, dtype, graph.nodes[node].shape)
        constant = torch.zeros(index.shape, dtype=dtype, device=index.device)
    return form, constant


def with_negatives(form: Form, constant: Tensor) -> tuple[Form, Tensor]:
    """The forms followed, along the spec axis, by their negatives: lower bounds of these are minus upper bounds."""
    return {n: with_negative(A) for n, A in form.items()}, torch.cat((constant, -constant), 1)


def pull_back(
    graph: Graph,
    form: Form,
    constant: Tensor,
    relaxations: Mapping[int, Relaxation],
    multipliers: dict[int, Coefficients] | None = None,
    outputs: dict[int, Coefficients] | None = None,
) -> tuple[Form, Tensor]:
    """Push linear forms back to the input, or to the first activations that have no relaxation.

    form: coefficients (batch, spec, *shape) by node; constant: (batch, spec). relaxations: lines by activation node,
    each tensor (batch, 1 or spec, *shape). When given, `multipliers` collects the coefficients of every activation's
    input, the dual variables of the bound, and `outputs` those of every activation's output.
    """
    pending, sources = dict(form), {}
    while pending:
        index = max(pending)
        A, node = pending.pop(index), graph.nodes[index]
        if isinstance(node.op, Affine):
            if node.has_constant:
                constant = constant + dot(A, node.at_zero)
            pulled = node.op.transpose(A, *graph.input_shapes(index))
        elif index in relaxations:
            B, gained = _through_activation(A, relaxations[index])
            constant, pulled = constant + gained, [B]
            if multipliers is not None:
                multipliers[index] = B
            if outputs is not None:
                outputs[index] = A
        else:
            sources[index] = A
            continue
        for source, B in zip(node.inputs, pulled, strict=True):
            pending[source] = add(pending[source], B) if source in pending else B
    return sources, constant


def _through_activation(A: Coefficients, lines: Relaxation) -> tuple[Coefficients, Tensor]:
    """Replace the activation by its lower line where A >= 0 and by its upper line where A < 0."""
    if isinstance(A, Patches) and lines.lower_slope.shape[1] == 1 and lines.upper_slope.shape[1] == 1:
        return _through_windows(A, lines)
    A = dense(A)
    slope = lines.lower_slope
    if lines.upper_slope is not slope:
        slope = torch.where(A >= 0, slope, lines.upper_slope)
    gained = A.new_zeros(A.shape[:2])
    for side, offset in ((A.clamp(min=0), lines.lower_offset), (A.clamp(max=0), lines.upper_offset)):
        if offset is not None:
            own = offset.shape[1] > 1
            gained = gained + ((side * offset).flatten(2).sum(2) if own else dot(side, offset.squeeze(1)))
    return slope * A, gained


def _through_windows(A: Patches, lines: Relaxation) -> tuple[Patches, Tensor]:
    """The same on windows, with lines that all rows share."""
    slope = A.windows(lines.lower_slope[:, 0])
    if lines.upper_slope is not lines.lower_slope:
        slope = torch.where(A.values >= 0, slope, A.windows(lines.upper_slope[:, 0]))
    gained = A.values.new_zeros(A.values.shape[0], A.values.shape[1] * A.values.shape[2])
    if lines.lower_offset is not None:
        gained = gained + A.over(A.values.clamp(min=0)).dot(lines.lower_offset[:, 0])
    if lines.upper_offset is not None:
        gained = gained + A.over(A.values.clamp(max=0)).dot(lines.upper_offset[:, 0])
    return A.over(slope * A.values), gained


def minimum(region: Interval, A: Coefficients) -> Tensor:
    """Minimum (batch, spec) of A . x over an input set, or over an interval of any node."""
    if isinstance(A, Patches) and not isinstance(region, Ball):
        return A.dot(region.center) - A.over(A.values.abs()).dot(region.radius)
    box = region if isinstance(region, Box) else Box(region.lower, region.upper)
    return box.minimum(dense(A))


def concretise(form: Form, constant: Tensor, box: Box, values: Mapping[int, Interval]) -> Tensor:
    """Lower bounds (batch, spec) of linear forms over the input set and over intervals of activations."""
    for index, A in form.items():
        constant = constant + minimum(box if index == 0 else values[index], A)
    return constant
