"""Random ONNX networks, grown operator by operator; what onnxruntime does not run is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from verifier.errors import ModelError
from verifier.load import Model, load

Shape = tuple[int, ...]
Operators = Sequence[tuple[Callable[[Any, str, Shape], str], range]]  # what adds one, for values of which ranks
MOST = 400  # values of a node
TRIES = 8
NOT_TAKEN = onnxruntime.capi.onnxruntime_pybind11_state


def session(content: bytes, optimised: bool = True) -> onnxruntime.InferenceSession:
    """onnxruntime's own reading of a model, with what it merges or without."""
    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class Growing:
    """A network of one random operator after the other. values: the shape of every result by its name."""

    def __init__(self, draw: np.random.Generator, opset: int, shape: Shape, steps: int) -> None:
        self.draw, self.opset, self.shape = draw, opset, shape
        self.nodes: list[Any] = []
        self.stored: list[Any] = []
        self.values: dict[str, Shape] = {"x": shape}
        self.last, self.made = "x", 0
        for _ in range(TRIES * steps):
            if len(self.values) <= steps:
                self.grow()

    @property
    def operators(self) -> Operators:
        raise NotImplementedError

    def fits(self, y: np.ndarray) -> bool:
        """Whether an operator with such a result may stay."""
        return y.dtype == np.float32 and 0 < y.size <= MOST

    def grow(self) -> None:
        """Append an operator after the last one, if the runtime takes it."""
        nodes, stored, shape = len(self.nodes), len(self.stored), self.values[self.last]
        x = self.draw.normal(size=self.shape).astype(np.float32)
        try:
            name = self.pick(*(make for make, ranks in self.operators if len(shape) in ranks))(self, self.last, shape)
            y = session(self.content(name)).run(None, {"x": x})[0]
            fits = self.fits(y)
        except (NOT_TAKEN.Fail, NOT_TAKEN.InvalidArgument, NOT_TAKEN.InvalidGraph, NOT_TAKEN.NotImplemented,
                NOT_TAKEN.RuntimeException, ValueError, IndexError):  # fmt: skip
            fits = False
        if fits:
            self.values[name], self.last = y.shape, name
        else:
            del self.nodes[nodes:], self.stored[stored:]

    def content(self, output: str | None = None) -> bytes:
        """The model that computes a result, by default the last."""
        ends = [("x", self.shape), (output or self.last, None)]
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        return bytes(model.SerializeToString())

    def loaded(self, folder: Path) -> Model | None:
        """The model as it is loaded from a file; None where there is nothing in it, or it is refused."""
        path = folder / "net.onnx"
        path.write_bytes(self.content())
        try:
            return load(path) if self.last != "x" else None
        except ModelError:
            return None

    # --- What operators are made of. ---
    def pick(self, *choices: Any) -> Any:
        return choices[int(self.draw.integers(len(choices)))]

    def whole(self, low: int, high: int, count: int) -> list[int]:
        return self.draw.integers(low, high + 1, count).tolist()

    def add(self, operator: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        """The name of one of the outputs."""
        self.made += 1
        names = [f"v{self.made}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, f"n{self.made}", **attributes))
        return str(self.pick(*names))

    def store(self, values: Any, dtype: Any = np.int64) -> str:
        self.stored.append(numpy_helper.from_array(np.asarray(values, dtype), f"w{len(self.stored)}"))
        return self.stored[-1].name
