"""Values that are not in memory as one tensor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.errors import DataError

# Values are checked in chunks of this size.
_CHUNK_BYTES = 1 << 24


class Rows(ABC):
    """Values ``[N, *shape]``. Indexing makes a tensor of some rows, ``[B, *shape]``.

    To write your own: define :attr:`shape`, :attr:`dtype`, indexing by row numbers, :meth:`select`
    and :meth:`joined`, and keep a set :attr:`known`. Training reads batches of such values ahead of
    its steps, so indexing must be safe in several threads. Override :meth:`find_first`,
    :meth:`find_maximum`, :meth:`sum_rows` and :meth:`take_columns` where the storage allows a
    faster way.
    """

    device = torch.device("cpu")

    known: set[str]
    """The checks that all values have passed, so that parts of them are not checked again."""

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """``[N, *shape]``."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The type of the tensors that indexing makes."""

    @abstractmethod
    def __getitem__(self, index: Tensor) -> Tensor: ...

    @abstractmethod
    def select(self, index: Tensor) -> Self:
        """Select rows, which stay in their storage."""

    @abstractmethod
    def joined(self, other: Self) -> Self:
        """Concatenate the rows of both."""

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """The number of axes, including that of the examples."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Whether the entries are floating point."""
        return self.dtype.is_floating_point

    def to(self, device: torch.device | str) -> Tensor:
        """Read all values into the memory of a device."""
        return self[torch.arange(len(self))].to(device)

    def find_first(self, is_bad: Callable[[Tensor], Tensor]) -> tuple[int, int, float] | None:
        """Find the first bad entry, see :func:`find_first`."""
        return _find_first_in_chunks(self, is_bad)

    def find_maximum(self) -> float:
        """Find the largest entry."""
        return max(self[index].max().item() for index in split_row_numbers(self))

    def sum_rows(self) -> Tensor:
        """Sum the entries of each row, ``[N]`` in float64."""
        return _sum_rows_in_chunks(self)

    def take_columns(self, places: NDArray[np.int64]) -> Self:
        """Select the entries of vectors at these places, in this order.

        Raises:
            DataError: if the storage does not allow it.
        """
        raise DataError(
            "the columns of values that stay in a file cannot be rearranged; read the file into "
            "memory (keep_in='memory', --keep-in memory)"
        )


Values = Tensor | Rows
"""The values of examples: one tensor in memory, or rows that are read when needed."""


def find_in_source(index: Tensor, rows: NDArray[np.int64] | None, count: int) -> NDArray[np.int64]:
    """Find the numbers of rows in their source, for an index that means what it means for a tensor.

    A negative position counts from the end, and a mask selects rows.

    Args:
        index: the rows' positions among those of ``rows``, ``[B]``, or a mask.
        rows: the numbers in the source; ``None`` for all ``count`` rows of the source.
        count: the number of rows in the source.

    Raises:
        IndexError: if a position is out of range, naming it.
    """
    # Numpy does the indexing, because torch may index in parallel, which starts OpenMP threads in
    # every thread that reads ahead. With more threads than cores, all OpenMP threads sleep while
    # they wait for each other, which also slows down training.
    numbers = index.cpu().numpy()
    if rows is not None:
        found: NDArray[np.int64] = rows[numbers]
        return found
    if numbers.dtype == np.bool_:
        return np.flatnonzero(numbers)
    outside = (numbers < -count) | (numbers >= count)
    if outside.any():
        raise IndexError(f"index {numbers[outside][0]} is out of range for {count} rows")
    return np.where(numbers < 0, numbers + count, numbers)


def check_row_numbers(rows: Tensor, count: int, name: str) -> None:
    """Refuse row numbers that are not ``[count]`` whole numbers from 0 on.

    The noise of an example depends on its number, so a negative one has no noise.

    Raises:
        DataError: naming the first number that is negative.
    """
    if rows.dtype != torch.int64 or rows.shape != (count,):
        raise DataError(
            f"{name}: rows has the type {rows.dtype} and the shape {tuple(rows.shape)}; give one "
            f"number of type torch.int64 for each of the {count} examples"
        )
    negative = rows < 0
    if negative.any():
        place = int(negative.int().argmax())
        raise DataError(
            f"{name}: rows[{place}] is {int(rows[place])}; give the positions of the examples in "
            "their source, counted from 0"
        )


def select_rows(values: Values, index: Tensor) -> Values:
    """Select rows, which stay in their storage if the values are not in memory."""
    if isinstance(values, Rows):
        return values.select(index)
    return values[index]


def split_row_numbers(values: Values) -> Iterator[Tensor]:
    """Split the row numbers of all values into chunks whose values take little memory."""
    size = max(1, _CHUNK_BYTES // (values.dtype.itemsize * math.prod(values.shape[1:])))
    yield from torch.arange(len(values), device=values.device).split(size)


def find_first(values: Values, is_bad: Callable[[Tensor], Tensor]) -> tuple[int, int, float] | None:
    """Find the first bad entry: its row, its number within the row, and its value.

    Args:
        values: the entries.
        is_bad: finds the bad ones among some entries. Zero is never bad, so the entries that a
            sparse matrix does not store are not looked at.
    """
    if isinstance(values, Rows):
        return values.find_first(is_bad)
    return _find_first_in_chunks(values, is_bad)


def sum_rows(values: Values) -> Tensor:
    """Sum the entries of each row, ``[N]`` in float64."""
    if isinstance(values, Rows):
        return values.sum_rows()
    return _sum_rows_in_chunks(values)


def take_columns(values: Values, places: NDArray[np.int64]) -> Values:
    """Select the entries of vectors at these places, in this order."""
    if isinstance(values, Rows):
        return values.take_columns(places)
    return values[:, torch.from_numpy(places).to(values.device)]


def _find_first_in_chunks(
    values: Values, is_bad: Callable[[Tensor], Tensor]
) -> tuple[int, int, float] | None:
    for index in split_row_numbers(values):
        chunk = values[index]
        wrong = is_bad(chunk).flatten(1)
        if wrong.any():
            row = int(wrong.any(1).nonzero()[0])
            entry = int(wrong[row].nonzero()[0])
            return int(index[row]), entry, chunk[row].flatten()[entry].item()
    return None


def _sum_rows_in_chunks(values: Values) -> Tensor:
    sums = torch.empty(len(values), dtype=torch.float64, device=values.device)
    for index in split_row_numbers(values):
        sums[index] = values[index].flatten(1).sum(1, dtype=torch.float64)
    return sums
