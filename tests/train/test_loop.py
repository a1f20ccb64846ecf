"""The loop: exact resume, a stop that keeps the last good state, schedules, averages, statistics of BatchNorm."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from verifier.data import Dataset, load_dataset
from verifier.errors import InputError, ModelError, TrainingError
from verifier.train import checkpoint, schedules
from verifier.train.augment import shifted
from verifier.train.batch import Batch
from verifier.train.config import Config, parse_config, read_config, write_config
from verifier.train.initialisation import initialise, regulariser
from verifier.train.loop import Run, train
from verifier.train.network import live_graph

CONFIG = Config("digits", "mlp_32", "mtl_ibp", 0.05, epochs=4, batch_size=64, warm_up=0.5, ramp=2.0, lr=5e-3)


@pytest.fixture(scope="module")
def data():
    whole = load_dataset("digits", "train")
    return dataclasses.replace(whole, images=whole.images[:600], labels=whole.labels[:600])


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def epochs(run: Run, count: int) -> None:
    for done in run:
        if done.epoch == count:
            return


@pytest.mark.parametrize("arch", ["mlp_32", "conv_tiny"])
def test_resume_is_exact(data, tmp_path, arch):
    config = dataclasses.replace(CONFIG, arch=arch, shift=1 if arch == "conv_tiny" else 0, l1=1e-6, averaging=0.9)
    torch.manual_seed(123)  # must not matter
    straight = train(config, data)
    epochs(Run(config, data, tmp_path), 2)
    torch.manual_seed(7)
    resumed = Run(config, data, tmp_path, resume=True)
    assert resumed.epoch == 2
    epochs(resumed, 4)
    assert same(resumed.model, straight)


def test_a_run_can_be_started_from_the_configuration_that_it_wrote(data, tmp_path):
    config = dataclasses.replace(CONFIG, options={"alpha": 0.2}, milestones=(1, 2.5), decay="steps", epochs=2)
    first = Run(config, data, tmp_path)
    epochs(first, 2)
    again = read_config(tmp_path / "config.json")
    assert again == config
    assert same(train(again, data), first.model)
    assert not same(train(dataclasses.replace(again, seed=1), data), first.model)


def test_the_loop_does_not_touch_the_global_random_state(data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(dataclasses.replace(CONFIG, epochs=1), data)
    assert torch.equal(torch.rand(3), expected)


def test_robust_training_lowers_the_certified_loss(data):
    plain, robust = (train(dataclasses.replace(CONFIG, method=m, epochs=8), data) for m in ("standard", "ibp"))
    box = Batch(data.images, data.labels, 0.05)
    loss = {m: Config("digits", "mlp_32", "ibp", 0.05).loss()(live_graph(net, data.images), box).item()
            for m, net in (("plain", plain), ("robust", robust))}  # fmt: skip
    assert loss["robust"] < loss["plain"] * 0.7


def test_divergence_stops_at_the_last_good_checkpoint(data, tmp_path):
    run = Run(CONFIG, data, tmp_path)
    epochs(run, 1)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        next(run.network.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="not finite in epoch 2; the checkpoint of epoch 1 is good"):
        epochs(run, 4)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good
    resumed = Run(CONFIG, data, tmp_path, resume=True)
    epochs(resumed, 4)
    assert all(torch.isfinite(p).all() for p in resumed.model.parameters())


def test_an_exploding_learning_rate_is_told(data):
    with pytest.raises(TrainingError, match="no epoch was finished; try a lower learning rate"):
        train(dataclasses.replace(CONFIG, lr=1e30, lr_rise=0, clip=1e30), data)


def test_an_interruption_within_an_epoch_costs_that_epoch_only(data, tmp_path, monkeypatch):
    straight = train(CONFIG, data)
    run = Run(CONFIG, data, tmp_path)
    epochs(run, 2)
    update, calls = run._update, []

    def interrupted(batch, lr):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return update(batch, lr)

    monkeypatch.setattr(run, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        epochs(run, 4)
    resumed = Run(CONFIG, data, tmp_path, resume=True)
    epochs(resumed, 4)
    assert same(resumed.model, straight)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_one_line(data, tmp_path, content):
    epochs(Run(CONFIG, data, tmp_path), 1)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    with pytest.raises(InputError, match="not a checkpoint") as caught:
        Run(CONFIG, data, tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_run_is_refused(data, tmp_path):
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        Run(CONFIG, data, tmp_path, resume=True)
    epochs(Run(CONFIG, data, tmp_path), 1)
    with pytest.raises(InputError, match="another run: eps, lr differ"):
        Run(dataclasses.replace(CONFIG, eps=0.1, lr=1e-3), data, tmp_path, resume=True)


def test_a_checkpoint_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    state = checkpoint.Checkpoint(1, {}, {}, {}, {}, 0.0)
    checkpoint.save(state, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError):
        checkpoint.save(dataclasses.replace(state, epoch=2), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": -1}, "eps must be"), ({"eps": math.nan}, "eps must be"), ({"extra": 1}, "unknown field"),
        ({"epochs": 0}, "epochs must be"), ({"options": {"alfa": 1}}, "no option 'alfa'"),
        ({"method": "magic"}, "method must be one of"),
        ({"options": {"alpha": "big"}}, "alpha must be float"), ({"options": {"alpha": 2}}, "alpha must lie"),
        ({"seed": 1 << 24}, "seed must be"), ({"averaging": 1.0}, "averaging must be"),
        ({"decay": "linear"}, "decay must be one of cosine, steps"),
    ],
)  # fmt: skip
def test_wrong_configurations_are_told(tmp_path, changes, message):
    path = tmp_path / "config.json"
    write_config(CONFIG, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_configurations_need_their_core():
    with pytest.raises(InputError, match="'eps' is missing"):
        parse_config({"dataset": "digits", "arch": "mlp_32", "method": "ibp"})


def test_schedules():
    assert [schedules.growth(e, 1, 4) for e in (0, 0.9, 1, 3, 5, 9)] == [0, 0, 0, 0.5, 1, 1]
    assert schedules.growth(0, 0, 0) == 1
    assert schedules.cosine(5, 10, 1) == pytest.approx(0.5)
    assert schedules.cosine(0.5, 10, 1) == pytest.approx(0.5 * schedules.cosine(0.5, 10, 0))
    assert schedules.cosine(10, 10, 1) == 0
    assert [schedules.steps(e, (2, 4), 0.5) for e in (1, 2, 3, 5)] == [1, 0.5, 0.5, 0.25]


def test_the_radius_grows_as_scheduled(data):
    reports = list(Run(CONFIG, data))
    last = 9 / 10  # of the ten steps of an epoch
    assert [r.eps for r in reports] == pytest.approx([0.05 * (last - 0.5) / 2, 0.05 * (1 + last - 0.5) / 2, 0.05, 0.05])
    assert all(r.loss > 0 and r.images_per_second > 0 for r in reports)


def test_shifts_move_whole_images():
    x = torch.zeros(50, 1, 6, 6)
    x[:, 0, 2, 3] = 1
    moved = shifted(x, 2, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape and (moved.sum((1, 2, 3)) == 1).all()
    at = {(int(p[2]), int(p[3])) for p in moved.nonzero()}
    assert len(at) > 15 and all(abs(row - 2) <= 2 and abs(column - 3) <= 2 for row, column in at)
    assert shifted(x, 0, torch.Generator()) is x


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


def test_interval_initialisation_keeps_widths():
    """Through many wide layers, mean interval widths neither explode nor vanish, as they do by default."""
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(400, 400), nn.ReLU())), nn.Linear(400, 2))
    box = Batch(torch.rand(20, 400), torch.zeros(20, dtype=torch.int64), 0.1)
    ratios = []
    for rule in ("default", "ibp"):
        initialise(net, rule)
        radius = torch.full((1, 400), 0.1)
        for layer in net[:-1:2]:
            radius = radius @ layer.weight.abs().t()
        ratios.append(radius.mean().item() / 0.1 * 0.5**6)  # a ReLU halves the width of a centred neuron
    assert 0.3 < ratios[1] < 3 and ratios[0] > 30
    assert regulariser(live_graph(net, box.x), box).item() >= 0


def test_regularisers_are_zero_when_all_is_balanced():
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    net[0].weight.data, net[0].bias.data = torch.ones(2, 1).double(), torch.tensor([1.0, -2.0]).double()
    x, y = torch.full((4, 1), 0.5, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    assert regulariser(live_graph(net, x), Batch(x, y, 0.1)).item() == pytest.approx(0, abs=1e-12)
    net[0].weight.data *= 5  # the widths grow to five times the input's: tightness (0.5 - 0.2) / 0.5
    net[0].bias.data = torch.tensor([-1.0, -4.0]).double()
    assert regulariser(live_graph(net, x), Batch(x, y, 0.1)).item() == pytest.approx(0.6)


def test_holdout_keeps_images_out(data):
    odd = Dataset("odd", data.images.clone(), data.labels, 10)
    odd.images[500:] = math.nan
    config = dataclasses.replace(CONFIG, epochs=1, holdout=100)
    assert all(torch.isfinite(p).all() for p in train(config, odd).parameters())
    with pytest.raises(InputError, match="leaves nothing"):
        Run(dataclasses.replace(config, holdout=600), odd)


def test_unlabelled_images_take_part(data, tmp_path):
    np.savez(
        tmp_path / "more.npz", images=load_dataset("digits", "train").images[600:].numpy(), labels=np.zeros(940, int)
    )
    config = dataclasses.replace(CONFIG, method="self_training", options={"steps": 1}, epochs=3)
    without, with_ = (
        train(dataclasses.replace(config, unlabelled=u), data) for u in (None, str(tmp_path / "more.npz"))
    )
    assert not same(without, with_)
    assert same(without, train(dataclasses.replace(config, method="trades"), data))
    np.savez(tmp_path / "other.npz", images=np.zeros((3, 5), np.float32), labels=np.zeros(3, int))
    with pytest.raises(InputError, match="have the shape"):
        train(dataclasses.replace(config, unlabelled=str(tmp_path / "other.npz")), data)


def test_cnn7_trains_two_epochs():
    """The published network on a tiny subset: the code path that the GPU script takes."""
    digits = load_dataset("digits", "train")
    few = dataclasses.replace(digits, images=digits.images[:16], labels=digits.labels[:16])
    config = Config("digits", "cnn7", "mtl_ibp", 0.1, train_eps=0.2, options={"alpha": 0.02}, epochs=2, batch_size=8,
                    decay="steps", milestones=(1,), ramp=1.0, averaging=0.0, initialisation="ibp", regularise=0.5,
                    lr=5e-4)  # fmt: skip
    reports = list(Run(config, few))
    assert [r.lr for r in reports] == pytest.approx([5e-4, 1e-4])
    assert all(math.isfinite(r.loss) for r in reports)
    assert train(config, few)(few.images).shape == (16, 10)
