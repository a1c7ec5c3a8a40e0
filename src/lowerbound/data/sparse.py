"""Values in a sparse matrix. Only the rows of a batch become dense."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data.kinds import choose_storage_type, refuse_type
from lowerbound.data.options import Kind
from lowerbound.data.rows import Rows, find_in_source
from lowerbound.errors import DataError

# The entries of a stored matrix are checked in chunks of this many.
_CHUNK_ENTRIES = 1 << 22

# The conversion of a matrix that takes as many bytes is reported.
_LARGE_BYTES = 1 << 26


class CopiedDataWarning(UserWarning):
    """Large data were copied to another layout. Data in this layout would not be copied."""


def is_sparse(data: Any) -> bool:
    """Whether an object is a sparse matrix or sparse array of SciPy."""
    return hasattr(data, "tocsr") and hasattr(data, "nnz")


@dataclass(frozen=True, eq=False)
class SparseRows(Rows):
    """Values ``[N, D]`` in a sparse matrix. Indexing makes a dense tensor of some rows.

    Args:
        matrix: a sparse matrix of SciPy in CSR format, or one that stays in its file
            (:class:`~lowerbound.data.hdf5.StoredMatrix`). An index of row numbers gives a CSR
            matrix of these rows.
        rows: the numbers of these rows in the matrix, ``[N]``, or ``None`` for all rows.
        known: see :class:`~lowerbound.data.rows.Rows`.
    """

    matrix: Any
    rows: NDArray[np.int64] | None = None
    known: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, matrix: Any, *, name: str, kind: Kind | None = None) -> SparseRows:
        """Copy a sparse matrix or sparse array of SciPy. Other formats are converted to CSR.

        A large conversion is reported as a :class:`CopiedDataWarning`.

        Raises:
            DataError: if it does not have two axes, or if models cannot take the type of its
                entries.
        """
        if len(matrix.shape) != 2:
            raise DataError(
                f"{name}: a sparse array has the shape {matrix.shape}; give [examples, dimensions]"
            )
        refuse_type(matrix.dtype, name, kind)
        rows = matrix.tocsr(copy=True)
        rows.sum_duplicates()
        _report_conversion(matrix, rows, name)
        return cls(rows.astype(choose_storage_type(rows.dtype), copy=False))

    @cached_property
    def shape(self) -> torch.Size:
        """``[N, D]``."""
        count, dimensions = self.matrix.shape
        if self.rows is not None:
            count = len(self.rows)
        return torch.Size((count, dimensions))

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type of the entries."""
        return torch.from_numpy(np.empty(0, self.matrix.dtype)).dtype

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.from_numpy(self.matrix[self._find_in_matrix(index)].toarray())

    def select(self, index: Tensor) -> SparseRows:
        """Select rows, without a copy of the matrix."""
        return replace(self, rows=self._find_in_matrix(index), known=set(self.known))

    def take_columns(self, places: NDArray[np.int64]) -> SparseRows:
        """Select columns. A matrix in memory is copied."""
        return replace(self, matrix=self.matrix[:, places], known=set(self.known))

    def find_first(self, is_bad: Callable[[Tensor], Tensor]) -> tuple[int, int, float] | None:
        """Find the first bad entry among those that are stored."""
        for start, part in self._iterate_parts():
            bad = np.flatnonzero(is_bad(torch.from_numpy(part.data)).numpy())
            if len(bad):
                row = int(np.searchsorted(part.indptr, bad[0], side="right")) - 1
                place = min(bad[bad < part.indptr[row + 1]], key=lambda each: part.indices[each])
                return start + row, int(part.indices[place]), part.data[place].item()
        return None

    def find_maximum(self) -> float:
        """Find the largest entry."""
        return max(float(part.max()) for _, part in self._iterate_parts())

    def sum_rows(self) -> Tensor:
        """Sum the entries of each row, ``[N]`` in float64."""
        sums = [part.sum(1, dtype=np.float64) for _, part in self._iterate_parts()]
        return torch.from_numpy(np.concatenate([np.asarray(each).ravel() for each in sums]))

    def _iterate_parts(self) -> Iterator[tuple[int, Any]]:
        """Yield the first row of each part, and the part as a CSR matrix that is not large."""
        entries, rows = self.matrix.nnz, max(1, self.matrix.shape[0])
        size = max(1, int(_CHUNK_ENTRIES * rows / max(1, entries)))
        for start in range(0, len(self), size):
            numbers = torch.arange(start, min(start + size, len(self)))
            yield start, self.matrix[self._find_in_matrix(numbers)]

    def joined(self, other: SparseRows) -> SparseRows:
        """Concatenate the rows of both. If they are in two matrices, both are copied into one.

        Raises:
            DataError: if they are in two matrices that stay in their files.
        """
        from scipy.sparse import vstack

        known = self.known & other.known
        ours, theirs = (part._find_in_matrix(torch.arange(len(part))) for part in (self, other))
        if self.matrix is other.matrix:
            return replace(self, rows=np.concatenate([ours, theirs]), known=known)
        if not (is_sparse(self.matrix) and is_sparse(other.matrix)):
            raise DataError(
                "two matrices that stay in their files cannot be used as one; use one of the two "
                "parts (--split train or test), or read both into memory (--keep-in memory)"
            )
        both = vstack([self.matrix[ours], other.matrix[theirs]], format="csr")
        return SparseRows(both, known=known)

    def _find_in_matrix(self, index: Tensor) -> NDArray[np.int64]:
        return find_in_source(index, self.rows, self.matrix.shape[0])


def _report_conversion(matrix: Any, rows: Any, name: str) -> None:
    """Warn if the copy of a large matrix would not have been necessary in CSR format."""
    size = rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes
    if matrix.format == "csr" or size < _LARGE_BYTES:
        return
    warnings.warn(
        f"{name}: the matrix is in {matrix.format.upper()} format and was converted once to CSR, "
        f"which takes {size / 2**20:,.0f} MiB; give matrix.tocsr() to keep only one of the two",
        CopiedDataWarning,
        stacklevel=2,
    )
