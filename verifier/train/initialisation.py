"""The weights that a run begins with; initialisation and regularisers for interval training (Shi et al. 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from verifier.data import Dataset
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.load import load
from verifier.load.torch import TorchRunner
from verifier.ops.relu import ReLU
from verifier.train.batch import Batch
from verifier.train.config import Config
from verifier.train.intervals import interval_pass
from verifier.zoo import build

TOLERANCE = 0.5
"""From which ratio on two quantities count as alike; the paper's lambda."""


def beginning(config: Config, data: Dataset) -> nn.Sequential:
    """The network of a run before its first step.

    Raises InputError or ModelError when the weights to start from cannot be read or are of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build(config.arch, data.shape, data.classes)
        initialise(network, config.initialisation)
    if config.start is not None:
        model = load(config.start, config.arch)
        runner, found = model.native, (model.graph.input_shape, model.graph.output_shape)
        assert isinstance(runner, TorchRunner)  # other formats have an architecture of their own, and are refused
        if found != (wanted := (data.shape, (data.classes,))):
            raise InputError(f"{config.start}: a network from {found[0]} to {found[1]}, not {wanted[0]} to {wanted[1]}")
        if runner.mean is not None:
            raise InputError(f"{config.start}: this network normalises its inputs, which training does not")
        network.load_state_dict(runner.module.state_dict())
    return network


@torch.no_grad()
def initialise(model: nn.Sequential, rule: str) -> None:
    """`default`: leave PyTorch's initialisation. `ibp`: N(0, sqrt(2 pi) / fan-in), which keeps interval widths."""
    if rule == "default":
        return
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(0, math.sqrt(2 * math.pi) / fan_in)
            if layer.bias is not None:
                layer.bias.zero_()


def regulariser(graph: Graph, batch: Batch) -> Tensor:
    """The tightness and the ReLU regulariser of Shi et al. (2021), summed over the ReLU layers, over their number.

    Tightness: a layer's mean interval width should not exceed twice that of the input. ReLU: stably active and stably
    inactive neurons should have alike sums of centres and alike variances.
    """
    values = interval_pass(graph, batch.ball(batch.eps))
    width, terms = values[0].radius.mean(), []
    for node in graph.nodes:
        if isinstance(node.op, ReLU):
            z = values[node.inputs[0]]
            active, inactive, centre = z.lower > 0, z.upper < 0, z.center
            spread = (centre - centre.mean()).square()
            sums = (centre * active).sum(), -(centre * inactive).sum()
            variances = (spread * active).sum(), (spread * inactive).sum()
            terms += [_shortfall(width, z.radius.mean()), _alike(*sums), _alike(*variances)]
    layers = max(len(terms) // 3, 1)
    return torch.stack(terms).sum() / layers if terms else width.new_zeros(())


def _shortfall(a: Tensor, b: Tensor) -> Tensor:
    """0 where a / b is at least `TOLERANCE`, growing to 1 as the ratio falls to 0."""
    ratio = a / b.clamp(min=torch.finfo(b.dtype).tiny)
    return torch.relu(TOLERANCE - ratio) / TOLERANCE


def _alike(a: Tensor, b: Tensor) -> Tensor:
    """0 where the smaller of two numbers is at least `TOLERANCE` times the larger one."""
    return _shortfall(torch.minimum(a, b), torch.maximum(a, b))
