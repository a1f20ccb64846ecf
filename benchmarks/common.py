"""What the benchmarks share: timing, tables, and margins of labelled images.

Machines are noisy, so times are CPU seconds of one thread where they can be, variants take turns, each reports its
minimum and median, and only ratios within one run are to be compared.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from verifier.types import Box


def take_turns(variants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of every run by variant: one run each, `repeats` rounds, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(repeats + 1):
        for name, run in variants.items():
            began = time.process_time()
            run()
            if round_:
                seconds[name].append(time.process_time() - began)
    return seconds


def cpu_seconds() -> float:
    """CPU seconds that this process and its finished children have used, to a hundredth."""
    return sum(os.times()[:4])


def spread(seconds: Sequence[float], scale: float = 1.0, digits: int = 3) -> str:
    """Minimum and median of times multiplied by `scale`, as text."""
    return f"{min(seconds) * scale:.{digits}g} / {statistics.median(seconds) * scale:.{digits}g}"


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned plain text."""
    lines = [tuple(map(str, line)) for line in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), flush=True)


def linf_box(images: Tensor, eps: float) -> Box:
    """The linf balls around images (batch, *shape), intersected with [0, 1]."""
    return Box((images - eps).clamp(min=0), (images + eps).clamp(max=1))


def margin_rows(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """C (batch, classes - 1, classes): the label's score minus every other one."""
    unit = torch.eye(classes, dtype=dtype)
    others = torch.stack([torch.tensor([k for k in range(classes) if k != label]) for label in labels.tolist()])
    return unit[labels].unsqueeze(1) - unit[others]
