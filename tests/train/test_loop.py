"""The loop: exact resume, averages, a stop that keeps the last good state, held-out and unlabelled images."""

import dataclasses
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from verifier.data import Dataset, load_dataset
from verifier.errors import InputError, ModelError, TrainingError
from verifier.train import checkpoint
from verifier.train.batch import Batch
from verifier.train.config import Config, read_config
from verifier.train.loop import Objective, Run, train
from verifier.train.losses.ibp import Ibp
from verifier.train.losses.pgd import Pgd
from verifier.train.network import live_graph
from verifier.zoo import build, read_card, write_card

MODELS = Path(__file__).parents[2] / "models"
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


@pytest.mark.parametrize("arch", ["mlp_32", "conv_tiny", "cnn7"])
def test_resume_is_exact(data, tmp_path, arch):
    """With shifts in conv_tiny; in cnn7, with the statistics of BatchNorm, the regularisers and steps of the rate."""
    config = dataclasses.replace(CONFIG, arch=arch, shift=1 if arch == "conv_tiny" else 0, l1=1e-6, averaging=0.9)
    if arch == "cnn7":
        data = dataclasses.replace(data, images=data.images[:8], labels=data.labels[:8])
        config = dataclasses.replace(config, batch_size=4, decay="steps", milestones=(3,), initialisation="ibp",
                                     regularise=0.5)  # fmt: skip
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


def test_a_run_may_begin_with_the_weights_of_a_file(data, tmp_path):
    model = train(dataclasses.replace(CONFIG, epochs=1), data)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    config = dataclasses.replace(CONFIG, start=str(tmp_path / "model.pt"), warm_up=0, ramp=0, epochs=2)
    first = Run(config, data, tmp_path)
    assert same(first.model, model)
    assert all(p.requires_grad for p in first.network.parameters())
    epochs(first, 1)
    (tmp_path / "model.pt").unlink()  # a run that goes on does not need it
    resumed = Run(config, data, tmp_path, resume=True)
    assert same(resumed.model, first.model) and not same(resumed.model, model)


def test_weights_of_another_network_are_no_beginning(data, tmp_path):
    torch.save(build("mlp_32", data.shape, 7).state_dict(), tmp_path / "classes.pt")
    card = read_card(shutil.copy(MODELS / "digits_mlp.json", tmp_path))
    shutil.copy(MODELS / "digits_mlp.pt", tmp_path)
    write_card(dataclasses.replace(card, mean=(0.5,), std=(0.5,)), tmp_path / "digits_mlp.json")
    messages = {"classes.pt": "to (7,), not (1, 8, 8) to (10,)", "none.pt": "no such model file",
                "digits_mlp.pt": "normalises its inputs"}  # fmt: skip
    for name, message in messages.items():
        with pytest.raises(InputError) as caught:
            Run(dataclasses.replace(CONFIG, start=str(tmp_path / name)), data)
        assert message in str(caught.value)
    with pytest.raises(ModelError, match="do not fit architecture"):
        Run(dataclasses.replace(CONFIG, arch="mlp_100", start=str(tmp_path / "classes.pt")), data)


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


def test_the_certified_loss_is_above_the_attacked_one_on_every_batch_of_a_run(data, monkeypatch):
    """From the first step to the last, while weights, radius and learning rate change."""
    run, update, gaps = Run(dataclasses.replace(CONFIG, epochs=3), data), Run._update, []

    def watched(self, batch, lr):
        graph = live_graph(self.network, batch.x)
        attacked, certified = (method(graph, batch).item() for method in (Pgd(steps=10), Ibp()))
        gaps.append(certified - attacked)
        return update(self, batch, lr)

    monkeypatch.setattr(Run, "_update", watched)
    epochs(run, 3)
    assert len(gaps) == 30 and min(gaps) >= -1e-6
    assert max(gaps[-10:]) > 1e-3  # at the full radius they differ


def test_the_model_is_the_running_average_of_the_weights(data, monkeypatch):
    run, accumulate = Run(dataclasses.replace(CONFIG, epochs=2, averaging=0.8), data), Run._accumulate
    mean = [p.detach().double() for p in run.network.parameters()]

    def watched(self):
        keep = min(0.8, (1 + self.step) / (10 + self.step))
        for m, p in zip(mean, self.network.parameters(), strict=True):
            m.mul_(keep).add_(p.detach().double(), alpha=1 - keep)
        accumulate(self)

    monkeypatch.setattr(Run, "_accumulate", watched)
    epochs(run, 2)
    for m, p, last in zip(mean, run.model.parameters(), run.network.parameters(), strict=True):
        assert torch.allclose(m, p.double(), atol=1e-6) and not torch.allclose(p, last, atol=1e-4)


def test_gradients_are_cut_to_the_largest_norm(data):
    for clip, active in ((1e-3, True), (1e3, False)):
        run = Run(dataclasses.replace(CONFIG, clip=clip, epochs=1), data)
        epochs(run, 1)
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in run.network.parameters()))
        assert norm == pytest.approx(clip, rel=1e-3) if active else norm < clip


def test_the_objective_adds_the_weights_and_is_plain_without_a_radius(data):
    net = build("mlp_32", data.shape, data.classes)
    batch = Batch(data.images[:50], data.labels[:50], 0.05)
    config = dataclasses.replace(CONFIG, method="ibp")
    certified = Objective(net, config)(batch).item()
    weights = sum(layer.weight.abs().sum().item() for layer in net if isinstance(layer, nn.Linear))
    assert Objective(net, dataclasses.replace(config, l1=1e-3))(batch).item() == pytest.approx(
        certified + 1e-3 * weights
    )
    plain = nn.functional.cross_entropy(net(batch.x), batch.y).item()
    assert Objective(net, config)(dataclasses.replace(batch, eps=0.0)).item() == pytest.approx(plain)
    assert plain < certified


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


def test_a_checkpoint_appears_whole_or_not_at_all(tmp_path):
    path, full = tmp_path / "checkpoint.pt", Path("/dev/full")  # where every write finds no room
    state = checkpoint.Checkpoint(1, {}, {}, {}, {}, 0.0)
    if not full.exists():
        pytest.skip("no /dev/full here")
    partial = path.with_suffix(f".{os.getpid()}")
    partial.symlink_to(full)
    with pytest.raises(InputError, match=r"No space left on device.*give another folder"):
        checkpoint.save(state, path)
    assert list(tmp_path.iterdir()) == []
    checkpoint.save(state, path)
    before = path.read_bytes()
    partial.symlink_to(full)
    with pytest.raises(InputError, match="make room and go on with --resume"):
        checkpoint.save(dataclasses.replace(state, epoch=2), path)
    assert path.read_bytes() == before


def test_a_run_is_not_begun_over_another(data, tmp_path):
    epochs(Run(CONFIG, data, tmp_path), 1)
    kept = [(tmp_path / name).read_bytes() for name in ("checkpoint.pt", "config.json")]
    with pytest.raises(InputError, match="holds a run already; go on with --resume"):
        Run(dataclasses.replace(CONFIG, seed=1), data, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in ("checkpoint.pt", "config.json")] == kept


def test_batch_norm_never_meets_a_single_image(data):
    """It has no statistics of one: a rest of one is left out, and batches of one are refused."""
    few = dataclasses.replace(data, images=data.images[:9], labels=data.labels[:9])
    config = dataclasses.replace(CONFIG, arch="cnn7", method="ibp", epochs=1, batch_size=4)
    run = Run(config, few)
    epochs(run, 1)
    assert run.step == 2
    with pytest.raises(InputError, match="batches of 1: here they need at least 2 images"):
        Run(dataclasses.replace(config, batch_size=1), few)


def test_shifts_that_no_image_survives_are_refused(data):
    for shift, shape in ((8, data.shape), (1, (64,))):
        odd = dataclasses.replace(data, images=data.images.reshape(-1, *shape))
        with pytest.raises(InputError, match=f"shift {shift} does not suit"):
            Run(dataclasses.replace(CONFIG, shift=shift), odd)


def test_the_radius_grows_as_scheduled(data):
    reports = list(Run(CONFIG, data))
    last = 9 / 10  # of the ten steps of an epoch
    assert [r.eps for r in reports] == pytest.approx([0.05 * (last - 0.5) / 2, 0.05 * (1 + last - 0.5) / 2, 0.05, 0.05])
    assert all(r.loss > 0 and r.images_per_second > 0 for r in reports)


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_the_same_network(data):
    """The same batches, noise and schedules; only rounding differs."""
    here, there = Run(CONFIG, data), Run(CONFIG, data, device="cuda")
    for a, b in zip(here, there, strict=True):
        assert (a.eps, a.lr) == (b.eps, b.lr) and a.loss == pytest.approx(b.loss, rel=0.05)
    assert there.model(data.images).argmax(1).eq(here.model(data.images).argmax(1)).double().mean() > 0.9
