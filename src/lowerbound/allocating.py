"""Memory that is freed is kept for what comes next."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# The names that glibc's malloc.h gives to settings of its allocator.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# What they come to by themselves where large tensors are freed.
_USUAL = {_MMAP_THRESHOLD: 1 << 25, _TRIM_THRESHOLD: 1 << 26}
_LARGEST = 1 << 30


_KEEPING: ContextVar[bool] = ContextVar("lowerbound_keeping", default=False)


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within the block, tensors of up to a gigabyte on the CPU are not given back to the system when they are freed.

    Otherwise the system takes large ones back at once, and clears each page anew when it is asked for again: a quarter of the
    time of a training step of many samples, and half of that of a log likelihood. Blocks may lie within each other. Where there is another allocator than
    glibc's, or one that refuses such sizes, nothing is changed.
    """
    library = None if os.name == "nt" else ctypes.CDLL(None)
    set_option, trim = getattr(library, "mallopt", None), getattr(library, "malloc_trim", None)
    if set_option is None or trim is None or _KEEPING.get():
        yield
        return
    token = _KEEPING.set(True)
    for option in _USUAL:
        set_option(option, _LARGEST)
    try:
        yield
    finally:
        _KEEPING.reset(token)
        for option, value in _USUAL.items():
            set_option(option, value)
        trim(0)
