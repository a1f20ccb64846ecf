"""`verifier bounds`: bounds of every layer, and how many neurons are unstable, under each bound method."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verifier.cli import options
from verifier.cli.output import at_least, print_json, print_notes, print_table, progress, seconds
from verifier.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from verifier.cli.inputs import Sample
    from verifier.graph import Graph
    from verifier.load import Model
    from verifier.spec.property import Property
    from verifier.types import Bounds, Box, Interval

DESCRIPTION = "Bound every layer around one input; count the neurons that stay unstable under each method."
DEFAULT_METHODS = ("interval", "crown")


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer under one method. unstable: neurons that some reading op cannot relax exactly on their interval."""

    name: str
    neurons: int
    unstable: int
    interval: Interval

    @property
    def mean_width(self) -> float:
        return float((self.interval.upper - self.interval.lower).mean())


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one method found: bounds by layer, and the lower bound of the property's margin."""

    method: str
    layers: tuple[Layer, ...]
    margin: float
    seconds: float


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser("bounds", help="bounds per layer and unstable neurons", description=DESCRIPTION)
    options.add_model(parser)
    options.add_input(parser)
    options.add_property(parser)
    group = parser.add_argument_group("how")
    group.add_argument(
        "--method",
        metavar="M",
        action="append",
        help=f"a bound method; repeat it for several (default: {' and '.join(DEFAULT_METHODS)})",
    )
    options.add_device(group)
    options.add_threads(group)
    group = options.add_output(parser)
    group.add_argument("--out", metavar="FILE.png", help="plot the bounds into this file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from verifier.bounds.methods import METHODS
    from verifier.cli.inputs import read_property, read_sample
    from verifier.load import load
    from verifier.strategy import Settings

    methods = tuple(dict.fromkeys(args.method or DEFAULT_METHODS))
    for method in methods:
        if method not in METHODS:
            raise InputError(f"unknown bound method '{method}' (available: {', '.join(METHODS)})")
    if args.out is not None and not args.out.endswith(".png"):
        raise InputError(f"{args.out}: the plot is a .png file; give --out a name that ends in .png")
    options.limit_threads(args)
    device = Settings(device=args.device).torch_device()
    model = load(args.model, args.arch)
    sample = read_sample(args, model)
    prop, graph = read_property(args, model, sample), model.graph.to(device=device)
    tell, outcomes = progress(args), []
    for method in methods:
        if tell is not None:
            tell(f"bounds by {method}")
        outcomes.append(measure(method, METHODS[method](), graph, prop))

    if not args.json:
        print(sentence(args, sample, outcomes), flush=True)
    files = [] if args.out is None else [plot(args.out, outcomes)]
    if args.json:
        print_json(record(args, model, sample, outcomes, files))
    elif not args.quiet:
        print_layers(outcomes)
        print_notes(files, sample.notes)
    return 0


def measure(name: str, method: Callable[[Graph, Box, Tensor], Bounds], graph: Graph, prop: Property) -> Outcome:
    """Run one bound method on the property's region and rows."""
    import torch

    from verifier.bounds.interval import read_by_activations

    box = prop.region.box().to(device=graph.device, dtype=graph.dtype)
    C, d, sets = (rows.to(graph.device) for rows in prop.rows)
    began = time.perf_counter()
    with torch.no_grad():
        bounds = method(graph, box, C.to(graph.dtype).unsqueeze(0))
    spent = time.perf_counter() - began
    rows = bounds.lower.squeeze(0) + d
    # A set is out of reach when one of its half-spaces is; the property holds when every set is.
    margin = min(float(rows[sets == k].max()) for k in range(len(prop.unsafe)))
    layers = []
    for index, readers in read_by_activations(graph).items():
        z = bounds.nodes[index]
        unstable = torch.stack([op.unstable(z) for op in readers]).any(0)
        layers.append(Layer(graph.nodes[index].name, graph.nodes[index].size, int(unstable.sum()), z))
    return Outcome(name, tuple(layers), margin, spent)


def sentence(args: argparse.Namespace, sample: Sample, outcomes: Sequence[Outcome]) -> str:
    """The result in one plain sentence."""
    neurons = sum(layer.neurons for layer in outcomes[0].layers)
    counts = [f"{sum(layer.unstable for layer in o.layers)} under {o.method}" for o in outcomes]
    ball = f"within {args.norm} distance {args.eps} of {sample.source} (label {sample.label})"
    return f"BOUNDS: {ball}, of {neurons} neurons the unstable ones are {', '.join(counts)}."


def print_layers(outcomes: Sequence[Outcome]) -> None:
    """One row per layer with, for each method, the unstable neurons and the mean width of the bounds."""
    rows = []
    for layers in zip(*(o.layers for o in outcomes), strict=True):
        cells = [f"{layer.unstable} unstable, width {layer.mean_width:.4g}" for layer in layers]
        rows.append((layers[0].name, str(layers[0].neurons), *cells))
    rows.append(("margin >=", "", *(at_least(o.margin) for o in outcomes)))
    rows.append(("time", "", *(seconds(o.seconds) for o in outcomes)))
    print_table(("layer", "neurons", *(o.method for o in outcomes)), rows)


def plot(path: str, outcomes: Sequence[Outcome]) -> str:
    """Draw the bounds; returns the path."""
    from verifier.report.picture import save_bounds

    save_bounds(path, {o.method: {layer.name: layer.interval for layer in o.layers} for o in outcomes})
    return path


def record(
    args: argparse.Namespace, model: Model, sample: Sample, outcomes: Sequence[Outcome], files: list[str]
) -> dict[str, Any]:
    """The result as --json prints it."""
    methods = {}
    for outcome in outcomes:
        layers = [
            {"name": layer.name, "neurons": layer.neurons, "unstable": layer.unstable, "mean_width": layer.mean_width}
            for layer in outcome.layers
        ]
        methods[outcome.method] = {"margin": outcome.margin, "seconds": outcome.seconds, "layers": layers}
    return {
        "command": "bounds",
        "model": str(model.path),
        "sha256": model.sha256,
        **sample.record(),
        "eps": args.eps,
        "norm": args.norm,
        "target": args.target,
        "methods": methods,
        "files": files,
    }
