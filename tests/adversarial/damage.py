"""Seeded ways of damaging files, of any kind and of each, and a limit on the time for reading one."""

from __future__ import annotations

import gzip
import io
import json
import re
import signal
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx

from verifier.batch.journal import SEAL, SEALED, sealed, unsealed

LIMIT = 10.0  # CPU seconds that reading one file may take
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x28, 0x29, 0x22, 0x5B, 0x7B, 0x2D)
NUMBERS = (
    *(
        "0",
        "-0",
        "-0.0",
        "1",
        "-1",
        "1e999",
        "-1e999",
        "1e-999",
        "1e999999999",
        "nan",
        "inf",
        "-inf",
        "1/0",
        "0x10",
        "1_0",
    ),
    *(
        "9" * 300,
        "0." + "0" * 300 + "1",
        "1e38",
        "1e39",
        "\u0663",
        "4294967296",
        "18446744073709551616",
        "1e",
        ".",
        "+",
    ),
    *("true", "null", '"', "[]", "{}"),
)

WORDS = ("Relu", "Conv", "Gemm", "MatMul", "Sigmoid", "Loop", "If", "SAME_UPPER", "VALID", "ai.onnx.ml")  # of ONNX


class TooSlow(BaseException):
    """Reading took longer than the limit; no `except Exception` may swallow it."""


@contextmanager
def limited(seconds: float = LIMIT) -> Iterator[None]:
    """Raises TooSlow when the body takes more CPU time than that."""

    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# --- Damage. ----------------------------------------------------------------------------------------------------------
Damage = Callable[[np.random.Generator, bytes], bytes]


def place(draw: np.random.Generator, content: bytes) -> int:
    """Half of the time in the first bytes, where the structure is."""
    size = len(content) if draw.random() < 0.5 else min(len(content), 600)
    return int(draw.integers(size)) if size else 0


def flipped(draw: np.random.Generator, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(int(draw.integers(1, 4))):
        if damaged:
            damaged[place(draw, content)] ^= 1 << int(draw.integers(8))
    return bytes(damaged)


def overwritten(draw: np.random.Generator, content: bytes) -> bytes:
    at, size = place(draw, content), int(draw.choice([1, 1, 2, 4, 8]))
    byte = int(draw.choice(INTERESTING))
    new = draw.bytes(size) if draw.random() < 0.5 else bytes([byte]) * size
    return content[:at] + new + content[at + size :]


def cut(draw: np.random.Generator, content: bytes) -> bytes:
    at, size = place(draw, content), int(2 ** draw.uniform(0, 8))
    return content[:at] + content[at + size :]


def copied(draw: np.random.Generator, content: bytes) -> bytes:
    at, source, size = place(draw, content), place(draw, content), int(2 ** draw.uniform(0, 8))
    return content[:at] + content[source : source + size] + content[at:]


def truncated(draw: np.random.Generator, content: bytes) -> bytes:
    return content[: place(draw, content)]


def extended(draw: np.random.Generator, content: bytes) -> bytes:
    return content + (draw.bytes(int(draw.integers(1, 64))) if draw.random() < 0.5 else content)


BYTES: Sequence[Damage] = (flipped, flipped, overwritten, overwritten, cut, copied, truncated, extended)


def tokens(draw: np.random.Generator, content: bytes) -> bytes:
    """A number of a text replaced by a strange one, or a word left out, repeated or exchanged with another."""
    words = re.split(rb"([\s()\[\]{},:\"]+)", content)
    plain = [i for i, word in enumerate(words) if word and i % 2 == 0]
    if not plain:
        return content
    i, j = (plain[int(k)] for k in draw.integers(len(plain), size=2))
    kind = int(draw.integers(5))
    if kind < 2:
        numeric = [k for k in plain if re.match(rb"[-+]?\d", words[k])] or plain
        words[numeric[int(draw.integers(len(numeric)))]] = str(draw.choice(NUMBERS)).encode()
    elif kind == 2:
        words[i], words[j] = words[j], words[i]
    elif kind == 3:
        words[i] = b""
    else:
        words[i] = words[i] + b" " + words[j]
    return b"".join(words)


def nested(draw: np.random.Generator, content: bytes) -> bytes:
    """A word inside many brackets."""
    at, depth = place(draw, content), int(draw.choice([3, 500, 20_000]))
    left, right = ((b"(", b")"), (b"(and ", b")"), (b"(- ", b")"), (b"[", b"]"), (b'{"a":', b"}"))[
        int(draw.integers(5))
    ]
    return content[:at] + left * depth + b"1" + right * (depth if draw.random() < 0.7 else 0) + content[at:]


TEXT: Sequence[Damage] = (*BYTES, tokens, tokens, tokens, tokens, tokens, nested)


def in_zip(draw: np.random.Generator, content: bytes) -> bytes:
    """One member of a zip archive damaged, with its checksum renewed; or renamed, left out, stored twice."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    target = next((i for i, (name, _) in enumerate(members) if name.endswith("data.pkl") and draw.random() < 0.7), None)
    i = int(draw.integers(len(members))) if target is None else target
    name, data = members[i]
    kind = int(draw.integers(10))
    if kind == 0:
        del members[i]
    elif kind == 1:
        members[i] = (name + "x" if draw.random() < 0.5 else "../" + name, data)
    elif kind == 2:
        members[i] = (name, members[int(draw.integers(len(members)))][1])
    else:
        members[i] = (name, BYTES[int(draw.integers(len(BYTES)))](draw, data))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return made.getvalue()


def in_gzip(draw: np.random.Generator, content: bytes) -> bytes:
    return gzip.compress(BYTES[int(draw.integers(len(BYTES)))](draw, gzip.decompress(content)), 1)


def in_header(draw: np.random.Generator, content: bytes) -> bytes:
    """The JSON header of safetensors changed, with its size renewed."""
    size = int.from_bytes(content[:8], "little")
    header = TEXT[int(draw.integers(len(TEXT)))](draw, content[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def in_fields(draw: np.random.Generator, content: bytes) -> bytes:
    """Fields of an ONNX model set to other values of their type, or entries left out, repeated or exchanged."""
    model = onnx.ModelProto.FromString(content)
    for _ in range(int(draw.integers(1, 3))):
        change(draw, model)
    return bytes(model.SerializeToString())


def change(draw: np.random.Generator, message: Any) -> None:
    """Goes down a random way through a message and changes what is there."""
    while True:
        filled = message.ListFields()
        if not filled:
            return
        field, value = filled[int(draw.integers(len(filled)))]
        many = hasattr(value, "append") or hasattr(value, "add")
        if many and len(value) and draw.random() < 0.15:
            entries = list(value)
            i, j = draw.integers(len(entries), size=2)
            kept = (
                entries[:i] + entries[i + 1 :],
                [*entries, entries[i]],
                [*entries[:i], entries[j], *entries[i + 1 :]],
            )
            message.ClearField(field.name)
            getattr(message, field.name).extend(kept[int(draw.integers(3))])
            return
        if many and len(value):
            i = int(draw.integers(len(value)))
            if not hasattr(value[i], "ListFields"):
                value[i] = other(draw, value[i])
                return
            value = value[i]
        if not hasattr(value, "ListFields"):
            setattr(message, field.name, other(draw, value))
            return
        message = value


def other(draw: np.random.Generator, value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool | int):
        return int(draw.choice([0, 1, 2, 3, -1, 7, 11, 255, 65536, 2**31 - 1, value + 1, max(value - 1, -(2**31))]))
    if isinstance(value, float):
        return float(draw.choice([0.0, -0.0, 1.0, -1.0, 1e30, -1e38, 1e-45, np.inf, np.nan, value * 2]))
    if isinstance(value, str):
        words = [
            "",
            "x",
            value + "_",
            "Relu",
            "Conv",
            "Gemm",
            "MatMul",
            "Sigmoid",
            "Loop",
            "SAME_UPPER",
            "VALID",
            "ai.onnx.ml",
        ]
        return str(draw.choice(words))
    return BYTES[int(draw.integers(len(BYTES)))](draw, value)


def resealed(draw: np.random.Generator, content: bytes) -> bytes:
    """A journal with a line that was changed before its checksum was made."""
    lines = content.splitlines(keepends=True)
    i = int(draw.integers(len(lines)))
    text = TEXT[int(draw.integers(len(TEXT)))](draw, lines[i][:-SEALED] + b"}")[:-1].replace(b"\n", b" ")
    lines[i] = text + f'{SEAL}{zlib.crc32(text):08x}"}}\n'.encode()
    return b"".join(lines)


def json_values(draw: np.random.Generator, content: bytes) -> bytes:
    """Values of a JSON object, or of every line's, replaced by values of other kinds."""
    strange = (None, True, -1, 0, 1.5, 1e308, "", "x", [], [None], {}, {"a": 1}, [[1]], "1e999", "-1/0", 10**30)
    line = json.loads(content)
    for key in draw.choice(list(line), int(draw.integers(1, 3))):
        if draw.random() < 0.2:
            line.pop(str(key), None)
        else:
            line[str(key)] = strange[int(draw.integers(len(strange)))]
    return json.dumps(line).encode()


def revalued(draw: np.random.Generator, content: bytes) -> bytes:
    """A journal with values of other kinds, under right checksums."""
    lines = [unsealed(line) for line in content.splitlines(keepends=True)]
    i = int(draw.integers(len(lines)))
    changed = json.loads(json_values(draw, json.dumps(lines[i]).encode()))
    return b"".join(sealed(changed if k == i else line) for k, line in enumerate(lines) if line is not None)
