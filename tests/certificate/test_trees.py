"""Trees as arrays, against the same trees as nested tuples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from certified import Files, flat_proof, input_tree, random_files, shifted

from verifier.certificate.checker import Checker
from verifier.certificate.format import pack, stored
from verifier.certificate.nodes import Refused
from verifier.certificate.rounded import Rounded
from verifier.certificate.trees import DIFFERENCES, INPUT, LEAF, TYPES, Leaves, unpack
from verifier.certificate.writer import write

Path = list[tuple[int, int, int, float, float]]  # kind, position, side, point, multiplier
NAMES = ("kind", "position", "point", "extra")


def grown(draw: np.random.Generator, depth: int) -> Any:
    """A random tree: None, or (kind, position, point, below, above)."""
    if depth == 0 or draw.random() < 0.3:
        return None
    halves = grown(draw, depth - 1), grown(draw, depth - 1)
    return int(draw.integers(INPUT, 4)), int(draw.integers(9)), float(draw.normal()), *halves


def listed(draw: np.random.Generator, tree: Any, arrays: dict[str, list[Any]], path: Path) -> list[Path]:
    """Writes the tree to arrays in preorder; returns the paths of its leaves, with their own multipliers."""
    kind, position, point, *halves = tree or (LEAF, 0, 0.0)
    for name, value in zip(NAMES, (kind, position, point), strict=False):
        arrays[name].append(value)
    if tree:
        steps = [[*path, (kind, position, side, point, 0.0)] for side in (-1, 1)]
        return [leaf for half, step in zip(halves, steps, strict=True) for leaf in listed(draw, half, arrays, step)]
    own = [(*split[:4], 0.0 if split[0] == INPUT else float(draw.normal())) for split in path]
    arrays["extra"] += [split[4] for split in own if split[0] != INPUT]
    return [own]


def hints_of(arrays: dict[str, list[Any]]) -> dict[str, Any]:
    kinds = {"kind": np.int64, "position": np.int64, "point": np.float64, "extra": np.float64}
    return {f"{name}.a0": np.array(values, dtype=kinds[name]) for name, values in arrays.items()}


def test_leaves_have_the_splits_above_them() -> None:
    seen = 0
    for seed in range(40):
        draw, arrays = np.random.default_rng(seed), {name: list[Any]() for name in NAMES}
        trees = [listed(draw, grown(draw, 7), arrays, []) for _ in range(draw.integers(1, 5))]
        paths = [(i, path) for i, tree in enumerate(trees) for path in tree]
        found = Leaves(hints_of(arrays), "a0")
        assert found.count == len(trees) and [*found.tree] == [i for i, _ in paths]
        assert [n for batch in found.batches(3) for n in batch] == [*range(len(paths))]
        numbers = draw.permutation(len(paths))
        some = found.some(numbers)
        for i, number in enumerate(numbers):
            own = some.splits.at(some.splits.leaf == i)
            path = zip(own.kind, own.position, own.side, own.point, own.extra, strict=True)
            assert [*path][::-1] == paths[number][1] and some.tree[i] == paths[number][0]
            seen += len(paths[number][1])
    assert seen > 2000


@pytest.mark.parametrize(
    ("kind", "extra", "reason"),
    [
        ([2, 0], [], "incomplete"),
        ([2, 2, 0, 0], [], "incomplete"),
        ([2, 0, 0], [1.0], "multiplier"),
        ([2] * 2100, [], "deep"),
    ],
)
def test_what_is_no_tree_is_refused(kind: list[int], extra: list[float], reason: str) -> None:
    arrays = {"kind": kind, "position": [0] * len(kind), "point": [0.0] * len(kind), "extra": extra}
    with pytest.raises(Refused, match=reason):
        Leaves(hints_of(arrays), "a0")


def test_arrays_of_different_lengths_are_refused() -> None:
    arrays = {"kind": [2, 0, 0], "position": [0] * 2, "point": [0.0] * 3, "extra": []}
    with pytest.raises(Refused, match="loose ends"):
        Leaves(hints_of(arrays), "a0")


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (3, 0), (0, 4), (3, 50), (2, 2, 3)])
def test_a_file_holds_any_numbers(shape: tuple[int, ...]) -> None:
    """Of every type, the greatest and the least among them; differences are taken modulo what the type holds."""
    draw, arrays = np.random.default_rng(0), {}
    for name, kind in TYPES.items():
        dtype = np.dtype(kind)
        ends = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (-3.5, 1e30)
        arrays[name] = draw.choice(np.array([*ends, 0, 1, 5]), shape).astype(dtype)
    found = unpack(pack({}, arrays))
    assert set(DIFFERENCES) < set(TYPES)
    for name, array in arrays.items():
        assert found[name].shape == shape and np.array_equal(stored(name, found[name]), array)


def test_small_steps_take_few_bytes() -> None:
    places = np.stack((np.zeros(9000), np.arange(9000), np.zeros(9000))).astype(np.int64)
    assert len(pack({}, {"slots": places})) < 400


def test_trees_of_a_region_are_checked_together_as_alone() -> None:
    """Bounds of every part, with several unsafe sets of one region, are those of a check of the set alone."""
    several = 0
    for seed in range(30):
        files: Files = shifted(random_files(seed), 1.0)
        hints = unpack(write(files.model, files.text, flat_proof(files, input_tree, recompute=True)))
        checker = Checker(hints, files.network, files.statements)
        with np.errstate(all="ignore"):
            analysis = checker.analysis(Rounded, files.statements[0], 0)
            base = analysis.bounds(files.statements[0].region.box)
            alone = [checker.halved({k: set()}, base, analysis, None) for k in range(len(files.statements))]
            together = checker.halved({k: set() for k in range(len(alone))}, base, analysis, None)
        assert float(together) == pytest.approx(float(min(alone)), rel=1e-9)
        several += len(alone) > 1 and len({id(case.region) for case in files.statements}) == 1
    assert several > 5
