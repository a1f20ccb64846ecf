"""The file of a certificate, as `checker.py` reads it.

    MAGIC, the size of the header (4 bytes, little endian), the header (JSON), all arrays end to end under zlib

Header: `model` and `property`, the SHA-256 of the files' contents (unzipped); `semantics`, "real" or "float32" (which
includes "real"); `producer`; `merge`, whether ReLUs that read the same number but for its sign become one (at the place
of the first); `refine`, by activation of the network whether the bounds of its inputs are refined by backward passes
(2: with parallel lines below and above activations, so that one pass bounds a neuron on both sides); `recompute`, by
unsafe set whether that is done anew in every part of its tree; `arrays`, names and shapes.

An unsafe set k (a conjunction of the property's disjunctive normal form, in order) has a binary tree in preorder, the
half below a split first: `kind.k` (0 a leaf, 1 an input, else 2 + the number of an activation), `position.k` (in the
flattened tensor), `point.k`; and by leaf `weights.k` (leaves, rows of the set), `code.k` (1 + a row of `codes`, or 0),
`extra.k`, by leaf and split of a neuron above it what is added to that neuron's multiplier (may be left empty).

Where bounds are recomputed, `weights.k` and `code.k` are by node of the tree, and `extra.k` counts for nothing: what
the linear functions below this combination of rows, and below each row, prove of a part is cut off before it is split.
Slopes that a node states count for the part's hidden bounds as well. A ball counts for bounds, not for what is cut off.

Lemmas about the inputs of activation i have such trees, end to end and without weights, under the names `kind.ai`,
...: `target.ai` (2, trees) says whose bound each tree proves: position, side (0: the lower bound, 1: the upper). They
rest on the bounds and lemmas of earlier activations.

Of an unsafe set k whose tree does not recompute bounds, `target.sk` (4, n) says what else is bounded where all of its
rows are at most zero: activation, position, side (as above), turn; by `weights.sk` (n, rows), `code.sk` (n,) and
`extra.sk` (n,), the multiplier of the bounded number (of its negative, where side is 1). What has a greater turn, and
the tree, may rest on it.

`slots` (3, U) are activations, positions and sides (0: where the coefficient is >= 0) of which the columns of `codes`
(K, U) state slopes, 0 to 255 standing for the least to the greatest slope of the activation; or, in place of `codes`,
those of `finer`, 0 to 65535.

Distinct regions of inputs are numbered in the order in which cases first show them. Lemmas, slots and codes are by
region: those of region b > 0 have the names of region 0's with `.b{b}` at the end, and what is absent is empty.

Activations are numbered in the order of the model's operators; a maximum of n values counts as n - 1 activations.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from verifier.certificate.trees import MAGIC, TYPES

LEVEL = 7  # of zlib; 8 takes three times as long and saves a tenth of the bytes


def compressed(content: bytes) -> bytes:
    """A certificate that was packed at level 0, in fewer bytes."""
    start = len(MAGIC) + 4
    start += int.from_bytes(content[start - 4 : start], "little")
    return content[:start] + zlib.compress(zlib.decompress(content[start:]), LEVEL)


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], level: int = LEVEL) -> bytes:
    """The bytes of a certificate file. Raises ValueError when a number does not fit the type of its array.

    level: of zlib; 0 leaves the arrays as they are.
    """
    data = []
    for name, array in arrays.items():
        stored = np.asarray(array).astype(TYPES[name.split(".")[0]])
        if not np.array_equal(stored, array):
            raise ValueError(f"array '{name}' holds numbers that its type {stored.dtype} cannot")
        data.append(stored.tobytes())
    listed = [[name, list(np.shape(array))] for name, array in arrays.items()]
    text = json.dumps({**header, "arrays": listed}, separators=(",", ":")).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + zlib.compress(b"".join(data), level)
