"""Memory: reuse of freed memory, batch sizes of evaluations, and measurements of what is needed."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The names that glibc's malloc.h gives to settings of its allocator.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The values that glibc itself arrives at after large tensors were freed, and ours, in bytes.
_USUAL_BYTES = {_MMAP_THRESHOLD: 1 << 25, _TRIM_THRESHOLD: 1 << 26}
_LARGEST_BYTES = 1 << 30


_KEEPS_FREED_MEMORY: ContextVar[bool] = ContextVar("lowerbound_keeping", default=False)


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within the block, the process keeps the memory of freed tensors of up to a gigabyte.

    Otherwise large tensors on the CPU are returned to the system at once, which clears each page
    again when it is next needed. That is a quarter of the time of a training step of many samples,
    and half of the time of a log likelihood. Blocks may be nested. Nothing changes with another
    allocator than glibc's, or with one that refuses such sizes.
    """
    library = None
    if os.name != "nt":
        library = ctypes.CDLL(None)
    set_option, trim = getattr(library, "mallopt", None), getattr(library, "malloc_trim", None)
    if set_option is None or trim is None or _KEEPS_FREED_MEMORY.get():
        yield
        return
    token = _KEEPS_FREED_MEMORY.set(True)
    for option in _USUAL_BYTES:
        set_option(option, _LARGEST_BYTES)
    try:
        yield
    finally:
        _KEEPS_FREED_MEMORY.reset(token)
        for option, value in _USUAL_BYTES.items():
            set_option(option, value)
        trim(0)


# The number of values of the largest tensor of one batch outside of training: 2^22 floats are 16
# MiB.
_VALUES_PER_BATCH = 1 << 22

# Batches follow from the size of the data unless a draw's largest tensor is more than this many
# times larger. So hidden layers of a usual size do not change the batches of an evaluation, nor the
# rounding of its result.
_MUCH_LARGER_FACTOR = 8


def choose_batch_size(numbers_per_example: int) -> int:
    """The number of examples of one batch outside of training, so that memory stays bounded."""
    return max(1, min(1024, _VALUES_PER_BATCH // max(1, numbers_per_example)))


def choose_pairs_per_batch(numbers: int) -> int:
    """The number of pairs of a sample and an example of one batch outside of training."""
    return max(1, min(8192, _VALUES_PER_BATCH // max(1, numbers)))


def count_values_per_pair(data_size: int, measured: int) -> int:
    """The number of values for each pair of a sample and an example, from which batches follow.

    Args:
        data_size: of one example.
        measured: of the largest tensor that a draw for one example makes.

    Example:
        >>> count_values_per_pair(64, 400), count_values_per_pair(64, 64 * 256)
        (64, 16384)
    """
    if measured > _MUCH_LARGER_FACTOR * data_size:
        return measured
    return data_size


def measure_growth(compute: Callable[[int], object]) -> int:
    """The largest number of values by which a tensor of a function grows with each row.

    Tensors that do not depend on the rows, such as a transposed weight, do not count.

    Args:
        compute: computes something for a number of rows. It is called for two rows and for three,
            since torch often uses other operations for a single row.

    Example:
        >>> import torch
        >>> weight = torch.zeros(1000, 3)
        >>> measure_growth(lambda rows: torch.zeros(rows, 3) @ weight.T.contiguous())
        1000
    """
    sizes: list[list[int]] = []
    for rows in (2, 3):
        with TensorSizes() as made:
            compute(rows)
        sizes.append(made.sizes)
    of_two, of_three = sizes
    if len(of_two) != len(of_three):  # the operations differ, so that the tensors cannot be matched
        return max(of_three) // 3
    return max((three - two for two, three in zip(of_two, of_three, strict=True)), default=0)


class TensorSizes(TorchDispatchMode):
    """Within the block, ``sizes`` receives the size of each tensor that an operation makes.

    Example:
        >>> import torch
        >>> with Largest() as largest:
        ...     _ = (torch.zeros(10, 1) + torch.zeros(20)).sum()
        >>> largest.numbers
        200
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch imports its compiler at the first operation, which takes seconds.
        return False

    @property
    def numbers(self) -> int:
        """The size of the largest tensor."""
        return max(self.sizes, default=0)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation, and record the sizes of the tensors that it made."""
        made = func(*args, **(kwargs or {}))
        self.sizes += [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        return made
