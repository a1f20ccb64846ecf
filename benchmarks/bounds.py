"""CPU milliseconds per image of interval and full CROWN bounds on small MNIST networks, against a naive full CROWN.

Full: bounds of every hidden neuron, then of the nine margins. The naive one is what the textbook says, written out
below: a dense coefficient matrix for every neuron of every layer, no windows and no skipping of stable neurons.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from common import linf_box, margin_rows, print_table, spread, take_turns
from torch import Tensor

from verifier.bounds.crown import Crown
from verifier.bounds.interval import IntervalBounds
from verifier.data import load_dataset
from verifier.graph import Graph
from verifier.load import load
from verifier.ops.base import Affine
from verifier.ops.patches import dense
from verifier.types import Box, Interval

ROOT = Path(__file__).parents[1]


def naive_crown(graph: Graph, box: Box, C: Tensor) -> Tensor:
    """Lower bounds (batch, spec) of C . output for a chain of affine ops and ReLUs, adaptive slopes.

    Intervals are intersected with the linear bounds, as everywhere, so that the result must equal `Crown`'s.
    """
    bounds: list[Interval] = [Interval(box.lower, box.upper)]
    for index, node in enumerate(graph.nodes[1:], start=1):
        z = node.op.interval(bounds[-1])  # type: ignore[attr-defined]
        if isinstance(node.op, Affine) and 1 < index < graph.output:  # the first layer's intervals are exact
            unit = torch.eye(node.size, dtype=C.dtype).view(1, node.size, *node.shape)
            rows = unit.expand(box.batch, *unit.shape[1:])
            lower = naive_lower(graph, index, rows, bounds, box).view_as(z.lower)
            upper = -naive_lower(graph, index, -rows, bounds, box).view_as(z.upper)
            z = Interval(torch.maximum(z.lower, lower), torch.minimum(z.upper, upper))
        bounds.append(z)
    return naive_lower(graph, graph.output, C, bounds, box)


def naive_lower(graph: Graph, start: int, A: Tensor, bounds: list[Interval], box: Box) -> Tensor:
    """Lower bounds (batch, spec) of A . node `start`, by dense coefficients A (batch, spec, *shape)."""
    constant = A.new_zeros(A.shape[:2])
    for index in range(start, 0, -1):
        node = graph.nodes[index]
        if isinstance(node.op, Affine):
            constant = constant + (A * node.at_zero.unsqueeze(1)).flatten(2).sum(2)
            A = dense(node.op.transpose(A, *graph.input_shapes(index))[0])
        else:
            l, u = bounds[index - 1].lower.unsqueeze(1), bounds[index - 1].upper.unsqueeze(1)
            chord = u.clamp(min=0) / (u.clamp(min=0) - l.clamp(max=0)).clamp(min=1e-30)
            below = torch.where(l >= 0, 1.0, torch.where(u <= 0, 0.0, (u > -l).to(A.dtype)))
            constant = constant + (A.clamp(max=0) * (-chord * l.clamp(max=0))).flatten(2).sum(2)
            A = torch.where(A >= 0, below, chord) * A
    return constant + box.minimum(A)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.1, 0.02])
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--naive", type=int, default=2, help="images of the naive run, which is slow")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", help="default: mnist_conv, mnist_conv_pgd and wk17a where present")
    args = parser.parse_args()

    outside = Path(os.environ.get("VERIFIER_DATA", ROOT.parent / "shared" / "data"), "../models/wk17a.pth")
    models = args.models or [ROOT / "models/mnist_conv.pt", ROOT / "models/mnist_conv_pgd.pt", outside]
    cases = [(Path(m), eps, dtype) for m in models if Path(m).is_file() for eps in args.eps for dtype in DTYPES]
    print(
        f"CPU ms per image, minimum / median of {args.repeats}; batch {args.batch}, {torch.get_num_threads()} thread(s)"
    )
    print_table(HEADERS, [measure(*case, args) for case in cases])


DTYPES = ("float32", "float64")
HEADERS = ("model", "eps", "dtype", "interval", "CROWN adaptive", "CROWN parallel", "naive CROWN", "ratio",
           "naive tighter by at most")  # fmt: skip


def measure(path: Path, eps: float, dtype_name: str, args: argparse.Namespace) -> tuple[object, ...]:
    """One row of the table."""
    dtype = getattr(torch, dtype_name)
    graph = load(path, None if path.with_suffix(".json").is_file() else "conv_small").graph.to(dtype)
    data = load_dataset("mnist")
    box = linf_box(data.images[: args.batch].to(dtype), eps)
    C = margin_rows(data.labels[: args.batch], data.classes, dtype)
    singles = [slice(i, i + 1) for i in range(args.naive)]

    def naive() -> Tensor:
        return torch.cat([naive_crown(graph, box.select(i), C[i]) for i in singles])

    variants = {
        "interval": lambda: IntervalBounds()(graph, box, C),
        "adaptive": lambda: Crown()(graph, box, C),
        "parallel": lambda: Crown(slopes="parallel")(graph, box, C),
        "naive": naive,
    }
    with torch.no_grad():
        seconds = take_turns(variants, args.repeats)
        excess = naive() - Crown()(graph, box, C).lower[: args.naive]
    scale = {name: 1000 / (args.naive if name == "naive" else args.batch) for name in variants}
    times = [spread(seconds[name], scale[name]) for name in variants]
    ratio = min(seconds["naive"]) * scale["naive"] / (min(seconds["adaptive"]) * scale["adaptive"])
    return path.stem, eps, dtype_name, *times, f"{ratio:.0f}x", f"{float(excess.max()):.1e}"


if __name__ == "__main__":
    main()
