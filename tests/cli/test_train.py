"""`verifier train`: what it writes, that the card is true, interruption and resume, several processes, errors."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from verifier.cli.main import main
from verifier.data import load_dataset
from verifier.load import load
from verifier.spec.robustness import local_robustness
from verifier.strategy import Settings, verify
from verifier.train import loop
from verifier.verdict import Verdict
from verifier.zoo import read_card

QUICK = ("--dataset", "digits", "--arch", "mlp_32", "--method", "mtl_ibp", "--eps", "0.04", "--epochs", "6",
         "--set", "batch_size=64", "--set", "lr=0.005", "--set", "ramp=2")  # fmt: skip


def run(capsys, *arguments):
    try:
        code = main(["train", *map(str, arguments)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_it_trains_certifies_and_tells_the_truth(tmp_path, capsys):
    code, out, err = run(capsys, *QUICK, "--out", tmp_path, "--limit", 40, "--timeout", 10)
    assert code == 0 and out.startswith("TRAINED: ")
    assert [line.split()[1] for line in err.splitlines()] == [f"{i}/6" for i in range(1, 7)]
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2, 3, 4, 5, 6]
    card = read_card(tmp_path / "model.json")
    assert card.recipe.config is not None and card.recipe.config["options"] == {} and card.recipe.cpu_minutes >= 0
    by_method = {entry.method: entry for entry in card.certified}
    assert list(by_method) == ["interval", "crown_ibp", "crown", "complete"]
    accuracies = [entry.accuracy for entry in card.certified]
    assert accuracies == sorted(accuracies)
    assert card.clean_accuracy >= card.pgd[0].accuracy >= accuracies[-1]

    # The whole pipeline on the written file, image by image, proves exactly as many.
    model, data = load(tmp_path / "model.pt"), load_dataset("digits", "test")
    verdicts = []
    for x, label in zip(data.images[:40], data.labels[:40], strict=True):
        prop = local_robustness(x.numpy(), int(label), 0.04, classes=10)
        verdicts.append(verify(model, prop, Settings(timeout=20)).verdict)
    assert verdicts.count(Verdict.VERIFIED) == round(40 * by_method["complete"].accuracy)
    assert by_method["complete"].undecided == 0 and by_method["complete"].timeout == 10


def test_on_a_terminal_epochs_are_told_over_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, _, err = run(capsys, *QUICK, "--out", tmp_path, "--limit", 1)
    assert code == 0
    lines = [line[line.index("epoch ") :] for line in err.splitlines() if "epoch " in line]
    assert [line.split()[1] for line in lines] == [f"{i}/6" for i in range(1, 7)]
    assert all(line.rstrip().endswith("images/s") for line in lines)  # not wrapped
    assert "━" in err and "100%" in err
    code, _, err = run(capsys, *QUICK, "--out", tmp_path / "quiet", "--limit", 1, "--quiet")
    assert code == 0 and err == ""


def test_interrupted_and_resumed_it_gives_the_same_weights(tmp_path, capsys, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(capsys, *QUICK, "--out", whole, "--limit", 1, "--quiet")[0] == 0
    save, stop_after = loop.Run._save, 3

    def interrupted(self):
        save(self)
        if self.epoch == stop_after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_save", interrupted)
        code, out, err = run(capsys, *QUICK, "--out", parts, "--limit", 1)
    assert code == 130 and out == "" and err.count("verifier: interrupted") == 1
    assert f"interrupted after epoch 3; go on with: verifier train --out {parts} --resume" in err
    code, out, _ = run(capsys, "--out", parts, "--resume", "--limit", 1, "--json")
    recipe = json.loads(out)["card"]["recipe"]
    assert code == 0 and recipe["config"]["epochs"] == 6
    assert recipe["command"] == f"verifier train --config {parts / 'model.json'} --out DIR"
    first, second = (torch.load(folder / "model.pt", weights_only=True) for folder in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_train_the_same_network(tmp_path):
    """DistributedDataParallel averages the gradients of the halves of every batch, which is the batch's own."""
    few = ("--dataset", "digits", "--arch", "mlp_32", "--method", "ibp", "--eps", "0.04", "--epochs", "1",
           "--set", "batch_size=70", "--set", "warm_up=0.2", "--set", "ramp=0.5", "--limit", "1", "--quiet",
           "--device", "cpu")  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "verifier", "train", *few, "--out", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("TRAINED:") == 1
    assert main(["train", *few, "--out", str(tmp_path / "one")]) == 0
    one, two = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_files_are_not_certified_on_what_was_trained_on(tmp_path, capsys):
    data = load_dataset("digits", "train")
    labels = data.labels.clone()
    labels[-40:] = (labels[-40:] + 1) % 10  # what was held out is labelled wrongly
    np.savez(tmp_path / "mine.npz", images=data.images.numpy(), labels=labels.numpy())
    np.savez(tmp_path / "right.npz", images=data.images[-40:].numpy(), labels=data.labels[-40:].numpy())
    np.savez(tmp_path / "other.npz", images=np.zeros((3, 1, 5, 5), np.float32), labels=np.arange(3))
    own = (
        *QUICK,
        "--method",
        "standard",
        "--epochs",
        "10",
        "--dataset",
        tmp_path / "mine.npz",
        "--out",
        tmp_path / "run",
    )
    code, out, err = run(capsys, *own)
    assert (
        code == 2 and "has no test images of its own; give --test FILE.npz" in err and not (tmp_path / "run").exists()
    )
    code, _, err = run(capsys, *own, "--test", tmp_path / "other.npz")
    assert code == 2 and "(1, 5, 5) in 3 classes are unlike the training images (1, 8, 8) in 10 classes" in err
    arrays = dict(np.load(tmp_path / "mine.npz"))
    np.savez(tmp_path / "wide.npz", **arrays, upper=2.0)
    code, _, err = run(capsys, *own, "--test", tmp_path / "wide.npz")
    assert code == 2 and "wide.npz: the data range [0, 2] is not that of the training images, [0, 1]" in err
    code, out, _ = run(capsys, *own, "--set", "holdout=40")
    assert code == 0 and "note: one class, given always, would be right as often" in out
    assert read_card(tmp_path / "run" / "model.json").clean_accuracy < 0.2
    other = ("--test", tmp_path / "right.npz", "--set", "holdout=40", "--quiet", "--out", tmp_path / "other")
    code, out, _ = run(capsys, *own, *other)
    assert code == 0 and "of 40 test images of right" in out
    card = read_card(tmp_path / "other" / "model.json")
    assert card.clean_accuracy > 0.8 and card.dataset == str(tmp_path / "right.npz")
    assert load(tmp_path / "other" / "model.pt").card == card


def test_a_folder_that_is_none_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    code, out, err = run(capsys, *QUICK, "--out", tmp_path / "file")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert f"{tmp_path / 'file'}: cannot be written (File exists); give another --out" in err


def test_a_radius_that_is_not_reached_is_told(tmp_path, capsys):
    short = (*QUICK, "--epochs", "2", "--limit", "1", "--out")
    assert run(capsys, *short, tmp_path / "a")[2].startswith("note: the radius still grows when training ends")
    assert "note" not in run(capsys, *short, tmp_path / "b", "--set", "ramp=null")[2]
    assert run(capsys, *short, tmp_path / "c", "--quiet")[2] == ""


@pytest.mark.parametrize("name", ["log.jsonl", "model.pt", "model.json"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(tmp_path, capsys, name):
    (tmp_path / name).symlink_to("/dev/full")  # where every write finds no room
    code, out, err = run(capsys, *QUICK, "--epochs", "1", "--set", "ramp=null", "--limit", "1", "--out", tmp_path)
    told = [line for line in err.splitlines() if not line.startswith("epoch")]
    assert code == 2 and out == "" and len(told) == 1 and str(tmp_path) in told[0] and "cannot be written" in told[0]


def test_a_log_goes_on_after_its_last_whole_line(tmp_path, capsys):
    assert run(capsys, *QUICK, "--epochs", "2", "--limit", "1", "--quiet", "--out", tmp_path)[0] == 0
    log = tmp_path / "log.jsonl"
    first = log.read_text().splitlines(keepends=True)[0]
    log.write_text(first + '{"epoch": 2, "lo')
    assert run(capsys, "--resume", "--limit", "1", "--quiet", "--out", tmp_path)[0] == 0
    assert log.read_text() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--dataset is missing"),
        ((*QUICK, "--eps", "-1"), "eps must be a finite number >= 0"),
        ((*QUICK, "--set", "speed"), "--set wants NAME=VALUE"),
        ((*QUICK, "--set", "options=5", "--set", "options.alpha=1"), "must be an object"),
        ((*QUICK, "--set", "speed=1"), "unknown field 'speed'"),
        ((*QUICK, "--method", "magic"), "method must be one of standard, fgsm,"),
        ((*QUICK, "--set", "options.alpha=7"), "alpha must lie in [0, 1]"),
        ((*QUICK, "--arch", "magic"), "unknown architecture 'magic'"),
        ((*QUICK, "--dataset", "magic"), "unknown data set 'magic'"),
        ((*QUICK, "--method", "linear", "--set", "warm_up=0"), "method 'linear' is for one linear layer"),
        (("--config", "absent.json"), "absent.json: cannot read the training configuration"),
        (("--resume",), "config.json: cannot read the training configuration"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, arguments, message):
    code, out, err = run(capsys, *arguments, "--out", tmp_path / "run")
    assert code == 2 and out == ""
    assert message in err and err.count("\n") == 1


class Board:
    """Stands for TensorBoard's writer, whose package is optional."""

    written: ClassVar[list[tuple[str, float, int]]] = []

    def __init__(self, folder):
        assert folder.name == "tensorboard"

    def add_scalar(self, *entry):
        self.written.append(entry)

    def close(self):
        self.written.append(("closed", 0, 0))


def test_tensorboard_gets_every_figure_of_every_epoch(tmp_path, capsys, monkeypatch):
    short = (*QUICK, "--epochs", "2", "--limit", "1", "--tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, err = run(capsys, *short, "--out", tmp_path / "without")
    assert code == 2 and "--tensorboard needs an optional package" in err
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Board))
    assert run(capsys, *short, "--out", tmp_path / "with")[0] == 0
    log = [json.loads(line) for line in (tmp_path / "with" / "log.jsonl").read_text().splitlines()]
    expected = [(name, value, entry["epoch"]) for entry in log for name, value in entry.items()]
    assert Board.written == [*expected, ("closed", 0, 0)]


def test_event_files_are_read_back_by_tensorboard(tmp_path, capsys):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert run(capsys, *QUICK, "--epochs", "2", "--limit", "1", "--tensorboard", "--out", tmp_path)[0] == 0
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sorted(events.Tags()["scalars"]) == sorted(log[0])
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([entry["loss"] for entry in log])
