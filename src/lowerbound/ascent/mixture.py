"""Coordinate ascent for a mixture of Gaussians."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Dirichlet

from lowerbound.ascent.base import CoordinateAscent, Factor
from lowerbound.ascent.gaussian import check_positive
from lowerbound.errors import DataError
from lowerbound.settings import check_whole_number

_LOG_TWO_PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class NormalWishart:
    r"""A distribution over the means and precisions of C Gaussians.

    .. math:: \mu_c \mid \Lambda_c \sim N(m_c, (\kappa_c \Lambda_c)^{-1}), \quad
              \Lambda_c \sim W(W_c, \nu_c)

    Args:
        mean: ``m``, ``[C, D]``.
        strength: ``kappa``, ``[C]``.
        inverse_scale: ``W^-1``, ``[C, D, D]``.
        freedom: ``nu``, ``[C]``.
    """

    mean: Tensor
    strength: Tensor
    inverse_scale: Tensor
    freedom: Tensor

    @property
    def precision(self) -> Tensor:
        """``E Lambda``, ``[C, D, D]``."""
        found: Tensor = self.freedom[:, None, None] * torch.linalg.inv(self.inverse_scale)
        return found

    @property
    def expected_log_det(self) -> Tensor:
        """``E log det Lambda``, ``[C]``."""
        size = self.mean.shape[1]
        half = 0.5 * (self.freedom[:, None] + 1 - torch.arange(1, size + 1, dtype=self.mean.dtype))
        return torch.digamma(half).sum(1) + size * math.log(2) - self.inverse_scale.logdet()

    @property
    def log_normaliser(self) -> Tensor:
        """``log B(W, nu)`` of the Wishart density, ``[C]``."""
        size = self.mean.shape[1]
        half = 0.5 * self.freedom
        constant = size * math.log(2) * half + torch.special.multigammaln(half, size)
        found: Tensor = half * self.inverse_scale.logdet() - constant
        return found

    def expected_log_prob(self, x: Tensor) -> Tensor:
        """``E log N(x_n; mu_c, Lambda_c^-1)``, ``[N, C]``."""
        size = self.mean.shape[1]
        shift = x[:, None] - self.mean
        quadratic = torch.einsum("ncd,cde,nce->nc", shift, self.precision, shift)
        return 0.5 * (self.expected_log_det - size / self.strength - quadratic - size * _LOG_TWO_PI)

    def entropy(self) -> Tensor:
        """The entropy in nats, ``[C]``."""
        size = self.mean.shape[1]
        means = 0.5 * size * (1 + _LOG_TWO_PI - self.strength.log()) - 0.5 * self.expected_log_det
        wishart = (
            -self.log_normaliser
            - 0.5 * (self.freedom - size - 1) * self.expected_log_det
            + 0.5 * self.freedom * size
        )
        return means + wishart


@dataclass(frozen=True, eq=False)
class Assignments:
    """A distribution over the component of each of N examples, out of C components.

    Args:
        shares: the probabilities of the components, ``[N, C]``.
    """

    shares: Tensor

    def entropy(self) -> Tensor:
        """The entropy in nats, ``[N]``."""
        found: Tensor = -torch.special.xlogy(self.shares, self.shares).sum(1)
        return found


class GaussianMixture(CoordinateAscent):
    r"""A mixture of Gaussians, with a posterior of three factors.

    .. math:: q(s, \pi, \mu, \Lambda) = q(s)\, q(\pi)\, q(\mu, \Lambda)

    The model is

    .. math:: s_n &\sim \pi, \quad x_n \mid s_n = c \sim N(\mu_c, \Lambda_c^{-1}), \quad
              \pi \sim \operatorname{Dirichlet}(\alpha_0), \\
              \mu_c, \Lambda_c &\sim N(m_0, (\kappa_0 \Lambda_c)^{-1})\, W(W_0, \nu_0)

    Components that the data do not need lose all their examples (Bishop 2006, section 10.2; Attias
    1999). The other settings of the prior come from the data: ``m_0`` is their mean, ``W_0^-1``
    their covariance, and ``nu_0`` their dimension.

    Args:
        components: C, the largest number of components.
        concentration: ``alpha_0`` of each component. The default is ``1 / C``.
        strength: ``kappa_0``.

    Raises:
        SettingsError: for settings that are out of range.

    Example:
        >>> noise = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
        >>> ascent = GaussianMixture(2).fit(torch.cat([noise - 5.0, noise + 5.0]))
        >>> sorted(round(float(mean)) for mean in ascent.factors["components"].mean)
        [-5, 5]
    """

    def __init__(
        self, components: int, concentration: float | None = None, strength: float = 1.0
    ) -> None:
        self.components = check_whole_number("GaussianMixture: components", components)
        if concentration is None:
            concentration = 1.0 / self.components
        check_positive("GaussianMixture", concentration=concentration, strength=strength)
        self.concentration = concentration
        self.strength = strength

    def prepare(self, x: Any) -> Tensor:
        """Convert the vectors to a tensor, ``[N, D]``.

        Raises:
            DataError: if they are not vectors, if they are fewer than the components, or if their
                covariance is singular.
        """
        data = super().prepare(x)
        if data.dim() != 2 or len(data) < max(2, self.components):
            raise DataError(
                f"data: expected at least {max(2, self.components)} vectors [N, D], got the shape "
                f"{tuple(data.shape)}"
            )
        if bool(torch.linalg.cholesky_ex(self._covariance(data)).info):
            raise DataError("data: a column is constant or a combination of others; remove it")
        return data

    def prior(self, x: Tensor) -> NormalWishart:
        """The prior of each component, ``[1, ...]``."""
        one = x.new_ones(1)
        return NormalWishart(
            x.mean(0)[None], self.strength * one, self._covariance(x)[None], x.shape[1] * one
        )

    def start(self, x: Tensor, generator: torch.Generator) -> dict[str, Factor]:
        """Assign each example to the nearest of C distant points (Arthur & Vassilvitskii 2007)."""
        standardised = (x - x.mean(0)) / x.std(0)
        centres = standardised[torch.randint(len(x), (1,), generator=generator)]
        while len(centres) < self.components:
            distances = torch.cdist(standardised, centres).square().amin(1)
            if not bool(distances.any()):
                distances = torch.ones_like(distances)
            centres = torch.cat(
                [centres, standardised[torch.multinomial(distances, 1, generator=generator)]]
            )
        nearest = torch.cdist(standardised, centres).argmin(1)
        assignments = Assignments(torch.nn.functional.one_hot(nearest, self.components).to(x.dtype))
        return self.factors(assignments, x)

    def factors(self, assignments: Assignments, x: Tensor) -> dict[str, Factor]:
        """Make all factors: the given assignments, and the optimal other factors for them."""
        found: dict[str, Factor] = {"assignments": assignments}
        for name in ("proportions", "components"):
            found[name] = self.update(name, found, x)
        return found

    def update(self, name: str, factors: Mapping[str, Any], x: Tensor) -> Factor:
        """Compute the assignments, the Dirichlet or the normal-Wishart distributions."""
        if name == "assignments":
            return Assignments(
                (
                    self._expected_log_proportions(factors)
                    + factors["components"].expected_log_prob(x)
                ).softmax(1)
            )
        shares = factors["assignments"].shares
        counts = shares.sum(0)
        if name == "proportions":
            return Dirichlet(self.concentration + counts)
        prior = self.prior(x)
        strength = prior.strength + counts
        mean = (prior.strength * prior.mean + shares.mT @ x) / strength[:, None]
        # The scatter is computed about the new means, since a difference of large squares would be
        # inaccurate.
        shift, pull = x[:, None] - mean, prior.mean - mean
        scatter = torch.einsum("nc,ncd,nce->cde", shares, shift, shift)
        scatter = scatter + prior.strength * torch.einsum("cd,ce->cde", pull, pull)
        return NormalWishart(mean, strength, prior.inverse_scale + scatter, prior.freedom + counts)

    def expected_log_joint(self, factors: Mapping[str, Any], x: Tensor) -> Tensor:
        """Sum the terms of the examples, assignments, proportions and components."""
        shares, components, prior = (
            factors["assignments"].shares,
            factors["components"],
            self.prior(x),
        )
        log_proportions = self._expected_log_proportions(factors)
        examples = (shares * (log_proportions + components.expected_log_prob(x))).sum()
        count, size = self.components, x.shape[1]
        constant = math.lgamma(count * self.concentration) - count * math.lgamma(self.concentration)
        proportions = constant + (self.concentration - 1) * log_proportions.sum()
        shift = components.mean - prior.mean
        quadratic = torch.einsum("cd,cde,ce->c", shift, components.precision, shift)
        log_det = components.expected_log_det
        means = 0.5 * (
            size * (prior.strength.log() - _LOG_TWO_PI)
            + log_det
            - size * prior.strength / components.strength
        )
        means = means - 0.5 * prior.strength * quadratic
        trace = (prior.inverse_scale * components.precision).sum((1, 2))
        wisharts = prior.log_normaliser + 0.5 * (prior.freedom - size - 1) * log_det - 0.5 * trace
        found: Tensor = examples + proportions + (means + wisharts).sum()
        return found

    @staticmethod
    def _expected_log_proportions(factors: Mapping[str, Any]) -> Tensor:
        """``E log pi``, ``[C]``."""
        concentration = factors["proportions"].concentration
        return torch.digamma(concentration) - torch.digamma(concentration.sum())

    @staticmethod
    def _covariance(x: Tensor) -> Tensor:
        found: Tensor = torch.atleast_2d(torch.cov(x.mT))
        return found
