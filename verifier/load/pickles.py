"""Reading torch pickles without running code.

Two walls: every import that the pickle asks for is looked up in an allow-list before anything is unpickled, and
`torch.load(weights_only=True)` is then given the same list.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from verifier.errors import ModelError, RefusedError
from verifier.load.sniff import WAY_OUT, Format

# The layers that a pickled nn.Sequential may hold, with the constructor arguments that are copied out of each.
_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
_POOL = ("kernel_size", "stride", "padding", "ceil_mode")
LAYERS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Sequential: (),
    nn.Linear: ("in_features", "out_features"),
    nn.Conv1d: _CONV,
    nn.Conv2d: _CONV,
    nn.ConvTranspose1d: (*_CONV, "output_padding"),
    nn.ConvTranspose2d: (*_CONV, "output_padding"),
    nn.BatchNorm1d: ("num_features", "eps"),
    nn.BatchNorm2d: ("num_features", "eps"),
    nn.ReLU: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.PReLU: ("num_parameters",),
    nn.Hardtanh: ("min_val", "max_val"),
    nn.ReLU6: (),
    nn.Hardsigmoid: (),
    nn.Hardswish: (),
    nn.Sigmoid: (),
    nn.Tanh: (),
    nn.Softsign: (),
    nn.Softplus: ("beta", "threshold"),
    nn.ELU: ("alpha",),
    nn.CELU: ("alpha",),
    nn.SELU: (),
    nn.GELU: ("approximate",),
    nn.SiLU: (),
    nn.Softmax: ("dim",),
    nn.LogSoftmax: ("dim",),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Unflatten: ("dim", "unflattened_size"),
    nn.Dropout: (),
    nn.Dropout1d: (),
    nn.Dropout2d: (),
    nn.AlphaDropout: (),
    nn.Identity: (),
    nn.AvgPool1d: (*_POOL, "count_include_pad"),
    nn.AvgPool2d: (*_POOL, "count_include_pad", "divisor_override"),
    nn.MaxPool1d: (*_POOL, "dilation"),
    nn.MaxPool2d: (*_POOL, "dilation"),
    nn.AdaptiveAvgPool1d: ("output_size",),
    nn.AdaptiveAvgPool2d: ("output_size",),
}

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
ALLOWED = {
    "collections.OrderedDict",
    "__builtin__.set",
    "builtins.set",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.nn.parameter.Parameter",
    *(f"torch.{prefix}{name}Storage" for name in _STORAGES for prefix in ("", "cuda.")),
    *(f"{layer.__module__}.{layer.__qualname__}" for layer in LAYERS),
}

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# What unpickling damaged bytes raises; RuntimeError covers torch's own archive reader.
DAMAGE = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error,
          pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, OverflowError, OSError)  # fmt: skip


def unpickle(content: bytes, form: Format) -> Any:
    """The object in a torch checkpoint: containers, tensors on the CPU, and layers of `LAYERS`.

    Raises RefusedError naming the first import that is not allowed, ModelError when the file is damaged.
    """
    try:
        for name in imports(content, form):
            if name not in ALLOWED:
                raise RefusedError(f"refused: this pickle wants to import '{name}', which could run code; {WAY_OUT}")
        with torch.serialization.safe_globals(list(LAYERS)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged bytes, which end in an error anyway
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message advises weights_only=False first; the reason stands behind these words.
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise RefusedError(f"refused: not a checkpoint of plain tensors and layers ({reason}); {WAY_OUT}") from error
    except DAMAGE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelError(f"damaged or truncated torch file ({reason}); save it again") from error


def imports(content: bytes, form: Format) -> Iterator[str]:
    """Every `module.name` that the pickles in a torch checkpoint import, without running them."""
    if form is Format.TORCH_ZIP:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():  # of which several may have one name
                if entry.filename.endswith(".pkl"):
                    yield from _imports(io.BytesIO(archive.read(entry)))
        return
    stream = io.BytesIO(content)
    first = next((value for opcode, value, _ in pickletools.genops(stream) if opcode.name.startswith("LONG")), None)
    stream.seek(0)
    # The old format: magic number, version, system, the object, the storage keys; then raw data.
    for _ in range(5 if first == LEGACY_MAGIC else 1):
        yield from _imports(stream)
    if first != LEGACY_MAGIC:
        raise ModelError("a pickle that torch.save did not write; save model.state_dict() with torch.save")


def _imports(stream: io.BytesIO) -> Iterator[str]:
    """The imports of the pickle that starts at the stream's position; leaves the stream behind it."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    for opcode, value, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(value).replace(" ", ".", 1)
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif "UNICODE" in opcode.name or "STRING" in opcode.name:
            strings.append(str(value))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif "PUT" in opcode.name:
            memo[int(str(value))] = strings[-1] if strings else ""
        elif "GET" in opcode.name:
            strings.append(memo.get(int(str(value)), ""))
