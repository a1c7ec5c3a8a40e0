"""Values that stay in their file, of which memory holds only what is asked for."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.errors import DataError

# Bytes that are read for nothing rather than read in two calls.
_BETWEEN = 1 << 12
# Bytes that one system call reads at most, everywhere.
_MOST = 1 << 30


class _File:
    """Rows of a file, read where they are asked for.

    Reading through the memory map instead would make every page that surrounds a row count as this process's memory, a megabyte
    and more for each row on some systems, and take several times as long.
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.size = array.dtype.itemsize * math.prod(array.shape[1:])
        self.handle, self.start = _opened(array)
        if self.handle is not None:
            weakref.finalize(self, os.close, self.handle)

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of these rows.

        Raises:
            DataError: if the file has become shorter.
        """
        if self.handle is None:
            return np.asarray(self.array.take(numbers, axis=0))
        wanted, places = np.unique(numbers, return_inverse=True)
        if not len(wanted):
            return np.empty((0, *self.array.shape[1:]), self.array.dtype)
        # Rows that lie together are read together, with what lies between them where that takes no longer than another call.
        breaks = np.flatnonzero((np.diff(wanted) - 1) * self.size > _BETWEEN) + 1
        firsts, lasts = wanted[np.r_[0, breaks]], wanted[np.r_[breaks - 1, -1]]
        counts = lasts - firsts + 1
        spans = zip(
            (firsts * self.size + self.start).tolist(), (counts * self.size).tolist(), strict=True
        )
        read = bytearray().join(
            [piece for start, size in spans for piece in self._pieces(start, size)]
        )
        if len(read) != self.size * int(counts.sum()):
            raise DataError(
                f"{self.array.filename}: the file has become shorter while it was used; write it again"
            )
        rows = np.frombuffer(read, self.array.dtype).reshape(-1, *self.array.shape[1:])
        if len(rows) == len(numbers) and bool((places[1:] > places[:-1]).all()):
            return rows
        skipped = np.repeat(
            firsts - np.r_[0, counts.cumsum()[:-1]], np.diff(np.r_[0, breaks, len(wanted)])
        )
        return np.asarray(rows.take((wanted - skipped)[places], axis=0))

    def _pieces(self, start: int, size: int) -> list[bytes]:
        assert self.handle is not None
        piece = os.pread(self.handle, min(size, _MOST), start)
        if len(piece) == size or not piece:
            return [piece]
        return [piece, *self._pieces(start + len(piece), size - len(piece))]


def _opened(array: np.memmap[Any, Any]) -> tuple[int | None, int]:
    """The file behind a map, for reading, and where in it the array begins; ``None`` where only the map will do."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    # In a map of the kind "c" entries may have been changed, which are nowhere else.
    if (
        base is None
        or array.filename is None
        or array.mode not in ("r", "r+")
        or not hasattr(os, "pread")
    ):
        return None, 0
    # A slice of a map still has the offset of the whole, of which the map begins at the page before.
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
        os.close(handle)  # another file has taken its name
        return None, 0
    return handle, start


@dataclass(frozen=True, eq=False)
class Mapped:
    """Values ``[N, *shape]`` in a memory-mapped file. Indexing copies rows of them into memory, as ``tensor[index]`` does.

    Args:
        source: what the whole file holds.
        arrange: brings rows of it, ``[B, ...]``, into the layout of these values, ``[B, *shape]``.
        rows: which of the file's rows these are, ``[N]``; ``None`` for all.
        known: what has been found out about all of the values, which would take another reading of the file.
    """

    source: _File
    arrange: Callable[[NDArray[Any]], NDArray[Any]]
    rows: NDArray[np.int64] | None = None
    known: set[str] = field(default_factory=set)

    device = torch.device("cpu")

    @classmethod
    def of(
        cls,
        array: np.memmap[Any, Any],
        arrange: Callable[[NDArray[Any]], NDArray[Any]] = lambda rows: rows,
    ) -> Mapped:
        """The values of a memory map.

        Args:
            array: the map.
            arrange: as above.

        Raises:
            DataError: if the rows do not lie one behind the other.
        """
        if not array.flags.c_contiguous:
            raise DataError(
                f"{array.filename or 'data'}: its rows do not lie one behind the other; write it again with "
                "numpy.save(path, numpy.ascontiguousarray(array)), or read it into memory (--keep-in memory)"
            )
        return cls(_File(array.view(np.uint8) if array.dtype == np.bool_ else array), arrange)

    @cached_property
    def shape(self) -> torch.Size:
        """``[N, *shape]``."""
        array = self.source.array
        count = len(array) if self.rows is None else len(self.rows)
        return torch.Size(
            (count, *self.arrange(np.empty((1, *array.shape[1:]), array.dtype)).shape[1:])
        )

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type in the file."""
        return torch.from_numpy(np.empty(0, self.source.array.dtype)).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """How many axes there are, that of the examples included."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Whether the entries are floating point."""
        return self.dtype.is_floating_point

    def __getitem__(self, index: Tensor) -> Tensor:
        taken = self.source.rows(self._in_file(index))
        return torch.from_numpy(np.ascontiguousarray(self.arrange(taken)))

    def select(self, index: Tensor) -> Mapped:
        """These of the rows; they stay in their file."""
        return replace(self, rows=self._in_file(index), known=set(self.known))

    def joined(self, other: Mapped) -> Mapped:
        """The rows of both.

        Raises:
            DataError: if they are of two files.
        """
        if self.source is not other.source:
            raise DataError(
                f"{self.source.array.filename} and {other.source.array.filename} are used without reading them into memory, where two files become one; take "
                "one of the two parts (--split train or test), or read them (--keep-in memory)"
            )
        both = [part._in_file(torch.arange(len(part))) for part in (self, other)]
        return replace(self, rows=np.concatenate(both), known=self.known & other.known)

    def to(self, device: torch.device | str) -> Tensor:
        """All of them, in the memory of a device."""
        return self[torch.arange(len(self))].to(device)

    def _in_file(self, index: Tensor) -> NDArray[np.int64]:
        # By numpy: an operation of torch's may be parallel, and starts threads of OpenMP's in each thread that reads ahead. With
        # more of them than cores, all threads, those of the training too, sleep where they used to wait for each other awake.
        numbers: NDArray[np.int64] = index.cpu().numpy()
        return numbers if self.rows is None else self.rows[numbers]
