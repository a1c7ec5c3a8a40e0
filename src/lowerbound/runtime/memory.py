"""Memory: keeping what is freed, cutting passes so that it stays bounded, and measuring what a function takes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


# Numbers held at once by one pass over samples, examples and dimensions outside of training: 2^22 floats are 16 MiB.
_PASS_SIZE = 1 << 22


def examples_per_pass(numbers_per_example: int) -> int:
    """How many examples to take at once outside of training, so that memory stays bounded."""
    return max(1, min(1024, _PASS_SIZE // max(1, numbers_per_example)))


def rows_per_pass(numbers: int) -> int:
    """How many pairs of a sample and an example, of so many numbers each, to take at once outside of training."""
    return max(1, min(8192, _PASS_SIZE // max(1, numbers)))


class Largest(TorchDispatchMode):
    """Within the block, ``numbers`` becomes how many the largest tensor has that an operation makes.

    Example:
        >>> import torch
        >>> with Largest() as largest:
        ...     _ = (torch.zeros(10, 1) + torch.zeros(20)).sum()
        >>> largest.numbers
        200
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take the operation, and look at what it made."""
        made = func(*args, **(kwargs or {}))
        sizes = (leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor))
        self.numbers = max(self.numbers, *sizes, 0)
        return made
