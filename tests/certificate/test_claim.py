"""Claims about float32 where the checker treats several ReLUs as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from certified import ARITHMETICS, NO_HINTS

from verifier.certificate.analysis import Analysis
from verifier.certificate.nodes import Node
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


def test_what_is_merged_does_not_depend_on_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neurons of which each reads two of 64 values, some of them the same or its negative, with the zeros left out and
    with all of them."""
    draw = np.random.default_rng(0)
    rows = np.zeros((48, INPUTS), dtype=np.float32)
    pairs = draw.permutation(INPUTS).reshape(-1, 2)
    for row, pair in zip(rows[:40], np.concatenate((pairs, pairs[8:16])), strict=True):
        row[pair] = draw.normal(size=2)
    rows[40:44], rows[44:] = rows[:4], -rows[4:8]
    constants = draw.normal(size=48).astype(np.float32)
    constants[40:44], constants[44:] = constants[:4], -constants[4:8]
    constants[43] += 1  # which therefore reads another number
    builder = GraphBuilder((INPUTS,))
    layer = Linear(torch.from_numpy(rows), torch.from_numpy(constants))
    builder.add(Linear(torch.ones(1, 48), None), builder.add(ReLU(), builder.add(layer, 0)))
    model = onnx_bytes(builder.finish())
    found = [Network(model, merge=True)]
    monkeypatch.setattr(Node, "thin", lambda node: None)
    found.append(Network(model, merge=True))
    shapes = [network.nodes[2].shape for network in found]
    assert shapes == [(48, 1, 2, 1), (1, 1, INPUTS, 48)]
    for network in found:
        assert [network.nodes[j].size for j in network.activations] == [41]
    copies = [next(node.copies for node in network.nodes if node.copies) for network in found]
    assert all(np.array_equal(*pair) for pair in zip(*copies, strict=True))
