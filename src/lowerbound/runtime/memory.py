"""Memory: reuse of freed memory, batch sizes of evaluations, and how much memory a draw needs."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lowerbound.errors import SettingsError

# The names that glibc's malloc.h gives to settings of its allocator.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The values that glibc itself arrives at after large tensors were freed, and ours, in bytes.
_USUAL_BYTES = {_MMAP_THRESHOLD: 1 << 25, _TRIM_THRESHOLD: 1 << 26}
_LARGEST_BYTES = 1 << 30


_KEEPS_FREED_MEMORY: ContextVar[bool] = ContextVar("lowerbound_keeping", default=False)


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within the block, the process keeps the memory of freed tensors of up to a gigabyte.

    Otherwise the memory of large CPU tensors goes back to the system at once, which clears each
    page when it is next needed. Clearing takes a quarter of the time of a training step of many
    samples, and half of the time of a log likelihood. Blocks may be nested. The block has no effect
    if the allocator is not glibc's, or refuses such sizes.
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


@contextmanager
def explain_full_memory(function: str, count: int) -> Iterator[None]:
    """Raise an error that names the number of draws if a block of code needs too much memory.

    Raises:
        SettingsError: naming the function and the number of draws.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has a type for this error on accelerators, but none for the memory of the CPU.
        is_full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_full and "can't allocate memory" not in str(error):
            raise
        raise SettingsError(
            f"{function}: there is not enough memory for count={count:,}; draw fewer at a time"
        ) from error


# Outside of training, the largest tensor of a batch has at most this many values: 2^22 floats are
# 16 MiB.
_VALUES_PER_BATCH = 1 << 22

# A measurement of the data, such as their mean, reads at most this many values.
_MOST_VALUES_OF_SAMPLE = 1 << 24

# The largest number of values in each temporary tensor of a computation in slices.
_VALUES_PER_SLICE = 1 << 19

# The batch size follows from the size of the data, unless a draw's largest tensor is more than this
# many times larger. So hidden layers of a usual size change neither the batches of an evaluation
# nor the rounding of its result.
_MUCH_LARGER_FACTOR = 8


def choose_batch_size(values_per_example: int) -> int:
    """Choose how many examples a batch outside of training has, so that memory stays bounded."""
    return max(1, min(1024, _VALUES_PER_BATCH // max(1, values_per_example)))


def choose_pairs_per_batch(values_per_pair: int) -> int:
    """Choose how many pairs of a sample and an example a batch outside of training has."""
    return max(1, min(8192, _VALUES_PER_BATCH // max(1, values_per_pair)))


def split_range(length: int, values_each: int) -> Iterator[slice]:
    """Split rows or columns into slices of at most 2^19 values, but at least one row or column.

    Args:
        length: the number of rows or columns.
        values_each: the number of values in each row or column.

    Example:
        >>> list(split_range(5, 1 << 18))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, _VALUES_PER_SLICE // max(1, values_each))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def count_values_per_pair(data_size: int, measured: int) -> int:
    """Count the values for each pair of a sample and an example, from which batch sizes follow.

    Args:
        data_size: the number of values of one example.
        measured: the number of values of the largest tensor in a draw for one example.

    Example:
        >>> count_values_per_pair(64, 400), count_values_per_pair(64, 64 * 256)
        (64, 16384)
    """
    if measured > _MUCH_LARGER_FACTOR * data_size:
        return measured
    return data_size


def measure_growth(compute: Callable[[int], object]) -> int:
    """Measure by how many values the fastest-growing tensor of a function grows with each row.

    Tensors whose size does not depend on the rows, such as a transposed weight, do not count.

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
    with_two, with_three = sizes
    if len(with_two) != len(with_three):  # the operations differ, so tensors cannot be matched
        return max(with_three) // 3
    return max((three - two for two, three in zip(with_two, with_three, strict=True)), default=0)


class TensorSizes(TorchDispatchMode):
    """Within the block, ``sizes`` receives the size of each tensor that an operation makes.

    Example:
        >>> import torch
        >>> with TensorSizes() as made:
        ...     _ = (torch.zeros(10, 1) + torch.zeros(20)).sum()
        >>> made.largest
        200
    """

    # Operators that call functions, such as torch.cond, run as they do without this mode. So do
    # parts of a model that the user has compiled. What is made within them is not recorded.
    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Whether the user's compiled code runs as it does without this mode."""
        return True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch imports its compiler at the first operation, which takes seconds.
        return False

    @property
    def largest(self) -> int:
        """The number of values of the largest tensor."""
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


def choose_sample_size(shape: Sequence[int], most: int) -> int:
    """Choose how many examples a measurement of the data reads: two at least.

    Args:
        shape: of an example.
        most: the largest number, unless the examples are so large that these have more than 2^24
            values.
    """
    return max(2, min(most, _MOST_VALUES_OF_SAMPLE // max(1, math.prod(shape))))
