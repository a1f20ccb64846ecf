"""ONNX models and statements put together by hand, and certificates of one leaf about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from forgery import about, packed
from onnx import TensorProto, helper, numpy_helper

from verifier.certificate import checker
from verifier.certificate.checker import Refused
from verifier.certificate.properties import read_property
from verifier.certificate.reading import Network

ARITHMETICS = ("exact", "rounded")
Claim = tuple[bytes, str]  # a model and a statement


def model(nodes: Sequence[Any], shape: Sequence[int], opset: int = 13, domain: str = "", **stored: Any) -> bytes:
    """A model from "x" to what the last node computes; Python's numbers are stored in float32."""
    arrays = {name: np.float32(x) if isinstance(x, float) else np.asarray(x) for name, x in stored.items()}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=8)
    return bytes(made.SerializeToString())


def chain(start: str, *steps: tuple[str, str]) -> list[Any]:
    """Operators of two inputs, one after the other: (operator, its second input)."""
    nodes: list[Any] = []
    for op, other in steps:
        last = nodes[-1].output[0] if nodes else start
        nodes.append(helper.make_node(op, [last, other], [f"{start}_{len(nodes)}"]))
    return nodes


def statement(sides: Sequence[tuple[float, float]], *asserted: str, outputs: int = 1) -> str:
    """Inputs in a box, and assertions."""
    names = [f"X_{i}" for i in range(len(sides))] + [f"Y_{i}" for i in range(outputs)]
    declared = [f"(declare-const {name} Real)" for name in names]
    box = [f"(assert (>= X_{i} {low}))\n(assert (<= X_{i} {high}))" for i, (low, high) in enumerate(sides)]
    return "\n".join([*declared, *box, *(f"(assert {one})" for one in asserted), ""])


def bare(claim: Claim, semantics: str, recompute: bool, stated: bool) -> bytes:
    """One leaf for every set. stated: with the least slope of every activation instead of the usual ones."""
    content, text = claim
    network = Network(content)
    cases = read_property(text, network.nodes[1].size, network.output.size)
    nodes = [network.nodes[j] for j in network.activations]
    slots = [(i, position, side) for i, node in enumerate(nodes) for position in range(node.size) for side in (0, 1)]
    arrays = {"slots": np.array(slots, np.uint32).reshape(-1, 3).T, "codes": np.zeros((1, len(slots)), np.uint8)}
    for k, case in enumerate(cases):
        weights = np.ones((1, len(case.rows)), np.uint16)
        shapes = {"kind": 1, "position": 1, "point": 1, "code": 1, "extra": 0}
        arrays |= {f"{name}.{k}": np.zeros(size) for name, size in shapes.items()} | {f"weights.{k}": weights}
        arrays[f"code.{k}"][:] = stated
    header = {"semantics": semantics, "merge": 0, "refine": [1] * len(nodes)}
    header["recompute"] = [int(recompute)] * len(cases)
    return packed(about(header, content, text.encode()), arrays)


def answers(claim: Claim, semantics: str) -> list[str]:
    """What the checker says of each bare certificate: "" when it accepts."""
    found = []
    for recompute, stated, arithmetic in ((r, s, a) for r in (False, True) for s in (False, True) for a in ARITHMETICS):
        try:
            certificate = bare(claim, semantics, recompute, stated)
            checker.check(certificate, claim[0], claim[1].encode(), arithmetic, sample=0)
            found.append("")
        except Refused as error:
            found.append(str(error))
    return found


def node(op: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> Any:
    return helper.make_node(op, inputs, outputs, **attributes)
