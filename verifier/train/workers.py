"""Several processes on one run: who this one is, and the group that `torchrun` starts them in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Workers:
    """This process among those that `torchrun` started; alone by default."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Workers:
        """The place of this process in the initialised process group, if there is one."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """The device of this process, of kind "cpu" or "cuda"; under torchrun, one of a group, each has its own GPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("gloo" if device == "cpu" else "nccl")
    try:
        yield device
    finally:
        torch.distributed.destroy_process_group()
