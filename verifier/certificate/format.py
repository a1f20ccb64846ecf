"""The file of a certificate, as `checker.py` reads it.

    MAGIC, the size of the header (4 bytes, little endian), the header (JSON), all arrays end to end under zlib, slopes
    column by column; of `slots`, `target`, `unit` and `code` each number along the last axis less the one before

Header: `model` and `property`, the SHA-256 of the files' contents (unzipped); `semantics`, "real" or "float32" (which
includes "real"); `producer`; `merge`, whether ReLUs that read the same number but for its sign become one (at the place
of the first); `refine`, by activation of the network whether the bounds of its inputs are refined by backward passes
(2: with parallel lines below and above activations, so that one pass bounds a neuron on both sides; 3: with parallel
lines first, with others what these leave undecided and lemmas do not bound on both sides); `recompute`, by unsafe set
whether that is done anew in every part of its tree; `arrays`, names and shapes.

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
those of `finer`, 0 to 65535. Side 2: to which part of a ReLU its plane takes the place of the line above, a multiple of
1/256 (1/65536) from 0 to 1; of a code from the middle on, the next one (see planes.py).

`planes`, by unsafe set: 0, or 1 + the number i of the list of planes above ReLUs that its leaves, and what else is
bounded, may use: `unit.pi` (2, k), activations and positions, in increasing order; `share.pi`, the T of planes.py from
0 to 255, by neuron and by what it reads with weights that are not zero: inputs, then activations in their order.
`planes.ai`, by lemma about activation i: the same for its tree, of planes above earlier activations; 0s where absent.

Distinct regions of inputs are numbered in the order in which cases first show them. Lemmas with their planes, slots and
codes are by region: those of region b > 0 have the names of region 0's with `.b{b}` at the end, and what is absent is
empty.

Activations are numbered in the order of the model's operators; a maximum of n values counts as n - 1 activations.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from verifier.certificate.trees import DIFFERENCES, MAGIC, TYPES, order

LEVEL = 6  # of zlib; 7 takes a third longer and saves a hundredth of the bytes


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], level: int = LEVEL) -> bytes:
    """The bytes of a certificate file. Raises ValueError when a number does not fit the type of its array.

    level: of zlib; 0 leaves the arrays as they are.
    """
    data = b"".join(encoded(name, stored(name, array)) for name, array in arrays.items())
    listed = [[name, list(np.shape(array))] for name, array in arrays.items()]
    text = json.dumps({**header, "arrays": listed}, separators=(",", ":")).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + zlib.compress(data, level)


def encoded(name: str, array: np.ndarray) -> bytes:
    """The bytes of an array that is in the type in which files hold it."""
    if array.ndim and name.split(".")[0] in DIFFERENCES:
        array = np.diff(array, axis=-1, prepend=array.dtype.type(0))  # modulo 2^32
    return array.tobytes(order(name))


def stored(name: str, array: np.ndarray) -> np.ndarray:
    """An array in the type in which files hold it. Raises ValueError when a number does not fit."""
    array = np.asarray(array)
    found = array.astype(TYPES[name.split(".")[0]], copy=False)
    if not np.array_equal(found, array):
        raise ValueError(f"array '{name}' holds numbers that its type {found.dtype} cannot")
    return found
