"""The op registry: which operator names of each source build which ops.

An importer is a function `(call) -> node index or indices` that adds ops to `call.builder`. It stands in the file of
the ops it adds, so that adding an op touches one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from verifier.errors import ModelError, UnsupportedOperatorError
from verifier.graph import GraphBuilder, Op
from verifier.ops.base import Activation
from verifier.types import Shape

Importer = Callable[["Call"], "int | list[int]"]

ONNX: dict[str, Importer] = {}  # by ONNX operator type
ATEN: dict[str, Importer] = {}  # by torch.export target without "aten.", and its overload unless that is "default"
MODULE: dict[str, Importer] = {}  # by torch.nn class name
OPS: list[type[Op]] = []  # every op class

OpClass = TypeVar("OpClass", bound=type[Op])


@dataclass(frozen=True)
class Call:
    """One operator application as a loader met it.

    inputs: node indices (int) and constants (float64 or integer Tensor; None where an optional one is absent), in
    the source's order. Of a torch.nn module: its input, then its weight, bias, running_mean and running_var.
    attributes: everything else, by the source's own names. Shapes and axes in either count the batch axis.
    batched: whether axis 0 of the source's tensors is the batch; False for ONNX networks that read vectors of rank 1.
    """

    builder: GraphBuilder
    operator: str
    name: str
    inputs: Sequence[Any]
    attributes: Mapping[str, Any]
    batched: bool = True

    def refusal(self, reason: str) -> ModelError:
        """The error to raise when this use of the operator cannot be read."""
        return ModelError(f"unsupported use of operator '{self.operator}' at node '{self.name}': {reason}")

    def node(self, position: int = 0) -> int:
        """The index of the node that is input `position`."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if not isinstance(value, int):
            raise self.refusal(f"input {position} must depend on the network's input")
        return value

    def constant(self, position: int) -> Tensor | None:
        """The constant that is input `position`, None when it is absent."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if isinstance(value, int):
            raise self.refusal(f"input {position} depends on the network's input; only a constant is supported")
        return value

    def weight(self, position: int) -> Tensor:
        """The constant that is input `position`, which must be there."""
        value = self.constant(position)
        if value is None:
            raise self.refusal(f"input {position} is missing")
        return value

    def distinct(self, position: int) -> Tensor:
        """The distinct values of constant `position`, with which broadcasting leaves the node its shape."""
        value, shape = self.weight(position), (*(1,) * self.batched, *self.shape())
        pairs = zip(reversed(value.shape), reversed(shape), strict=False)
        if value.dim() > len(shape) or any(n not in (1, m) for n, m in pairs):
            raise self.refusal(f"a constant of shape {tuple(value.shape)} changes the shape {shape}")
        return value.double().unique()

    def integers(self, attribute: str, position: int | None = None) -> list[int] | None:
        """Integers given by an attribute or, in later ONNX operator sets, by constant input `position`; or None."""
        value = self.attributes.get(attribute)
        if value is None and position is not None and (constant := self.constant(position)) is not None:
            value = constant.flatten().tolist()
        if value is None:
            return None
        values = list(value) if isinstance(value, Sequence) else [value]
        if not all(type(v) is int for v in values):
            raise self.refusal(f"{attribute} {values} (supported: integers)")
        return values

    def shape(self, position: int = 0) -> Shape:
        """The shape, without the batch axis, of the node that is input `position`."""
        return self.builder.shape(self.node(position))

    def axis(self, axis: int, rank: int) -> int:
        """An axis of a node whose shape has `rank` axes, counted as in `Node.shape`, from the source's number."""
        full = rank + self.batched
        if not -full <= axis < full:
            raise self.refusal(f"axis {axis} does not exist in a tensor of rank {full}")
        axis = axis % full - self.batched
        if axis < 0:
            raise self.refusal("it works along the batch axis (axis 0)")
        return axis

    def add(self, op: Op, *inputs: int) -> int:
        """Append `op` to the graph under this call's name. Activations read nodes that have an axis."""
        if isinstance(op, Activation) and not self.builder.shape(inputs[0]):
            raise self.refusal("it reads a single number without an axis; keep the axis (keepdims)")
        return self.builder.add(op, *inputs, name=self.name)


def register(cls: OpClass) -> OpClass:
    """Class decorator: list the op, so that the conformance tests and `supports` see it."""
    OPS.append(cls)
    return cls


def importer(*, onnx: Sequence[str] = (), aten: Sequence[str] = (), module: Sequence[str] = ()) -> Callable:
    """Function decorator: use the importer for these operator names."""

    def add(function: Importer) -> Importer:
        for table, names in ((ONNX, onnx), (ATEN, aten), (MODULE, module)):
            for name in names:
                assert name not in table, f"{name} is registered twice"
                table[name] = function
        return function

    return add


def find(table: Mapping[str, Importer], operator: str, node: str) -> Importer:
    """The importer of an operator. Raises UnsupportedOperatorError naming the operator and the node."""
    if operator in table:
        return table[operator]
    supported = ", ".join(sorted(table))
    raise UnsupportedOperatorError(f"unsupported operator '{operator}' at node '{node}' (supported: {supported})")
