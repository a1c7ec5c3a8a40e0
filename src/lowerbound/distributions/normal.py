"""Gaussians with a diagonal covariance, and with any covariance."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from lowerbound.runtime import noise
from lowerbound.runtime.renaming import OldAttribute

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def soft_clamp(x: Tensor, low: float, high: float, knee: float = 1.0) -> Tensor:
    """A smooth bound: the identity on ``[low + knee, high - knee]``, and always in ``[low, high]``.

    Beyond the inner interval an excess ``e`` becomes ``e / (1 + |e| / knee)``. So the function is
    continuously differentiable, its derivative falls as ``1 / (1 + |e| / knee)^2`` and never
    vanishes, and the usual case costs no exponential.

    Example:
        >>> soft_clamp(torch.tensor([-1e9, 0.5, 1e9]), low=-10.0, high=10.0)
        tensor([-10.0000,   0.5000,  10.0000])
    """
    inner = x.clamp(low + knee, high - knee)
    excess = x - inner
    return inner + excess / (1 + excess.abs() / knee)


class DiagonalNormal(Distribution):
    r"""A Gaussian with independent dimensions, given by its mean and log standard deviation.

    .. math::

        \log N(x; \mu, \sigma^2) = -\sum_d \left(
            \tfrac12 ((x_d - \mu_d) / \sigma_d)^2 + \log \sigma_d + \tfrac12 \log 2\pi
        \right)

    ``torch.distributions.Normal`` stores the scale, computes its logarithm again for every density,
    and reads memory more often. Draws come from :mod:`lowerbound.runtime.noise`, so an evaluation
    does not depend on its batches.

    Args:
        loc: the mean, ``[*batch, *event]``.
        log_scale: the logarithm of the standard deviation, in a shape that broadcasts with ``loc``.
        event_dims: the number of trailing dimensions that make one event.

    Example:
        >>> q = DiagonalNormal(torch.zeros(3, 2), torch.zeros(()))
        >>> q.batch_shape, q.event_shape, q.log_prob(torch.zeros(2))
        (torch.Size([3]), torch.Size([2]), tensor([-1.8379, -1.8379, -1.8379]))
    """

    has_rsample = True
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, loc: Tensor, log_scale: Tensor, event_dims: int = 1) -> None:
        shape = _broadcast_shapes(loc.shape, log_scale.shape)
        batch_dims = len(shape) - event_dims
        self.loc = loc
        self.log_scale = log_scale
        self.event_dims = event_dims
        super().__init__(shape[:batch_dims], shape[batch_dims:], validate_args=False)

    @property
    def support(self) -> Any:
        """All real vectors."""
        return constraints.independent(constraints.real, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """``mu``, ``[*batch, *event]``."""
        return self.loc.expand(self._extended_shape())

    mode = mean

    @property
    def stddev(self) -> Tensor:
        """``sigma``, ``[*batch, *event]``."""
        return self.log_scale.exp().expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """``sigma^2``, ``[*batch, *event]``."""
        return (2 * self.log_scale).exp().expand(self._extended_shape())

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiagonalNormal:
        """The same distribution, repeated over ``batch_shape``."""
        shape = torch.Size(batch_shape) + self.event_shape
        return DiagonalNormal(self.loc.expand(shape), self.log_scale.expand(shape), self.event_dims)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws ``mu + sigma * eps``, ``[*sample_shape, *batch, *event]``."""
        size = torch.Size(sample_shape)
        axis = noise.examples_axis(self.batch_shape, size)
        shape = tuple(self._extended_shape(size))
        eps = noise.standard_normal(shape, axis, dtype=self.loc.dtype, device=self.loc.device)
        return torch.addcmul(self.loc, self.log_scale.exp(), eps)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value``, in nats, summed over the event's dimensions."""
        standardised = (value - self.loc) * (-self.log_scale).exp()
        quadratic = standardised.square().flatten(-self.event_dims).sum(-1)
        return (
            -0.5 * quadratic
            - self._sum_over_event(self.log_scale)
            - self.event_shape.numel() * _HALF_LOG_TWO_PI
        )

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log density of each entry of ``value``, in nats, ``[*batch, *event]``."""
        standardised = (value - self.loc) * (-self.log_scale).exp()
        return -0.5 * standardised.square() - self.log_scale - _HALF_LOG_TWO_PI

    def stop_gradient(self) -> DiagonalNormal:
        """The same distribution with a stop-gradient on its parameters."""
        return DiagonalNormal(self.loc.detach(), self.log_scale.detach(), self.event_dims)

    held = OldAttribute("stop_gradient")

    def entropy(self) -> Tensor:
        """``sum_d log sigma_d + D/2 (1 + log 2 pi)``, in nats, ``[*batch]``."""
        constant = self.event_shape.numel() * (0.5 + _HALF_LOG_TWO_PI)
        return (self._sum_over_event(self.log_scale) + constant).expand(self.batch_shape)

    def _sum_over_event(self, term: Tensor) -> Tensor:
        if term.dim() == 0:
            return term * self.event_shape.numel()
        return (
            term.expand(_broadcast_shapes(term.shape, self.event_shape))
            .flatten(-self.event_dims)
            .sum(-1)
        )


def multiply_normals(first: DiagonalNormal, second: DiagonalNormal) -> DiagonalNormal:
    r"""The normalised product of two diagonal Gaussians, which weights the means by precision.

    .. math:: N(\mu, \sigma^2) \propto N(\mu_1, \sigma_1^2) \, N(\mu_2, \sigma_2^2), \qquad
        \sigma^{-2} = \sigma_1^{-2} + \sigma_2^{-2}, \quad
        \mu = \sigma^2 (\mu_1 \sigma_1^{-2} + \mu_2 \sigma_2^{-2})

    Example:
        >>> wide = DiagonalNormal(torch.zeros(1), torch.tensor([2.0]).log())
        >>> narrow = DiagonalNormal(torch.ones(1), torch.zeros(1))
        >>> multiply_normals(wide, narrow).mean, multiply_normals(wide, narrow).variance
        (tensor([0.8000]), tensor([0.8000]))
    """
    # The share of the first precision in the sum of both, without dividing by a small number.
    share = torch.sigmoid(2 * (second.log_scale - first.log_scale))
    loc = second.loc + share * (first.loc - second.loc)
    log_scale = -0.5 * torch.logaddexp(-2 * first.log_scale, -2 * second.log_scale)
    return DiagonalNormal(loc, log_scale, first.event_dims)


def shift_normal(relative: DiagonalNormal, prior: DiagonalNormal) -> DiagonalNormal:
    r"""A diagonal Gaussian whose parameters are relative to those of a prior.

    .. math:: N(\mu_p + \Delta\mu, (\sigma_p \, \Delta\sigma)^2), \qquad
        \text{where `relative` is } N(\Delta\mu, \Delta\sigma^2)

    Source: Vahdat & Kautz 2020, "NVAE: a deep hierarchical variational autoencoder".

    Example:
        >>> prior = DiagonalNormal(torch.ones(1), torch.tensor([2.0]).log())
        >>> relative = DiagonalNormal(torch.tensor([0.5]), torch.tensor([3.0]).log())
        >>> shifted = shift_normal(relative, prior)
        >>> shifted.mean, shifted.stddev
        (tensor([1.5000]), tensor([6.]))
    """
    loc, log_scale = prior.loc + relative.loc, prior.log_scale + relative.log_scale
    return DiagonalNormal(loc, log_scale, relative.event_dims)


class TriangularNormal(Distribution):
    r"""A Gaussian with any covariance, given by its mean and the covariance's Cholesky factor.

    .. math::

        \log N(x; \mu, L L^\top) = -\tfrac12 \| L^{-1} (x - \mu) \|^2
            - \sum_d \log L_{dd} - \tfrac{D}{2} \log 2\pi

    Draws come from :mod:`lowerbound.runtime.noise`, so an evaluation does not depend on its
    batches.

    Args:
        loc: the mean, ``[*batch, D]``.
        factor: ``L``, lower triangular with a positive diagonal, ``[*batch, D, D]``.

    Example:
        >>> q = TriangularNormal(torch.zeros(2), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        >>> q.variance, q.log_prob(torch.zeros(2))
        (tensor([1., 2.]), tensor(-1.8379))
    """

    has_rsample = True
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, loc: Tensor, factor: Tensor) -> None:
        self.loc = loc
        self.factor = factor
        super().__init__(
            _broadcast_shapes(loc.shape[:-1], factor.shape[:-2]),
            loc.shape[-1:],
            validate_args=False,
        )

    @property
    def support(self) -> Any:
        """All real vectors."""
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        """``mu``, ``[*batch, D]``."""
        return self.loc.expand(self._extended_shape())

    mode = mean

    @property
    def covariance_matrix(self) -> Tensor:
        """``L L^T``, ``[*batch, D, D]``."""
        covariance: Tensor = self.factor @ self.factor.mT
        return covariance

    @property
    def variance(self) -> Tensor:
        """The diagonal of ``L L^T``, ``[*batch, D]``."""
        return self.factor.square().sum(-1).expand(self._extended_shape())

    def expand(self, batch_shape: Any, _instance: Any = None) -> TriangularNormal:
        """The same distribution, repeated over ``batch_shape``."""
        shape = torch.Size(batch_shape)
        event = self.event_shape
        return TriangularNormal(
            self.loc.expand(shape + event), self.factor.expand(shape + event + event)
        )

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws ``mu + L eps``, ``[*sample_shape, *batch, D]``."""
        size = torch.Size(sample_shape)
        axis = noise.examples_axis(self.batch_shape, size)
        shape = tuple(self._extended_shape(size))
        eps = noise.standard_normal(shape, axis, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self._apply_to_columns(torch.matmul, eps)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value``, in nats."""
        standardised = self._apply_to_columns(
            partial(torch.linalg.solve_triangular, upper=False), value - self.loc
        )
        quadratic = standardised.square().sum(-1)
        return -0.5 * quadratic - self._log_volume() - self.event_shape.numel() * _HALF_LOG_TWO_PI

    def stop_gradient(self) -> TriangularNormal:
        """The same distribution with a stop-gradient on its parameters."""
        return TriangularNormal(self.loc.detach(), self.factor.detach())

    held = OldAttribute("stop_gradient")

    def entropy(self) -> Tensor:
        """``sum_d log L_dd + D/2 (1 + log 2 pi)``, in nats, ``[*batch]``."""
        return (self._log_volume() + self.event_shape.numel() * (0.5 + _HALF_LOG_TWO_PI)).expand(
            self.batch_shape
        )

    def _apply_to_columns(
        self, function: Callable[[Tensor, Tensor], Tensor], value: Tensor
    ) -> Tensor:
        """Apply a function of the factor and columns ``[*batch, D, K]`` to rows of a value.

        The value is ``[*samples, *batch, D]``.

        All rows that share a factor become its columns, because broadcasting would copy the factor
        for each row.
        """
        value = value.expand(_broadcast_shapes(value.shape, self._extended_shape()))
        if not value.numel():
            return value
        factor = _drop_repetition(self.factor)
        if factor.dim() > 2:
            factor = factor.expand(self.batch_shape + factor.shape[-2:])
        columns = value.reshape(-1, *factor.shape[:-1]).movedim(0, -1)
        return function(factor, columns).movedim(-1, 0).reshape(value.shape)

    def _log_volume(self) -> Tensor:
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _drop_repetition(factor: Tensor) -> Tensor:
    """Return the matrix itself if a batch only repeats it."""
    if factor.dim() == 2 or any(factor.stride()[:-2]):
        return factor
    return factor[(0,) * (factor.dim() - 2)]


def _broadcast_shapes(a: torch.Size, b: torch.Size) -> torch.Size:
    """The common shape. torch's function for it takes as long as a small matrix product."""
    if a[len(a) - len(b) :] == b:
        return a
    return torch.Size(torch.broadcast_shapes(a, b))
