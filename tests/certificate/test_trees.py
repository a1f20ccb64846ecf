"""Trees as arrays, against the same trees as nested tuples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from verifier.certificate.nodes import Refused
from verifier.certificate.trees import INPUT, LEAF, Leaves

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
