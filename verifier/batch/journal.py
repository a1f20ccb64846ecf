"""The journal of a run: a file of JSON lines that only grows, with a checksum on every line.

A line is written and synchronised before what it says is reported. A process that is killed leaves at most one torn
line, the last one, which the next opening cuts off; damage anywhere else is refused.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from verifier.errors import InputError, StorageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SEAL = ', "crc32": "'
SEALED = len(SEAL) + 8 + len('"}\n')  # bytes at the end of every line

Line = Mapping[str, Any]


def sealed(line: Line) -> bytes:
    """The line as it is stored: JSON whose last entry is the checksum of all that is before it."""
    text = json.dumps(line, allow_nan=False)[:-1]
    return f'{text}{SEAL}{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def unsealed(stored: bytes) -> dict[str, Any] | None:
    """The line that these bytes, line end included, hold; None when they are torn or damaged."""
    text, seal = stored[:-SEALED], stored[-SEALED:]
    if seal != f'{SEAL}{zlib.crc32(text):08x}"}}\n'.encode():
        return None
    try:
        line = json.loads(text + b"}")
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of a journal, and how many bytes they take; less than the file has when its last line is torn.

    Raises InputError when the file cannot be read, or is damaged before its last line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    lines, size = [], 0
    stored = content.splitlines(keepends=True)
    for number, each in enumerate(stored, start=1):
        line = unsealed(each)
        if line is None:
            if number < len(stored) or (number == 1 and not _may_be_torn(each)):
                raise InputError(f"{path}, line {number}: is damaged, or the file is no journal; give another file")
            break
        lines.append(line)
        size += len(each)
    return lines, size


def _may_be_torn(stored: bytes) -> bool:
    """Whether these bytes can be the beginning of a journal."""
    return sealed({"kind": "run"}).startswith(stored[:14]) and not stored.endswith(b"\n")


class Journal:
    """A journal open for appending, by one process at a time. lines: those it held when it was opened.

    repaired: how many bytes of a torn last line were cut off.
    """

    def __init__(self, path: Path, resume: bool = False, option: str = "--journal") -> None:
        """option: what names the file.

        Raises InputError when the file exists and is not to be resumed, is in use, or is no journal.
        """
        self.path = path
        another = f"give another {option}"
        try:
            if not resume and path.exists() and path.stat().st_size:
                way_out = f"go on with --resume, or {another}" if option == "--journal" else another
                raise InputError(f"{path}: exists already; {way_out}")
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); {another}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise InputError(f"{path}: another run is writing it; wait for it, or {another}") from None
        try:
            self.lines, self._size = read(path)
            self.repaired = os.fstat(self._file).st_size - self._size
            if self.repaired:
                os.ftruncate(self._file, self._size)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, lines: Iterable[Line]) -> None:
        """Write lines and synchronise them. Raises StorageError, with none of them written, when that fails."""
        content = b"".join(map(sealed, lines))
        try:
            written = 0
            while written < len(content):
                written += os.write(self._file, content[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise _unwritten(self.path, error) from error
        self._size += len(content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def save(folder: Path, name: str, content: bytes) -> str:
    """Store a file so that it is either whole or absent, for a line that is written next to name it.

    Returns the name. Raises StorageError when it cannot be written.
    """
    save_all(folder, {name: content})
    return name


def save_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Store files by name, each whole or absent; raises StorageError when one cannot be written.

    To wait for the disk once for all takes half the time.
    """
    for name, content in files.items():
        part = folder / f".{name}.{os.getpid()}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, folder / name)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise _unwritten(folder / name, error) from error
    try:
        _synchronise(folder)
    except OSError as error:
        raise _unwritten(folder, error) from error


def _unwritten(path: Path, error: OSError) -> StorageError:
    way_out = "make room" if error.errno in FULL else "make it writable"
    return StorageError(f"{path}: cannot be written ({error.strerror}); {way_out} and go on with --resume")


def _synchronise(folder: Path) -> None:
    """Make a renaming last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
