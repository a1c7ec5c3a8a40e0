"""Student's t for independent entries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from lowerbound.distributions.cells import Cells
from lowerbound.distributions.factorial import Factorial
from lowerbound.runtime import noise

# The smallest exponential draw: at 0 the square root below has no finite derivative.
_SMALLEST = 1e-12

# Cells: their number, and the largest coordinate.
_CELLS = 64
_REACH = 9.0


class FactorialStudentT(Factorial):
    r"""Independent entries with heavy tails, given by location, log scale and degrees of freedom.

    .. math::

        \log p(x) = \sum_d \left( \log \frac{\Gamma(\frac{\nu + 1}{2})}{\Gamma(\frac{\nu}{2})}
            - \tfrac12 \log(\nu \pi) - \log \sigma_d
            - \tfrac{\nu + 1}{2} \log \Bigl( 1 + \frac{t_d^2}{\nu} \Bigr) \right),
        \qquad t_d = \frac{x_d - \mu_d}{\sigma_d}

    ``torch.distributions.StudentT`` computes the difference of two log gamma functions for every
    entry and in float32, where it cancels for many degrees of freedom, and draws by rejection. Here
    the difference is computed once and in float64, and a draw is a function of two uniform
    variables u and v (Bailey 1994, "Polar generation of random variates with the t-distribution"):

    .. math:: t = \sqrt{\nu \, (u^{-2 / \nu} - 1)} \, \cos(2 \pi v)

    Draws come from :mod:`lowerbound.runtime.noise`, so an evaluation does not depend on its
    batches.

    Args:
        loc: the location, ``[*batch, *event]``.
        log_scale: the logarithm of the scale, in a shape that broadcasts with ``loc``.
        degrees: the degrees of freedom, positive, in a shape that broadcasts with ``loc``.
        event_dims: the number of trailing dimensions that make one event.

    Example:
        >>> q = FactorialStudentT(torch.zeros(3, 2), torch.zeros(()), torch.tensor(1.0))
        >>> q.batch_shape, q.event_shape, q.log_prob(torch.zeros(2))
        (torch.Size([3]), torch.Size([2]), tensor([-2.2895, -2.2895, -2.2895]))
    """

    has_rsample = True

    def __init__(
        self, loc: Tensor, log_scale: Tensor, degrees: Tensor, event_dims: int = 1
    ) -> None:
        self.loc = loc
        self.log_scale = log_scale
        self.degrees = degrees
        super().__init__(loc, log_scale, degrees, event_dims=event_dims)

    @property
    def support(self) -> Any:
        """All real vectors."""
        return constraints.independent(constraints.real, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """The location, ``[*batch, *event]``.

        With one degree of freedom or less, the mean does not exist.
        """
        return self.loc.expand(self._extended_shape())

    mode = mean

    @property
    def variance(self) -> Tensor:
        """``sigma^2 nu / (nu - 2)``, ``[*batch, *event]``; infinite for nu of at most 2."""
        is_finite = self.degrees > 2
        ratio = self.degrees / torch.where(is_finite, self.degrees - 2, 1.0)
        variance = (2 * self.log_scale).exp() * torch.where(is_finite, ratio, math.inf)
        return variance.expand(self._extended_shape())

    def change_parameters(self, change: Callable[[Tensor], Tensor]) -> FactorialStudentT:
        """Student's t after a change of each parameter."""
        parameters = change(self.loc), change(self.log_scale), change(self.degrees)
        return FactorialStudentT(*parameters, self.event_dims)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws ``mu + sigma * t``, ``[*sample_shape, *batch, *event]``."""
        size = torch.Size(sample_shape)
        axis = noise.examples_axis(self.batch_shape, size)
        shape, dtype, device = tuple(self._extended_shape(size)), self.loc.dtype, self.loc.device
        u = noise.uniform(shape, axis, dtype=dtype, device=device)
        v = noise.uniform(shape, axis, dtype=dtype, device=device)
        exponential = (-torch.log1p(-u)).clamp(min=_SMALLEST)
        square = self.degrees * torch.expm1(2 * exponential / self.degrees)
        return self.loc + self.log_scale.exp() * square.sqrt() * torch.cos(2 * math.pi * v)

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log density of each entry of ``value``, in nats, ``[*batch, *event]``."""
        square = ((value - self.loc) * (-self.log_scale).exp()).square()
        tail = 0.5 * (self.degrees + 1) * torch.log1p(square / self.degrees)
        return self._log_constant() - self.log_scale - tail

    def cells(self) -> Cells:
        r"""The values of vectors of entries in 64 cells, for at least 3 degrees of freedom.

        .. math:: x(c) = \mu + \sigma \sqrt\nu \sinh \frac{c}{\sqrt\nu}, \qquad
            p(c) \propto \cosh^{-\nu} \frac{c}{\sqrt\nu}, \qquad |c| \leq 9

        For many degrees of freedom c is a standard normal variable, and for few the tails of its
        density fall exponentially. So the midpoint rule converges exponentially, too: for a
        logistic function whose slope is b, its error is about :math:`e^{-70 / (b \sigma)}`.
        """
        inner = (1,) * len(self._extended_shape())
        width = 2 * _REACH / _CELLS
        left = torch.arange(_CELLS, dtype=self.loc.dtype, device=self.loc.device) * width - _REACH
        left = left.reshape(-1, *inner)
        root = self.degrees.sqrt()

        def locate(coordinate: Tensor) -> Tensor:
            return self.loc + self.log_scale.exp() * root * torch.sinh(coordinate / root)

        def log_density(coordinate: Tensor) -> Tensor:
            size = coordinate.abs() / root
            return -self.degrees * (size + torch.log1p((-2 * size).exp()) - math.log(2))

        return Cells(left, torch.full_like(left, width), left + 0.5 * width, locate, log_density)

    def entropy(self) -> Tensor:
        """In nats, ``[*batch]``."""
        half = 0.5 * self.degrees.double()
        tail = (half + 0.5) * (torch.digamma(half + 0.5) - torch.digamma(half))
        entries = tail.to(self.loc.dtype) + self.log_scale - self._log_constant()
        return entries.expand(self._extended_shape()).flatten(-self.event_dims).sum(-1)

    def _log_constant(self) -> Tensor:
        """The log density at the location, for the scale 1."""
        half = 0.5 * self.degrees.double()
        constant = torch.lgamma(half + 0.5) - torch.lgamma(half) - 0.5 * (2 * math.pi * half).log()
        return constant.to(self.loc.dtype)
