"""Bounds of the checker against brute force and exact evaluation; acceptance of true claims."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import brute_force
import numpy as np
import pytest
import torch
from certified import (
    ARITHMETICS,
    NO_HINTS,
    Files,
    bounds,
    flat_proof,
    input_tree,
    leaf,
    neuron_tree,
    random_files,
    row_bounds,
    shifted,
)
from nets import mlp, samples
from test_layers import PARTS
from test_simplify import with_copies

from verifier.attack.exact import exact_output
from verifier.certificate import checker
from verifier.certificate.analysis import Analysis
from verifier.certificate.checker import Refused
from verifier.certificate.exact import Exact
from verifier.certificate.reading import Network
from verifier.certificate.rounded import Rounded
from verifier.certificate.writer import write
from verifier.graph import GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.relu import ReLU
from verifier.ops.smooth import Sigmoid, Tanh
from verifier.proof import Leaf, Proof, Split
from verifier.spec.property import HalfSpaces, Property, Region, exact

SEEDS = range(16)


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_are_below_the_minimum(seed: int) -> None:
    """Of brute force, in either arithmetic; the rounded bound is not above the exact one, and both are close."""
    files = random_files(seed)
    truth = brute_force.worst(files.graph, files.prop).rows
    exactly, rounded = (
        [bound for s in files.statements for bound in row_bounds(files.analysis(a), s)] for a in ARITHMETICS
    )
    for low, high, least in zip(rounded, exactly, truth, strict=True):
        assert high <= Fraction(float(least)) + Fraction(1, 10**7)
        assert float(high - low) == pytest.approx(0, abs=1e-8 * (1 + abs(float(high))))


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_hold_at_points_evaluated_exactly(seed: int) -> None:
    """Bounds of every value and of every row, at corners and other points of the box, without any tolerance."""
    files = random_files(seed)
    region = files.prop.region.inner_box(torch.float64)
    points = samples(region.lower, region.upper, 6, seed)[0]
    C, d, _ = files.prop.rows
    for arithmetic in ARITHMETICS:
        analysis = files.analysis(arithmetic)
        found = [bound for s in files.statements for bound in row_bounds(analysis, s)]
        for x in points:
            y = exact_output(files.graph, exact(x.numpy()))
            rows = exact(C.numpy()) @ y + exact(d.numpy())
            assert all(bound <= value for bound, value in zip(found, rows, strict=True))


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:12])
def test_float32_bounds_contain_evaluations_in_any_order(seed: int, refine: bool) -> None:
    """Dense layers in float32 with their terms summed one by one in random order."""
    generator = torch.Generator().manual_seed(seed)
    draw = np.random.default_rng(seed)
    graph = mlp(generator, (3, 12, 12, 2))
    x = torch.rand(3, generator=generator).numpy()
    width = exact(draw.choice([0.0, 1e-7, 0.01], 3))
    unit = torch.eye(2, dtype=torch.float64)
    prop = Property(Region(exact(x) - width, exact(x) + width), (HalfSpaces(unit, torch.zeros(2).double()),))
    files = Files.of(graph, prop)
    weights = [(n.op.weight.numpy(), n.op.bias.numpy()) for n in graph.nodes if hasattr(n.op, "weight")]  # type: ignore[attr-defined]
    lows = {a: row_bounds(files.analysis(a, True, refine), files.statements[0]) for a in ARITHMETICS}
    inner = prop.region.inner_box()
    for point in samples(inner.lower, inner.upper, 20, seed)[0].numpy():
        a = point
        for k, (weight, bias) in enumerate(weights):
            a = np.maximum(a, 0) if k else a
            terms = np.concatenate([weight.astype(np.float32) * a, bias.astype(np.float32)[:, None]], axis=1)
            for row in terms:
                draw.shuffle(row)
            a = np.array([np.add.accumulate(row, dtype=np.float32)[-1] for row in terms])
        for low in lows.values():
            assert all(bound <= Fraction(float(value)) for bound, value in zip(low, a, strict=True))


def proofs(files: Files) -> list[Proof]:
    """Without splits; with splits of neurons; of inputs; of both."""
    analysis = files.analysis()
    return [
        flat_proof(files),
        flat_proof(files, lambda s: neuron_tree(analysis, s)),
        flat_proof(files, input_tree, recompute=True),
        flat_proof(files, input_tree),
        flat_proof(
            files, lambda s: Split((-1, 0), float(s.upper[0]), neuron_tree(analysis, s), leaf(s)), recompute=True
        ),
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_claims_are_accepted_up_to_the_bound_and_no_further(seed: int) -> None:
    """The margin of a certificate about a weak claim says how strong a claim it proves; brute force agrees."""
    weak = shifted(random_files(seed), 1000.0)
    truth = brute_force.worst(weak.graph, weak.prop).rows
    sets = weak.prop.rows[2].numpy()
    first = [int(np.nonzero(sets == k)[0][0]) for k in range(len(weak.prop.unsafe))]
    for number, proof in enumerate(proofs(weak)):
        found = {}
        for arithmetic in ("exact", "rounded"):
            certificate = write(weak.model, weak.text, proof)
            found[arithmetic] = checker.check(certificate, weak.model, weak.text, arithmetic).margin
        assert max(found.values()) <= truth[first].min() + 1e-7, number
        assert found["exact"] == pytest.approx(found["rounded"], abs=1e-7)
        for lift, accepted in ((1e-6, True), (-1e-6, False)):
            files = shifted(random_files(seed), 1000.0 - found["exact"] + lift)
            certificate = write(files.model, files.text, proof)
            if accepted:
                margin = checker.check(certificate, files.model, files.text).margin
                # Where nothing is left of a part, all that is known of its margin is that it is above zero.
                assert margin == pytest.approx(lift, abs=2e-7) or (any(proof.recompute) and margin == 0)
            elif not any(proof.recompute):  # else what is cut off may prove more than the bounds alone
                with pytest.raises(Refused, match="is not proved"):
                    checker.check(certificate, files.model, files.text)


@pytest.mark.parametrize("smooth", [Sigmoid, Tanh])
@pytest.mark.parametrize("seed", SEEDS[:6])
def test_s_shaped_activations(smooth: type, seed: int) -> None:
    """Bounds hold at samples (evaluated in float64, which the gap dwarfs), and certificates state real claims."""
    generator = torch.Generator().manual_seed(seed)
    graph = mlp(generator, (2, 5, 5, 2), smooth)
    x, unit = torch.rand(2, generator=generator).numpy(), torch.eye(2, dtype=torch.float64)
    region = Region(exact(x) - Fraction(1, 2), exact(x) + Fraction(1, 2))
    files = Files.of(graph, Property(region, (HalfSpaces(unit[:1], torch.zeros(1).double()),)))
    inner = region.inner_box(torch.float64)
    least = float(graph(samples(inner.lower, inner.upper, 2000)[0])[:, 0].min())
    low, rounded = (row_bounds(files.analysis(a), files.statements[0])[0] for a in ARITHMETICS)
    assert float(low) <= least + 1e-12
    assert float(low) == pytest.approx(float(rounded), abs=1e-6)
    claim = Property(region, (HalfSpaces(unit[:1], torch.tensor([1e-6 - float(low)], dtype=torch.float64)),))
    files = Files.of(graph, claim)
    for semantics in ("real", "float32"):
        certificate = write(files.model, files.text, flat_proof(files), semantics)
        if semantics == "real":
            assert checker.check(certificate, files.model, files.text).semantics == "real"
        else:
            with pytest.raises(Refused, match="float32"):
                checker.check(certificate, files.model, files.text)


def test_intervals_contain_every_value_of_the_network() -> None:
    for seed in SEEDS[:8]:
        files = random_files(seed)
        for arithmetic in ARITHMETICS:
            analysis = files.analysis(arithmetic)
            for s in files.statements:
                d = bounds(analysis, s)
                assert not d.empty.any()
                assert all((low <= high).all() for low, high in zip(d.lower, d.upper, strict=True))


def test_an_empty_leaf_needs_no_bound() -> None:
    """A split at a point beyond a neuron's bounds leaves one half empty."""
    files = shifted(random_files(0), 1e-7)
    proof = flat_proof(files, lambda s: Split((0, 0), 1e6, leaf(s), Leaf([0.0] * len(s.rows))))
    assert checker.check(write(files.model, files.text, proof), files.model, files.text)


def test_runs_alone(tmp_path: Path) -> None:
    """Copied to an empty folder, without this package."""
    files = shifted(random_files(3), 1e-6)
    folder = Path(checker.__file__).parent
    for part in PARTS:
        name = f"{part}.py"
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "c.cert").write_bytes(write(files.model, files.text, flat_proof(files)))
    (tmp_path / "m.onnx").write_bytes(files.model)
    (tmp_path / "p.vnnlib").write_bytes(files.text)
    block = """
import runpy, sys
sys.modules["verifier"] = sys.modules["torch"] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
runpy.run_path("checker.py", run_name="__main__")
"""
    command = [sys.executable, "-c", block, "checker.py", "c.cert", "--model", "m.onnx", "--property", "p.vnnlib"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("ACCEPTED"), done.stderr
    (tmp_path / "p.vnnlib").write_bytes(files.text + b" ")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.startswith("REFUSED: the certificate is about another property")
    assert not done.stderr


def test_mirrored_neurons_are_one() -> None:
    """x - relu(x) + relu(-x) = 0: relaxed one by one, the two cost precision; merged, nothing but rounding."""
    builder = GraphBuilder((1,))
    layer = Linear(torch.tensor([[1.0], [-1.0], [1.0]]), torch.tensor([0.0, 0.0, 5.0]))
    hidden = builder.add(ReLU(), builder.add(layer, 0))
    builder.add(Linear(torch.tensor([[-1.0, 1.0, 1.0]]), torch.tensor([-4.75])), hidden)
    row = HalfSpaces(torch.ones(1, 1).double(), torch.zeros(1).double())
    files = Files.of(builder.finish(), Property(Region(exact(np.array([-1.0])), exact(np.array([1.0]))), (row,)))
    for merge in (False, True):
        certificate = write(files.model, files.text, Proof([Leaf()], merge=merge), "real")
        if not merge:
            with pytest.raises(Refused, match="not proved"):
                checker.check(certificate, files.model, files.text)
            continue
        assert checker.check(certificate, files.model, files.text).margin == 0.25
    single = checker.check(write(files.model, files.text, Proof([Leaf()], merge=True)), files.model, files.text)
    assert 0.2499 < single.margin < 0.25  # in float32 both err, each by itself


@pytest.mark.parametrize("seed", range(4))
def test_merging_keeps_the_function(seed: int) -> None:
    """At a point, the bounds of a network with copies of neurons are those of what it computes."""
    graph = with_copies(seed)
    x = np.random.default_rng(seed).normal(size=4).astype(np.float32)
    unit = HalfSpaces(torch.eye(3, dtype=torch.float64), torch.zeros(3).double())
    files = Files.of(graph, Property(Region(exact(x), exact(x)), (unit,)))
    network = Network(files.model, merge=True)
    assert [network.nodes[j].size for j in network.activations] == [5, 5]
    y = exact_output(graph, exact(x))
    for arithmetic in ARITHMETICS:
        hints = {**NO_HINTS, "refine": [1, 1]}
        analysis = Analysis(network, arithmetic, False, hints)
        d = analysis.bounds(files.statements[0].region.box)
        found = analysis.arithmetic.fractions(analysis.least(network.output, np.eye(3)[None], d, np.arange(1)))
        assert all(0 <= value - bound < Fraction(1, 10**9) for bound, value in zip(found, y, strict=True))


def test_arithmetics_refuse_what_is_no_number() -> None:
    for arithmetic in (Exact(), Rounded()):
        bad = np.array([np.nan])
        with pytest.raises((Refused, ValueError)):
            arithmetic.fractions(arithmetic.total([arithmetic.number(bad)]))
