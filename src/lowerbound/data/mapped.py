"""Values that stay in their file until rows of them are requested."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data.rows import Rows, find_in_source
from lowerbound.errors import DataError

# Two rows are read in one call if the gap between them is at most this long.
_GAP_BYTES = 1 << 12
# The largest number of bytes that every system can read in one call.
_CALL_BYTES = 1 << 30


class _RowFile:
    """A file whose rows are read when they are requested.

    If rows were read through the memory map instead, every page around a row would count as memory
    of this process, on some systems more than a megabyte for each row. Reading would also take
    several times as long.
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.size = array.dtype.itemsize * math.prod(array.shape[1:])
        self.handle, self.start = _open_file(array)
        if self.handle is not None:
            weakref.finalize(self, os.close, self.handle)

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Read these rows.

        Raises:
            DataError: if the file has become shorter.
        """
        if self.handle is None:
            return np.asarray(self.array.take(numbers, axis=0))
        wanted, places = np.unique(numbers, return_inverse=True)
        if not len(wanted):
            return np.empty((0, *self.array.shape[1:]), self.array.dtype)
        # Rows that are near each other are read together with the gap between them, because that
        # takes no longer than another call.
        breaks = np.flatnonzero((np.diff(wanted) - 1) * self.size > _GAP_BYTES) + 1
        firsts, lasts = wanted[np.r_[0, breaks]], wanted[np.r_[breaks - 1, -1]]
        counts = lasts - firsts + 1
        spans = zip(
            (firsts * self.size + self.start).tolist(), (counts * self.size).tolist(), strict=True
        )
        read = bytearray().join(
            [piece for start, size in spans for piece in self._read_pieces(start, size)]
        )
        if len(read) != self.size * int(counts.sum()):
            raise DataError(
                f"{self.array.filename}: the file became shorter while it was used; write it again"
            )
        rows = np.frombuffer(read, self.array.dtype).reshape(-1, *self.array.shape[1:])
        if len(rows) == len(numbers) and bool((places[1:] > places[:-1]).all()):
            return rows
        skipped = np.repeat(
            firsts - np.r_[0, counts.cumsum()[:-1]], np.diff(np.r_[0, breaks, len(wanted)])
        )
        return np.asarray(rows.take((wanted - skipped)[places], axis=0))

    def _read_pieces(self, start: int, size: int) -> list[bytes]:
        assert self.handle is not None
        piece = os.pread(self.handle, min(size, _CALL_BYTES), start)
        if len(piece) == size or not piece:
            return [piece]
        return [piece, *self._read_pieces(start + len(piece), size - len(piece))]


def _open_file(array: np.memmap[Any, Any]) -> tuple[int | None, int]:
    """Open the file behind a map, and find the position where the array begins.

    The result is ``None`` and 0 if only the map can be read.
    """
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    # A map with the mode "c" does not write changed entries to its file.
    if (
        base is None
        or array.filename is None
        or array.mode not in ("r", "r+")
        or not hasattr(os, "pread")
    ):
        return None, 0
    # A slice of a map keeps the offset of the whole array. The map itself begins at the start of
    # the page that contains this offset.
    into = (
        array.__array_interface__["data"][0]
        - np.frombuffer(base, np.uint8).__array_interface__["data"][0]
    )
    start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY + into
    try:
        handle = os.open(array.filename, os.O_RDONLY)
    except OSError:
        return None, 0
    first = array[:1].tobytes()
    if (
        os.pread(handle, len(first), start) != first
        or os.fstat(handle).st_size < start + array.nbytes
    ):
        os.close(handle)  # another file now has its name
        return None, 0
    return handle, start


@dataclass(frozen=True, eq=False)
class MappedRows(Rows):
    """Values ``[N, *shape]`` in a memory-mapped file. Indexing copies rows into memory.

    Args:
        source: the whole file.
        arrange: a function that converts rows of the file, ``[B, ...]``, to the layout and type of
            these values, ``[B, *shape]``.
        rows: the numbers of these rows in the file, ``[N]``, or ``None`` for all rows.
        known: see :class:`~lowerbound.data.rows.Rows`.
    """

    source: _RowFile
    arrange: Callable[[NDArray[Any]], NDArray[Any]]
    rows: NDArray[np.int64] | None = None
    known: set[str] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        array: np.memmap[Any, Any],
        arrange: Callable[[NDArray[Any]], NDArray[Any]] = lambda rows: rows,
    ) -> MappedRows:
        """Make values from a memory map.

        Args:
            array: the map.
            arrange: see the class.

        Raises:
            DataError: if the rows are not contiguous in the file.
        """
        if not array.flags.c_contiguous:
            raise DataError(
                f"{array.filename or 'data'}: the rows are not contiguous; write them again with "
                "numpy.save(path, numpy.ascontiguousarray(array)), or read them into memory "
                "(--keep-in memory)"
            )
        if array.dtype == np.bool_:
            return cls(_RowFile(array.view(np.uint8)), arrange)
        return cls(_RowFile(array), arrange)

    @cached_property
    def _form(self) -> Tensor:
        """A placeholder with the shape and the type of a row."""
        array = self.source.array
        return torch.from_numpy(self.arrange(np.zeros((1, *array.shape[1:]), array.dtype)))

    @cached_property
    def shape(self) -> torch.Size:
        """``[N, *shape]``."""
        count = len(self.source.array)
        if self.rows is not None:
            count = len(self.rows)
        return torch.Size((count, *self._form.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the entries."""
        return self._form.dtype

    def __getitem__(self, index: Tensor) -> Tensor:
        taken = self.source.rows(self._find_in_file(index))
        return torch.from_numpy(np.ascontiguousarray(self.arrange(taken)))

    def then(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> MappedRows:
        """Add a function that changes the rows as they are read."""
        return replace(self, arrange=partial(_apply_both, self.arrange, change), known=set())

    def select(self, index: Tensor) -> MappedRows:
        """Select rows, which stay in their file."""
        return replace(self, rows=self._find_in_file(index), known=set(self.known))

    def joined(self, other: MappedRows) -> MappedRows:
        """Concatenate the rows of both.

        Raises:
            DataError: if they are in different files.
        """
        if self.source is not other.source:
            raise DataError(
                f"{self.source.array.filename} and {other.source.array.filename} stay in their "
                "files, and two files cannot be used as one; use one of the two parts (--split "
                "train or test), or read both into memory (--keep-in memory)"
            )
        both = [part._find_in_file(torch.arange(len(part))) for part in (self, other)]
        return replace(self, rows=np.concatenate(both), known=self.known & other.known)

    def _find_in_file(self, index: Tensor) -> NDArray[np.int64]:
        return find_in_source(index, self.rows, len(self.source.array))


def _apply_both(
    first: Callable[[NDArray[Any]], NDArray[Any]],
    second: Callable[[NDArray[Any]], NDArray[Any]],
    rows: NDArray[Any],
) -> NDArray[Any]:
    return second(first(rows))
