"""Likelihoods of entries in [0, 1]: beta and continuous Bernoulli."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributions import Independent

from lowerbound.conditionals.base import Parametric, event_dims_of
from lowerbound.conditionals.location_scale import LocationScale, Scale
from lowerbound.conditionals.moments import average_entries, estimate_variances
from lowerbound.conditionals.refusing import refuse_outside
from lowerbound.describe import describable
from lowerbound.distributions import Beta as BetaDistribution
from lowerbound.distributions import FactorialContinuousBernoulli, find_logit_of_mean, soft_clamp

# Beyond it, one minus a probability has few digits in float32.
_LOGIT_LIMIT = 12.0


@describable
class Beta(LocationScale):
    r"""Entries between 0 and 1 with a beta distribution, given by its mean and spread.

    .. math::

        p(y) = \prod_d \frac{y_d^{m_d \varphi_d - 1} (1 - y_d)^{(1 - m_d) \varphi_d - 1}}
            {B(m_d \varphi_d, (1 - m_d) \varphi_d)}, \qquad \varphi_d = \sigma_d^{-2}

    The network gives the logit of the mean :math:`m`. The variance is
    :math:`m (1 - m) / (1 + \varphi)`, so a small scale :math:`\sigma` is about the standard
    deviation in units of :math:`\sqrt{m (1 - m)}`; its options are those of :class:`Gaussian`,
    without ``"optimal"``. For :math:`m = 1/2` and :math:`\sigma^2 = 1/2` it is the uniform
    distribution; with a larger scale the density has peaks at 0 and 1.

    Args:
        network: from the input to the parameters.
        scale: ``"network"``, ``"shared"``, ``"elementwise"`` or a positive number.
        min_scale: the smallest value of a scale that is not fixed; it has no unit.
        max_scale: the largest value of such a scale.

    Raises:
        SettingsError: for a scale that is none of these, or bounds too close to each other.
        ShapeError: if the output cannot be split in two, or an elementwise scale is requested and
            the network does not declare its ``output_shape``.
        DataError: before training or evaluation, for data that are not between 0 and 1, or are 0 or
            1 exactly.

    Source: Ferrari & Cribari-Neto 2004, "Beta regression for modelling rates and proportions".

    Example:
        >>> import torch
        >>> from lowerbound.networks import mlp
        >>> p = Beta(mlp(2, 32, (2, 8, 8)))(torch.zeros(7, 5, 2))
        >>> p.log_prob(torch.full((5, 1, 8, 8), 0.25)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        network: nn.Module,
        scale: Scale = "network",
        min_scale: float = 1e-2,
        max_scale: float = 10.0,
    ) -> None:
        super().__init__(network, scale, min_scale=min_scale, max_scale=max_scale)

    def make_distribution(self, loc: Tensor, log_scale: Tensor) -> Independent[Any]:
        """The beta distribution of these logits of the mean and log scales."""
        total, logit = (-2 * log_scale).exp(), soft_clamp(loc, -_LOGIT_LIMIT, _LOGIT_LIMIT)
        entries = BetaDistribution(
            total * logit.sigmoid(), total * (-logit).sigmoid(), validate_args=False
        )
        return Independent(entries, self.event_dims, validate_args=False)

    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logit of the mean, and the squared scale, of each entry."""
        mean = average_entries(x).clamp(1e-3, 1 - 1e-3)
        share = (estimate_variances(x) / (mean * (1 - mean))).clamp(1e-6, 0.9)
        return mean.logit(), share / (1 - share)

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse values that are not strictly between 0 and 1.

        Raises:
            DataError: naming the first such row.
        """
        refuse_outside(
            x,
            (x <= 0) | (x >= 1),
            rows,
            "a Beta likelihood needs values strictly between 0 and 1, because its density at 0 "
            "and at 1 is zero or infinite. Rescale data outside of [0, 1]. For data that contain "
            "0 or 1, use lb.ContinuousBernoulli, or move them inside: with N examples, "
            "(x * (N - 1) + 0.5) / N",
            name,
        )


@describable
class ContinuousBernoulli(Parametric):
    r"""Independent entries in [0, 1] whose density is exponential, with logits from a network.

    .. math:: \log p(y) = \sum_d \left( y_d \eta_d - \log \frac{e^{\eta_d} - 1}{\eta_d} \right)

    It is the Bernoulli formula for grey values, normalised to a density on [0, 1]. Unlike the
    Bernoulli formula alone it gives a bound for grey pixels. It has no scale of its own: the
    variance follows from the mean, and is at most 1/12.

    Args:
        network: from the input to the logits ``eta``, ``[*leading, *event]``.

    Raises:
        DataError: before training or evaluation, for data outside of [0, 1].

    Source: Loaiza-Ganem & Cunningham 2019, "The continuous Bernoulli: fixing a pervasive error in
    variational autoencoders".

    Example:
        >>> import torch
        >>> from lowerbound.networks import mlp
        >>> p = ContinuousBernoulli(mlp(2, 32, (1, 8, 8)))(torch.zeros(7, 5, 2))
        >>> p.log_prob(torch.full((5, 1, 8, 8), 0.5)).shape
        torch.Size([7, 5])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.event_dims = event_dims_of(network)

    def from_parameters(self, raw: Tensor) -> FactorialContinuousBernoulli:
        """The continuous Bernoulli distribution of these logits."""
        return FactorialContinuousBernoulli(raw, self.event_dims)

    def marginal_outputs(self, x: Tensor) -> Tensor:
        """The logits at which the mean of each entry is that of the data."""
        return find_logit_of_mean(average_entries(x))

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse values outside of [0, 1].

        Raises:
            DataError: naming the first such row.
        """
        refuse_outside(
            x,
            (x < 0) | (x > 1),
            rows,
            "a ContinuousBernoulli likelihood needs values in [0, 1]; rescale the data, or use "
            "another likelihood, such as lb.Gaussian",
            name,
        )
