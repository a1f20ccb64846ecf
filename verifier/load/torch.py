"""Checkpoints: bare weights for a named architecture, and pickled `nn.Sequential` of known layers.

Whatever the file, the result is a fresh module with the weights copied into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from verifier import zoo
from verifier.errors import InputError, ModelError
from verifier.load.pickles import LAYERS
from verifier.types import Shape

# What bare weights are tried on when no card tells the input shape: MNIST, scikit-learn's digits, CIFAR-10.
CONVENTIONAL_SHAPES: tuple[Shape, ...] = ((1, 28, 28), (1, 8, 8), (3, 32, 32))


@dataclass(frozen=True, eq=False)
class TorchRunner:
    """A module in float32, with the normalisation `(x - mean) / std` before it (both (channels, 1, ...) or None).

    batched: whether its inputs may go through it together: code of one's own may mix them.
    """

    module: nn.Module
    mean: Tensor | None
    std: Tensor | None
    batched: bool = True

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Outputs (batch, *output_shape) of float32 inputs (batch, *input_shape)."""
        value = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        if self.mean is not None and self.std is not None:
            value = (value - self.mean) / self.std
        with torch.no_grad():
            parts = (value,) if self.batched else value.split(1)
            return torch.cat([self.module(part) for part in parts]).numpy()


def parse_safetensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises ModelError when it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"damaged or truncated safetensors file ({error}); save it again") from error


def find_state_dict(checkpoint: object) -> dict[str, Tensor]:
    """The one state dict in a checkpoint: itself, or the only one among its entries (lists of one are opened)."""
    if isinstance(checkpoint, Mapping) and checkpoint:
        if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in checkpoint.items()):
            return dict(checkpoint)
        found = {str(key): inner for key, value in checkpoint.items() if (inner := _state_dict(value))}
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise ModelError(f"several state dicts ({', '.join(found)}); save the one to verify alone")
    elif inner := _state_dict(checkpoint):
        return inner
    raise ModelError("the checkpoint holds no state dict; save model.state_dict() with torch.save")


def _state_dict(value: object) -> dict[str, Tensor] | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping) and value and all(isinstance(v, Tensor) for v in value.values()):
        return {str(k): v for k, v in value.items()}
    return None


def load_weights(weights: Mapping[str, Tensor], arch: str, card: zoo.ModelCard | None) -> tuple[nn.Module, Shape]:
    """The architecture with these weights, in float32 and evaluation mode, and its input shape.

    The shape is the card's, or the conventional one that the weights fit. Raises ModelError naming the first tensor
    that is missing or has the wrong shape.
    """
    shapes = (card.input_shape,) if card else CONVENTIONAL_SHAPES
    misfit: tuple[int, str] = (-1, "")
    for shape in shapes:
        try:
            module = _skeleton(arch, shape, card.classes if card else None, weights)
        except InputError:
            if arch not in zoo.architectures() or len(shapes) == 1:
                raise
            continue  # this architecture needs larger inputs
        expected = module.state_dict()
        given = _without_prefix(weights, expected)
        fitting, problem = _compare(given, expected)
        if not problem:
            return _fill(module, given), tuple(shape)
        misfit = max(misfit, (fitting, problem), key=lambda pair: pair[0])
    raise ModelError(f"the weights do not fit architecture '{arch}': {misfit[1]}; give the right --arch")


def _skeleton(arch: str, shape: Shape, classes: int | None, weights: Mapping[str, Tensor]) -> nn.Module:
    """The architecture without values; by default with as many classes as the weights' output layer has."""
    with torch.device("meta"):
        if classes is not None:
            return zoo.build(arch, shape, classes)
        expected = zoo.build(arch, shape, 1).state_dict()
        output_bias = _without_prefix(weights, expected).get(next(reversed(expected)))
        return zoo.build(arch, shape, 1 if output_bias is None else max(output_bias.numel(), 1))


def _without_prefix(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without what wrappers put before every name ('module.', 'model.')."""
    first = next(iter(expected))
    prefixes = [name.removesuffix(first) for name in weights if name.endswith(f".{first}")]
    prefix = prefixes[0] if len(prefixes) == 1 and first not in weights else ""
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def _compare(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[int, str]:
    """How many tensors fit before the first that does not, and what is wrong with that one ('' when all fit)."""
    for fitting, (name, tensor) in enumerate(expected.items()):
        if name not in given:
            if not tensor.is_floating_point():
                continue  # BatchNorm's step counter, which does not matter here
            return fitting, f"tensor '{name}' of shape {tuple(tensor.shape)} is missing"
        if given[name].shape != tensor.shape:
            return fitting, f"tensor '{name}' has shape {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
    extra = next((name for name in given if name not in expected), None)
    if extra is None:
        return len(expected), ""
    return len(expected), f"tensor '{extra}' of shape {tuple(given[extra].shape)} is not part of it"


def _fill(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Put float32 copies of the weights into a module built on the meta device."""
    state = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in module.state_dict().items()
             if not tensor.is_floating_point()}  # fmt: skip
    for name, value in weights.items():
        state[name] = _float32(name, value) if name not in state else value
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def _float32(name: str, value: Tensor) -> Tensor:
    """The tensor in float32, which must not change it."""
    if not value.is_floating_point():
        raise ModelError(f"tensor '{name}' holds {value.dtype} numbers, not floating point")
    single = value.detach().to(torch.float32, copy=True).contiguous()
    if not torch.equal(single.to(value.dtype), value) and not bool(value.isnan().any()):
        raise ModelError(f"tensor '{name}' holds {value.dtype} numbers that float32 cannot; save model.float()")
    return single


def in_float32(module: nn.Module) -> nn.Module:
    """The same module, its weights turned to float32 in place. Raises ModelError where that would change one."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = _float32(name, tensor)
    return module


def rebuild(layer: Any) -> nn.Module:
    """A fresh copy of an unpickled layer, made by its constructor from plain numbers and its weights.

    Nothing else of the pickle survives: a pickle may set any attribute, hooks included.
    """
    kind = type(layer).__name__
    try:
        if type(layer) is nn.Sequential:
            return nn.Sequential(*(rebuild(child) for child in layer._modules.values())).eval()
        arguments = {name: _plain(vars(layer)[name]) for name in LAYERS[type(layer)]}
        tensors = {k: v for k, v in (layer._parameters | layer._buffers).items() if v is not None}
        if issubclass(type(layer), (nn.BatchNorm1d, nn.BatchNorm2d)):
            arguments |= {"affine": "weight" in tensors, "track_running_stats": "running_mean" in tensors}
        elif "bias" in layer._parameters:
            arguments["bias"] = "bias" in tensors
        with torch.device("meta"):
            fresh = type(layer)(**arguments)
        return _fill(fresh, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        raise ModelError(f"a damaged {kind} layer ({reason}); save it again, or use torch.onnx.export(...)") from error


def _plain(value: object) -> Any:
    """A constructor argument, which must be a number, a word or a sequence of numbers."""
    if isinstance(value, (tuple, list)) and all(type(v) is int for v in value):
        return tuple(value)
    if value is None or type(value) in (int, float, bool, str):
        return value
    raise TypeError(f"an argument of type {type(value).__name__}")


def input_shape(module: nn.Module) -> Shape:
    """The input shape of a sequence of layers that no card describes. Raises ModelError when the layers do not tell."""
    layers = [m for m in module.modules() if not isinstance(m, nn.Sequential)]
    fitting: list[Shape] = [(layers[0].in_features,)] if layers and isinstance(layers[0], nn.Linear) else []
    for shape in () if fitting else CONVENTIONAL_SHAPES:
        try:
            with torch.no_grad():
                module(torch.zeros(1, *shape))
        except (RuntimeError, ValueError):
            continue
        fitting.append(shape)
    if len(fitting) != 1:
        reason = f"the layers fit inputs of shapes {', '.join(map(str, fitting))}" if fitting else "unknown input shape"
        raise ModelError(
            f"{reason}; write a model card with `input_shape`, or use torch.onnx.export(...), which records it"
        )
    return fitting[0]
