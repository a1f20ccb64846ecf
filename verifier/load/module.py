"""torch modules -> graphs: layer by layer where every layer is known, through torch.export otherwise."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import verifier.ops  # noqa: F401  (fills the registry)
from verifier.errors import ModelError
from verifier.graph import Graph, GraphBuilder
from verifier.ops.affine import Rescale
from verifier.ops.registry import ATEN, MODULE, Call, find
from verifier.ops.shape import Reshape
from verifier.types import Shape


def from_module(module: nn.Module, example_input_shape: Shape) -> Graph:
    """The graph of a module in evaluation mode, for inputs of this shape (without the batch axis).

    A nest of `nn.Sequential` is read layer by layer; anything else goes through torch.export, which takes seconds.
    Raises ModelError when the module cannot be exported, UnsupportedOperatorError for an operator outside the registry.
    """
    if is_sequence(module):
        return from_sequence(module, example_input_shape)
    return _from_export(copy.deepcopy(module).eval(), tuple(example_input_shape))


def is_sequence(module: nn.Module) -> bool:
    """Whether a module is a torch.nn layer of the registry or an nn.Sequential of such, without hooks."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    if type(module) is nn.Sequential:
        return all(is_sequence(child) for child in module)
    return type(module).__module__.startswith("torch.nn.modules.") and type(module).__name__ in MODULE


def normalised(input_shape: Shape, mean: Tensor | None, std: Tensor | None) -> GraphBuilder:
    """A builder whose last node is the input, normalised as `(x - mean) / std`; both (channels, 1, ...) or None."""
    builder = GraphBuilder(input_shape)
    if mean is not None and std is not None:
        mean, std = mean.double(), std.double()
        builder.add(Rescale(1 / std, -mean / std), 0, name="normalisation")
    return builder


def from_sequence(
    module: nn.Module, input_shape: Shape, mean: Tensor | None = None, std: Tensor | None = None
) -> Graph:
    """The graph of a module for which `is_sequence` holds, behind an optional input normalisation."""
    builder = normalised(input_shape, mean, std)
    return builder.finish(_add_layers(builder, len(builder.nodes) - 1, module, ""))


def _add_layers(builder: GraphBuilder, x: int, module: nn.Module, path: str) -> int:
    if type(module) is nn.Sequential:
        for name, child in module.named_children():
            x = _add_layers(builder, x, child, f"{path}.{name}" if path else name)
        return x
    kind = type(module).__name__
    name = f"{path}.{kind.lower()}" if path else kind.lower()
    tensors = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    weights = [_constant(tensors.get(key)) for key in ("weight", "bias", "running_mean", "running_var")]
    attributes = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
    result = find(MODULE, kind, name)(Call(builder, kind, name, [x, *weights], attributes))
    assert isinstance(result, int)
    return result


def _constant(value: Tensor | None) -> Tensor | None:
    """A weight as constants are held: float64, or as it is when it holds integers."""
    if value is None:
        return None
    value = value.detach().cpu()
    return value.double() if value.is_floating_point() else value


# torch.export documents no error type of its own; these are what tracing Python code raises.
TRACING_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _from_export(module: nn.Module, input_shape: Shape) -> Graph:
    from torch.export import export
    from torch.export.graph_signature import InputKind

    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        program = export(module, (torch.zeros(1, *input_shape, dtype=dtype, device=device),))
    except TRACING_ERRORS as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"torch.export cannot read {type(module).__name__}: {reason}") from error

    calls = [node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    if any(target._schema.is_mutable for target in calls):
        program = program.run_decompositions({})  # in-place operators become functions; nothing else changes

    builder = GraphBuilder(input_shape)
    stored: dict[str, Any] = {**program.state_dict, **program.constants}
    values: dict[Any, Any] = {}
    targets = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = targets[node.name]
            values[node] = 0 if spec.kind is InputKind.USER_INPUT else _constant(stored[spec.target])
        elif node.op == "call_function" and node.users:  # what nobody reads are assertions
            values[node] = _apply(builder, node, values)
        elif node.op == "output":
            outputs = [values[arg] for arg in node.args[0]]
    if len(outputs) != 1 or not isinstance(outputs[0], int):
        raise ModelError(f"{type(module).__name__} must return one tensor that depends on its input")
    output = outputs[0] if builder.shape(outputs[0]) else builder.add(Reshape((1,)), outputs[0])
    return builder.finish(output)


def _apply(builder: GraphBuilder, node: Any, values: Mapping[Any, Any]) -> Any:
    """The value of one call in an exported program: node indices for what depends on the input, else constants."""
    if not isinstance(node.target, torch._ops.OpOverload):  # operator.getitem on the parts of a split
        return node.target(*(values.get(arg, arg) for arg in node.args))
    schema = node.target._schema
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    if not any(type(values[source]) is int or type(values[source]) is list for source in node.all_input_nodes):
        arguments = {name: torch.fx.node.map_arg(value, values.__getitem__) for name, value in given.items()}
        positional = [arguments.pop(a.name) for a in schema.arguments if a.name in arguments and not a.kwarg_only]
        return _constant(node.target(*positional, **arguments))
    operator = str(node.target).removeprefix("aten.").removesuffix(".default")
    inputs: list[Any] = []
    attributes: dict[str, Any] = {}
    for argument in schema.arguments:
        value = given.get(argument.name, argument.default_value)
        if argument.name in ("self", "other") or "Tensor" in str(argument.type):
            parts = value if isinstance(value, (list, tuple)) else [value]
            inputs += [_scalar(p) if isinstance(p, (int, float)) else values.get(p, p) for p in parts]
        else:
            attributes[argument.name] = value
    return find(ATEN, operator, node.name)(Call(builder, operator, node.name, inputs, attributes))
