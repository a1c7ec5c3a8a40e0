"""Values in a sparse matrix. Only the rows of a batch become dense."""

from __future__ import annotations

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


def is_sparse(data: Any) -> bool:
    """Whether an object is a sparse matrix or sparse array of SciPy."""
    return hasattr(data, "tocsr") and hasattr(data, "nnz")


@dataclass(frozen=True, eq=False)
class SparseRows(Rows):
    """Values ``[N, D]`` in a sparse matrix. Indexing makes a dense tensor of some rows.

    Args:
        matrix: a sparse matrix of SciPy in CSR format.
        rows: the numbers of these rows in the matrix, ``[N]``, or ``None`` for all rows.
        known: see :class:`~lowerbound.data.rows.Rows`.
    """

    matrix: Any
    rows: NDArray[np.int64] | None = None
    known: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, matrix: Any, *, name: str, kind: Kind | None = None) -> SparseRows:
        """Copy a sparse matrix or sparse array of SciPy, in any format.

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

    def joined(self, other: SparseRows) -> SparseRows:
        """Concatenate the rows of both. If they are in two matrices, both are copied into one."""
        from scipy.sparse import vstack

        known = self.known & other.known
        ours, theirs = (part._find_in_matrix(torch.arange(len(part))) for part in (self, other))
        if self.matrix is other.matrix:
            return replace(self, rows=np.concatenate([ours, theirs]), known=known)
        both = vstack([self.matrix[ours], other.matrix[theirs]], format="csr")
        return SparseRows(both, known=known)

    def _find_in_matrix(self, index: Tensor) -> NDArray[np.int64]:
        return find_in_source(index, self.rows, self.matrix.shape[0])
