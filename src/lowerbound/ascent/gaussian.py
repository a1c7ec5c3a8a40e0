"""Coordinate ascent for a known Gaussian, and for one with unknown mean and precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Gamma, Normal

from lowerbound.ascent.base import CoordinateAscent, Factor
from lowerbound.errors import SettingsError, ShapeError

_LOG_TWO_PI = math.log(2 * math.pi)


def expected_log(gamma: Gamma) -> Tensor:
    """``E log tau`` under a gamma distribution."""
    return torch.digamma(gamma.concentration) - gamma.rate.log()


def expected_gamma_log_prob(q: Gamma, concentration: float, rate: float) -> Tensor:
    """``E_q log Gamma(tau; concentration, rate)``."""
    constant = concentration * math.log(rate) - math.lgamma(concentration)
    return constant + (concentration - 1) * expected_log(q) - rate * q.mean


def check_positive(name: str, **values: float) -> None:
    """Check that settings are positive numbers.

    Raises:
        SettingsError: naming the first setting that is not.
    """
    for setting, value in values.items():
        if not 0 < value < math.inf:
            raise SettingsError(f"{name}: {setting}={value} must be a positive number")


class KnownGaussian(CoordinateAscent):
    r"""The mean-field approximation of a known Gaussian :math:`N(\mu, P^{-1})`.

    Its optimum is known. The means are correct. The variances are :math:`1 / P_{ii}`, those of each
    coordinate given all others, so they are too small if coordinates are correlated. The gap is
    :math:`\operatorname{KL}(q \,\|\, p) = \tfrac12 (\sum_i \log P_{ii} - \log\det P)` (Bishop
    2006, section 10.1.2).

    Args:
        mean: ``mu``, ``[D]``.
        precision: ``P``, symmetric and positive definite, ``[D, D]``.

    Raises:
        ShapeError: if the shapes are wrong.
        SettingsError: if the precision is not symmetric and positive definite.

    Example:
        >>> ascent = KnownGaussian([0.0, 0.0], [[2.0, 1.0], [1.0, 2.0]]).fit()
        >>> [round(float(factor.variance), 4) for factor in ascent.factors.values()]
        [0.5, 0.5]
        >>> round(ascent.bound, 4)
        -0.1438
    """

    def __init__(self, mean: Any, precision: Any) -> None:
        self.mean = torch.as_tensor(mean).double()
        self.precision = torch.as_tensor(precision).double()
        if self.mean.dim() != 1 or self.precision.shape != (len(self.mean),) * 2:
            raise ShapeError(
                f"KnownGaussian: a mean of shape {tuple(self.mean.shape)} does not fit a precision "
                f"of shape {tuple(self.precision.shape)}"
            )
        symmetric = torch.allclose(self.precision, self.precision.mT, rtol=1e-9)
        self.precision = 0.5 * (self.precision + self.precision.mT)
        if not symmetric or bool(torch.linalg.cholesky_ex(self.precision).info):
            raise SettingsError(
                "KnownGaussian: the precision must be symmetric and positive definite"
            )

    def fit(self, x: Any = (0.0,), **settings: Any) -> Any:
        """Fit without data; see :meth:`CoordinateAscent.fit`."""
        return super().fit(x, **settings)

    def start(self, x: Tensor, generator: torch.Generator) -> dict[str, Factor]:
        """Start with N(0, 1) for each coordinate."""
        one = torch.ones((), dtype=torch.float64)
        return {f"x{number}": Normal(0 * one, one) for number in range(len(self.mean))}

    def update(self, name: str, factors: Mapping[str, Any], x: Tensor) -> Factor:
        """Compute the Gaussian of one coordinate given the means of all others."""
        number = list(factors).index(name)
        shift = torch.stack([factor.mean for factor in factors.values()]) - self.mean
        shift[number] = 0.0
        own = self.precision[number, number]
        return Normal(self.mean[number] - self.precision[number] @ shift / own, own.rsqrt())

    def expected_log_joint(self, factors: Mapping[str, Any], x: Tensor) -> Tensor:
        """``E_q log N(x; mu, P^-1)``."""
        shift = torch.stack([factor.mean for factor in factors.values()]) - self.mean
        variances = torch.stack([factor.variance for factor in factors.values()])
        quadratic = shift @ self.precision @ shift + self.precision.diagonal() @ variances
        return 0.5 * (self.precision.logdet() - len(shift) * _LOG_TWO_PI - quadratic)


class MeanAndPrecision(CoordinateAscent):
    r"""A Gaussian with unknown mean and precision, and :math:`q(\mu, \tau) = q(\mu) q(\tau)`.

    .. math:: x_n \sim N(\mu, \tau^{-1}), \quad \mu \mid \tau \sim N(\mu_0, (\lambda_0 \tau)^{-1}),
              \quad \tau \sim \operatorname{Gamma}(a_0, b_0)

    The evidence has a closed form, :meth:`log_evidence`. The difference from the bound is the cost
    of the factorisation (Bishop 2006, section 10.1.3).

    Args:
        mean: ``mu_0``.
        strength: ``lambda_0``, the weight of the prior as a number of observations.
        concentration: ``a_0``.
        rate: ``b_0``.

    Raises:
        SettingsError: if one of the last three is not positive.

    Example:
        >>> model = MeanAndPrecision()
        >>> ascent = model.fit([1.0, 2.0, 4.0])
        >>> ascent.bound < float(model.log_evidence([1.0, 2.0, 4.0])) < ascent.bound + 0.1
        True
    """

    def __init__(
        self,
        mean: float = 0.0,
        strength: float = 1.0,
        concentration: float = 1.0,
        rate: float = 1.0,
    ) -> None:
        check_positive(
            "MeanAndPrecision", strength=strength, concentration=concentration, rate=rate
        )
        self.mean = mean
        self.strength = strength
        self.concentration = concentration
        self.rate = rate

    def prepare(self, x: Any) -> Tensor:
        """Convert the values to a tensor, ``[N]``."""
        return super().prepare(x).reshape(-1)

    def start(self, x: Tensor, generator: torch.Generator) -> dict[str, Factor]:
        """Start with the prior's precision, and the optimal mean for it."""
        precision = Gamma(x.new_tensor(self.concentration), x.new_tensor(self.rate))
        return {"mean": self._update_mean(x, precision), "precision": precision}

    def update(self, name: str, factors: Mapping[str, Any], x: Tensor) -> Factor:
        """Compute a Gaussian for the mean, or a gamma distribution for the precision."""
        if name == "mean":
            return self._update_mean(x, factors["precision"])
        return Gamma(
            x.new_tensor(self.concentration + 0.5 * (len(x) + 1)),
            self.rate + 0.5 * self._expected_squares(factors["mean"], x),
        )

    def expected_log_joint(self, factors: Mapping[str, Any], x: Tensor) -> Tensor:
        """Sum the terms of the likelihood, the mean and the precision."""
        tau, count = factors["precision"], len(x) + 1
        gaussians = 0.5 * (count * (expected_log(tau) - _LOG_TWO_PI) + math.log(self.strength))
        gaussians = gaussians - 0.5 * tau.mean * self._expected_squares(factors["mean"], x)
        found: Tensor = gaussians + expected_gamma_log_prob(tau, self.concentration, self.rate)
        return found

    def log_evidence(self, x: Any) -> Tensor:
        """``log p(x)`` in closed form, in nats: the density of a multivariate Student's t."""
        x = self.prepare(x)
        count, strength = len(x), self.strength + len(x)
        concentration = self.concentration + 0.5 * count
        spread = (x - x.mean()).square().sum() + self.strength * count / strength * (
            x.mean() - self.mean
        ) ** 2
        value = (
            math.lgamma(concentration)
            - math.lgamma(self.concentration)
            + self.concentration * math.log(self.rate)
        )
        value += 0.5 * (math.log(self.strength) - math.log(strength) - count * _LOG_TWO_PI)
        found: Tensor = value - concentration * (self.rate + 0.5 * spread).log()
        return found

    def _update_mean(self, x: Tensor, precision: Gamma) -> Normal:
        strength = self.strength + len(x)
        return Normal(
            (self.strength * self.mean + x.sum()) / strength, (strength * precision.mean).rsqrt()
        )

    def _expected_squares(self, mean: Normal, x: Tensor) -> Tensor:
        """``E [sum (x - mu)^2 + lambda_0 (mu - mu_0)^2]``."""
        shifts = (x - mean.mean).square().sum() + self.strength * (mean.mean - self.mean) ** 2
        return shifts + (len(x) + self.strength) * mean.variance
