"""Telling what a model file is from its content."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from enum import Enum

from verifier.errors import ModelError, RefusedError

GZIP, ZIP, PICKLE = b"\x1f\x8b", b"PK\x03\x04", b"\x80"
WAY_OUT = "export it with torch.onnx.export(...)"


class Format(Enum):
    """What the bytes of a model file hold."""

    ONNX = "ONNX"
    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch.save"
    PICKLE = "pickle"  # of torch.save before version 1.6, or of anything else


def unzipped(content: bytes) -> bytes:
    """The content, decompressed when it is gzip. Raises ModelError when that fails."""
    if not content.startswith(GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"damaged or truncated gzip file ({error}); copy it again") from error


def sniff(content: bytes) -> Format:
    """The format of uncompressed bytes. Raises ModelError when there is none, RefusedError for TorchScript and .pt2."""
    if not content:
        raise ModelError("the file is empty")
    if content.startswith(ZIP):
        return _sniff_zip(content)
    if content.startswith(PICKLE):
        return Format.PICKLE
    header = int.from_bytes(content[:8], "little")
    if content[8:9] == b"{" and 2 <= header <= len(content) - 8:
        return Format.SAFETENSORS
    if _looks_like_onnx(content):
        return Format.ONNX
    raise ModelError("not a model file, or truncated (readable: ONNX, torch.save, safetensors)")


def _sniff_zip(content: bytes) -> Format:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise ModelError(f"damaged or truncated zip archive ({error}); copy or save it again") from error
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise RefusedError(f"refused: this is a TorchScript archive, which holds code; {WAY_OUT}")
    if "archive_format" in names or any(name.endswith((".json", "serialized_exported_program.json")) for name in names):
        raise RefusedError(f"refused: reading a torch.export archive (.pt2) could run code; {WAY_OUT}")
    if "data.pkl" not in names:
        raise ModelError("a zip archive without a torch checkpoint (no data.pkl)")
    return Format.TORCH_ZIP


def _looks_like_onnx(content: bytes) -> bool:
    """Whether the bytes start with fields of a protobuf ModelProto: tags, lengths and order of magnitude fit."""
    position, seen = 0, 0
    while position < len(content) and seen < 3:
        tag, position = content[position], position + 1
        number, wire_type = tag >> 3, tag & 7
        if tag >= 0x80 or number not in (1, 2, 3, 4, 5, 6, 7, 8, 14) or (wire_type == 0) != (number in (1, 5)):
            return False
        value, position = _varint(content, position)
        if wire_type not in (0, 2) or value < 0:
            return False
        position += value if wire_type == 2 else 0
        seen += 1
    return position <= len(content)


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A protobuf integer and the position behind it; -1 when the bytes hold none."""
    value = 0
    for shift, byte in enumerate(content[position : position + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, position + shift + 1
    return -1, position
