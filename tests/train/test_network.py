"""The graph of a module in training: statistics of BatchNorm, and layers without bounds."""

import pytest
import torch
from torch import nn

from verifier.errors import ModelError
from verifier.train.network import live_graph


def test_batch_norm_uses_the_clean_statistics_everywhere():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4),
                        nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double().train()  # fmt: skip
    twin = nn.Sequential(*net)  # the same layers
    x = torch.rand(20, 1, 6, 6, dtype=torch.float64)
    before = net[1].running_mean.clone()
    graph = live_graph(net, x)
    after, counted = net[1].running_mean.clone(), int(net[1].num_batches_tracked)
    assert counted == 1 and not torch.equal(after, before)
    assert torch.allclose(graph(x), twin(x))
    other = torch.rand(7, 1, 6, 6, dtype=torch.float64)
    assert torch.allclose(graph(other)[:2], graph(other[:2]))  # constants of the step: no statistics of `other`
    net.eval()
    assert torch.allclose(live_graph(net, x)(other), net(other))


def test_gradients_pass_through_clean_statistics():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double().train()
    x = torch.rand(6, 3, dtype=torch.float64)
    direct = torch.autograd.grad(net(x).square().sum(), net[0].weight)[0]
    through = torch.autograd.grad(live_graph(net, x)(x).square().sum(), net[0].weight)[0]
    assert torch.allclose(direct, through)


def test_dropout_is_refused():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    with pytest.raises(ModelError, match="dropout"):
        live_graph(net, torch.zeros(1, 2))
