"""A fast start: the import of PyTorch is most of what a short answer costs."""

from __future__ import annotations

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
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
