"""A point as a distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from lowerbound.distributions.entries import iterate_inside


class PointMass(Distribution):
    """All probability at one point: its log probability is 0 there, and -inf elsewhere.

    It has no density, so a bound with it as q is a score: log p(x|z) + log p(z) at the point.

    Args:
        loc: the point, ``[*batch, *event]``.
        event_dims: the number of trailing dimensions that make one event.

    Example:
        >>> q = PointMass(torch.tensor([[1.0, 2.0]]))
        >>> q.rsample((2,)), q.log_prob(torch.tensor([1.0, 2.0])), q.log_prob(torch.zeros(2))
        (tensor([[[1., 2.]],
                [[1., 2.]]]), tensor([0.]), tensor([-inf]))
    """

    has_rsample = True
    normalized = False  # it has no density
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, loc: Tensor, event_dims: int = 1) -> None:
        self.loc = loc
        self.event_dims = event_dims
        batch_dims = loc.dim() - event_dims
        super().__init__(loc.shape[:batch_dims], loc.shape[batch_dims:], validate_args=False)

    @property
    def support(self) -> Any:
        """All real vectors, because the point may be any of them."""
        return constraints.independent(constraints.real, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """The point, ``[*batch, *event]``."""
        return self.loc

    mode = mean

    @property
    def variance(self) -> Tensor:
        """0, ``[*batch, *event]``."""
        return torch.zeros_like(self.loc)

    @property
    def covariance_matrix(self) -> Tensor:
        """0, ``[*batch, D, D]`` for D entries."""
        return torch.diag_embed(self.variance.flatten(-self.event_dims))

    def expand(self, batch_shape: Any, _instance: Any = None) -> PointMass:
        """The same point, repeated over ``batch_shape``."""
        shape = torch.Size(batch_shape) + self.event_shape
        return PointMass(self.loc.expand(shape), self.event_dims)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The point itself, ``[*sample_shape, *batch, *event]``."""
        return self.loc.expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """0 where ``value`` is the point, and -inf elsewhere."""
        there = (value == self.loc).flatten(-self.event_dims).all(-1)
        return torch.where(there, 0.0, -torch.inf).to(self.loc.dtype)

    def stop_gradient(self) -> PointMass:
        """The same point with a stop-gradient."""
        return PointMass(self.loc.detach(), self.event_dims)


def is_point(distribution: Distribution) -> bool:
    """Whether a distribution is a point, or a mixture of points.

    Example:
        >>> is_point(PointMass(torch.zeros(2)))
        True
    """
    chain = iterate_inside(distribution, "components", "base")
    return any(isinstance(each, PointMass) for each in chain)
