"""Planes above ReLUs: above whatever is stated, and worth stating."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from certified import ARITHMETICS, Files, bounds, leaf, neuron_tree, random_files
from nets import mlp, samples
from test_ball_regions import ball_files, points
from test_forgeries import parts, refused, rehashed
from test_regions import halves
from test_shaved import moved

from verifier.certificate import checker
from verifier.certificate.analysis import Analysis
from verifier.certificate.checker import Checker, Refused
from verifier.certificate.claim import certificate
from verifier.certificate.coding import Coder
from verifier.certificate.exact import Exact
from verifier.certificate.format import pack
from verifier.certificate.planes import reads, share
from verifier.certificate.properties import Case, read_property
from verifier.certificate.pulling import Domains
from verifier.certificate.reading import Network
from verifier.certificate.rounded import Rounded
from verifier.certificate.statement import vnnlib
from verifier.certificate.trees import Some, Splits, unpack
from verifier.certificate.writer import Subject, write, written
from verifier.errors import CertificateError
from verifier.graph import GraphBuilder
from verifier.ops.affine import Linear
from verifier.ops.base import Activation
from verifier.ops.relu import LeakyReLU, ReLU
from verifier.proof import INPUT, Plane, Proof, Split, Tree
from verifier.proof import Leaf as Closed
from verifier.spec.property import HalfSpaces, Property, Region, exact

Arrays = dict[str, Any]


@cache
def relu_files(count: int) -> list[Files]:
    """Dense, residual and convolutional networks of ReLUs, some of them undecided behind others."""
    found: list[Files] = []
    seed = 0
    while len(found) < count:
        files = random_files(seed)
        ops = [node.op for node in files.graph.nodes if isinstance(node.op, Activation)]
        if all(isinstance(op, ReLU) for op in ops) and len(ops) > 1:
            found.append(files)
        seed += 1
    return found


def random_hints(files: Files, draw: np.random.Generator, rows: int = 40, fine: bool = False) -> Arrays:
    """Planes with any T above all neurons, and rows of any slopes and shares of planes."""
    network = files.network
    sizes = [network.nodes[j].size for j in network.activations]
    units = np.array([(a, i) for a, n in enumerate(sizes) for i in range(n)]).T
    count = sum(
        int(mask.sum())
        for a, j in enumerate(network.activations)
        for mask in reads(network, j, np.arange(sizes[a])).values()
    )
    slots = np.concatenate([np.vstack((units, np.full(units.shape[1], side))) for side in (0, 2)], axis=1)
    high = 65536 if fine else 256
    codes = draw.integers(high, size=(rows, slots.shape[1])).astype(np.uint16 if fine else np.uint8)
    codes[::3, units.shape[1] :] = high - 1  # the planes alone
    ends = draw.integers(2, size=count) * 255  # the planes of the convex hull
    return {
        "refine": [1] * len(sizes),
        "slots": slots,
        "finer" if fine else "codes": codes,
        "planes": np.ones(len(files.statements), dtype=np.int64),
        "unit.p0": units,
        "share.p0": np.where(draw.random(count) < 0.5, ends, draw.integers(256, size=count)),
    }


def planed(files: Files, kind: type[Exact | Rounded], single: bool, hints: Arrays) -> tuple[Analysis, Domains]:
    analysis = files.analysis(kind, single)
    analysis.hints = hints
    base = bounds(analysis, files.statements[0])
    with np.errstate(all="ignore"):
        return analysis, analysis.planed(1, base)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("kind", ARITHMETICS)
def test_planes_are_above_and_touch(kind: type[Exact | Rounded], single: bool) -> None:
    """relu(z) - R.p is convex in p, so that it is greatest at a corner of the box: all of them, in exact arithmetic."""
    seen = 0
    for number, files in enumerate(relu_files(12)):
        analysis, d = planed(files, kind, single, random_hints(files, np.random.default_rng(number)))
        network = analysis.network
        assert [*d.planes] == network.activations
        for j, planes in d.planes.items():
            node = planes.node
            width = sum(network.nodes[i].size for i in node.sources)
            read = np.arange(width) if node.index is None else np.asarray(node.index).ravel()
            if planes.node.shape[:2] != (1, 1) or len(read) > 8:
                continue
            R = np.zeros((width, len(planes.positions)))
            R[read] = node.weight.array[0]
            w, b = weights(network, j, node.sources)
            lower, upper = (np.concatenate([side[i][0] for i in node.sources]) for side in (d.lower, d.upper))
            some = np.flatnonzero((R != 0).any(1) | (w[:, planes.positions] != 0).any(1))
            if len(some) > 8:
                continue
            assert planes.usable.all()
            for k, position in enumerate(planes.positions):
                most = max(
                    max(dot(w[some, position], corner) + Fraction(b[position]), Fraction(0)) - dot(R[some, k], corner)
                    for corner in itertools.product(*zip(lower[some], upper[some], strict=True))
                )
                assert most <= Fraction(planes.high[0, k]) <= most + Fraction(1, 10**4 if single else 10**9)
                seen += 1
    assert seen > 50


def dot(x: np.ndarray, y: tuple[float, ...]) -> Fraction:
    return sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, y, strict=True)), Fraction(0))


def weights(network: Network, j: int, sources: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """What activation j reads, as weights (width, n) of the joined sources and constants, by trying unit values."""

    def read(values: np.ndarray, constants: bool) -> np.ndarray:
        zero = np.zeros((1, 1))
        found = {0: zero, **dict(zip(sources, np.split(values, ends, axis=1), strict=True))}
        for i in range(2, j):
            node = network.nodes[i]
            if i not in found and node.op == "affine" and all(k in found for k in node.sources):
                x = node.gather([found.get(k, zero) for k in range(j)])
                found[i] = node.forward(x, node.weight.array) + node.bias * constants
        return network.nodes[j].gather([found.get(k, zero) for k in range(j)])

    sizes = [network.nodes[i].size for i in sources]
    width, ends = sum(sizes), np.cumsum(sizes)[:-1]
    return read(np.eye(width), False), read(np.zeros((1, width)), True)[0]


def leaves_of(draw: np.random.Generator, d: Domains, analysis: Analysis, count: int) -> Some:
    """Leaves with a few splits of undecided neurons, at zero or not, and multipliers for them."""
    open_ = [
        (number + 2, int(i))
        for number, j in enumerate(analysis.network.activations)
        for i in np.nonzero((d.z[j][0] < 0) & (d.z[j][1] > 0))[1]
    ]
    made = []
    for i in range(count):
        some = draw.permutation(len(open_))[: draw.integers(3)]
        made += [(i, *open_[at], draw.choice((-1, 1)), draw.choice((-0.1, 0, 0.1)), draw.normal(0, 0.3)) for at in some]
    table = np.array(made).reshape(-1, 6).T
    splits = Splits(*table[:4].astype(np.int64), *table[4:])
    return Some(np.arange(count), np.zeros(count, dtype=np.int64), splits)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("kind", ARITHMETICS)
def test_any_planes_bound_what_is_reached(kind: type[Exact | Rounded], single: bool, fine: bool) -> None:
    """Thousands of leaves with any shares of any planes, against sampled inputs that lie in them."""
    tighter = cases = 0
    for number, files in enumerate(relu_files(24)):
        draw, case = np.random.default_rng(number), files.statements[0]
        analysis, d = planed(files, kind, single, random_hints(files, draw, fine=fine))
        some, code = leaves_of(draw, d, analysis, 40), np.arange(1, 41)
        rows = case.rows.astype(np.float64)[draw.integers(len(case.rows), size=40)]
        with np.errstate(all="ignore"):
            found, empty = analysis.at_leaves(analysis.network.output, rows[:, None], some, code, d, None)
            without = replace(d, planes={})
            before, _ = analysis.at_leaves(analysis.network.output, rows[:, None], some, code, without, None)
        region = files.prop.region.box()
        values = files.graph.values(samples(region.lower, region.upper, 3000)[0])
        y = values[-1].flatten(1).double().numpy() @ rows.T
        nodes = files.graph.nodes
        read = [values[n.inputs[0]].flatten(1).numpy() for n in nodes if isinstance(n.op, Activation)]
        for i, bound in enumerate(analysis.arithmetic.fractions(found)):
            inside = np.ones(len(y), dtype=bool)
            own = some.splits.at(some.splits.leaf == i)
            for a, position, side, point in zip(own.kind, own.position, own.side, own.point, strict=True):
                inside &= (read[a - 2][:, position] - point) * side >= 0
            assert not (empty[i] and inside.any())
            assert bound <= y[inside, i].min(initial=np.inf) + 1e-5
            cases += 1
        tighter += int((analysis.arithmetic.down(found) > analysis.arithmetic.down(before)).sum())
    assert cases > 900 and tighter > 50


def dense(files: Files) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (outputs, inputs) and constants of the layers of a network without branches."""
    layers = [node.op for node in files.graph.nodes if hasattr(node.op, "weight")]
    return [(op.weight.double().numpy(), op.bias.double().numpy()) for op in layers]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ARITHMETICS)
def test_bounds_are_what_the_formula_says(kind: type[Exact | Rounded]) -> None:
    """A network of dense layers, pulled back in plain float64 with the planes that R and r define."""
    seen = 0
    for number, files in enumerate(f for f in relu_files(24) if len(f.graph.input_shape) == 1):
        layers = dense(files)
        if len(layers) != len(files.network.activations) + 1 or len(layers) > 4 or "Add" in str(files.graph.nodes):
            continue
        hints = random_hints(files, np.random.default_rng(number))
        analysis, d = planed(files, kind, False, hints)
        rows, flat = files.statements[0].rows.astype(np.float64)[0], Some.unsplit(40)
        l, u = (np.concatenate([d.z[j][side][0] for j in analysis.network.activations]) for side in (0, 1))
        hints["codes"][:, : len(l)][:, u <= 0] = 0  # what is stated of a neuron that is zero may count, or not
        with np.errstate(all="ignore"):
            found, _ = analysis.at_leaves(
                analysis.network.output, np.tile(rows, (40, 1, 1)), flat, np.arange(1, 41), d, None
            )
        box = (d.lower[1][0], d.upper[1][0])
        z = [tuple(side[0] for side in d.z[j]) for j in analysis.network.activations]
        for i, bound in enumerate(analysis.arithmetic.down(found)):
            assert abs(bound - by_hand(layers, rows, box, z, hints, i)) < 1e-9 * (1 + abs(bound))
            seen += 1
    assert seen > 100


def by_hand(
    layers: list[tuple[np.ndarray, np.ndarray]],
    row: np.ndarray,
    box: tuple[np.ndarray, np.ndarray],
    z: list[tuple[np.ndarray, ...]],
    hints: Arrays,
    i: int,
) -> float:
    """The bound of one row of hints, in plain float64."""
    T, begin, planes = hints["share.p0"] / 255, 0, []
    values = [box, *((np.maximum(l, 0), np.maximum(u, 0)) for l, u in z)]
    for (W, b), (low, high) in zip(layers, values[:-1], strict=False):
        stated = np.zeros(W.shape)
        stated[W != 0] = T[begin : begin + int((W != 0).sum())]
        begin += int((W != 0).sum())
        R = (stated * W).astype(np.float32).astype(float)
        zero = -np.minimum(R * low, R * high).sum(1)
        steep = b + np.maximum((W - R) * low, (W - R) * high).sum(1)
        planes.append((R, np.maximum(zero, steep)))
    code, neurons = hints["codes"][i].astype(float), len(hints["unit.p0"][0])
    slopes, shares = code[:neurons] / 255, share(hints["codes"][i][neurons:], 256)
    pending: list[np.ndarray] = [np.zeros(len(low)) for low, _ in values]
    W, total = layers[-1][0], float(row @ layers[-1][1])
    pending[-1] = row @ W
    last = neurons
    for k in reversed(range(len(z))):
        (l, u), v, (R, r), (W, b) = z[k], pending[k + 1], planes[k], layers[k]
        own = slice(last - len(l), last)
        last -= len(l)
        open_ = (l < 0) & (u > 0)
        theta = np.where(open_ & (v < 0), shares[own], 0)
        chord = np.where(open_, u / np.where(open_, u - l, 1), l >= 0)
        below = slopes[own]  # as stated: what it costs where the neuron is decided counts, too
        cost = np.where(v >= 0, np.minimum(np.maximum(l, 0) - below * l, np.maximum(u, 0) - below * u), 0)
        cost = np.where(open_ & (v >= 0), np.minimum(cost, 0), cost)
        s = v * np.where(v >= 0, below, (1 - theta) * chord)
        total += float(v @ (cost + np.where(open_ & (v < 0), (1 - theta) * -chord * l + theta * r, 0)) + s @ b)
        pending[k] = pending[k] + s @ W + (v * theta) @ R
    return total + float(np.minimum(pending[0] * box[0], pending[0] * box[1]).sum())


def random_proof(files: Files, draw: np.random.Generator, tree: Callable[[Case], Tree]) -> Proof:
    """Trees whose leaves state any slopes and shares of any planes above all neurons."""
    network, planes = files.network, []
    for a, j in enumerate(network.activations):
        positions, sources = np.arange(network.nodes[j].size), {}
        for i, mask in reads(network, j, positions).items():
            rows, places = np.nonzero(mask)
            sources[INPUT if i == 1 else network.activations.index(i)] = (rows, places, draw.random(len(rows)))
        planes.append(Plane(a, positions, sources))
    slots = [((plane.activation, int(i)), side) for side in (0, 2) for plane in planes for i in plane.positions]

    def stated(part: Tree) -> Tree:
        if isinstance(part, Split):
            return replace(part, below=stated(part.below), above=stated(part.above))
        return replace(part, slopes=draw.random(len(slots)))

    trees = [stated(tree(case)) for case in files.statements]
    return Proof(trees, slots=slots, refine=[1] * len(network.activations), planes=[planes] * len(trees))


def with_margin(files: Files, margin: float) -> Files:
    """A claim about the first row that sampled inputs keep with this margin, and fall short of where it is negative."""
    region = files.prop.region.box()
    row = files.prop.unsafe[0].C[:1].double()
    least = float(
        (files.graph.values(samples(region.lower, region.upper, 3000)[0])[-1].flatten(1).double() @ row.T).min()
    )
    unsafe = HalfSpaces(row, torch.tensor([margin - least], dtype=torch.float64))
    prop = Property(files.prop.region, (unsafe,))
    return Files(files.graph, prop, files.model, vnnlib(prop).encode())


def certified(files: Files, seed: int) -> bytes:
    """Random planes and shares, in a tree that splits a few neurons."""
    proof = random_proof(files, np.random.default_rng(seed), lambda case: neuron_tree(files.analysis(), case, most=2))
    return write(files.model, files.text, proof)


def test_certificates_with_planes_are_checked(tmp_path: Path) -> None:
    """With enough room; also by the checker that stands alone."""
    for number, files in enumerate(relu_files(6)):
        true = with_margin(files, 1000.0)
        content = certified(true, number)
        assert "share.p0" in unpack(content)
        found = [checker.check(content, true.model, true.text, arithmetic) for arithmetic in ("exact", "rounded")]
        assert min(found[0].margin, found[1].margin) > 900
    names = [tmp_path / name for name in ("certificate", "model.onnx", "property.vnnlib")]
    for path, held in zip(names, (content, true.model, true.text), strict=True):
        path.write_bytes(held)
    command = [sys.executable, checker.__file__, str(names[0]), "--model", str(names[1]), "--property", str(names[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("ACCEPTED"), done


def test_no_planes_prove_a_false_claim() -> None:
    for number, files in enumerate(relu_files(12)):
        false = with_margin(files, -1e-4)
        for seed in range(2):
            refused(false, certified(false, 100 * number + seed), "is not proved")


def corner() -> Files:
    """x - relu(x + y - 1) > -0.1 over the unit square: the plane x above the ReLU proves 0, its chord -1/2."""
    builder = GraphBuilder((2,))
    first = Linear(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([-1.0, 0.0]))
    builder.add(Linear(torch.tensor([[-1.0, 1.0]]), torch.zeros(1)), builder.add(ReLU(), builder.add(first, 0)))
    region = Region(exact(np.zeros(2)), exact(np.ones(2)))
    unsafe = HalfSpaces(torch.tensor([[1.0]]).double(), torch.tensor([0.1]).double())
    return Files.of(builder.finish(), Property(region, (unsafe,)))


def proof_of_corner(share: float, T: tuple[float, float]) -> Proof:
    plane = Plane(0, np.array([0]), {INPUT: (np.zeros(2, dtype=np.int64), np.arange(2), np.array(T))})
    leaf_ = Closed(slopes=np.array([0.0, 1.0, share]))
    return Proof([leaf_], slots=[((0, 0), 0), ((0, 1), 0), ((0, 0), 2)], planes=[[plane]])


@pytest.mark.parametrize("arithmetic", ["exact", "rounded"])
def test_a_plane_proves_what_a_chord_does_not(arithmetic: str) -> None:
    files = corner()
    for theta, margin in ((1.0, 0.1), (0.9375, 0.06875)):
        content = write(files.model, files.text, proof_of_corner(theta, (1.0, 0.0)))
        found = checker.check(content, files.model, files.text, arithmetic)
        assert found.margin == pytest.approx(margin, abs=1e-5)
    for theta, T in ((0.0, (1.0, 0.0)), (1.0, (0.0, 1.0)), (1.0, (0.0, 0.0)), (1.0, (1.0, 1.0))):
        refused(files, write(files.model, files.text, proof_of_corner(theta, T)), "is not proved")


def test_the_claims_proof_is_a_certificate() -> None:
    files = corner()
    proof = proof_of_corner(1.0, (1.0, 0.0))
    found = certificate(files.model, files.text, [(files.prop, proof)])
    assert found.accepted.semantics.startswith("float32")
    with pytest.raises(CertificateError):
        certificate(files.model, files.text, [(files.prop, replace(proof, planes=()))])


def test_forged_planes_are_refused() -> None:
    files = corner()
    content = write(files.model, files.text, proof_of_corner(1.0, (1.0, 0.0)))
    header, arrays = parts(content)
    hinge = Files.of(mlp(torch.Generator().manual_seed(0), (2, 2, 1), lambda: LeakyReLU(0.125)), files.prop)
    one = np.array([[0], [0]])
    forged: list[tuple[Files, Arrays, str]] = [
        (files, {"share.p0": arrays["share.p0"][:1]}, "incomplete"),
        (files, {"share.p0": np.append(arrays["share.p0"], 0)}, "loose ends"),
        (files, {"unit.p0": np.array([[1], [0]])}, "no such activation"),
        (files, {"unit.p0": np.array([[0], [2]])}, "order"),
        (files, {"unit.p0": np.array([[0, 0], [0, 0]])}, "order"),
        (files, {"unit.p0": np.array([[0, 0], [1, 0]])}, "order"),
        (files, {"unit.p0": one[:, :0]}, "loose ends"),
        (files, {"unit.p0": one[:1]}, "malformed"),
        (files, {"planes": np.array([2])}, "malformed"),
        (files, {"planes": np.array([], dtype=int)}, "malformed"),
        (files, {"planes": np.array([0])}, "is not proved"),
        (files, {"unit.p0": np.array([[0], [1]]), "share.p0": arrays["share.p0"][:1]}, "is not proved"),
        (files, {"slots": arrays["slots"] + [[0], [0], [1]]}, "."),
        (hinge, {}, "ReLUs only"),
    ]
    for of, changed, why in forged:
        refused(of, pack(rehashed(header, of), {**arrays, **changed}), why)


def test_damaged_planes_never_prove_a_false_claim() -> None:
    """The claim that a plane proves, sharpened until it is false; every byte of what is stated about planes."""
    files = corner()
    unsafe = HalfSpaces(torch.tensor([[1.0]]).double(), torch.tensor([-1e-6]).double())
    false = Files(files.graph, prop := Property(files.prop.region, (unsafe,)), files.model, vnnlib(prop).encode())
    header, arrays = parts(write(false.model, false.text, proof_of_corner(1.0, (1.0, 0.0))))
    for first, second, theta in itertools.product((0, 1, 128, 254, 255), range(0, 256, 5), (0, 127, 255)):
        codes = arrays["codes"].copy()
        codes[:, -1] = theta
        forged = pack(header, {**arrays, "share.p0": np.array([first, second]), "codes": codes})
        with pytest.raises(Refused, match="is not proved"):
            checker.check(forged, false.model, false.text, "rounded", 0)


def test_shares_are_codes_without_a_middle() -> None:
    for levels, kind in ((256, np.uint8), (65536, np.uint16)):
        values = share(np.arange(levels).astype(kind), levels)
        assert values[0] == 0 and values[-1] == 1 and (np.diff(values) > 0).all()
        assert (values * levels == np.rint(values * levels)).all()
        coder = Coder(np.array([[0], [0], [2]]), np.zeros(1), np.ones(1), np.dtype(kind), False)
        numbers = coder([np.array([value]) for value in values])
        stated = share(np.concatenate([np.frombuffer(row, kind) for row in coder.rows]), levels)[numbers - 1]
        assert np.abs(stated - values).max() < 0.0125 and stated[0] == 0 and stated[-1] == 1


def test_planes_of_several_regions_are_their_own() -> None:
    """The same T above the neurons of both halves of a box: r is that of the half."""
    for seed, files in enumerate(relu_files(6)):
        draw, halves_ = np.random.default_rng(seed), halves(files)
        text = vnnlib(*(part.prop for part in halves_)).encode()
        proofs = [random_proof(part, draw, leaf) for part in halves_]
        content = written(Subject.read(files.model, text), proofs, "float32")
        assert {"planes", "unit.p0", "unit.p1"} <= {*unpack(content)}
        judge = Checker(unpack(content), files.network, read_property(text.decode(), *ends_of(files.network)))
        for number, arithmetic in enumerate(ARITHMETICS):
            with np.errstate(all="ignore"):
                margin = judge.check(("exact", "rounded")[number], 0).margin
            for part in halves_:
                region = part.prop.region.box()
                y = files.graph.values(samples(region.lower, region.upper, 1000)[0])[-1].flatten(1).double()
                lead = torch.stack([(y @ s.C[0].double() + s.d[0]).min() for s in part.prop.unsafe])
                assert margin <= float(lead.min()) + 1e-5, arithmetic


def ends_of(network: Network) -> tuple[int, int]:
    """How many inputs and outputs there are."""
    return network.nodes[1].size, network.output.size


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("kind", ARITHMETICS)
def test_planes_hold_in_balls(kind: type[Exact | Rounded], norm: int) -> None:
    for seed in range(4):
        files, draw = ball_files(seed, norm), np.random.default_rng(seed)
        analysis, d = planed(files, kind, False, random_hints(files, draw))
        flat, rows = Some.unsplit(40), files.statements[0].rows.astype(np.float64)[:1]
        with np.errstate(all="ignore"):
            found, _ = analysis.at_leaves(
                analysis.network.output, np.tile(rows, (40, 1, 1)), flat, np.arange(1, 41), d, None
            )
        x = np.stack([point.astype(float) for point in points(files, norm, 200, draw)])
        y = files.graph.to(torch.float64)(torch.from_numpy(x)).numpy() @ rows[0]
        assert (analysis.arithmetic.down(found) <= y.min() + 1e-9).all()


@pytest.mark.parametrize("kind", ARITHMETICS)
def test_any_planes_bound_what_unsafe_inputs_reach(kind: type[Exact | Rounded]) -> None:
    """Bounds for the inputs of an unsafe set alone, by the planes that its tree uses as well."""
    tighter = 0
    for seed, some in enumerate(relu_files(10)):
        files, read = moved(some, 0.1)
        draw, network, case, n = np.random.default_rng(seed), files.network, files.statements[0], 40
        sizes = [network.nodes[j].size for j in network.activations]
        number = draw.integers(len(sizes), size=n)
        position = np.array([draw.integers(sizes[a]) for a in number])
        hints = {
            **random_hints(files, draw),
            "target.s0": np.stack((number, position, draw.integers(2, size=n), draw.integers(3, size=n))),
            "weights.s0": draw.integers(4, size=(n, len(case.rows))),
            "code.s0": draw.integers(41, size=n),
            "extra.s0": np.exp(draw.normal(-1, 2, size=n)).astype(np.float32).astype(np.float64),
        }
        analysis, base = planed(files, kind, False, hints)
        with np.errstate(all="ignore"):
            d = analysis.shaved(0, base, Checker(hints, network, files.statements).combined)
        assert d.planes
        for j, z in zip(network.activations, read, strict=True):
            l, u = d.z[j]
            assert len(z) and (z >= l - 1e-9).all() and (z <= u + 1e-9).all()
            tighter += int((l > base.z[j][0]).sum() + (u < base.z[j][1]).sum())
    assert tighter > 10
