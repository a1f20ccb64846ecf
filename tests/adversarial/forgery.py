"""A lying producer: certificates changed in every field, and put together as if about another claim."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from claims import Arrays, Claim, Header, Victim

from verifier.certificate.format import encoded
from verifier.certificate.trees import MAGIC, TYPES

SHAPES = ("kind", "position", "point")  # arrays that have an entry for every node of a tree
STRANGE = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, -1e300, float("inf"), float("-inf"), float("nan"))
Forge = Callable[[np.random.Generator, Header, Arrays], None]


def packed(header: Header, arrays: Arrays) -> bytes:
    """A certificate file of any numbers whatever."""
    listed = [[name, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps({**header, "arrays": listed}).encode()
    with np.errstate(all="ignore"):  # numbers of one array may stand in another
        data = b"".join(encoded(name, array.astype(TYPES[name.split(".")[0]])) for name, array in arrays.items())
    return MAGIC + len(text).to_bytes(4, "little") + text + zlib.compress(data, 1)


def about(header: Header, model: bytes, statement: bytes) -> Header:
    """The header with the hashes of another claim."""
    return {**header, "model": hashlib.sha256(model).hexdigest(), "property": hashlib.sha256(statement).hexdigest()}


def some(draw: np.random.Generator, arrays: Arrays, *kinds: str) -> str | None:
    """The name of a nonempty array of these kinds."""
    names = [name for name, array in arrays.items() if name.split(".")[0] in kinds and array.size]
    return names[int(draw.integers(len(names)))] if names else None


def changed(*kinds: str, to: Callable[[np.random.Generator, np.ndarray], np.ndarray]) -> Forge:
    """Changes an array of these kinds."""

    def forge(draw: np.random.Generator, header: Header, arrays: Arrays) -> None:
        name = some(draw, arrays, *kinds)
        if name is not None:
            with np.errstate(all="ignore"):
                arrays[name] = np.ascontiguousarray(to(draw, arrays[name].copy())).astype(arrays[name].dtype)

    return forge


def at_some(value: Callable[[np.random.Generator, np.ndarray], Any]) -> Callable[..., np.ndarray]:
    """Replaces some entries by what `value` makes of them."""

    def to(draw: np.random.Generator, array: np.ndarray) -> np.ndarray:
        where = draw.random(array.shape) < draw.choice([0.02, 0.2, 1.0])
        where.flat[int(draw.integers(array.size))] = True
        array[where] = value(draw, array[where])
        return array

    return to


def exchanged(draw: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Two rows in each other's place, or all in another order."""
    order = np.arange(len(array))
    i, j = draw.integers(len(array), size=2)
    order[[i, j]] = j, i
    return array[order if draw.random() < 0.7 else draw.permutation(order)]


def shortened(draw: np.random.Generator, array: np.ndarray) -> np.ndarray:
    return np.delete(array, int(draw.integers(len(array))), axis=0) if draw.random() < 0.5 else array[: len(array) // 2]


def repeated(draw: np.random.Generator, array: np.ndarray) -> np.ndarray:
    return np.concatenate((array, array[int(draw.integers(len(array))) :]))


def whole(draw: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Small numbers, and numbers at the end of their type."""
    top = 1 << 32 if array.dtype.kind == "f" else min(np.iinfo(array.dtype).max, 1 << 32)
    return draw.choice(np.array([0, 1, 2, 3, 4, 7, top - 1, top], dtype=array.dtype), array.shape)


def real(draw: np.random.Generator, array: np.ndarray) -> np.ndarray:
    return draw.choice(np.array([*STRANGE, *draw.normal(size=10)]), array.shape)


def nudged(draw: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """A little larger or smaller, by the next number at least."""
    if array.dtype.kind == "f":
        beside = np.nextafter(array, draw.choice([-np.inf, np.inf], array.shape).astype(array.dtype))
        return beside if draw.random() < 0.2 else array * (1 + draw.normal(size=array.shape) * draw.choice([1e-6, 0.3]))
    top = np.iinfo(array.dtype).max
    return (array.astype(np.int64) + draw.integers(-1, 2, array.shape) * draw.choice([1, 8, 100])).clip(0, top)


def turned(draw: np.random.Generator, header: Header, arrays: Arrays) -> None:
    """Bounds for unsafe inputs in another order, in which they might rest on themselves."""
    name = next((name for name in arrays if name.startswith("target.s")), None)
    if name is not None and arrays[name].ndim == 2 and len(arrays[name]) == 4:
        row = arrays[name][3]
        arrays[name][3] = (draw.permutation(row), 0 * row, draw.integers(0, 5, row.shape))[int(draw.integers(3))]


def in_float32(draw: np.random.Generator, header: Header, arrays: Arrays) -> None:
    header["semantics"] = {"real": "float32", "float32": "real"}.get(str(header.get("semantics")), "float32")


def resized(draw: np.random.Generator, array: np.ndarray) -> np.ndarray:
    return array * 2.0 ** draw.integers(-20, 20, array.shape)


def subtree(draw: np.random.Generator, header: Header, arrays: Arrays) -> None:
    """A split and all below it become one leaf: a whole tree that splits too little."""
    name = some(draw, arrays, "kind")
    key = "" if name is None else name.partition(".")[2]
    if name is None or any(arrays.get(f"{one}.{key}", np.zeros((0, 0))).shape != arrays[name].shape for one in SHAPES):
        return  # torn by an earlier change
    kinds = arrays[name]
    start = end = int(draw.integers(len(kinds)))
    loose = 1
    while loose and end < len(kinds):
        loose += 1 if kinds[end] else -1
        end += 1
    leaves = int((kinds[:start] == 0).sum())
    below = int((kinds[start:end] == 0).sum())
    by_node = len(arrays.get(f"code.{key}", ())) == len(kinds)
    for one in SHAPES:
        kept = arrays[f"{one}.{key}"]
        kept[start] = 0
        arrays[f"{one}.{key}"] = np.delete(kept, slice(start + 1, end), axis=0)
    for one in ("weights", "code"):
        if f"{one}.{key}" in arrays:
            gone = slice(start + 1, end) if by_node else slice(leaves + 1, leaves + below)
            arrays[f"{one}.{key}"] = np.delete(arrays[f"{one}.{key}"], gone, axis=0)


def reshaped(draw: np.random.Generator, array: np.ndarray) -> np.ndarray:
    return (array.T, array.reshape(-1, 1), array.reshape(1, -1), array[..., None])[int(draw.integers(4))]


def left_out(draw: np.random.Generator, header: Header, arrays: Arrays) -> None:
    del arrays[list(arrays)[int(draw.integers(len(arrays)))]]


def swapped_arrays(draw: np.random.Generator, header: Header, arrays: Arrays) -> None:
    one, two = (list(arrays)[i] for i in draw.integers(len(arrays), size=2))
    arrays[one], arrays[two] = arrays[two], arrays[one]


def renamed(draw: np.random.Generator, header: Header, arrays: Arrays) -> None:
    name = list(arrays)[int(draw.integers(len(arrays)))]
    ends = ["0", "1", "a0", "a1", "a2", "b1", "a0.b1", "a1.b1", "s0", "p0", "", "model"]
    new = f"{name.split('.')[0]}.{draw.choice(ends)}"
    arrays[new] = arrays.pop(name)


def heading(draw: np.random.Generator, header: Header, arrays: Arrays) -> None:
    """A field of the header that says something else."""
    values: list[Any] = [
        0,
        1,
        -1,
        [],
        [0],
        [1],
        [1, 1],
        [0, 0, 0],
        [2],
        [2, 0],
        [2, 2],
        [-1, 3],
        "real",
        "float32",
        "",
        None,
        1e308,
        {},
        True,
    ]
    field = draw.choice(["semantics", "merge", "refine", "recompute", "producer", "kind.0", "slots"])
    header[str(field)] = values[int(draw.integers(len(values)))]
    if draw.random() < 0.2:
        header.pop(str(draw.choice(["semantics", "merge", "refine", "recompute"])), None)


FORGERIES: dict[str, Forge] = {
    "nothing": lambda draw, header, arrays: None,
    "signs": changed("extra", "point", to=at_some(lambda draw, array: -array)),
    "sizes": changed("extra", "point", to=at_some(resized)),
    "strange numbers": changed("extra", "point", to=at_some(real)),
    "whole numbers": changed(
        "kind", "position", "weights", "code", "slots", "finer", "target", "unit", "planes", to=at_some(whole)
    ),
    "kinds": changed("kind", to=at_some(lambda draw, array: draw.integers(0, 4, array.shape))),
    "positions": changed("position", to=at_some(lambda draw, array: draw.integers(0, 8, array.shape))),
    "weights": changed("weights", to=at_some(lambda draw, array: draw.integers(0, 1 << 16, array.shape))),
    "slopes": changed(
        "codes", "finer", "share", to=at_some(lambda draw, array: draw.integers(0, 1 << 16, array.shape))
    ),
    "nudged": changed(
        *TYPES, to=lambda draw, array: np.where(draw.random(array.shape) < 0.3, nudged(draw, array), array)
    ),
    "zeroed": changed("weights", "extra", "share", "codes", "finer", "code", to=at_some(lambda draw, array: 0)),
    "neighbours": changed("target", "slots", "unit", "position", to=at_some(nudged)),
    "spans": changed("spans", "scales", to=at_some(lambda draw, array: draw.normal(size=array.shape) * 10)),
    "turns": turned,
    "semantics": in_float32,
    "targets": changed("target", "slots", "unit", to=at_some(lambda draw, array: 1 - np.minimum(array, 1))),
    "exchanged": changed(*TYPES, to=exchanged),
    "shortened": changed(*TYPES, to=shortened),
    "repeated": changed(*TYPES, to=repeated),
    "reshaped": changed(*TYPES, to=reshaped),
    "subtree": subtree,
    "left out": left_out,
    "swapped arrays": swapped_arrays,
    "renamed": renamed,
    "heading": heading,
}


def torn(draw: np.random.Generator, content: bytes) -> bytes:
    """A file whose header and arrays do not fit: bytes of either changed, or shapes told otherwise."""
    start = len(MAGIC) + 4
    end = start + int.from_bytes(content[start - 4 : start], "little")
    header, data = json.loads(content[start:end]), bytearray(zlib.decompress(content[end:]))
    listed = header["arrays"]
    i, j = (int(k) for k in draw.integers(len(listed), size=2)) if listed else (0, 0)
    kind = int(draw.integers(5)) if listed else 4
    if kind == 0:
        listed[i], listed[j] = listed[j], listed[i]
    elif kind == 1:
        listed[i][0] = listed[j][0]
    elif kind == 2:
        listed.append(listed[i])
    elif kind == 3:
        listed[i][1] = [n + int(draw.integers(-1, 2)) for n in listed[i][1]]
    elif data:
        for place in draw.integers(len(data), size=int(draw.integers(1, 4))):
            data[place] = int(draw.integers(256))
    text = json.dumps(header).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + zlib.compress(bytes(data), 1)


def forged(draw: np.random.Generator, source: Victim, target: Claim) -> bytes:
    """The source's certificate with one to three changes, as if about the target."""
    header, arrays = source.parts
    for name in draw.choice(list(FORGERIES), int(draw.integers(1, 4))):
        if arrays:
            FORGERIES[name](draw, header, arrays)
    content = packed(about(header, target.model, target.statement), arrays)
    return torn(draw, content) if draw.random() < 0.1 else content
