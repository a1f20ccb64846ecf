"""Training throughput, against the same step written out by hand: python benchmarks/training.py [--arch conv_small].

One step is forward, backward and Adam on a batch of random images. The naive interval step keeps lower and upper bounds
and splits every weight matrix into its positive and negative part, one product for each.
"""

from __future__ import annotations

import argparse

import torch
from common import print_table, spread, take_turns
from torch import Tensor, nn
from torch.nn import functional as F

from verifier.train.batch import Batch, Loss
from verifier.train.losses.crown_ibp import CrownIbp
from verifier.train.losses.dual import Dual
from verifier.train.losses.expressive import MtlIbp
from verifier.train.losses.ibp import Ibp
from verifier.train.losses.pgd import Pgd
from verifier.train.losses.sabr import Sabr
from verifier.train.losses.standard import Standard
from verifier.train.losses.trades import Trades
from verifier.train.losses.tulip import Tulip
from verifier.train.network import live_graph
from verifier.zoo import build

SHAPE, CLASSES, EPS = (1, 28, 28), 10, 0.1
LOSSES: dict[str, Loss] = {
    "standard": Standard(),
    "ibp": Ibp(),
    "mtl_ibp, 1 step": MtlIbp(),
    "sabr, 1 step": Sabr(),
    "tulip": Tulip(),
    "pgd, 7 steps": Pgd(),
    "trades, 7 steps": Trades(),
    "crown_ibp, fused": CrownIbp(1.0),
    "crown_ibp, all rows": CrownIbp(1.0, fusion=False),
    "dual, 10 projections": Dual(10),
}


class Trainee:
    """A network, its optimiser and a batch."""

    def __init__(self, arch: str, batch: int, device: str) -> None:
        torch.manual_seed(0)
        self.model = build(arch, SHAPE, CLASSES).to(device)
        self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(self.model.parameters(), 1e-4)
        x = torch.rand(batch, *SHAPE).to(device).contiguous(memory_format=torch.channels_last)
        self.batch = Batch(x, torch.randint(0, CLASSES, (batch,)).to(device), EPS)

    def update(self, loss: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        if loss.is_cuda:
            torch.cuda.synchronize()

    def step(self, loss: Loss) -> None:
        self.update(loss(live_graph(self.model, self.batch.x), self.batch))

    def naive_ibp(self) -> None:
        box, y = self.batch.ball(EPS), self.batch.y
        low, high = box.lower, box.upper
        for layer in self.model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                plus, minus = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
                low, high = (
                    _apply(layer, plus, a) + _apply(layer, minus, b) + _shaped(layer)
                    for a, b in ((low, high), (high, low))
                )
            else:
                low, high = layer(low), layer(high)
        label = F.one_hot(y, CLASSES).bool()
        self.update(F.cross_entropy(torch.where(label, low, high), y))


def _apply(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    return F.conv2d(x, weight, None, layer.stride, layer.padding) if isinstance(layer, nn.Conv2d) else x @ weight.t()


def _shaped(layer: nn.Module) -> Tensor:
    return layer.bias.view(-1, 1, 1) if isinstance(layer, nn.Conv2d) else layer.bias


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="conv_small")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=LOSSES, nargs="+", default=list(LOSSES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trainee = Trainee(arguments.arch, arguments.batch, arguments.device)
    variants = {name: (lambda loss=LOSSES[name]: trainee.step(loss)) for name in arguments.only}
    seconds = take_turns(variants | {"ibp, naive": trainee.naive_ibp}, arguments.repeats)
    rows = [(name, f"{arguments.batch / min(s):.0f}", spread(s, 1e3)) for name, s in seconds.items()]
    print_table(("loss", "images/s at best", "CPU ms a step, minimum / median"), rows)


if __name__ == "__main__":
    main()
