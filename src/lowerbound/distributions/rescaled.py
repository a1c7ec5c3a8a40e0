"""A distribution in other units: shifted and scaled entry by entry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.distributions.entries import WrappedDistribution, entrywise_log_prob
from lowerbound.distributions.points import natural_point


class Rescaled(WrappedDistribution):
    r"""The distribution of ``centre + spread * y`` for y from another distribution.

    .. math:: \log p(x) = \log p_y\left(\frac{x - c}{s}\right) - \sum_d \log s_d

    Args:
        base: the distribution of y, over all real values.
        centre: c, ``[*event]`` or a shape that broadcasts to it.
        spread: s, positive, likewise.

    Example:
        >>> from lowerbound.distributions import DiagonalNormal
        >>> p = Rescaled(DiagonalNormal(torch.zeros(2), torch.zeros(2)), torch.tensor(5.0),
        ...              torch.tensor([1.0, 100.0]))
        >>> p.mean, p.log_prob(torch.full((2,), 5.0))
        (tensor([5., 5.]), tensor(-6.4430))
    """

    def __init__(self, base: Distribution, centre: Tensor, spread: Tensor) -> None:
        self.centre, self.spread = centre, spread
        super().__init__(base)

    @property
    def mean(self) -> Tensor:
        """The mean in the units of the data, ``[*batch, *event]``."""
        return self.undo(self.base.mean)

    @property
    def mode(self) -> Tensor:
        """The mode in the units of the data, ``[*batch, *event]``."""
        return self.undo(self.base.mode)

    @property
    def variance(self) -> Tensor:
        """The variance in the squared units of the data, ``[*batch, *event]``."""
        return self.spread.square() * self.base.variance

    def undo(self, y: Tensor) -> Tensor:
        """Undo the standardisation of values: ``centre + spread * y``, in the units of the data."""
        return self.centre + self.spread * y

    def with_base(self, base: Distribution) -> Rescaled:
        """Another distribution in the same units."""
        return Rescaled(base, self.centre, self.spread)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, *event]``."""
        return self.undo(self.base.sample(torch.Size(sample_shape)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, ``[*sample_shape, *batch, *event]``."""
        return self.undo(self.base.rsample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, in nats."""
        logs = self.spread.log().expand(self.event_shape)
        return self.base.log_prob((value - self.centre) / self.spread) - logs.sum()

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log density of each entry, in nats."""
        terms = entrywise_log_prob(self.base, (value - self.centre) / self.spread)
        return terms - self.spread.log()


@natural_point.register(Rescaled)
def _choose_point_in_units(distribution: Any) -> Tensor:
    point: Tensor = distribution.undo(natural_point(distribution.base))
    return point
