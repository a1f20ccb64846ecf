"""A fast start: the import of PyTorch is most of what a short answer costs."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def startup() -> Iterator[None]:
    """Import and load inside: the garbage collector does not look at half a million objects that stay anyway.

    It is off inside, and afterwards leaves these objects alone, in the search and at the end of the process as well.
    Without effect once PyTorch is imported.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    keep_memory()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_memory() -> None:
    """Have glibc keep freed memory: a search that returns and takes millions of pages pays for a page fault each.

    Without effect on other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, size in MALLOPT.items():
            mallopt(parameter, size)


# By the numbers of malloc.h: what is trimmed off the heap's top, what it grows by, what gets a mapping of its own.
MALLOPT = {-1: 2**31 - 1, -2: 2**26, -4: 0}
