"""Values that stay in their file, of which memory holds only what is asked for."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.errors import DataError

# Pages of the file that a process has touched count as its memory until they are given back, as they are after so many bytes.
_GIVEN_BACK = 1 << 28
# Around a page that is missing the system may map so many bytes more.
_AROUND = 1 << 16


class _Pages:
    """The pages of a mapping that were touched, given back when they are many."""

    def __init__(self, mapping: mmap.mmap | None) -> None:
        self.mapping = mapping if hasattr(mmap, "MADV_DONTNEED") else None
        self.touched = 0
        self.lock = threading.Lock()

    def touch(self, size: int) -> None:
        if self.mapping is None:
            return
        with self.lock:
            self.touched += size
            if self.touched > _GIVEN_BACK:
                self.mapping.madvise(mmap.MADV_DONTNEED)  # from the system's own copy they come back when needed
                self.touched = 0


@dataclass(frozen=True, eq=False)
class Mapped:
    """Values ``[N, *shape]`` in a memory-mapped file. Indexing copies rows of them into memory, as ``tensor[index]`` does.

    Args:
        array: what the whole file holds.
        arrange: brings rows of it, ``[B, ...]``, into the layout of these values, ``[B, *shape]``.
        pages: of the file.
        file: what messages call it.
        rows: which of the file's rows these are, ``[N]``; ``None`` for all.
        known: what has been found out about all of the values, which would take another reading of the file.
    """

    array: NDArray[Any]
    arrange: Callable[[NDArray[Any]], NDArray[Any]]
    pages: _Pages
    file: str
    rows: Tensor | None = None
    known: set[str] = field(default_factory=set)

    device = torch.device("cpu")

    @classmethod
    def of(
        cls, array: np.memmap[Any, Any], arrange: Callable[[NDArray[Any]], NDArray[Any]] = lambda rows: rows
    ) -> Mapped:
        """The values of a memory map.

        Args:
            array: the map.
            arrange: as above.

        Raises:
            DataError: if the rows do not lie one behind the other.
        """
        file = str(array.filename or "data")
        if not array.flags.c_contiguous:
            raise DataError(
                f"{file}: its rows do not lie one behind the other; write it again with "
                "numpy.save(path, numpy.ascontiguousarray(array)), or read it into memory (--keep-in memory)"
            )
        base: Any = array
        while base is not None and not isinstance(base, mmap.mmap):
            base = getattr(base, "base", None)
        # In a map of the kind "c" pages may have been changed, which are nowhere else.
        pages = _Pages(base if array.mode in ("r", "r+") else None)
        plain = array.view(np.uint8) if array.dtype == np.bool_ else array
        return cls(np.asarray(plain), arrange, pages, file)

    @cached_property
    def shape(self) -> torch.Size:
        """``[N, *shape]``."""
        count = len(self.array) if self.rows is None else len(self.rows)
        return torch.Size((count, *self.arrange(self.array[:1]).shape[1:]))

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type in the file."""
        return torch.from_numpy(np.empty(0, self.array.dtype)).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """How many axes there are, that of the examples included."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Whether the entries are floating point."""
        return self.dtype.is_floating_point

    def __getitem__(self, index: Tensor) -> Tensor:
        rows = self._in_file(index)
        # By numpy, which takes no threads of its own for it: so it can be done beside a training step.
        taken = self.array.take(rows.numpy(), axis=0)
        self.pages.touch(taken.nbytes + len(rows) * _AROUND)
        return torch.from_numpy(np.ascontiguousarray(self.arrange(taken)))

    def select(self, index: Tensor) -> Mapped:
        """These of the rows; they stay in their file."""
        return replace(self, rows=self._in_file(index))

    def joined(self, other: Mapped) -> Mapped:
        """The rows of both.

        Raises:
            DataError: if they are of two files.
        """
        if self.pages is not other.pages:
            raise DataError(
                f"{self.file} and {other.file} are used without reading them into memory, where two files become one; take "
                "one of the two parts (--split train or test), or read them (--keep-in memory)"
            )
        both = [part._in_file(torch.arange(len(part))) for part in (self, other)]
        return replace(self, rows=torch.cat(both), known=self.known & other.known)

    def to(self, device: torch.device | str) -> Tensor:
        """All of them, in the memory of a device."""
        return self[torch.arange(len(self))].to(device)

    def _in_file(self, index: Tensor) -> Tensor:
        index = index.cpu()
        return index if self.rows is None else self.rows[index]
