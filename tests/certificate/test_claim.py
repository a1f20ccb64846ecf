"""Claims about float32 where the checker treats several ReLUs as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from certified import ARITHMETICS, NO_HINTS

from verifier.certificate.analysis import Analysis
from verifier.certificate.reading import Network
from verifier.graph import GraphBuilder
from verifier.load.export import onnx_bytes
from verifier.ops.affine import Linear
from verifier.ops.relu import ReLU

INPUTS = 64


@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (1, -1)])
@pytest.mark.parametrize("seed", range(8))
def test_copies_err_by_themselves(seed: int, signs: tuple[int, int]) -> None:
    """Two neurons that are equal but for sign in real arithmetic, summed in any order: their outputs, of which one is
    subtracted from the other, differ. Terms that cancel each other make what they err larger than what they are."""
    draw, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    row = torch.randn(INPUTS, generator=generator)
    x = torch.rand(INPUTS, generator=generator)
    z = 1e-3 * signs[1]
    bias = float(np.float32(z - float(row.double() @ x.double())))
    rows = torch.stack([row, *(sign * row for sign in signs)])  # the first one is that kept
    constants = torch.tensor([bias, *(sign * bias for sign in signs)])
    outer = torch.tensor([[0.0, 1.0, -1.0 if signs[0] == signs[1] else 1.0]])
    builder = GraphBuilder((INPUTS,))
    builder.add(Linear(outer, None), builder.add(ReLU(), builder.add(Linear(rows, constants), 0)))
    network = Network(onnx_bytes(builder.finish()), merge=True)
    assert [network.nodes[j].size for j in network.activations] == [1]

    found = []
    for _ in range(40):
        terms = np.concatenate([rows.numpy() * x.numpy(), constants.numpy()[:, None]], axis=1)
        for some in terms:
            draw.shuffle(some)
        values = [np.add.accumulate(some, dtype=np.float32)[-1] for some in terms]
        a = np.maximum(values, 0)
        found.append(float(np.float32(outer[0, 1] * a[1]) + np.float32(outer[0, 2] * a[2])))
    box = (x.numpy().astype(np.float64)[None],) * 2
    for arithmetic in ARITHMETICS:
        lows = {}
        for single in (False, True):
            hints = {**NO_HINTS, "refine": [0]}
            analysis = Analysis(network, arithmetic, single, hints)
            with np.errstate(all="ignore"):
                d = analysis.bounds(box)
                bound = analysis.least(network.output, np.ones((1, 1, 1)), d, np.zeros(1, dtype=int))
            lows[single] = float(analysis.arithmetic.down(bound)[0])
        assert lows[True] <= min(found)
        assert lows[True] > -1e-2 + min(lows[False], 0)
    if signs[0] == signs[1]:
        assert min(found) < 0  # below what real arithmetic allows
