"""Checks of every likelihood: density, mean, variance, draws and gradients, from one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.conditionals import Standardized
from lowerbound.conditionals.standardized import Standardization
from lowerbound.selftest.known import DOUBLE, errors_apart, largest
from lowerbound.selftest.registry import check

_DRAWS = 10_000
_STEP = 1e-5
_LATENTS = 3

Reference = Callable[[Any], Any]
"""Returns scipy's distribution for the outputs of a network, ``[outputs, B]``."""
Nodes = Callable[[Distribution], tuple[Tensor, Tensor]]
"""Returns the values of an entry and their weights in a sum or an integral, ``[V, B]`` each."""


def _list_codes(count: int, scale: float = 1.0) -> Nodes:
    """All values of an entry: the whole numbers from 0 to ``count - 1``, times a scale."""
    values = scale * torch.arange(count, dtype=DOUBLE)[:, None].expand(-1, _LATENTS)
    return lambda p: (values, torch.ones_like(values))


def _make_double_exponential() -> tuple[Tensor, Tensor]:
    """Points and weights of an integral over the positive numbers, ``[V, 1]`` each."""
    t = torch.linspace(-4, 4, 2001, dtype=DOUBLE)[:, None]
    points = (0.5 * math.pi * t.sinh()).exp()
    return points, points * 0.5 * math.pi * t.cosh() * (t[1] - t[0])


def _integrate_above_zero(p: Distribution) -> tuple[Tensor, Tensor]:
    points, weights = _make_double_exponential()
    return points.expand(-1, _LATENTS), weights.expand(-1, _LATENTS)


def _integrate_over_reals(p: Distribution) -> tuple[Tensor, Tensor]:
    # Both sides of the mean, where a density may have a corner.
    points, weights = _make_double_exponential()
    weights = weights.expand(-1, _LATENTS)
    return torch.cat([p.mean[:, 0] - points, p.mean[:, 0] + points]), torch.cat([weights, weights])


def _integrate_over_unit_interval(p: Distribution) -> tuple[Tensor, Tensor]:
    t = torch.linspace(-3, 3, 1001, dtype=DOUBLE)[:, None].expand(-1, _LATENTS)
    points = (math.pi * t.sinh()).sigmoid()
    return points, points * (1 - points) * math.pi * t.cosh() * (t[1] - t[0])


@dataclass(frozen=True)
class _Case:
    """A likelihood over one entry.

    Args:
        make: makes it, for two latents.
        nodes: the values of the entry.
        reference: the same distribution in scipy, if it has it.
    """

    make: Callable[[], nn.Module]
    nodes: Nodes
    reference: Reference | None = None


def _standardize() -> nn.Module:
    units = Standardization(1)
    units.centre.fill_(3.0)
    units.spread.fill_(2.5)
    return Standardized(lb.StudentT(lb.mlp(2, 2), degrees=12.0), units)


def _scale(raw: Any) -> Any:
    return (0.5 * raw[1]).exp()


def _standardized_t(raw: Any) -> Any:
    return stats.t(12, 3 + 2.5 * raw[0], 2.5 * _scale(raw))


def _negative_binomial(raw: Any) -> Any:
    mean, size = raw.exp()
    return stats.nbinom(size, size / (size + mean))


def _beta(raw: Any) -> Any:
    share, total = raw[0].sigmoid(), 0.3**-2
    return stats.beta(total * share, total * (1 - share))


_CASES = {
    "Poisson": _Case(
        lambda: lb.Poisson(lb.mlp(2, 1)), _list_codes(200), lambda raw: stats.poisson(raw[0].exp())
    ),
    "NegativeBinomial": _Case(
        lambda: lb.NegativeBinomial(lb.mlp(2, 2)), _list_codes(3000), _negative_binomial
    ),
    "Binomial": _Case(
        lambda: lb.Binomial(lb.mlp(2, 1), trials=6),
        _list_codes(7),
        lambda raw: stats.binom(6, raw[0].sigmoid()),
    ),
    "Ordinal": _Case(lambda: lb.Ordinal(lb.mlp(2, 1), levels=5), _list_codes(5)),
    "DiscretizedLogistic": _Case(
        lambda: lb.DiscretizedLogistic(lb.mlp(2, 9), levels=8, components=3), _list_codes(8, 1 / 7)
    ),
    "ZeroInflated": _Case(
        lambda: lb.ZeroInflated(lb.Poisson(lb.mlp(2, 1)), lb.mlp(2, 1)), _list_codes(200)
    ),
    "Hurdle": _Case(
        lambda: lb.Hurdle(lb.NegativeBinomial(lb.mlp(2, 2)), lb.mlp(2, 1)), _list_codes(3000)
    ),
    "Laplace": _Case(
        lambda: lb.Laplace(lb.mlp(2, 2)),
        _integrate_over_reals,
        lambda raw: stats.laplace(raw[0], _scale(raw)),
    ),
    "StudentT": _Case(
        lambda: lb.StudentT(lb.mlp(2, 2), degrees=12.0),
        _integrate_over_reals,
        lambda raw: stats.t(12, raw[0], _scale(raw)),
    ),
    "Standardized": _Case(_standardize, _integrate_over_reals, _standardized_t),
    "LogNormal": _Case(
        lambda: lb.LogNormal(lb.mlp(2, 1), scale=0.4),
        _integrate_above_zero,
        lambda raw: stats.lognorm(0.4, scale=raw[0].exp()),
    ),
    "Gamma": _Case(
        lambda: lb.Gamma(lb.mlp(2, 2)),
        _integrate_above_zero,
        lambda raw: stats.gamma((-raw[1]).exp(), scale=raw.sum(0).exp()),
    ),
    "Beta": _Case(lambda: lb.Beta(lb.mlp(2, 1), scale=0.3), _integrate_over_unit_interval, _beta),
    "ContinuousBernoulli": _Case(
        lambda: lb.ContinuousBernoulli(lb.mlp(2, 1)), _integrate_over_unit_interval
    ),
}


def _make_each() -> Iterator[tuple[_Case, nn.Module, Tensor]]:
    """Make each likelihood and three latents for it, ``[3, 2]``."""
    for case in _CASES.values():
        z = torch.randn(_LATENTS, 2, dtype=DOUBLE)
        yield case, case.make().double(), z


def _score(p: Distribution, values_VB: Tensor) -> Tensor:
    """The log density of the only entry, ``[V, B]``."""
    found: Tensor = p.log_prob(values_VB[..., None])
    return found


@check(
    "likelihoods-sum-to-one",
    "The density of each likelihood sums or integrates to 1, and has the mean and the variance of "
    "its distribution (relative)",
    tolerance=1e-6,
)
def integrate_likelihoods() -> Iterator[float]:
    """For 14 likelihoods of one entry and three latents."""
    for case, likelihood, z in _make_each():
        with torch.no_grad():
            p = likelihood(z)
            values, weights = case.nodes(p)
            density = weights * _score(p, values).exp()
        mean = (density * values).sum(0)
        variance = (density * (values - mean).square()).sum(0)
        yield largest(density.sum(0) - 1)
        yield largest((p.mean[:, 0] - mean) / variance.sqrt())
        yield largest(p.variance[:, 0] / variance - 1)


@check(
    "likelihoods-as-in-scipy",
    "The outputs of a network give each likelihood the density that scipy computes from them "
    "(relative)",
    tolerance=1e-6,
)
def compare_likelihoods_with_scipy() -> Iterator[float]:
    """For the ten likelihoods that scipy has. Fixed scales are rounded to float32."""
    for case, likelihood, z in _make_each():
        if case.reference is None:
            continue
        with torch.no_grad():
            network: Any = likelihood.network
            reference = case.reference(network(z).T)
            p = likelihood(z)
            values = p.sample(torch.Size((20,)))[..., 0]
            log_density = _score(p, values)
        density = getattr(reference, "logpdf", None) or reference.logpmf
        expected = torch.as_tensor(density(values.numpy()))
        yield largest((log_density - expected) / (1 + expected.abs()))


@check(
    "likelihoods-draws",
    "Draws of each likelihood have its mean and its variance (in standard errors)",
    tolerance=4.5,
)
def measure_draws_of_likelihoods() -> Iterator[float]:
    """For 14 likelihoods and three latents. By chance it fails for one seed in 1,700."""
    for _, likelihood, z in _make_each():
        with torch.no_grad():
            p = likelihood(z)
            drawn = p.sample(torch.Size((_DRAWS,)))
        yield errors_apart(drawn, p.mean)
        yield errors_apart((drawn - p.mean).square(), p.variance)


@check(
    "likelihoods-gradients",
    "The gradient of each likelihood's log density with respect to the latents is that of finite "
    "differences (relative)",
    tolerance=1e-6,
)
def differentiate_likelihoods() -> Iterator[float]:
    """For 14 likelihoods, three latents, and two draws each."""
    for _, likelihood, z in _make_each():
        x = likelihood(z).sample(torch.Size((2,))).detach()
        start = z.requires_grad_()
        (gradient,) = torch.autograd.grad(_sum_scores(likelihood, start, x), start)
        differences = torch.zeros_like(gradient)
        with torch.no_grad():
            for place in range(z.numel()):
                step = torch.zeros_like(gradient)
                step.view(-1)[place] = _STEP
                change = _sum_scores(likelihood, z + step, x) - _sum_scores(likelihood, z - step, x)
                differences.view(-1)[place] = change / (2 * _STEP)
        yield largest(gradient - differences) / (1 + largest(gradient))


def _sum_scores(likelihood: nn.Module, z: Tensor, x: Tensor) -> Tensor:
    total: Tensor = likelihood(z).log_prob(x).sum()
    return total
