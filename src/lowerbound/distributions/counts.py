"""Counts: Poisson and negative binomial entries, by formulas that suit large counts.

The textbook formulas subtract logarithms of gamma functions. At a count of a million these are
about 10^7, so in float32 their difference has an error of a nat. Here each log probability is a sum
of terms that are small near the mean (Loader 2000, "Fast and accurate computation of binomial
probabilities"). They are written with

.. math::

    h(d) = e^d - 1 - d, \\qquad
    s(y) = \\log \\Gamma(y + 1) - (y + \\tfrac12) \\log y + y - \\tfrac12 \\log 2\\pi

where h is 0 at a count that equals the mean, and s is the remainder of Stirling's formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Gamma, constraints
from torch.nn.functional import logsigmoid

from lowerbound.distributions.cells import Cells
from lowerbound.distributions.factorial import Factorial
from lowerbound.distributions.stirling import compute_stirling_remainder, exceed_tangent

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

# Cells: the number of counts from 0 on that have a cell of their own, and of those above.
_SINGLE_COUNTS, _CELLS_ABOVE = 24, 40
_NODES, _WEIGHTS = (each.tolist() for each in np.polynomial.legendre.leggauss(_CELLS_ABOVE))

# The cells end where less than about e^-20 of the probability is left.
_LEAST = 20.0


class FactorialPoisson(Factorial):
    r"""Independent Poisson counts, given by the logarithms of their means.

    .. math::

        \log p(x) = x \log\mu - \mu - \log x!
            = -x \, h(\log\mu - \log x) - \tfrac12 \log(2\pi x) - s(x) \quad (x > 0)

    In float32 this has an error of a thousandth of a nat at a count of a million, where
    ``torch.distributions.Poisson`` has one of a nat.

    Args:
        log_mean: :math:`\log\mu`, ``[*batch, *event]``.
        event_dims: the number of trailing dimensions that make one event.

    Source: Loader 2000, "Fast and accurate computation of binomial probabilities".

    Example:
        >>> p = FactorialPoisson(torch.zeros(3, 2))
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.tensor([0.0, 1.0]))
        (torch.Size([3]), torch.Size([2]), tensor([-2., -2., -2.]))
    """

    def __init__(self, log_mean: Tensor, event_dims: int = 1) -> None:
        self.log_mean = log_mean
        super().__init__(log_mean, event_dims=event_dims)

    @property
    def support(self) -> Any:
        """Whole numbers from 0 on."""
        return constraints.independent(constraints.nonnegative_integer, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """``mu``, ``[*batch, *event]``."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """``mu``, ``[*batch, *event]``."""
        return self.mean

    def change_parameters(self, change: Callable[[Tensor], Tensor]) -> FactorialPoisson:
        """Poisson counts after a change of the log means."""
        return FactorialPoisson(change(self.log_mean), self.event_dims)

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log probability of each entry of ``value``, in nats, ``[*batch, *event]``."""
        x = value.clamp(min=1)
        log_x = x.log()
        constant = 0.5 * log_x + _HALF_LOG_2PI + compute_stirling_remainder(x)
        positive = -x * exceed_tangent(self.log_mean - log_x) - constant
        return torch.where(value < 1, -self.mean, positive)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, *event]``."""
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(torch.Size(sample_shape))))

    def sample_positive(self, sample_shape: Any = ()) -> Tensor:
        """Draws given that they are not 0, ``[*sample_shape, *batch, *event]``.

        A count is the number of arrivals within a time ``mu``. The first one has a truncated
        exponential distribution, and the others follow it as in any Poisson process.
        """
        with torch.no_grad():
            u = self._draw_uniform(torch.Size(sample_shape), self.log_mean)
            first = -torch.log1p(u * torch.expm1(-self.mean))
            return 1 + torch.poisson((self.mean - first).clamp(min=0))


class FactorialNegativeBinomial(Factorial):
    r"""Independent counts with a negative binomial distribution: Poisson with a gamma rate.

    .. math::

        \log p(x) = \log \frac{\Gamma(x + \theta)}{\Gamma(\theta) \, x!}
            + \theta \log \frac{\theta}{\theta + \mu} + x \log \frac{\mu}{\theta + \mu}

    Its mean is :math:`\mu` and its variance :math:`\mu + \mu^2 / \theta`. The inverse dispersion
    :math:`\theta` is the shape of the gamma distribution; for large values the counts are Poisson.
    With :math:`n = x + \theta` and :math:`d_\theta = \log n - \log(\theta + \mu)` it is computed by

    .. math::

        \log p(x) = \tfrac12 \log \frac{\theta}{2\pi x n} + s(n) - s(x) - s(\theta)
            - x \, h(\log\mu - \log x + d_\theta) - \theta \, h(d_\theta) \quad (x > 0)

    Args:
        log_mean: :math:`\log\mu`, ``[*batch, *event]``.
        log_inverse_dispersion: :math:`\log\theta`, in a shape that broadcasts with it.
        event_dims: the number of trailing dimensions that make one event.

    Source: Loader 2000, "Fast and accurate computation of binomial probabilities".

    Example:
        >>> p = FactorialNegativeBinomial(torch.zeros(3, 2), torch.zeros(()))
        >>> p.batch_shape, p.variance[0], p.log_prob(torch.tensor([0.0, 1.0])).exp()
        (torch.Size([3]), tensor([2., 2.]), tensor([0.1250, 0.1250, 0.1250]))
    """

    def __init__(
        self, log_mean: Tensor, log_inverse_dispersion: Tensor, event_dims: int = 1
    ) -> None:
        self.log_mean = log_mean
        self.log_inverse_dispersion = log_inverse_dispersion
        super().__init__(log_mean, log_inverse_dispersion, event_dims=event_dims)

    @property
    def support(self) -> Any:
        """Whole numbers from 0 on."""
        return constraints.independent(constraints.nonnegative_integer, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """``mu``, ``[*batch, *event]``."""
        return self.log_mean.exp().expand(self._extended_shape())

    @property
    def inverse_dispersion(self) -> Tensor:
        """``theta``, in the shape in which it was given."""
        return self.log_inverse_dispersion.exp()

    @property
    def variance(self) -> Tensor:
        """``mu + mu^2 / theta``, ``[*batch, *event]``."""
        return self.mean + (2 * self.log_mean - self.log_inverse_dispersion).exp()

    def change_parameters(self, change: Callable[[Tensor], Tensor]) -> FactorialNegativeBinomial:
        """Negative binomial counts after a change of their parameters."""
        return FactorialNegativeBinomial(
            change(self.log_mean), change(self.log_inverse_dispersion), self.event_dims
        )

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log probability of each entry of ``value``, in nats, ``[*batch, *event]``."""
        log_theta, theta, mu = (
            self.log_inverse_dispersion,
            self.inverse_dispersion,
            self.log_mean.exp(),
        )
        x = value.clamp(min=1)
        log_x, n = x.log(), x + theta
        log_n = n.log()
        shift = _compare_logarithms(x - mu, theta + mu, log_n)
        of_parameters = 0.5 * log_theta - compute_stirling_remainder(theta) - _HALF_LOG_2PI
        of_value = -0.5 * log_x - compute_stirling_remainder(x)
        positive = (
            of_value
            + of_parameters
            + (compute_stirling_remainder(n) - 0.5 * log_n)
            - x * exceed_tangent(self.log_mean - log_x + shift)
            - theta * exceed_tangent(shift)
        )
        zero = theta * logsigmoid(log_theta - self.log_mean)
        return torch.where(value < 1, zero, positive)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, *event]``."""
        theta = self.inverse_dispersion.expand(self._extended_shape())
        with torch.no_grad():
            return self._draw_with_shape(theta, torch.Size(sample_shape))

    def sample_positive(self, sample_shape: Any = ()) -> Tensor:
        r"""Draws given that they are not 0, ``[*sample_shape, *batch, *event]``.

        A count is the sum of a Poisson number of variables with a logarithmic distribution, whose
        arrivals form a Poisson process of length :math:`\theta \log(1 + \mu / \theta)`. One of them
        is drawn by Kemp's (1981) formula; what arrives after it is negative binomial again.
        """
        size = torch.Size(sample_shape)
        with torch.no_grad():
            log_odds = self.log_mean - self.log_inverse_dispersion
            log_p = logsigmoid(-log_odds)  # log of theta / (theta + mu), below 0
            theta = self.inverse_dispersion
            u, v, w = (self._draw_uniform(size, self.log_mean) for _ in range(3))
            first = -torch.log1p(u * torch.expm1(theta * log_p))
            draw = (1 + v.log() / _log_of_one_minus_exp(log_p * w)).floor()
            left = (theta + first / log_p).clamp(min=torch.finfo(theta.dtype).tiny)
            return draw + self._draw_with_shape(left, torch.Size())

    def cells(self) -> Cells:
        r"""The values of vectors of entries in 64 cells: single counts up to 23, and others above.

        .. math:: x(c) = \theta \sinh^2 \frac{c}{2 \sqrt\theta} \quad (x > 23.5)

        With the coordinate c, large counts have about the variance 1, whatever their mean is
        (Anscombe 1948). There the values are real numbers, and the nodes are those of the rule by
        Gauss and Legendre between two coordinates beyond which hardly any probability is left.
        """
        # Gradients flow through the masses only: the places of the cells count as constants.
        mu = self.log_mean.detach().exp()
        theta = self.inverse_dispersion.detach()
        root, above_singles = theta.sqrt(), _SINGLE_COUNTS + 0.5

        def transform(value: Tensor) -> Tensor:
            return 2 * root * torch.asinh((value / theta).sqrt())

        spread = (2 * _LEAST / theta).sqrt() + _LEAST / theta
        largest = mu * (1 + spread)
        largest = largest + (2 * _LEAST * largest).sqrt() + _LEAST + _SINGLE_COUNTS
        start = transform(torch.full_like(mu, _SINGLE_COUNTS - 0.5))
        lowest = (transform(mu) - 8 - 16 / root).maximum(start)
        reach = transform(largest) - lowest
        singles, steps, sizes = (
            each.reshape(-1, *(1,) * mu.dim()).expand(-1, *mu.shape) for each in _list_singles(mu)
        )
        nodes, widths = (
            reach * each.reshape(-1, *(1,) * mu.dim()) for each in _find_unit_cells(mu)
        )
        node = torch.cat([singles, above_singles + nodes])
        left = torch.cat([singles - 0.5, above_singles + widths.cumsum(0) - widths])
        step, width = torch.cat([steps, widths]), torch.cat([sizes, widths])

        def find_root(coordinate: Tensor) -> Tensor:
            """The root of a count above the single ones."""
            return root * torch.sinh((coordinate - above_singles + lowest) / (2 * root))

        def locate(coordinate: Tensor) -> Tensor:
            above = find_root(coordinate).square()
            return torch.where(coordinate < above_singles, coordinate.round(), above)

        def log_density(coordinate: Tensor) -> Tensor:
            above = find_root(coordinate).square()
            log_slope = 0.5 * (above + above.square() / theta).log()
            is_single = coordinate < above_singles
            value = torch.where(is_single, coordinate.round(), above)
            return self.entrywise_log_prob(value) + torch.where(is_single, 0.0, log_slope)

        return Cells(left, width, node, locate, log_density, step, is_discrete=True)

    def _draw_with_shape(self, theta: Tensor, size: torch.Size) -> Tensor:
        """Draw with another ``theta`` but the same ``mu / theta``."""
        scale = (self.log_mean - self.log_inverse_dispersion).exp()
        rate = Gamma(theta, torch.ones_like(theta), validate_args=False).sample(size)
        return torch.poisson(rate * scale)


def _list_singles(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Counts that are nodes of their own, with their steps and widths.

    The sum of a smooth function f at the counts from N on differs from its integral above N - 1/2
    by f'(N - 1/2) / 24, as the formula of Euler and Maclaurin says. It is added as a difference of
    the two counts there.
    """
    counts = torch.arange(_SINGLE_COUNTS + 1, dtype=like.dtype, device=like.device)
    edge = counts - _SINGLE_COUNTS
    steps = torch.where(edge == -1, 1 - 1 / 24, torch.where(edge == 0, 1 / 24, 1.0))
    return counts, steps, (edge < 0).to(like.dtype)


def _find_unit_cells(like: Tensor) -> tuple[Tensor, Tensor]:
    """The nodes and the weights of the rule by Gauss and Legendre on [0, 1]."""
    nodes = torch.tensor(_NODES, dtype=like.dtype, device=like.device)
    weights = torch.tensor(_WEIGHTS, dtype=like.dtype, device=like.device)
    return 0.5 * (nodes + 1), 0.5 * weights


def _compare_logarithms(change: Tensor, total: Tensor, log_changed: Tensor) -> Tensor:
    """``log(total + change) - log(total)``, accurate both where it is small and where it is not."""
    ratio = change / total
    near = torch.log1p(ratio.clamp(-0.5, 0.5))
    return torch.where(ratio.abs() < 0.5, near, log_changed - total.log())


def _log_of_one_minus_exp(y: Tensor) -> Tensor:
    """``log(1 - e^y)`` for ``y <= 0``."""
    return torch.where(y < -1, torch.log1p(-y.exp()), (-torch.expm1(y)).log())
