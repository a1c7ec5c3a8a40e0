"""How much memory a function takes, as far as its largest tensor tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """Within the block, ``numbers`` becomes how many the largest tensor has that an operation makes.

    Example:
        >>> import torch
        >>> with Largest() as largest:
        ...     _ = (torch.zeros(10, 1) + torch.zeros(20)).sum()
        >>> largest.numbers
        200
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Take the operation, and look at what it made."""
        made = func(*args, **(kwargs or {}))
        sizes = (leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor))
        self.numbers = max(self.numbers, *sizes, 0)
        return made
