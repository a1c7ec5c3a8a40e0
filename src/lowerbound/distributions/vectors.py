"""Distributions over vectors of real numbers: Lebesgue's measure, and independent parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


class Lebesgue(Distribution):
    """The density 1 over all real vectors, in place of a prior: KL(q || 1) is minus q's entropy.

    Args:
        size: the number of dimensions.
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, size: int) -> None:
        super().__init__(torch.Size(), torch.Size((size,)), validate_args=False)

    @property
    def support(self) -> Any:
        """All real vectors."""
        return constraints.real_vector

    def log_prob(self, value: Tensor) -> Tensor:
        """0, for every vector."""
        return value.new_zeros(value.shape[:-1])


class SideBySide(Distribution):
    """Independent distributions over the parts of a vector.

    Args:
        parts: distributions over vectors, all of the same batch shape.
        order: the position of each entry of the vector in the concatenated parts, ``[D]``.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, parts: Sequence[Distribution], order: Tensor) -> None:
        self.parts = tuple(parts)
        self.order = order
        self.sizes = [part.event_shape.numel() for part in self.parts]
        super().__init__(
            self.parts[0].batch_shape, torch.Size((sum(self.sizes),)), validate_args=False
        )
        self.inverse_order = torch.argsort(order)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether all parts can be reparameterised."""
        return all(part.has_rsample for part in self.parts)

    @property
    def support(self) -> Any:
        """All real vectors."""
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        """``[*batch, D]``."""
        return self._concatenate([part.mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        """``[*batch, D]``."""
        return self._concatenate([part.variance for part in self.parts])

    def expand(self, batch_shape: Any, _instance: Any = None) -> SideBySide:
        """The same distribution, repeated over ``batch_shape``."""
        return SideBySide([part.expand(torch.Size(batch_shape)) for part in self.parts], self.order)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, D]``."""
        return self._concatenate([part.sample(torch.Size(sample_shape)) for part in self.parts])

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, ``[*sample_shape, *batch, D]``."""
        return self._concatenate([part.rsample(torch.Size(sample_shape)) for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum of the parts' log densities, in nats."""
        pieces = value[..., self.inverse_order].split(self.sizes, -1)
        return torch.stack(
            [part.log_prob(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        ).sum(0)

    def entropy(self) -> Tensor:
        """The sum of the parts' entropies, in nats."""
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def _concatenate(self, pieces: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(pieces), -1)[..., self.order]
