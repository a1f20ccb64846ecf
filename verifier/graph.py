"""The network as a directed acyclic graph in topological order, and its concrete forward pass.

Node 0 is the input and the last node is the output. Shapes exclude the batch axis, which is always axis 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from verifier.errors import ModelError
from verifier.types import Shape


@dataclass(frozen=True, eq=False)
class Op(ABC):
    """One operator. Subclasses are frozen dataclasses whose tensor fields are its weights."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor:
        """The concrete value, from inputs of shape (batch, *shape)."""

    def after(self, previous: Op) -> Op | None:
        """One op that equals this op applied to the output of `previous`, or None when there is none."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """The weights by field name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Op:
        """The same op with floating-point weights in `dtype` and all weights on `device`."""
        moved = {n: t.to(device, dtype if t.is_floating_point() else t.dtype) for n, t in self.tensors().items()}
        return replace(self, **moved) if moved else self


@dataclass(frozen=True, eq=False)
class Input(Op):
    """The placeholder at node 0."""

    def forward(self, *inputs: Tensor) -> Tensor:
        (value,) = inputs
        return value


@dataclass(frozen=True, eq=False)
class Node:
    """One value of the network. `at_zero`, of shape (1, *shape), is the op's output for all-zero inputs."""

    name: str
    op: Op
    inputs: tuple[int, ...]
    at_zero: Tensor

    @property
    def shape(self) -> Shape:
        return tuple(self.at_zero.shape[1:])

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def has_constant(self) -> bool:
        """Whether the op's output for all-zero inputs is nonzero anywhere."""
        return bool(self.at_zero.count_nonzero())


@dataclass(frozen=True, eq=False)
class Graph:
    """A network. `nodes[i].inputs` are indices below i.

    unmerged: the network before ops were merged, where that changed it. Merging rounds: constants that cancel each
    other may then leave something else than they do in the network itself.
    """

    nodes: tuple[Node, ...]
    unmerged: Graph | None = None

    @property
    def input_shape(self) -> Shape:
        return self.nodes[0].shape

    @property
    def output_shape(self) -> Shape:
        return self.nodes[-1].shape

    @property
    def output(self) -> int:
        return len(self.nodes) - 1

    @property
    def dtype(self) -> torch.dtype:
        return self.nodes[0].at_zero.dtype

    @property
    def device(self) -> torch.device:
        return self.nodes[0].at_zero.device

    @property
    def stated(self) -> Graph:
        """The network op by op as it was stated, in float64 on the CPU: what counterexamples are judged on."""
        return (self.unmerged or self).to(torch.float64, "cpu")

    def input_shapes(self, index: int) -> list[Shape]:
        """The shapes of what node `index` reads."""
        return [self.nodes[i].shape for i in self.nodes[index].inputs]

    @cached_property
    def consumers(self) -> list[list[int]]:
        """For each node, the nodes that read it."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for source in dict.fromkeys(node.inputs):
                readers[source].append(index)
        return readers

    def values(self, x: Tensor) -> list[Tensor]:
        """Every node's value for inputs x of shape (batch, *input_shape)."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise ModelError(f"the network reads inputs of shape {self.input_shape}, not {tuple(x.shape[1:])}")
        values = [x]
        for node in self.nodes[1:]:
            values.append(node.op.forward(*(values[i] for i in node.inputs)))
        return values

    def __call__(self, x: Tensor) -> Tensor:
        """The output for inputs x of shape (batch, *input_shape)."""
        return self.values(x)[-1]

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Graph:
        """The same network with its weights in `dtype` on `device`."""
        dtype, device = dtype or self.dtype, device or self.device
        if dtype == self.dtype and torch.device(device) == self.device:
            return self
        return Graph(
            tuple(replace(n, op=n.op.to(dtype, device), at_zero=n.at_zero.to(device, dtype)) for n in self.nodes),
            self.unmerged,
        )


MOST_VALUES = 1 << 25
"""The most values that one node may have; a damaged or hostile file can ask for any number."""


class GraphBuilder:
    """Collects ops into a Graph. Weights are held in float64, which represents every float32 exactly."""

    def __init__(self, input_shape: Sequence[int], name: str = "input") -> None:
        """Raises ModelError when the input has more than MOST_VALUES values."""
        _limit(name, math.prod(input_shape))
        self.nodes = [Node(name, Input(), (), torch.zeros(1, *input_shape, dtype=torch.float64))]

    def shape(self, index: int) -> Shape:
        """The shape of node `index`."""
        return self.nodes[index].shape

    def add(self, op: Op, *inputs: int, name: str = "") -> int:
        """Append `op` reading the nodes `inputs`; returns its index. Raises ModelError when the shapes do not fit.

        A node of more than MOST_VALUES values is refused as well.
        """
        op = op.to(torch.float64, "cpu")
        name = name or f"{type(op).__name__.lower()}_{len(self.nodes)}"
        if not all(torch.isfinite(t).all() for t in op.tensors().values()):
            raise ModelError(f"the weights of node '{name}' hold NaN or Inf; repair or retrain the network")
        try:
            at_zero = op.forward(*(torch.zeros_like(self.nodes[i].at_zero) for i in inputs))
        except RuntimeError as error:
            shapes = ", ".join(str(self.shape(i)) for i in inputs)
            reason = str(error).splitlines()[0]
            raise ModelError(f"node '{name}' ({type(op).__name__}) does not fit its input {shapes}: {reason}") from None
        _limit(name, at_zero.numel())
        self.nodes.append(Node(name, op, inputs, at_zero))
        return len(self.nodes) - 1

    def finish(self, output: int | None = None) -> Graph:
        """The graph that computes node `output` (default: the last), folded and without unused nodes."""
        nodes = _prune(self.nodes, len(self.nodes) - 1 if output is None else output)
        merged = _fold(list(nodes))
        if len(merged) == 1:
            raise ModelError("the network computes nothing: its output is its input")
        return Graph(tuple(merged), Graph(tuple(nodes)) if len(merged) < len(nodes) else None)


def _limit(name: str, size: int) -> None:
    if size > MOST_VALUES:
        raise ModelError(f"node '{name}' has {size} values, more than {MOST_VALUES}; use a smaller network")


def _prune(nodes: Sequence[Node], output: int) -> list[Node]:
    """The nodes that `output` depends on, and the input, renumbered."""
    needed = {0, output}
    for index in range(output, 0, -1):
        if index in needed:
            needed.update(nodes[index].inputs)
    number = {old: new for new, old in enumerate(sorted(needed))}
    return [replace(nodes[old], inputs=tuple(number[i] for i in nodes[old].inputs)) for old in sorted(needed)]


def _fold(nodes: list[Node]) -> list[Node]:
    """Merge each op into the op before it wherever that op has one reader and `Op.after` knows how."""
    index = 1
    while index < len(nodes):
        node = nodes[index]
        source = node.inputs[0]
        readers = sum(source in n.inputs for n in nodes)
        if len(node.inputs) == 1 and source and readers == 1 and (op := node.op.after(nodes[source].op)):
            previous = nodes[source]
            at_zero = op.forward(*(torch.zeros_like(nodes[i].at_zero) for i in previous.inputs))
            nodes[index] = Node(node.name, op, previous.inputs, at_zero)
            nodes = _prune(nodes, len(nodes) - 1)
            index -= 1
        else:
            index += 1
    return nodes
