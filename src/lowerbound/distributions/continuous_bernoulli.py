"""The continuous Bernoulli distribution of entries in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints, register_kl

from lowerbound.distributions.factorial import Factorial
from lowerbound.runtime import noise

# log(sinh(h) / h) = sum over n of coefficient * h^(2 n), for n from 1 to 6. The closed forms of it
# and of its derivatives cancel near 0.
_SERIES = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250)
_FIRST_DERIVATIVE = tuple(2 * n * c for n, c in enumerate(_SERIES, 1))
_SECOND_DERIVATIVE = tuple((2 * n - 1) * c for n, c in enumerate(_FIRST_DERIVATIVE, 1))
_SERIES_BELOW = 0.25

# The same for the inverse of the distribution function, whose gradient cancels.
_QUANTILE_SERIES_BELOW = 0.03


class FactorialContinuousBernoulli(Factorial):
    r"""Independent entries in [0, 1], given by their logits.

    .. math::

        \log p(x) = \sum_d \left( x_d \eta_d - \log \frac{e^{\eta_d} - 1}{\eta_d} \right)

    With :math:`\lambda = \sigma(\eta)` this is :math:`C(\lambda)\, \lambda^x (1 - \lambda)^{1-x}`
    (Loaiza-Ganem & Cunningham 2019). The uniform distribution has the logit 0, where the closed
    form is 0 / 0. ``torch.distributions.ContinuousBernoulli`` computes it from the probability,
    which loses digits if the logit is small. Here it is computed from the logit, and near 0 by a
    series. Draws come from :mod:`lowerbound.runtime.noise`, so an evaluation does not depend on its
    batches.

    Args:
        logits: ``eta``, ``[*batch, *event]``.
        event_dims: the number of trailing dimensions that make one event.

    Example:
        >>> q = FactorialContinuousBernoulli(torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
        >>> q.log_prob(torch.tensor([1.0, 0.0])), q.mean
        (tensor([0.0000, 0.9174]), tensor([[0.5000, 0.5000],
                [0.5820, 0.4180]]))
    """

    has_rsample = True

    def __init__(self, logits: Tensor, event_dims: int = 1) -> None:
        self.logits = logits
        super().__init__(logits, event_dims=event_dims)

    @property
    def support(self) -> Any:
        """All vectors of entries in [0, 1]."""
        return constraints.independent(constraints.unit_interval, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """``1 / (1 - e^-eta) - 1 / eta``, ``[*batch, *event]``."""
        return 0.5 + 0.5 * _find_first_derivative(0.5 * self.logits)

    @property
    def variance(self) -> Tensor:
        """``1 / eta^2 - 1 / (2 sinh(eta / 2))^2``, ``[*batch, *event]``."""
        return 0.25 * _find_second_derivative(0.5 * self.logits)

    def change_parameters(self, change: Callable[[Tensor], Tensor]) -> FactorialContinuousBernoulli:
        """The continuous Bernoulli distribution after a change of the logits."""
        return FactorialContinuousBernoulli(change(self.logits), self.event_dims)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws by inversion, ``[*sample_shape, *batch, *event]``."""
        size, logits = torch.Size(sample_shape), self.logits
        axis = noise.examples_axis(self.batch_shape, size)
        shape = tuple(self._extended_shape(size))
        u = noise.uniform(shape, axis, dtype=logits.dtype, device=logits.device)
        return _find_quantile(u, logits)

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log density of each entry of ``value``, in nats, ``[*batch, *event]``."""
        # log((e^eta - 1) / eta) = eta / 2 + log(sinh(eta / 2) / (eta / 2))
        return (value - 0.5) * self.logits - _find_log_sinhc(0.5 * self.logits)

    def entropy(self) -> Tensor:
        """In nats, ``[*batch]``."""
        return -self.log_prob(self.mean)  # the log density is linear in x


@register_kl(FactorialContinuousBernoulli, FactorialContinuousBernoulli)  # type: ignore[untyped-decorator]
def _kl_between(q: FactorialContinuousBernoulli, p: FactorialContinuousBernoulli) -> Tensor:
    return q.log_prob(q.mean) - p.log_prob(q.mean)


def find_logit_of_mean(mean: Tensor) -> Tensor:
    """The logit at which a continuous Bernoulli variable has this mean, by bisection.

    Args:
        mean: between 0 and 1; a mean outside of [0.01, 0.99] counts as the nearest of these.

    Example:
        >>> find_logit_of_mean(torch.tensor([0.418, 0.582])).round(decimals=2)
        tensor([-1.,  1.])
    """
    mean = mean.clamp(0.01, 0.99)
    low, high = torch.full_like(mean, -128.0), torch.full_like(mean, 128.0)
    for _ in range(64):
        middle = 0.5 * (low + high)
        is_low = 0.5 + 0.5 * _find_first_derivative(0.5 * middle) < mean
        low, high = torch.where(is_low, middle, low), torch.where(is_low, high, middle)
    return 0.5 * (low + high)


def _sum_series(coefficients: Sequence[float], square: Tensor) -> Tensor:
    """The sum over n from 0 of coefficient * square^n."""
    total = torch.zeros_like(square)
    for coefficient in reversed(coefficients):
        total = total * square + coefficient
    return total


def _split_at(h: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """Split values at a bound on their size: the small ones for a series, and the others.

    Returns:
        Whether each value is small; the small values, or 0; the sizes of the other values, or 1. So
        the series and the closed form both get arguments at which their gradients are finite.
    """
    size = h.abs()
    is_small = size < bound
    return is_small, torch.where(is_small, h, 0.0), torch.where(is_small, 1.0, size)


def _find_log_sinhc(h: Tensor) -> Tensor:
    """log(sinh(h) / h)."""
    is_small, small, size = _split_at(h, _SERIES_BELOW)
    square = small.square()
    series = square * _sum_series(_SERIES, square)
    closed = size + torch.log(-torch.expm1(-2 * size) / (2 * size))
    return torch.where(is_small, series, closed)


def _find_first_derivative(h: Tensor) -> Tensor:
    """The first derivative of log(sinh(h) / h): coth(h) - 1 / h."""
    is_small, small, size = _split_at(h, _SERIES_BELOW)
    series = small * _sum_series(_FIRST_DERIVATIVE, small.square())
    closed = h.sign() * (size.tanh().reciprocal() - size.reciprocal())
    return torch.where(is_small, series, closed)


def _find_second_derivative(h: Tensor) -> Tensor:
    """The second derivative of log(sinh(h) / h): 1 / h^2 - 1 / sinh(h)^2."""
    is_small, small, size = _split_at(h, _SERIES_BELOW)
    series = _sum_series(_SECOND_DERIVATIVE, small.square())
    inverse_sinh = 2 * (-size).exp() / -torch.expm1(-2 * size)
    return torch.where(is_small, series, size.reciprocal().square() - inverse_sinh.square())


def _find_quantile(u: Tensor, logits: Tensor) -> Tensor:
    """Solve F(x) = u: x = log(1 + u (e^eta - 1)) / eta, for u in [0, 1)."""
    is_small, small, size = _split_at(logits, _QUANTILE_SERIES_BELOW)
    # log(1 + u (e^eta - 1)) generates the cumulants of a Bernoulli variable of probability u.
    variance, skew = u * (1 - u), 1 - 2 * u
    cumulants = (
        u,
        variance,
        variance * skew,
        variance * (1 - 6 * variance),
        variance * skew * (1 - 12 * variance),
        variance * (1 - 30 * variance + 120 * variance.square()),
    )
    series = torch.zeros_like(u)
    for order, cumulant in reversed(list(enumerate(cumulants, 1))):
        series = series * small + cumulant / math.factorial(order)
    # For a positive logit, x is 1 minus the solution for 1 - u and the opposite logit.
    is_positive = logits > 0
    share = torch.where(is_positive, 1 - u, u)
    excess = (share * torch.expm1(-size)).clamp(min=torch.finfo(u.dtype).eps - 1)
    distance = torch.log1p(excess) / -size
    closed = torch.where(is_positive, 1 - distance, distance)
    return torch.where(is_small, series, closed).clamp(0, 1)
