"""A lying producer: no forged, stale or damaged certificate is accepted, and none makes the checker crash."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from certified import Files, flat_proof, input_tree, leaf, neuron_tree, random_files, row_bounds, shifted
from test_ball_regions import ball_files

from verifier.certificate import checker
from verifier.certificate.checker import Refused
from verifier.certificate.format import encoded, pack
from verifier.certificate.statement import vnnlib
from verifier.certificate.trees import MAGIC, TYPES, Leaves, unpack
from verifier.certificate.writer import write
from verifier.proof import Leaf, Split
from verifier.spec.property import HalfSpaces, Property

Arrays = dict[str, np.ndarray]
MUTATIONS = 2000


def parts(content: bytes) -> tuple[dict[str, Any], Arrays]:
    """The header and the arrays of a certificate."""
    found = unpack(content)
    arrays = {name: found.pop(name) for name, _ in found.pop("arrays")}
    return found, arrays


def refused(files: Files, certificate: bytes, why: str = ".") -> None:
    for arithmetic in ("exact", "rounded"):
        with pytest.raises(Refused, match=why):
            checker.check(certificate, files.model, files.text, arithmetic)


@pytest.fixture(scope="module")
def files() -> Files:
    """A claim whose proof has little room."""
    return shifted(random_files(4), 1e-9)


@pytest.fixture(scope="module")
def false(files: Files) -> Files:
    """A claim about the same network that is false."""
    return shifted(random_files(4), -1000.0)


def rehashed(header: dict[str, Any], files: Files) -> dict[str, Any]:
    return {
        **header,
        "model": hashlib.sha256(files.model).hexdigest(),
        "property": hashlib.sha256(files.text).hexdigest(),
    }


def test_a_false_claim_cannot_be_proved(files: Files, false: Files) -> None:
    """The certificate of a true claim with the hashes of a false one, whatever it splits."""
    trees = [None, input_tree, lambda s: neuron_tree(files.analysis(), s)]
    for tree in trees:
        header, arrays = parts(write(files.model, files.text, flat_proof(files, tree)))
        refused(files=false, certificate=pack(rehashed(header, false), arrays), why="is not proved")


def test_other_files_are_refused(files: Files, false: Files) -> None:
    certificate = write(files.model, files.text, flat_proof(files))
    other = random_files(5)
    for model, text, why in ((other.model, files.text, "model"), (files.model, false.text, "property")):
        with pytest.raises(Refused, match=f"another {why}"):
            checker.check(certificate, model, text)


def test_another_networks_certificate_is_refused(files: Files) -> None:
    """With its hashes forged."""
    for seed in range(5, 12):
        other = shifted(random_files(seed), 1e-7)
        header, arrays = parts(write(other.model, other.text, flat_proof(other, input_tree, recompute=True)))
        claim = shifted(random_files(4), -1000.0)
        refused(claim, pack(rehashed(header, claim), arrays))


@pytest.fixture(scope="module")
def halved() -> Files:
    """A claim that a tree of halved boxes proves with little room, and whose first box alone proves nothing."""
    low, high = -10.0, 0.0
    while high - low > 1e-7:
        lift = (low + high) / 2
        files = shifted(random_files(4), lift)
        try:
            checker.check(
                write(files.model, files.text, flat_proof(files, input_tree, recompute=True)), files.model, files.text
            )
            high = lift
        except Refused:
            low = lift
    assert high < -1e-3
    return shifted(random_files(4), high)


@pytest.fixture(scope="module")
def split(halved: Files) -> bytes:
    """A certificate whose tree halves the box along an input that matters, with room for no mistake."""
    return write(halved.model, halved.text, flat_proof(halved, input_tree, recompute=True))


FORGERIES: dict[str, Callable[[dict[str, Any], Arrays], None]] = {
    "a leaf dropped": lambda h, a: a.update(
        {n: a[n][:-1] for n in ("kind.0", "position.0", "point.0", "weights.0", "code.0")}
    ),
    "a leaf in place of a split": lambda h, a: a["kind.0"].__setitem__(1, 0),
    "a split in place of a leaf": lambda h, a: a["kind.0"].__setitem__(-1, 1),
    "leaves after the tree": lambda h, a: a.update({n: np.append(a[n], a[n][-1:], 0) for n in list(a) if ".0" in n}),
    "no tree": lambda h, a: a.update({n: a[n][:0] for n in list(a) if n.endswith(".0")}),
    "no such neuron": lambda h, a: (a["kind.0"].__setitem__(0, 2), a["position.0"].__setitem__(0, 10**6))[0],
    "no such activation": lambda h, a: a["kind.0"].__setitem__(0, 99),
    "no such input": lambda h, a: a["position.0"].__setitem__(0, 10**6),
    "weights of another set": lambda h, a: a.update({"weights.0": np.ones((len(a["weights.0"]), 9), dtype=int)}),
    "a set less": lambda h, a: a.pop("kind.0"),
    "an unknown semantics": lambda h, a: h.update(semantics="float16"),
    "no refinement stated": lambda h, a: h.pop("refine"),
    "merged neurons in float32": lambda h, a: h.pop("merge"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_are_refused(halved: Files, split: bytes, name: str) -> None:
    header, arrays = parts(split)
    arrays = {n: np.array(a) for n, a in arrays.items()}
    FORGERIES[name](header, arrays)
    refused(halved, pack(header, arrays))


def test_boxes_that_are_nan_prove_nothing(false: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is NaN is neither empty nor above zero, wherever it comes from."""

    def clipped(lower: np.ndarray, upper: np.ndarray, *_: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.full(len(lower), np.nan), np.full_like(lower, np.nan), np.full_like(upper, np.nan)

    certificate = write(false.model, false.text, flat_proof(false, input_tree, recompute=True))
    monkeypatch.setattr(checker, "clipped", clipped)
    refused(false, certificate)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_multipliers_that_are_no_use_prove_nothing(files: Files, false: Files, number: float) -> None:
    """Of split neurons; whatever they are, a false claim stays unproved."""
    header, arrays = parts(
        write(files.model, files.text, flat_proof(files, lambda s: neuron_tree(files.analysis(), s)))
    )
    for k in range(len(files.statements)):
        own = Leaves(arrays, str(k))
        arrays[f"extra.{k}"] = np.full(int(own.above[own.node].sum()), number)
    assert len(arrays["extra.0"])
    listed = [[n, list(np.shape(a))] for n, a in arrays.items()]
    text = json.dumps({**rehashed(header, false), "arrays": listed}).encode()
    data = b"".join(encoded(n, np.asarray(a).astype(TYPES[n.split(".")[0]])) for n, a in arrays.items())
    refused(false, MAGIC + len(text).to_bytes(4, "little") + text + zlib.compress(data))


@pytest.mark.parametrize("norm", [1, 2])
def test_what_holds_in_a_ball_is_not_proved_for_its_box(norm: int) -> None:
    """The certificate of a claim about a ball, its hash forged to that of the text without the ball."""
    files = ball_files(1, norm)
    low, box = (
        [row_bounds(files.analysis(single=True, ball=ball), s)[0] for s in files.statements] for ball in (True, False)
    )
    assert all(a > b + Fraction(1, 1000) for a, b in zip(low, box, strict=True))
    sets = tuple(HalfSpaces(s.C, s.d - float(bound) + 1e-6) for s, bound in zip(files.prop.unsafe, low, strict=True))
    prop = Property(files.prop.region, sets)
    claim = Files(files.graph, prop, files.model, vnnlib(prop).encode())
    header, arrays = parts(write(claim.model, claim.text, flat_proof(claim)))
    assert checker.check(pack(header, arrays), claim.model, claim.text)
    kept = [line for line in claim.text.decode().splitlines() if "(- X_0 " not in line]
    assert len(kept) == len(claim.text.decode().splitlines()) - 1
    forged = Files(claim.graph, prop, claim.model, "\n".join(kept).encode())
    refused(forged, pack(rehashed(header, forged), arrays), "is not proved")


@pytest.mark.parametrize("norm", [1, 2])
def test_shares_of_a_ball_that_are_nan_prove_nothing(norm: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded, not even what is true; exact multipliers are finite, whatever they are made of."""
    files = ball_files(1, norm)
    claims = []
    for lift in (1000.0, -1000.0):
        prop = Property(files.prop.region, tuple(HalfSpaces(s.C, s.d + lift) for s in files.prop.unsafe))
        claims.append(Files(files.graph, prop, files.model, vnnlib(prop).encode()))
    certificates = [write(claim.model, claim.text, flat_proof(claim)) for claim in claims]
    assert checker.check(certificates[0], claims[0].model, claims[0].text)
    for arithmetic in ("exact", "rounded"):
        monkeypatch.setattr(f"verifier.certificate.{arithmetic}.share", lambda v, *_: np.full_like(v, np.nan))
    refused(claims[1], certificates[1])
    refused_once(claims[0], certificates[0])


def test_a_leaf_without_weights_is_refused(files: Files) -> None:
    header, arrays = parts(write(files.model, files.text, flat_proof(files)))
    refused(files, pack(header, {**arrays, "weights.0": np.zeros_like(arrays["weights.0"])}), "is not proved")


def test_a_sign_flipped_is_refused(files: Files) -> None:
    """A multiplier that closes a leaf, negated: the bound falls below zero."""
    analysis, statement = files.analysis(single=True), files.statements[0]
    d = analysis.bounds(statement.region.box)
    j = analysis.network.activations[0]
    neuron = (0, int(np.nonzero((d.z[j][0] < 0) & (d.z[j][1] > 0))[1][0]))
    for extra in (1.0, -1.0):
        tree = Split(neuron, 0.0, Leaf([0.0] * len(statement.rows), extra={neuron: extra}), leaf(statement))
        proof = flat_proof(files, lambda s, tree=tree: tree if len(s.rows) == len(statement.rows) else leaf(s))  # type: ignore[misc]
        refused(files, write(files.model, files.text, proof), "is not proved")


def test_swapped_leaves_are_refused() -> None:
    """Two rows of an unsafe set, each proved in one half of the box alone."""
    import torch

    from verifier.graph import GraphBuilder
    from verifier.ops.affine import Linear
    from verifier.ops.relu import ReLU
    from verifier.spec.property import HalfSpaces, Property, Region, exact

    builder = GraphBuilder((1,))
    builder.add(
        Linear(torch.tensor([[1.0], [-1.0]]), None),
        builder.add(ReLU(), builder.add(Linear(torch.ones(1, 1), torch.ones(1)), 0)),
    )
    unsafe = HalfSpaces(torch.eye(2, dtype=torch.float64), torch.tensor([-0.95, 1.05], dtype=torch.float64))
    files = Files.of(builder.finish(), Property(Region(exact(np.array([-1.0])), exact(np.array([1.0]))), (unsafe,)))
    low, high = Leaf([0.0, 1.0]), Leaf([1.0, 0.0])
    assert checker.check(
        write(files.model, files.text, flat_proof(files, lambda s: Split((-1, 0), 0.0, low, high))),
        files.model,
        files.text,
    )
    refused(
        files,
        write(files.model, files.text, flat_proof(files, lambda s: Split((-1, 0), 0.0, high, low))),
        "is not proved",
    )


def test_truncated_files_are_refused(files: Files, split: bytes) -> None:
    for size in range(0, len(split), max(1, len(split) // 200)):
        refused_once(files, split[:size])


def refused_once(files: Files, content: bytes) -> None:
    with pytest.raises(Refused):
        checker.check(content, files.model, files.text, "rounded")


def test_bytes_flipped_at_random(false: Files, split: bytes) -> None:
    """Of the file and of its unpacked arrays; about a false claim, so that whatever is read must be refused."""
    draw = np.random.default_rng(0)
    header, arrays = parts(split)
    forged = pack(rehashed(header, false), arrays)
    start = len(MAGIC) + 4 + int.from_bytes(forged[len(MAGIC) : len(MAGIC) + 4], "little")
    inner = zlib.decompress(forged[start:])
    for i in range(MUTATIONS):
        head, body = bytearray(forged[:start]), bytearray(inner)
        target = (head, body)[i % 2]
        for _ in range(draw.integers(1, 4)):
            target[draw.integers(len(target))] = draw.integers(256)
        refused_once(false, bytes(head) + zlib.compress(bytes(body), 1) if i % 3 else flipped(forged, draw))


def flipped(content: bytes, draw: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    damaged[draw.integers(len(damaged))] ^= 1 << draw.integers(8)
    return bytes(damaged)


def test_bombs_are_refused(files: Files) -> None:
    """Arrays that unpack to more than they say, or say more than is allowed."""
    header, arrays = parts(write(files.model, files.text, flat_proof(files)))
    listed = [[name, list(a.shape)] for name, a in arrays.items()]
    for shapes, data in (
        (listed, b"\0" * (1 << 26)),
        ([["kind.0", [1 << 40]]], b""),
        ([["kind.0", [-1]]], b""),
        ([["kind.0", [1 << 24, 1 << 24]]], b""),
    ):
        text = json.dumps({**header, "arrays": shapes}).encode()
        refused_once(files, MAGIC + len(text).to_bytes(4, "little") + text + zlib.compress(data))


def test_arrays_of_one_name_are_refused(files: Files) -> None:
    content = write(files.model, files.text, flat_proof(files))
    size = int.from_bytes(content[len(MAGIC) : len(MAGIC) + 4], "little")
    header, data = json.loads(content[len(MAGIC) + 4 :][:size]), zlib.decompress(content[len(MAGIC) + 4 + size :])
    shape = dict(header["arrays"])["kind.0"]
    text = json.dumps({**header, "arrays": [*header["arrays"], ["kind.0", shape]]}).encode()
    twice = MAGIC + len(text).to_bytes(4, "little") + text + zlib.compress(data + bytes(4 * int(np.prod(shape))))
    refused(files, twice, "the same name")


def test_damaged_models_and_properties_are_refused(files: Files) -> None:
    """With the hashes of the damaged bytes: nothing but Refused comes out of the readers, or the claim still holds."""
    draw = np.random.default_rng(1)
    header, arrays = parts(write(files.model, files.text, flat_proof(files)))
    accepted = 0
    for i in range(600):
        model, text = bytearray(files.model), bytearray(files.text)
        target = (model, text)[i % 2]
        for _ in range(3):
            target[draw.integers(len(target))] = draw.integers(256)
        damaged = Files(files.graph, files.prop, bytes(model), bytes(text))
        try:
            checker.check(pack(rehashed(header, damaged), arrays), damaged.model, damaged.text, "rounded")
            accepted += 1
        except Refused:
            pass
    assert accepted < 300
