"""The training loop: one optimiser step after another, a checkpoint after every epoch, exact resume."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from verifier.data import Dataset, load_dataset
from verifier.errors import InputError, TrainingError
from verifier.train import checkpoint, schedules
from verifier.train.augment import shifted
from verifier.train.batch import Batch, Loss
from verifier.train.config import Config, write_config
from verifier.train.evaluate import estimate
from verifier.train.initialisation import beginning, regulariser
from verifier.train.losses.standard import Standard
from verifier.train.network import BatchNorm, live_graph
from verifier.train.workers import Workers

CHECKPOINT = "checkpoint.pt"
SAMPLE = 200
AVERAGING_START = 10
"""The running average of the weights forgets faster in its first steps: step n weighs at least 1 / (10 + n)."""


@dataclass(frozen=True)
class EpochReport:
    """What an epoch did. loss: mean over its images; eps, lr: at its end; images_per_second: of CPU time.

    clean, attacked, certified: fractions of the last `SAMPLE` images, which are held out where any are, at the full
    radius; see `evaluate.Estimate`. seconds: CPU time of the run so far, estimates included.
    """

    epoch: int
    epochs: int
    loss: float
    eps: float
    lr: float
    images_per_second: float
    clean: float
    attacked: float
    certified: float
    seconds: float


class Objective(nn.Module):
    """Network and loss as one module, so that DistributedDataParallel can average the gradients of any loss."""

    def __init__(self, model: nn.Sequential, config: Config) -> None:
        super().__init__()
        self.model, self.config, self.loss, self.clean = model, config, config.loss(), Standard()

    def forward(self, batch: Batch) -> Tensor:
        graph = live_graph(self.model, batch.x)
        # Without a radius there is nothing to be robust against: warm-up is plain training whatever the method.
        method: Loss = self.loss if batch.eps > 0 else self.clean
        loss = method(graph, batch)
        if self.config.regularise > 0 and batch.progress < 1:
            loss = loss + self.config.regularise * (1 - batch.progress) * regulariser(graph, batch)
        if self.config.l1 > 0:
            loss = loss + self.config.l1 * sum(p.abs().sum() for p in self.model.parameters() if p.dim() > 1)
        return loss


class Run:
    """A training run: `for report in run: ...` trains; `run.model` is the result.

    folder: where configuration and checkpoints go, None for nowhere. resume: go on from the folder's checkpoint; the
    weights are then bit for bit those of a run that was never interrupted, on the same machine.
    """

    def __init__(
        self,
        config: Config,
        data: Dataset,
        folder: Path | None = None,
        resume: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        _check(config, data, folder, resume)
        self.config, self.folder, self.device, self.workers = config, folder, torch.device(device), Workers.current()
        kept = len(data) - config.holdout
        self.batch_size = min(config.batch_of(kept), kept)
        self.images, self.labels = data.images[:kept].to(self.device), data.labels[:kept].to(self.device)
        self.unlabelled = None if config.unlabelled is None else self._unlabelled(config.unlabelled, data)
        self.range = (data.lower, data.upper)
        self.sample = (data.images[-SAMPLE:].to(self.device), data.labels[-SAMPLE:].to(self.device))
        first = beginning(replace(config, start=None) if resume else config, data)  # resumed, it needs no such file
        # Channels last is what convolutions compute fastest in, on processors as on GPUs.
        self.network: nn.Sequential = _laid_out(first.to(self.device), torch.channels_last)
        self.average = copy.deepcopy(self.network)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.lr)
        self.objective: nn.Module = Objective(self.network, config)
        if self.workers.world > 1:
            self.objective = DistributedDataParallel(self.objective)
        # BatchNorm has no statistics of a single image.
        self.least = self.workers.world * (2 if any(isinstance(m, BatchNorm) for m in self.network) else 1)
        if self.batch_size < self.least:
            raise InputError(f"batches of {self.batch_size}: here they need at least {self.least} images")
        self.epoch, self.seconds, self.step = 0, 0.0, 0
        if resume:
            self._resume()
        elif folder is not None and self.workers.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            write_config(config, folder / "config.json")

    def _unlabelled(self, name: str, data: Dataset) -> Tensor:
        """The images of a data set of the same kind of inputs."""
        images = load_dataset(name, "train").images
        if images.shape[1:] != data.images.shape[1:]:
            raise InputError(f"the unlabelled images of {name!r} have the shape {images.shape[1:]}, not {data.shape}")
        return images.to(self.device)

    @property
    def chosen(self) -> nn.Sequential:
        """What becomes the model: the running average of the weights where one is asked for, else the last weights."""
        return self.average if self.config.averaging else self.network

    @property
    def model(self) -> nn.Sequential:
        """A copy of the network as trained so far, in evaluation mode, on the CPU."""
        return _laid_out(copy.deepcopy(self.chosen).to("cpu"), torch.contiguous_format).eval()

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[EpochReport]:
        """Train epoch by epoch. Raises TrainingError when the loss or a gradient is no longer a number."""
        while self.epoch < self.config.epochs:
            start = time.process_time()
            loss, eps, lr = self._train_epoch()
            self.epoch += 1
            rate = len(self.images) / max(time.process_time() - start, 1e-9)
            estimated = estimate(self.chosen, Batch(*self.sample, self.config.eps, *self.range))
            self.seconds += time.process_time() - start
            self._save()
            yield EpochReport(self.epoch, self.config.epochs, loss, eps, lr, rate, *estimated, self.seconds)

    def _train_epoch(self) -> tuple[float, float, float]:
        """Returns the mean loss over the images, and the last radius and learning rate."""
        config, rank, world = self.config, self.workers.rank, self.workers.world
        self.network.train()
        seed = (config.seed << 32) + self.epoch  # with the 8 bits below, within the 64 that a generator takes
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed)).to(self.device)
        noise = torch.Generator().manual_seed((seed << 8) + 1 + rank)
        total, eps, lr = torch.zeros((), device=self.device), 0.0, 0.0
        for number, chosen in enumerate(order.split(self.batch_size)):
            if len(chosen) < self.least:
                continue  # the rest of an epoch that does not go round
            epoch = self.epoch + number / self.steps_per_epoch
            mine = chosen[rank::world]
            lr = config.lr * self._rate(epoch + 0.5 / self.steps_per_epoch)  # mid-step, where no schedule is zero
            progress = schedules.growth(epoch, *config.growth)
            eps = config.radius * progress
            x = self._augmented(self.images[mine], noise)
            extra = None
            if self.unlabelled is not None:
                drawn = torch.randint(len(self.unlabelled), (len(mine),), generator=noise).to(self.device)
                extra = self._augmented(self.unlabelled[drawn], noise)
            batch = Batch(x, self.labels[mine], eps, *self.range, progress, noise, extra, config.autocast)
            total += self._update(batch, lr) * len(chosen)
        return float(total) / len(self.images), eps, lr

    def _augmented(self, x: Tensor, noise: torch.Generator) -> Tensor:
        layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
        return shifted(x, self.config.shift, noise).contiguous(memory_format=layout)

    def _rate(self, epoch: float) -> float:
        config = self.config
        if config.decay == "cosine":
            return schedules.cosine(epoch, config.epochs, config.lr_rise)
        return schedules.steps(epoch, config.milestones, config.factor)

    def _update(self, batch: Batch, lr: float) -> Tensor:
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.objective(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        if not bool(torch.isfinite(loss.detach() + norm)):
            where = "no epoch was finished" if self.epoch == 0 else f"the checkpoint of epoch {self.epoch} is good"
            raise TrainingError(
                f"training: the loss ({loss.item():g}) or its gradient ({float(norm):g}) is not finite in epoch "
                f"{self.epoch + 1}; {where}; try a lower learning rate or a longer ramp"
            )
        self.optimiser.step()
        self.step += 1
        self._accumulate()
        return loss.detach()

    @torch.no_grad()
    def _accumulate(self) -> None:
        """Move the running average towards the weights; statistics of BatchNorm are averages already."""
        if not self.config.averaging:
            return
        keep = min(self.config.averaging, (1 + self.step) / (AVERAGING_START + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - keep)
        for mean, value in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(value)

    def _save(self) -> None:
        if self.folder is None or self.workers.rank != 0:
            return
        states = self.network.state_dict(), self.average.state_dict(), self.optimiser.state_dict()
        state = checkpoint.Checkpoint(self.epoch, asdict(self.config), *states, self.seconds)
        checkpoint.save(state, self.folder / CHECKPOINT)

    def _resume(self) -> None:
        if self.folder is None:
            raise InputError("nothing to resume: a run without a folder keeps no checkpoint")
        state = checkpoint.load(self.folder / CHECKPOINT, asdict(self.config), self.device)
        self.network.load_state_dict(state.model)
        self.average.load_state_dict(state.average)
        self.optimiser.load_state_dict(state.optimiser)
        self.epoch, self.seconds = state.epoch, state.seconds
        self.step = self.epoch * self.steps_per_epoch


def _laid_out(model: nn.Sequential, layout: torch.memory_format) -> nn.Sequential:
    """The same module with its maps in this memory layout."""
    return model.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def _check(config: Config, data: Dataset, folder: Path | None, resume: bool) -> None:
    """Raises InputError where data or folder do not suit the run."""
    if not config.holdout < len(data):
        raise InputError(f"holdout {config.holdout} leaves nothing of {len(data)} training images")
    if config.shift and not (len(data.shape) == 3 and config.shift < min(data.shape[1:])):
        raise InputError(f"shift {config.shift} does not suit inputs of shape {data.shape}")
    if folder is not None and not resume and (folder / CHECKPOINT).exists():
        raise InputError(f"{folder}: holds a run already; go on with --resume, or give another folder")


def train(config: Config, data: Dataset) -> nn.Sequential:
    """The model of a whole run, without a folder."""
    run = Run(config, data)
    for _ in run:
        pass
    return run.model
