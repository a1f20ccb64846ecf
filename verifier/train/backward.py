"""One backward pass over bounds of the hidden neurons that are known already, as losses and evaluation need it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from verifier.bounds.backward import concretise, pull_back
from verifier.bounds.crown import fixed_slopes
from verifier.bounds.interval import output_form
from verifier.graph import Graph
from verifier.types import Box, Interval


def backward_margins(net: Graph, box: Box, C: Tensor, nodes: Mapping[int, Interval], slopes: str) -> Tensor:
    """Lower bounds (batch, spec) of C . output over the box, C (batch, spec, classes).

    nodes: bounds of whatever an activation reads; slopes: of the lines below it, "adaptive" (Zhang et al. 2018) or
    "parallel" (Wong and Kolter 2018).
    """
    A = output_form(net, C, box.batch)
    lines = fixed_slopes(net, slopes)(net.output + 1, nodes)
    form, constant = pull_back(net, {net.output: A}, A.new_zeros(A.shape[:2]), lines)
    return concretise(form, constant, box, {})
