import pytest
import torch

from verifier.data import load_dataset
from verifier.train.batch import Batch
from verifier.train.losses.expressive import MtlIbp
from verifier.train.network import live_graph
from verifier.zoo import build


@pytest.fixture(scope="module")
def trained():
    """A conv net on digits after a little interval training, and its data: bounds are neither trivial nor loose."""
    torch.manual_seed(1)
    data = load_dataset("digits", "train")
    net = build("conv_tiny", data.shape, data.classes)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for start in range(0, 1500, 60):
        x, y = data.images[start : start + 60], data.labels[start : start + 60]
        loss = MtlIbp(0.2)(live_graph(net, x), Batch(x, y, 0.02))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.double(), data.images[:40].double(), data.labels[:40]
