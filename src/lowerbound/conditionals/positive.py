"""Likelihoods of positive data: log-normal and gamma entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent
from torch.distributions import LogNormal as LogNormalDistribution

from lowerbound.conditionals.location_scale import LocationScale, Scale
from lowerbound.conditionals.moments import average_entries, estimate_variances
from lowerbound.conditionals.refusing import refuse_outside
from lowerbound.describe import describable
from lowerbound.distributions import Gamma as GammaDistribution
from lowerbound.distributions import soft_clamp

# The logarithm of a mean stays within these bounds, so that it and its square are finite numbers.
_LOG_MEAN_LIMIT = 40.0


class PositiveEntries(LocationScale):
    """A likelihood of independent positive entries."""

    def __init__(
        self,
        network: nn.Module,
        scale: Scale = "network",
        min_scale: float = 1e-2,
        max_scale: float = 10.0,
    ) -> None:
        super().__init__(network, scale, min_scale=min_scale, max_scale=max_scale)

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse values that are not positive.

        Raises:
            DataError: naming the first such row.
        """
        refuse_outside(
            x,
            x <= 0,
            rows,
            f"a {type(self).__name__} likelihood needs positive values. If zeros are values "
            "below a limit of detection, add half of the limit to all values; if they stand for "
            "missing values, replace them by NaN and use missing='nan' with lb.Masked. Data of "
            "both signs need another likelihood, such as lb.Gaussian",
            name,
        )


@describable
class LogNormal(PositiveEntries):
    r"""Positive entries whose logarithms are Gaussian, for data that vary by factors.

    .. math:: \log p(y) = \sum_d \left( \log N(\log y_d; \mu_d, \sigma_d^2) - \log y_d \right)

    The outputs of the network and the options of the scale are those of :class:`Gaussian`, for the
    logarithms of the data. So a small :math:`\sigma` is about the relative standard deviation. The
    median is :math:`e^\mu` and the mean :math:`e^{\mu + \sigma^2 / 2}`. With ``scale="optimal"``
    the scale is the root of the mean squared error of the logarithms.

    Args:
        network: from the input to the parameters.
        scale: ``"network"``, ``"shared"``, ``"elementwise"``, ``"optimal"`` or a positive number.
        min_scale: the smallest value of a scale that is not fixed; it has no unit.
        max_scale: the largest value of such a scale.

    Raises:
        SettingsError: for a scale that is none of these, or bounds too close to each other.
        ShapeError: if the output cannot be split in two, or an elementwise scale is requested and
            the network does not declare its ``output_shape``.
        DataError: before training or evaluation, for data that are not positive.

    Example:
        >>> from lowerbound.networks import mlp
        >>> p = LogNormal(mlp(2, 32, 6))(torch.zeros(7, 5, 2))
        >>> p.log_prob(torch.ones(5, 3)).shape, bool((p.mean > 0).all())
        (torch.Size([7, 5]), True)
    """

    optimal_power = 2

    def make_distribution(self, loc: Tensor, log_scale: Tensor) -> Independent[Any]:
        """The log-normal distribution of these means and log scales of the logarithm."""
        entries = LogNormalDistribution(loc, log_scale.exp(), validate_args=False)
        return Independent(entries, self.event_dims, validate_args=False)

    def find_deviations(self, value: Tensor, loc: Tensor) -> Tensor:
        """The distances between the logarithms of values and their means."""
        return (value.log() - loc).abs()

    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the variance of the logarithm of each entry."""
        logarithms = x.log()
        return average_entries(logarithms), estimate_variances(logarithms)


@describable
class Gamma(PositiveEntries):
    r"""Positive entries with a gamma distribution, given by its mean and coefficient of variation.

    .. math::

        p(y) = \prod_d \frac{b_d^{a_d}}{\Gamma(a_d)} y_d^{a_d - 1} e^{-b_d y_d}, \qquad
        a_d = \sigma_d^{-2}, \quad b_d = a_d / m_d

    The network gives the logarithm of the mean :math:`m`. The scale :math:`\sigma` is the standard
    deviation divided by the mean, the coefficient of variation; its options are those of
    :class:`Gaussian`, without ``"optimal"``. For :math:`\sigma = 1` it is an exponential
    distribution.

    Args:
        network: from the input to the parameters.
        scale: ``"network"``, ``"shared"``, ``"elementwise"`` or a positive number.
        min_scale: the smallest value of a scale that is not fixed; it has no unit.
        max_scale: the largest value of such a scale.

    Raises:
        SettingsError: for a scale that is none of these, or bounds too close to each other.
        ShapeError: if the output cannot be split in two, or an elementwise scale is requested and
            the network does not declare its ``output_shape``.
        DataError: before training or evaluation, for data that are not positive.

    Example:
        >>> from lowerbound.networks import mlp
        >>> p = Gamma(mlp(2, 32, 3), scale=0.5)(torch.zeros(7, 5, 2))
        >>> p.batch_shape, p.event_shape
        (torch.Size([7, 5]), torch.Size([3]))
        >>> torch.allclose(p.variance.sqrt(), 0.5 * p.mean)
        True
    """

    def make_distribution(self, loc: Tensor, log_scale: Tensor) -> Independent[Any]:
        """The gamma distribution of these log means and log coefficients of variation."""
        concentration = (-2 * log_scale).exp()
        log_mean = soft_clamp(loc, -_LOG_MEAN_LIMIT, _LOG_MEAN_LIMIT)
        entries = GammaDistribution(
            concentration, concentration * (-log_mean).exp(), validate_args=False
        )
        return Independent(entries, self.event_dims, validate_args=False)

    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of the mean, and the squared coefficient of variation, of each entry."""
        mean = average_entries(x).clamp(min=torch.finfo(x.dtype).tiny)
        return mean.log(), estimate_variances(x / mean)
