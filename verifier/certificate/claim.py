"""From the proofs of properties to a certificate about files, which the checker accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from verifier.certificate.checker import Accepted, Unproved
from verifier.certificate.mending import checked
from verifier.certificate.nodes import Refused
from verifier.certificate.properties import Case
from verifier.certificate.writer import Subject
from verifier.errors import CertificateError
from verifier.proof import End, Proof, Tree, preorder, reweighted
from verifier.spec.property import HalfSpaces, Property

NEAR = 1e-9  # relative; a file's decimals and the float64 numbers that a search reads of them
MOST_SPLITS = 1 << 20  # that leaves may take to be mended
FEW = 100  # as many for float32 as there are already, and these


@dataclass(frozen=True)
class Certificate:
    """A certificate with the files that it is about, and what the checker said of it.

    missing: how much a leaf lacks for float32 execution, where the claim is about real arithmetic for that reason.
    """

    content: bytes
    accepted: Accepted
    model: bytes
    statement: bytes
    missing: float | None = None


def certificate(
    model: bytes,
    statement: bytes,
    proved: Sequence[tuple[Property, Proof]],
    deadline: float = math.inf,
    doubtful: bool = True,
) -> Certificate:
    """The certificate of properties that together are what a VNN-LIB file states about an ONNX model.

    It claims float32 execution where that can be proved, else real arithmetic. The check is in rounded arithmetic.
    deadline: a time.monotonic(), until when inputs may be split further. doubtful: whether what is proved may not do
    for float32, so that it is tried on little first. Raises CertificateError when the checker refuses, with its reason
    and the bound of the leaf that was not proved.
    """
    try:
        subject = Subject.read(model, statement, proved[0][1].merge, proved[0][1].scales)
        proofs = by_region(subject, proved)
        network = subject.network
        smooth = any(node.curve is not None for node in network.nodes)
        count, missing = sum(1 for proof in proofs for tree in proof.trees for _ in preorder(tree)), None
        if not (smooth or network.double):
            try:
                found = checked(subject, proofs, "float32", deadline, FEW + count, rehearse=doubtful)
                return Certificate(*found, model, statement)
            except Unproved as error:
                missing = -error.bound
        found = checked(subject, proofs, "real", deadline, MOST_SPLITS)
        return Certificate(*found, model, statement, missing)
    except Refused as error:
        bound = error.bound if isinstance(error, Unproved) else None
        raise CertificateError(f"the checker refuses: {error}", bound) from error


def by_region(subject: Subject, proved: Sequence[tuple[Property, Proof]]) -> list[Proof]:
    """One proof for every region of a file, with trees for its cases in their order.

    Raises CertificateError when some case is not among what was proved.
    """
    found: list[Proof] = []
    about: list[list[tuple[Property, Proof]]] = []  # by region
    for case, (b, _) in zip(subject.cases, subject.places, strict=True):
        if b == len(about):
            box = (case.lower, case.upper)
            about.append([x for x in proved if (list(x[0].region.lower.flat), list(x[0].region.upper.flat)) == box])
        proof, k, tree, ends = _of_case(case, about[b])
        if b == len(found):
            found.append(replace(proof, trees=[], recompute=[], ends=[], planes=[]))
        own = found[b]
        again, planes = bool(proof.recompute and proof.recompute[k]), proof.planes[k] if proof.planes else ()
        found[b] = replace(
            own,
            trees=[*own.trees, tree],
            recompute=[*own.recompute, again],
            ends=[*own.ends, ends],
            planes=[*own.planes, planes],
        )
    return found


def _of_case(case: Case, proved: Sequence[tuple[Property, Proof]]) -> tuple[Proof, int, Tree, Sequence[End]]:
    """The proof of a case, as which of its sets, and the tree and ends of that with weights of the case's rows.

    proved: properties of the case's box.
    """
    for prop, proof in proved:
        for k, unsafe in enumerate(prop.unsafe):
            turn = _rows_of(case, unsafe)
            if turn is not None:
                tree = proof.trees[k]
                ends = proof.ends[k] if proof.ends else ()
                if turn.size > 1:
                    tree = reweighted(tree, turn)
                    leaves = [replace(e.leaf, weights=(np.asarray(e.leaf.weights) @ turn).tolist()) for e in ends]
                    ends = [replace(end, leaf=leaf) for end, leaf in zip(ends, leaves, strict=True)]
                return proof, k, tree, ends
    raise CertificateError("the property's file states a case that was not proved")


def _rows_of(case: Case, unsafe: HalfSpaces) -> np.ndarray | None:
    """T (rows of the set, rows of the case) such that weights w of the set are w @ T of the case; None for others."""
    mine = np.concatenate((unsafe.C.double().numpy(), unsafe.d.double().numpy()[:, None]), axis=1)
    theirs = np.array([[*map(float, row), float(c)] for row, c in zip(case.rows, case.constants, strict=True)])
    if not len(theirs):
        return None
    turn = np.zeros((len(mine), len(theirs)))
    for i, row in enumerate(mine):
        place = int(np.abs(row[:-1]).argmax())
        for j, other in enumerate(theirs):
            scale = row[place] / other[place] if other[place] else 0.0
            if scale > 0 and np.allclose(row, scale * other, rtol=NEAR, atol=NEAR * np.abs(row).max()):
                turn[i, j] = scale
                break
        else:
            return None
    return turn if (turn.any(axis=0) | _repeated(theirs)).all() else None


def _repeated(rows: np.ndarray) -> np.ndarray:
    """A mask of rows that repeat an earlier one."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return ~np.isin(np.arange(len(rows)), first)
