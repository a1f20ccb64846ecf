"""What a certificate is about: ONNX models as lists of affine ops and activations.

The part of the stand-alone checker that reads models; like `checker.py` it needs only numpy and onnx.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

if __package__:
    from verifier.certificate.building import Building, Wire
    from verifier.certificate.folding import FOLDED, Near, folded
    from verifier.certificate.nodes import Array, Node, need
    from verifier.certificate.operators import COMPUTED, padded, reference
else:  # run as a file, with the others beside it
    from building import Building, Wire  # type: ignore
    from folding import FOLDED, Near, folded  # type: ignore
    from nodes import Array, Node, need  # type: ignore
    from operators import COMPUTED, padded, reference  # type: ignore

MOVES = {"Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Gather",
         "Expand", "Tile", "Pad", "Shape", "Constant", "DepthToSpace", "SpaceToDepth"}  # fmt: skip
COUNTS = {"Add", "Sub", "Mul", "Range", "ConstantOfShape", "Cast", "ReduceProd"}  # on integers alone
DOMAINS = ("", "ai.onnx")
OTHER_FORMAT = b"ORTM"  # at byte 4: onnxruntime then reads a format of its own, whatever else these bytes are
JOINS = {"Concat", "Add", "Sum", "Sub", "Max", "Min", "Mul", "Div", "MatMul"}  # any input may be wired


class Network(Building):
    """An ONNX model as a list of nodes: node 0 is the constant zero, node 1 the input, `output` reads the output.

    merge: whether ReLUs that read the same number but for its sign become one, as relu(-z) = relu(z) - z; in float32
    both differ by what the numbers that they read may err.
    activations: the numbers of the nodes that are activations. alone: of those that read a whole affine op, which
    nothing else reads, as it stands: that op. cones: by activation, once they are known (see cones.py).
    """

    def __init__(self, content: bytes, merge: bool = False, scales: Array | None = None) -> None:
        need(content[4:8] != OTHER_FORMAT, "onnxruntime reads another format than ONNX from these bytes")
        model = onnx.ModelProto.FromString(content)
        super().__init__(model.opset_import, merge, scales)
        graph = model.graph
        values: dict[str, Any] = {tensor.name: constant(tensor) for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in values]
        plain = len(inputs) == len(graph.output) == 1 and not graph.sparse_initializer and not model.functions
        need(plain, "the model must be plain ONNX with one input and one output")
        versions, newest = [o.version for o in self.opsets if o.domain in DOMAINS], onnx.defs.onnx_opset_version()
        need(len(versions) == 1 and 7 <= versions[0] <= newest, f"one operator set of 7 to {newest} is expected")
        kind = inputs[0].type.tensor_type
        need(kind.elem_type == onnx.TensorProto.FLOAT, "the model's input must hold float32 numbers")
        dims = [d.dim_value for d in kind.shape.dim]
        need(dims and min(dims[1:], default=1) > 0, "the model's input has axes of unknown size behind the first one")
        dims[0] = max(dims[0], 1)
        values |= {inputs[0].name: self.add(Node("input", math.prod(dims)), dims), "": None}
        for node in graph.node:
            need(node.domain in DOMAINS, f"operator {node.domain}.{node.op_type} is not supported")
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            single = len(attributes) == len(node.attribute) and (node.op_type != "Constant" or len(attributes) == 1)
            need(single, f"{node.op_type} with attributes that contradict each other")
            results = self.evaluate(node.op_type, [values[n] for n in node.input], attributes, len(node.output))
            for name, value in zip(node.output, results, strict=False):
                need(name not in values, f"'{name[:40]}' is computed twice")
                values[name] = value
        need(isinstance(values[graph.output[0].name], Wire), "the output does not depend on the input")
        self.output = self.reader("output", values[graph.output[0].name].ravel())
        self.simplify()
        self.activations = [i for i, node in enumerate(self.nodes) if node.op not in ("zero", "input", "affine")]
        readers = Counter(i for node in (*self.nodes, self.output) for i in node.sources)
        self.alone = {
            j: i
            for j, (i, *others) in ((j, self.nodes[j].sources) for j in self.activations)
            if not others and self.nodes[j].index is None and self.nodes[i].op == "affine" and readers[i] == 1
        }
        self.cones: dict[int, Any] = {}

    def evaluate(self, op: str, inputs: list[Any], a: dict[str, Any], outputs: int) -> list[Any]:
        """The values of one ONNX operator, by ONNX's own reference where it only moves data."""
        wires = [isinstance(value, Wire) for value in inputs]
        wired = any(wires)
        near = any(isinstance(value, Near) for value in inputs)
        need(not near or (wired and op in ("MatMul", "Mul")), f"{op} with constants that were rounded")
        need(not wired or op in JOINS or (wires[0] and not any(wires[1:])), f"{op} with such inputs is not supported")
        if op in ("Dropout", "Cast") and wired:
            need(not np.any(inputs[2:]) and a.get("to", 1) in (1, 11), f"this {op} is not supported")
            self.double |= a.get("to") == 11
            return inputs[:1]
        if op == "Constant" and "value" in a:
            return [constant(a["value"])]
        if op not in MOVES and wired:
            need(op in COMPUTED, f"operator {op} is not supported")
            need(op != "BatchNormalization" or outputs == 1, "BatchNormalization in training mode")  # before set 14
            return [COMPUTED[op](self, op, [*inputs, *[None] * (5 - len(inputs))], a)]
        whole = all(value is None or value.dtype.kind in "iub" for value in inputs)
        if op in FOLDED and not whole:
            self.double = True  # in float32 they are rounded
            return [folded(op, inputs)]
        need(op in MOVES or (op in COUNTS and whole), f"{op} on constants is not supported")
        need(op != "Squeeze" or all(np.size(axes) for axes in inputs[1:]), "Squeeze of no axes")  # some take it for all
        if op == "Unsqueeze" and "axes" in a:  # of the result's axes, in whatever order
            a = {"axes": sorted(axis % (inputs[0].ndim + len(a["axes"])) for axis in a["axes"])}
        if op == "Concat" and wired:
            inputs = [v if isinstance(v, Wire) else self.scaled(np.zeros(v.shape, int), 1.0, v, 0) for v in inputs]
        results = [padded(self, inputs, a)] if op == "Pad" and wired else reference(self.opsets, op, inputs, a, outputs)
        if not wired or op == "Shape":
            return [widened(result) for result in results]
        need(all(r.dtype == np.int64 and r.size and r.min() >= 0 and r.max() < self.total for r in results), op)
        return [result.view(Wire) for result in results]


def constant(tensor: Any) -> Array:
    """A stored tensor."""
    need(tensor.data_location != onnx.TensorProto.EXTERNAL, "weights in other files are not supported")
    return widened(numpy_helper.to_array(tensor))


def widened(array: Array) -> Array:
    """Floats as float64, since what is computed from them is to be rounded as such."""
    need(array.dtype.kind in "fiub", "the model holds an unsupported kind of numbers")
    return array.astype(np.float64) if array.dtype.kind == "f" else array
