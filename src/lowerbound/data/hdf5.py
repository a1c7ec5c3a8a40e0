"""Matrices of HDF5 files, such as those of AnnData, whose rows are read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.kinds import choose_storage_type
from lowerbound.errors import DataError

# Two rows are read together if at most this many entries lie between them.
_GAP_ENTRIES = 1 << 12


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """A matrix that stays in an HDF5 file. An index of row numbers reads a CSR matrix of them.

    Args:
        source: the group of a matrix in CSR format, with ``data``, ``indices`` and ``indptr``, or
            the data set of a dense matrix, of the package h5py.
        shape: the numbers of rows and columns.
        starts: the number of the first stored entry of each row, ``[N + 1]``; ``None`` for a dense
            matrix.
        columns: the numbers of the columns that are used, or ``None`` for all.
    """

    source: Any
    shape: tuple[int, int]
    starts: NDArray[Any] | None = None
    columns: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, source: Any, name: str) -> StoredMatrix:
        """Open the matrix of a group or a data set.

        Raises:
            DataError: if it is stored by columns, or not a matrix.
        """
        if hasattr(source, "chunks"):
            shape = tuple(source.shape)
        else:
            shape = tuple(int(length) for length in source.attrs.get("shape", ()))
        if len(shape) != 2:
            raise DataError(f"{name}: the shape {shape} is not that of a matrix; give another one")
        if hasattr(source, "chunks"):
            return cls(source, shape)
        form = source.attrs.get("encoding-type", "")
        if form != "csr_matrix":
            raise DataError(
                f"{name}: the matrix is stored as {form or 'an unknown type'}, not by rows, so "
                "single rows of it cannot be read; read it into memory (keep_in='memory', "
                "--keep-in memory), or write the file again with adata.X = adata.X.tocsr()"
            )
        return cls(source, shape, source["indptr"][:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type in which entries are used."""
        return choose_storage_type(self.stored_dtype)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The type of the entries in the file."""
        entries = self.source
        if self.starts is not None:
            entries = self.source["data"]
        dtype: np.dtype[Any] = entries.dtype
        return dtype

    @property
    def nnz(self) -> int:
        """The number of entries that are stored."""
        if self.starts is None:
            return self.shape[0] * self.shape[1]
        return int(self.starts[-1])

    @property
    def nbytes(self) -> int:
        """The number of bytes that the matrix takes in memory."""
        size = self.dtype.itemsize
        if self.starts is not None:
            size += int(self.source["indices"].dtype.itemsize)
        return self.nnz * size

    def __getitem__(self, index: Any) -> Any:
        """Read the rows of these numbers, ``[B]``, or select columns: ``matrix[:, places]``."""
        if isinstance(index, tuple):
            return self._take_columns(index[1])
        wanted, places = np.unique(index, return_inverse=True)
        if self.starts is None:
            part = self._read_dense(wanted)
        else:
            part = self._read_compressed(wanted, self.starts)
        if self.columns is not None:
            part = part[:, self.columns]
        return part[places]

    def _take_columns(self, places: NDArray[np.int64]) -> StoredMatrix:
        columns = places
        if self.columns is not None:
            columns = self.columns[places]
        return replace(self, columns=columns, shape=(self.shape[0], len(columns)))

    def _read_dense(self, rows: NDArray[np.int64]) -> Any:
        from scipy.sparse import csr_matrix

        return csr_matrix(self.source[rows].astype(self.dtype, copy=False))

    def _read_compressed(self, rows: NDArray[np.int64], starts: NDArray[Any]) -> Any:
        """Read rows in ascending order. Rows that are near each other are read together."""
        from scipy.sparse import csr_matrix

        width = self._count_stored_columns()
        if not len(rows):
            return csr_matrix((0, width), dtype=self.dtype)
        first, last = starts[rows].astype(np.int64), starts[rows + 1].astype(np.int64)
        breaks = np.flatnonzero(first[1:] - last[:-1] > _GAP_ENTRIES) + 1
        entries, columns = [], []
        for some in np.split(np.arange(len(rows)), breaks):
            low, high = first[some[0]], last[some[-1]]
            kept = np.zeros(high - low + 1, dtype=np.int8)
            np.add.at(kept, first[some] - low, 1)
            np.subtract.at(kept, last[some] - low, 1)
            is_kept = kept.cumsum()[:-1] > 0
            entries.append(self.source["data"][low:high][is_kept])
            columns.append(self.source["indices"][low:high][is_kept])
        pointers = np.concatenate([[0], (last - first).cumsum()])
        data = np.concatenate(entries).astype(self.dtype, copy=False)
        return csr_matrix((data, np.concatenate(columns), pointers), shape=(len(rows), width))

    def _count_stored_columns(self) -> int:
        return int(self.source.attrs["shape"][1])
