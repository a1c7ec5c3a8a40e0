"""Values that are not in memory as one tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor


class Rows(ABC):
    """Values ``[N, *shape]``. Indexing makes a tensor of some rows, ``[B, *shape]``.

    To write your own: define :attr:`shape`, :attr:`dtype`, indexing by row numbers, :meth:`select`
    and :meth:`joined`, and keep a set :attr:`known`. Training reads batches of such values ahead of
    its steps, so indexing must be safe in several threads.
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


Values = Tensor | Rows
"""The values of examples: one tensor in memory, or rows that are read when needed."""


def select_rows(values: Values, index: Tensor) -> Values:
    """Select rows, which stay in their storage if the values are not in memory."""
    if isinstance(values, Rows):
        return values.select(index)
    return values[index]
