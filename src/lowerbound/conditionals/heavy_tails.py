"""Independent entries with heavier tails than a Gaussian's: Laplace and Student's t."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Independent
from torch.distributions import Laplace as LaplaceDistribution

from lowerbound.conditionals.location_scale import LocationScale, Scale
from lowerbound.conditionals.moments import average_entries, estimate_variances
from lowerbound.describe import describable
from lowerbound.distributions import FactorialStudentT, soft_clamp
from lowerbound.errors import SettingsError
from lowerbound.settings import is_positive_number

_MOST_DEGREES = 1000.0
_FIRST_DEGREES = 10.0


@describable
class Laplace(LocationScale):
    r"""Independent Laplace entries whose location, and by default whose scale, a network gives.

    .. math:: \log p(y) = -\sum_d \left( \frac{|y_d - \mu_d|}{b_d} + \log 2 b_d \right)

    As a likelihood it scores the absolute error, so outliers matter less than under a
    :class:`Gaussian`. The outputs of the network, the options of the scale and its bounds are the
    same as there, with :math:`b` in place of :math:`\sigma`; the standard deviation is
    :math:`\sqrt2 b`. With ``scale="optimal"`` the scale is the mean absolute error.

    Args:
        network: from the input to the parameters.
        scale: ``"network"``, ``"shared"``, ``"elementwise"``, ``"optimal"`` or a positive number.
        mean: ``"identity"``, or ``"sigmoid"`` for data in [0, 1].
        min_scale: the smallest value of a scale that is not fixed, in the unit of the data.
        max_scale: the largest value of such a scale.

    Raises:
        SettingsError: for a scale that is none of these, or bounds too close to each other.
        ShapeError: if the output cannot be split in two, or an elementwise scale is requested and
            the network does not declare its ``output_shape``.

    Example:
        >>> from lowerbound.networks import mlp
        >>> p = Laplace(mlp(2, 32, (2, 8, 8)))(torch.zeros(7, 5, 2))
        >>> p.batch_shape, p.event_shape
        (torch.Size([7, 5]), torch.Size([1, 8, 8]))
    """

    optimal_power = 1

    def make_distribution(self, loc: Tensor, log_scale: Tensor) -> Independent[Any]:
        """The Laplace distribution of these locations and log scales."""
        entries = LaplaceDistribution(loc, log_scale.exp(), validate_args=False)
        return Independent(entries, self.event_dims, validate_args=False)

    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean, before a sigmoid if there is one, and half of the variance of each entry."""
        return self.invert_mean(average_entries(x)), 0.5 * estimate_variances(x)


@describable
class StudentT(LocationScale):
    r"""Independent entries with Student's t around locations that a network gives.

    .. math::

        p(y) \propto \prod_d \frac1{\sigma_d}
            \left( 1 + \frac{(y_d - \mu_d)^2}{\nu \sigma_d^2} \right)^{-(\nu + 1) / 2}

    The degrees of freedom :math:`\nu` say how heavy the tails are: 1 for a Cauchy distribution, and
    many for almost a Gaussian. As a likelihood it is robust to outliers. As a posterior it gives
    importance weights a finite variance if its tails cover those of p(z|x). The outputs of
    the network, the options of the scale and its bounds are those of :class:`Gaussian`, without
    ``"optimal"``. The standard deviation is :math:`\sigma \sqrt{\nu / (\nu - 2)}`.

    Args:
        network: from the input to the parameters.
        degrees: the degrees of freedom. ``"learned"``: one value from 1 to 1,000, which starts at
            10. A positive number: this value, fixed.
        scale: ``"network"``, ``"shared"``, ``"elementwise"`` or a positive number.
        mean: ``"identity"``, or ``"sigmoid"`` for data in [0, 1].
        min_scale: the smallest value of a scale that is not fixed, in the unit of the data.
        max_scale: the largest value of such a scale.

    Raises:
        SettingsError: for degrees or a scale that are none of these, or bounds too close to each
            other.
        ShapeError: if the output cannot be split in two, or an elementwise scale is requested and
            the network does not declare its ``output_shape``.

    Source: Takahashi et al. 2018, "Student-t variational autoencoder for robust density
    estimation".

    Example:
        >>> from lowerbound.networks import mlp
        >>> q = StudentT(mlp(4, 32, 6), degrees=5.0)(torch.zeros(7, 4))
        >>> q.batch_shape, q.event_shape, q.rsample((3,)).shape
        (torch.Size([7]), torch.Size([3]), torch.Size([3, 7, 3]))
    """

    def __init__(
        self,
        network: nn.Module,
        degrees: float | Literal["learned"] = "learned",
        *,
        scale: Scale = "network",
        mean: Literal["identity", "sigmoid"] = "identity",
        min_scale: float = 1e-3,
        max_scale: float = 1e3,
    ) -> None:
        super().__init__(network, scale, mean, min_scale, max_scale)
        self.degrees = degrees
        if degrees == "learned":
            self.log_degrees = nn.Parameter(torch.tensor(math.log(_FIRST_DEGREES)))
        elif not is_positive_number(degrees):
            raise SettingsError(
                f"StudentT: degrees={degrees!r} is unknown; choose 'learned' or a positive number"
            )

    def make_distribution(self, loc: Tensor, log_scale: Tensor) -> FactorialStudentT:
        """Student's t of these locations and log scales."""
        return FactorialStudentT(loc, log_scale, self._find_degrees(loc), self.event_dims)

    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean, before a sigmoid if there is one, and the squared scale of each entry.

        The variance has no finite value for few degrees of freedom, which here count as 3.
        """
        location = self.invert_mean(average_entries(x))
        degrees = self._find_degrees(x).detach().clamp(min=3)
        return location, estimate_variances(x) * (1 - 2 / degrees)

    def _find_degrees(self, like: Tensor) -> Tensor:
        if self.degrees != "learned":
            return torch.full((), float(self.degrees), dtype=like.dtype, device=like.device)
        log_degrees = self.log_degrees.to(like.dtype)
        return soft_clamp(log_degrees, 0.0, math.log(_MOST_DEGREES)).exp()
