"""`load`: a model file of any supported format, recognised by its content. `load_module`: an `nn.Module`."""

from __future__ import annotations

import copy
import glob
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from verifier import zoo
from verifier.errors import InputError, ModelError
from verifier.graph import Graph
from verifier.load.module import from_module, from_sequence
from verifier.load.pickles import unpickle
from verifier.load.sniff import Format, sniff, unzipped
from verifier.load.torch import (
    TorchRunner,
    find_state_dict,
    in_float32,
    input_shape,
    load_weights,
    parse_safetensors,
    rebuild,
)
from verifier.types import Shape

Kind = Literal["onnx", "state_dict", "sequential", "module"]


@dataclass(frozen=True, eq=False)
class Model:
    """A network as read from a file, or as a module has it.

    graph: its weights are exact copies in float64; the normalisation that a card names is part of it.
    sha256: of the file as stored and, for ONNX external data, of those files behind it, ordered by name; of a module,
        of its state dict. path: where the file is; of a module, the name of its class.
    card: the model card beside the file, when it describes these very bytes.
    native: the network itself, float32 inputs (batch, *input_shape) -> outputs (batch, *output_shape), computed in
        float32 from the original weights, by onnxruntime for ONNX and by torch otherwise.
    stored: the ONNX content that the graph is, where the file is ONNX and nothing else belongs to it.
    """

    graph: Graph = field(repr=False)
    path: Path
    sha256: str
    card: zoo.ModelCard | None
    kind: Kind
    native: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    stored: bytes | None = field(default=None, repr=False)

    def onnx(self) -> bytes:
        """The ONNX model that certificates are about: the file itself (unzipped), else the graph as we export it."""
        from verifier.load.export import onnx_bytes

        return onnx_bytes(self.graph, double=True) if self.stored is None else self.stored


def load(path: str | Path, arch: str | None = None) -> Model:
    """Read a model file: ONNX (gzipped or not), torch state dict, safetensors, or a pickled `nn.Sequential`.

    arch: the architecture that bare weights belong to; by default the model card beside the file tells.
    Raises InputError when the file or the architecture does not exist, RefusedError when the file could run code,
    UnsupportedOperatorError or ModelError when it cannot be read or analysed. Each names the file.
    """
    path = Path(path)
    stored = _read(path)
    try:
        content = unzipped(stored)
        form = sniff(content)
        if form is Format.ONNX:
            return _load_onnx(path, stored, content, arch)
        return _load_torch(path, stored, content, form, arch)
    except ModelError as error:
        # A damaged file may put anything into the names that an error quotes.
        line = "".join(letter if letter.isprintable() else "?" for letter in str(error))
        raise type(error)(f"{path}: {line}") from error


def load_module(module: nn.Module, input_shape: Shape) -> Model:
    """A copy of a module, in evaluation mode and on the CPU, for inputs of this shape (without the batch axis).

    Its weights must be float32, or numbers that float32 holds. Raises ModelError when it cannot be exported,
    UnsupportedOperatorError for an operator outside the registry.
    """
    path, copied = Path(type(module).__name__), copy.deepcopy(module).cpu().eval().requires_grad_(False)
    try:
        native = TorchRunner(in_float32(copied), None, None, batched=False)
        graph = from_module(copied, input_shape)
    except ModelError as error:
        raise type(error)(f"{path}: {error}") from error
    digest = hashlib.sha256()
    for name, value in copied.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode() + value.numpy().tobytes())
    return Model(graph, path, digest.hexdigest(), None, "module", native)


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path}: a directory, not a model file")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such model file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _load_onnx(path: Path, stored: bytes, content: bytes, arch: str | None) -> Model:
    from verifier.load.onnx import OnnxRunner, build_graph, external_data, parse

    _refuse_arch(arch)
    proto = parse(content)
    external = external_data(proto, path.parent)
    digest = hashlib.sha256(stored + b"".join(external[name] for name in sorted(external))).hexdigest()
    card = _own_card(path, digest)
    graph = build_graph(proto, *_normalisation(card))
    _check_card(graph, card)
    whole = proto.SerializeToString() if external else content
    native = OnnxRunner(path, proto, whole, graph.output_shape, *_normalisation(card))
    whole_model = not external and _normalisation(card) == (None, None)
    return Model(graph, path, digest, card, "onnx", native, content if whole_model else None)


def _load_torch(path: Path, stored: bytes, content: bytes, form: Format, arch: str | None) -> Model:
    digest = hashlib.sha256(stored).hexdigest()
    checkpoint = parse_safetensors(content) if form is Format.SAFETENSORS else unpickle(content, form)
    card: zoo.ModelCard | None
    module: nn.Module
    shape: Shape
    kind: Kind
    if isinstance(checkpoint, nn.Module):
        _refuse_arch(arch)
        card, kind = _own_card(path, digest), "sequential"
        module = rebuild(checkpoint)
        shape = card.input_shape if card else input_shape(module)
    else:
        card, kind = _card_beside(path, digest), "state_dict"
        name = arch or (card.arch if card else None)
        if name is None:
            raise ModelError(f"bare weights need their architecture: give --arch {'|'.join(zoo.architectures())}")
        module, shape = load_weights(find_state_dict(checkpoint), name, card)
    mean, std = _normalisation(card)
    graph = from_sequence(module, shape, mean, std)
    _check_card(graph, card)
    single = (None, None) if mean is None or std is None else (mean.float(), std.float())
    return Model(graph, path, digest, card, kind, TorchRunner(module, *single))


def _refuse_arch(arch: str | None) -> None:
    if arch is not None:
        raise ModelError(f"the file holds its own architecture; leave out --arch {arch}")


def _card_beside(path: Path, digest: str) -> zoo.ModelCard | None:
    """The card beside a file, if there is one, which must describe it: its shape and normalisation are used."""
    card_file = zoo.card_path(path)
    if not card_file.is_file():
        return None
    card = zoo.read_card(card_file)
    if card.sha256 != digest:
        found = f"its sha256 is {card.sha256[:8]}..., this file's {digest}"
        raise ModelError(f"the card {card_file.name} describes another file ({found}); mend or move the card")
    return card


def _own_card(path: Path, digest: str) -> zoo.ModelCard | None:
    """The card beside a file that needs none, unless it is about another file of the same stem.

    One about neither is an error: without it, a normalisation would be missed.
    """
    stated = zoo.stated_sha256(zoo.card_path(path))
    if stated is None or (stated != digest and stated in [_sha256(file) for file in _siblings(path)]):
        return None
    return _card_beside(path, digest)


def _siblings(path: Path) -> list[Path]:
    """Other files of the same stem in the same folder: net.pt for net.onnx."""
    return [file for file in path.parent.glob(f"{glob.escape(path.stem)}.*") if file != path and file.is_file()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _normalisation(card: zoo.ModelCard | None) -> tuple[Tensor | None, Tensor | None]:
    """The card's mean and std in float64, shaped to broadcast with an input; (None, None) without."""
    if card is None or card.mean is None or card.std is None:
        return None, None
    behind = (1,) * (len(card.input_shape) - 1)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, *behind) for v in (card.mean, card.std))
    return mean, std


def _check_card(graph: Graph, card: zoo.ModelCard | None) -> None:
    if card and (graph.input_shape != tuple(card.input_shape) or graph.output_shape != (card.classes,)):
        stated = f"{tuple(card.input_shape)} -> {(card.classes,)}"
        raise ModelError(f"the card states {stated}, the network maps {graph.input_shape} -> {graph.output_shape}")
