"""ONNX protobufs -> graphs, and their replay through onnxruntime."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from verifier.errors import ModelError, RefusedError
from verifier.graph import MOST_VALUES, Graph
from verifier.load.module import normalised
from verifier.ops.registry import ONNX, Call, find
from verifier.ops.shape import Reshape
from verifier.types import Shape

STANDARD_DOMAINS = ("", "ai.onnx")
OTHER_FORMAT = b"ORTM"  # at byte 4: onnxruntime then reads a format of its own, whatever else these bytes are


def parse(content: bytes) -> onnx.ModelProto:
    """The model in these bytes. Raises ModelError when they hold none."""
    if content[4:8] == OTHER_FORMAT:
        raise ModelError("onnxruntime would read another format than ONNX from these bytes; export it again as .onnx")
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ModelError(f"damaged or truncated ONNX file ({error}); export it again") from error
    if not model.graph.node:
        raise ModelError("not a model file, or truncated: it holds no ONNX graph")
    graph = model.graph
    words = [value.name for value in (*graph.input, *graph.output, *graph.initializer)]
    for node in graph.node:
        words += [node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute)]
    if not all(isinstance(word, str) for word in words):  # protobuf hands out bytes that are no text as they are
        raise ModelError("damaged ONNX file (a name is not text); export it again")
    return model


def external_data(model: onnx.ModelProto, folder: Path) -> dict[str, bytes]:
    """Move external tensor data into the model itself; returns the files that were read, by their stated location.

    Raises RefusedError for a location outside the model's folder or behind a link, ModelError when data is missing.
    """
    files: dict[str, bytes] = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in files:
            files[location] = _read_inside(folder, location)
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or len(files[location]))
        except ValueError as error:
            raise ModelError(f"tensor '{tensor.name}': malformed external data ({error})") from error
        if min(offset, length) < 0 or offset + length > len(files[location]):
            raise ModelError(f"tensor '{tensor.name}': external file '{location}' is truncated")
        tensor.raw_data = files[location][offset : offset + length]
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT
    return files


def _read_inside(folder: Path, location: str) -> bytes:
    relative = PurePosixPath(location)
    if not location or relative.is_absolute() or ".." in relative.parts or "\\" in location or ":" in location:
        raise RefusedError(f"refused: external data at '{location}' lies outside the model's folder; move it inside")
    steps = [folder.joinpath(*relative.parts[: i + 1]) for i in range(len(relative.parts))]
    if any(step.is_symlink() for step in steps):
        raise RefusedError(f"refused: external data at '{location}' is behind a link; put the file itself there")
    try:
        descriptor = os.open(steps[-1], os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with open(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        raise ModelError(f"external data '{location}' cannot be read ({error.strerror})") from error


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Every stored tensor, those in attributes and subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


class OnnxRunner:
    """The model of a file in onnxruntime on one thread, behind an optional normalisation `(x - mean) / std`.

    Using it raises ModelError, which names the file, when onnxruntime refuses the model or cannot run it.
    """

    def __init__(
        self,
        path: Path,
        model: onnx.ModelProto,
        content: bytes,
        output_shape: Shape,
        mean: Tensor | None,
        std: Tensor | None,
    ) -> None:
        self.path = path
        self.content = content
        self.output_shape = output_shape
        self.normalisation = None if mean is None or std is None else (mean.float().numpy(), std.float().numpy())
        self.batched = len(_input(model).type.tensor_type.shape.dim) > 1

    @cached_property
    def session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised, and need not be printed as well
        with self._errors_typed():
            return onnxruntime.InferenceSession(self.content, options, providers=["CPUExecutionProvider"])

    @contextmanager
    def _errors_typed(self) -> Iterator[None]:
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        try:
            yield
        except (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf,
                errors.NotImplemented, errors.RuntimeException, ValueError) as error:  # fmt: skip
            reason = f"onnxruntime cannot run the network ({_reason(error)})"
            raise ModelError(f"{self.path}: {reason}; check it with onnx.checker and export it again") from error

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Outputs (batch, *output_shape) of float32 inputs (batch, *input_shape), run one by one.

        Many networks fix the batch size at 1, in their input or in a reshaping where it does not show.
        """
        x = np.ascontiguousarray(x, dtype=np.float32)
        if self.normalisation is not None:
            x = (x - self.normalisation[0]) / self.normalisation[1]
        name = self.session.get_inputs()[0].name
        with self._errors_typed():
            single = [self.session.run(None, {name: row[None] if self.batched else row})[0] for row in x]
            single = [value.reshape(self.output_shape) for value in single]
        return np.stack(single)


def _input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one input that is not an initializer."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ModelError(f"{len(inputs)} inputs and {len(model.graph.output)} outputs; one of each is supported")
    return inputs[0]


def _input_shape(model: onnx.ModelProto) -> tuple[Shape, bool]:
    """The input's shape without its batch axis, and whether it has one: it does unless its rank is 1."""
    value = _input(model).type.tensor_type
    if value.elem_type != TensorProto.FLOAT:
        kind = {number: word for word, number in TensorProto.DataType.items()}.get(value.elem_type, "unknown")
        raise ModelError(f"the input holds {kind} numbers; only FLOAT is supported: export the network in float32")
    dims = [dim.dim_value for dim in value.shape.dim]
    batched = len(dims) > 1
    if batched and dims[0] > 1:
        raise ModelError(f"the batch size is fixed at {dims[0]}; export the network with batch size 1")
    if not dims or min(dims[batched:]) < 1:
        raise ModelError(f"the input shape {dims} has axes of unknown size; only the first may vary")
    return tuple(dims[batched:]), batched


def build_graph(model: onnx.ModelProto, mean: Tensor | None = None, std: Tensor | None = None) -> Graph:
    """The graph of a model, behind an optional input normalisation.

    Raises UnsupportedOperatorError or ModelError naming the operator and the node.
    """
    if model.graph.sparse_initializer:
        raise ModelError("sparse initializers are not supported; export dense weights")
    shape, batched = _input_shape(model)
    _refuse_unknown(model)
    builder = normalised(shape, mean, std)
    values: dict[str, Any] = {tensor.name: _stored(tensor) for tensor in model.graph.initializer}
    values[_input(model).name] = len(builder.nodes) - 1
    values[""] = None  # an optional input that is left out
    old = any(entry.domain in STANDARD_DOMAINS and entry.version < 13 for entry in model.opset_import)
    for node in model.graph.node:
        name = _name(node)
        for source in node.input:
            if source not in values:
                raise ModelError(f"node '{name}' reads '{source}', which no node before it computes")
        operator = _operator(node)
        inputs = [values[source] for source in node.input]
        attributes = {a.name: _attribute(a) for a in node.attribute}
        if len(attributes) < len(node.attribute) or (operator == "Constant" and len(attributes) > 1):
            raise ModelError(f"node '{name}' has attributes that contradict each other; export again")
        if any(result in values for result in node.output if result):
            raise ModelError(f"node '{name}' computes what has a value already; export again")
        if operator == "Split":  # before operator set 18 the outputs alone told their number
            attributes.setdefault("num_outputs", len(node.output))
        if attributes.get("num_outputs", len(node.output)) != len(node.output):  # which ends onnxruntime's process
            raise ModelError(f"node '{name}' states another number of outputs than it has; export again")
        if operator in ("Softmax", "LogSoftmax"):
            attributes |= {"axis": attributes.get("axis", 1 if old else -1), "flattened": old}
        results: list[Any]
        if not any(isinstance(value, int) for value in inputs):
            results = _fold(model, node, operator, name, inputs, attributes)
        elif operator == "Shape":
            full = torch.tensor([1] * batched + list(builder.shape(inputs[0])))
            results = [full[attributes.get("start", 0) : attributes.get("end", len(full))]]
        else:
            importer = find(ONNX, operator, name)
            try:
                found = importer(Call(builder, operator, name, inputs, attributes, batched))
            except MALFORMED as error:  # an attribute or input of the wrong type, or one that must be there
                raise ModelError(f"malformed operator '{operator}' at node '{name}': {_reason(error)}") from error
            results = found if isinstance(found, list) else [found]
        values.update(zip(node.output, results, strict=False))  # masks and indices beside the result are not computed
    output = values.get(model.graph.output[0].name)
    if not isinstance(output, int):
        raise ModelError(f"the output '{model.graph.output[0].name}' does not depend on the input")
    if not builder.shape(output):
        output = builder.add(Reshape((1,)), output, name=f"{model.graph.output[0].name} as a vector")
    return builder.finish(output)


def _refuse_unknown(model: onnx.ModelProto) -> None:
    """Raise UnsupportedOperatorError for the first operator on the way of the input that no importer reads.

    Before anything else: what stands before an LSTM, say, may be refused for reasons that would mislead.
    """
    moving = {_input(model).name}
    for node in model.graph.node:
        if moving & {*node.input} and _operator(node) != "Shape":
            find(ONNX, _operator(node), _name(node))
            moving.update(filter(None, node.output))


def _name(node: onnx.NodeProto) -> str:
    return node.name or next(iter(node.output), node.op_type)


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"


def _stored(tensor: TensorProto) -> Tensor:
    """A stored tensor as constants are held: float64, int64 or bool."""
    try:
        return _constant(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(f"tensor '{tensor.name}' is malformed ({_reason(error)}); export again") from error


def _constant(array: Any) -> Tensor:
    array = np.asarray(array)
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(bool if array.dtype.kind == "b" else np.int64))
    if array.dtype.kind == "c":
        raise ValueError("complex numbers")
    return torch.from_numpy(array.astype(np.float64))


def _attribute(attribute: onnx.AttributeProto) -> Any:
    try:
        value = helper.get_attribute_value(attribute)
    except MALFORMED as error:
        raise ModelError(f"malformed attribute '{attribute.name}': {_reason(error)}; export again") from error
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return list(value) if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


MALFORMED = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError)


def _reason(error: Exception) -> str:
    line = (str(error).splitlines() or [""])[0] or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in line)


SIZED = ("ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Tile")
"""Operators of which the values, not the shapes, of small inputs say how large the output is."""


def _limit_size(model: onnx.ModelProto, node: onnx.NodeProto, name: str, feed: Mapping[str, np.ndarray]) -> None:
    """Refuse an output of more than MOST_VALUES values before it is computed."""
    stored = [numpy_helper.from_array(value, source) for source, value in feed.items()]
    result = helper.make_value_info(node.output[0], onnx.TypeProto())
    alone = helper.make_model(helper.make_graph([node], "size", [], [result], stored), opset_imports=model.opset_import)
    shape = onnx.shape_inference.infer_shapes(alone, data_prop=True).graph.output[0].type.tensor_type.shape
    size = math.prod(dim.dim_value for dim in shape.dim)
    if size > MOST_VALUES:
        raise ModelError(f"node '{name}' has {size} values, more than {MOST_VALUES}; use a smaller network")


def _fold(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    operator: str,
    name: str,
    inputs: list[Any],
    attributes: Mapping[str, Any],
) -> list[Tensor]:
    """The value of an operator on constants alone, in float64, by ONNX's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    if operator == "Constant" and "value" in attributes:
        return [_stored(attributes["value"])]
    if operator in ("Identity", "Cast") and attributes.get("to", TensorProto.FLOAT) == TensorProto.FLOAT:
        return [inputs[0].double() if operator == "Cast" else inputs[0]]
    if operator.startswith("Random") or node.domain not in STANDARD_DOMAINS:
        find({}, operator, name)
    feed = {source: value.numpy() for source, value in zip(node.input, inputs, strict=True) if value is not None}
    described = [helper.make_value_info(source, onnx.TypeProto()) for source in feed]
    results = [helper.make_value_info(output, onnx.TypeProto()) for output in node.output if output]
    alone = helper.make_model(helper.make_graph([node], "fold", described, results), opset_imports=model.opset_import)
    try:
        if operator in SIZED:
            _limit_size(model, node, name, feed)
        found = ReferenceEvaluator(alone).run(None, feed)
        return [_constant(value) for value in found]
    except MALFORMED as error:
        raise ModelError(
            f"operator '{operator}' at node '{name}' cannot be evaluated on constants: {_reason(error)}"
        ) from error
