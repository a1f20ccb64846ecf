"""What an evaluation counts as proved is proved; what is not a number proves nothing."""

import dataclasses
import math

import pytest
import torch

from verifier.bounds.crown import Crown
from verifier.bounds.interval import IntervalBounds
from verifier.data import load_dataset
from verifier.load import from_module
from verifier.train import evaluate as module
from verifier.train.batch import Batch
from verifier.train.config import Config
from verifier.train.evaluate import METHODS, Evaluation, estimate, evaluate
from verifier.train.intervals import label_rows
from verifier.train.loop import train
from verifier.types import Box

EPS = 0.04


@pytest.fixture(scope="module")
def net():
    config = Config("digits", "mlp_32", "mtl_ibp", EPS, options={"alpha": 0.2}, epochs=12, batch_size=64, lr=5e-3,
                    averaging=0.9)  # fmt: skip
    return train(config, load_dataset("digits", "train"))


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits", "test")


def proved(net, data, method):
    """By the bound methods themselves, image by image, in float64."""
    graph, count = from_module(net, data.shape), 0
    for x, y in zip(data.images.double().split(1), data.labels.split(1), strict=True):
        box = Box((x - EPS).clamp(min=0), (x + EPS).clamp(max=1))
        rows = label_rows(y, 10, box.lower)[:, [k for k in range(10) if k != int(y)]]
        count += bool((method(graph, box, rows).lower > 0).all())
    return count / len(data)


def test_shares_are_those_of_the_bound_methods(net, data):
    found = evaluate(net, data, EPS)
    assert found.certified["interval"] == pytest.approx(proved(net, data, IntervalBounds()))
    assert found.certified["crown"] == pytest.approx(proved(net, data, Crown()))
    shares = [found.certified[name] for name in METHODS]
    assert 0 < shares[0] < shares[1] <= shares[2] <= found.attacked <= found.clean <= 1
    assert found.undecided == pytest.approx(found.attacked - shares[2])
    assert found.complete is None and found.images == len(data)
    assert evaluate(net, data, 0.0).certified["interval"] == pytest.approx(found.clean)


def test_the_complete_verifier_is_asked_about_the_open_images_only(net, data):
    plain, asked = evaluate(net, data, 2 * EPS), []

    def answers(index):
        asked.append(index)
        return (True, False, None)[len(asked) % 3]

    found = evaluate(net, data, 2 * EPS, complete=answers, timeout=1.0)
    n = len(data)
    assert len(asked) == round(plain.undecided * n) > 3
    yes, no, open_ = (
        [(True, False, None)[(k + 1) % 3] for k in range(len(asked))].count(v) for v in (True, False, None)
    )
    assert found.complete == pytest.approx(plain.certified["crown"] + yes / n)
    assert found.attacked == pytest.approx(plain.attacked - no / n)
    assert found.undecided == pytest.approx(open_ / n)


def test_batches_do_not_matter(net, data, monkeypatch):
    whole = evaluate(net, data, EPS)
    monkeypatch.setattr(module, "BATCH", 17)
    parts = evaluate(net, data, EPS)
    # The attack starts elsewhere, so that it may break one image more or less; proofs are the same.
    assert dataclasses.replace(parts, attacked=whole.attacked, undecided=whole.undecided) == whole
    assert isinstance(parts, Evaluation)


def test_a_network_that_is_not_a_number_proves_nothing(net, data):
    sample = Batch(data.images[:20], data.labels[:20], EPS)
    good = estimate(net, sample)
    assert 0 < good.certified <= good.attacked <= good.clean
    broken = train(Config("digits", "mlp_32", "standard", EPS, epochs=1), data)
    with torch.no_grad():
        broken[1].weight[0, 0] = math.nan
    assert estimate(broken, sample).certified == 0
