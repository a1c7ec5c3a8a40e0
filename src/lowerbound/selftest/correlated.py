"""Checks of posteriors and priors with correlations: Gaussians, groups, mixtures and flows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.conditionals.variables import Variables
from lowerbound.selftest.known import DOUBLE, errors_apart, largest
from lowerbound.selftest.registry import check

_DRAWS = 50_000
Float = NDArray[np.float64]


def _covariance_of_triangle(raw: Float, size: int) -> Float:
    """The covariance that J (J + 3) / 2 outputs stand for, computed entry by entry."""
    factor, entries = np.diag(np.exp(0.5 * raw[size : 2 * size])), iter(raw[2 * size :])
    for row in range(size):
        for column in range(row):
            factor[row, column] = next(entries)
    covariance: Float = factor @ factor.T
    return covariance


def _covariance_of_columns(raw: Float, size: int) -> Float:
    """The covariance that J (2 + r) outputs stand for."""
    columns = raw[2 * size :].reshape(size, -1)
    covariance: Float = np.diag(np.exp(raw[size : 2 * size])) + columns @ columns.T
    return covariance


def _make_correlated() -> list[tuple[Distribution, Float, Float]]:
    """Make Gaussians over 4 dimensions of either kind, with their means and covariances."""
    kinds = (
        (lb.FullRankGaussian(lb.mlp(3, 14)), _covariance_of_triangle, 14),
        (lb.LowRankGaussian(lb.mlp(3, 16), rank=2), _covariance_of_columns, 16),
    )
    found: list[tuple[Distribution, Float, Float]] = []
    for conditional, covariance_of, outputs in kinds:
        for raw in torch.randn(3, outputs, dtype=DOUBLE):
            entries = raw.numpy()
            q = conditional.double().from_parameters(raw)
            found.append((q, entries[:4], covariance_of(entries, 4)))
    return found


@check(
    "correlated-density",
    "A full-rank and a low-rank Gaussian have the density, the variances and the entropy that "
    "scipy computes from their network's outputs",
    tolerance=1e-9,
)
def compare_correlated_densities() -> float:
    """For three Gaussians of each kind over 4 dimensions, at 5 points."""
    worst = 0.0
    for q, mean, covariance in _make_correlated():
        exact, z = stats.multivariate_normal(mean, covariance), 2 * torch.randn(5, 4, dtype=DOUBLE)
        differences = (
            q.log_prob(z).numpy() - exact.logpdf(z.numpy()),
            q.mean.numpy() - mean,
            q.variance.numpy() - covariance.diagonal(),
            q.entropy().numpy() - exact.entropy(),
        )
        worst = max(worst, *(float(np.abs(difference).max()) for difference in differences))
    return worst


def _compare_moments(z: Tensor, mean: Float, covariance: Float) -> float:
    """Compare the first two moments of draws ``[N, J]`` with known ones, in standard errors."""
    shift = z.detach() - torch.from_numpy(mean)
    products = (shift[:, :, None] * shift[:, None]).flatten(1)
    return max(errors_apart(shift), errors_apart(products, torch.from_numpy(covariance).flatten()))


@check(
    "correlated-draws",
    "Draws of a full-rank and a low-rank Gaussian, and of ByVariable, have their mean and "
    "covariance (in standard errors)",
    tolerance=4.5,
)
def measure_correlated_draws() -> Iterator[float]:
    """For 98 different moments of 7 posteriors. By chance it fails for one seed in 1,500."""
    return (
        _compare_moments(q.rsample(torch.Size((_DRAWS,))), mean, covariance)
        for q, mean, covariance in (*_make_correlated(), _make_groups())
    )


@check(
    "groups-of-variables",
    "ByVariable gives each variable the density of its own group's posterior",
    tolerance=1e-9,
)
def compare_groups_of_variables() -> float:
    """For an order of the groups that is not its own inverse, at 5 points."""
    q, mean, covariance = _make_groups()
    z = torch.randn(5, 4, dtype=DOUBLE)
    exact = torch.from_numpy(stats.multivariate_normal(mean, covariance).logpdf(z.numpy()))
    return largest(q.log_prob(z) - exact)


def _make_groups() -> tuple[Distribution, Float, Float]:
    """Make a posterior of two groups, with its mean and covariance."""
    variables = Variables({"a": (), "b": (2,), "c": ()})
    posterior = lb.ByVariable({"b": lb.full_rank, ("c", "a"): lb.full_rank}).over(variables)
    posterior = posterior.double()
    mean, covariance = np.zeros(4), np.zeros((4, 4))
    # The positions of b[0], b[1], and of c, a, in the vector of a, b[0], b[1], c.
    for part, places in zip(posterior.parts, ([1, 2], [3, 0]), strict=True):
        raw = torch.randn(5, dtype=DOUBLE)
        with torch.no_grad():
            next(part.parameters()).copy_(raw)
        mean[places] = raw[:2].numpy()
        covariance[np.ix_(places, places)] = _covariance_of_triangle(raw.numpy(), 2)
    return posterior(), mean, covariance


@check(
    "mixture-density",
    "A VampPrior is the average of the posteriors of its pseudo-inputs: density, mean and "
    "variance, as computed with scipy",
    tolerance=1e-6,
)
def compare_mixture_density() -> float:
    """For 7 components over 3 dimensions, at 20 points. The weights 1/7 are rounded to float32."""
    prior, mean, deviation = _make_mixture()
    z = 2 * torch.randn(20, 3, dtype=DOUBLE)
    each = stats.norm(mean, deviation).logpdf(z.numpy()[:, None]).sum(-1)
    exact = special.logsumexp(each, axis=1) - math.log(7)
    p = prior()
    differences = (
        p.log_prob(z).detach() - torch.from_numpy(exact),
        p.mean - torch.from_numpy(mean.mean(0)),
        p.variance - torch.from_numpy((deviation**2 + mean**2).mean(0) - mean.mean(0) ** 2),
    )
    return max(largest(difference) for difference in differences)


@check(
    "mixture-draws",
    "Draws of a VampPrior have the mean and the covariance of the mixture (in standard errors)",
    tolerance=4,
)
def measure_mixture_draws() -> float:
    """For 12 moments. By chance it fails for one seed in 1,700."""
    prior, mean, deviation = _make_mixture()
    centred = mean - mean.mean(0)
    covariance = centred.T @ centred / len(mean) + np.diag((deviation**2).mean(0))
    return _compare_moments(prior().sample(torch.Size((_DRAWS,))), mean.mean(0), covariance)


def _make_mixture() -> tuple[lb.VampPrior, Float, Float]:
    """Make a mixture of 7 posteriors, with their means and standard deviations."""
    encoder = lb.Gaussian(lb.mlp(4, 6)).double()
    prior = lb.VampPrior(encoder, torch.randn(7, 4, dtype=DOUBLE)).double()
    with torch.no_grad():
        raw = encoder.network(prior.pseudo_inputs).numpy()
    return prior, raw[:, :3], np.exp(0.5 * raw[:, 3:])


@check(
    "flow-integrates-to-one",
    "The density of a flow integrates to 1",
    tolerance=1e-4,
)
def integrate_flows() -> float:
    """A masked autoregressive flow and a spline flow, on a grid of 300 x 300 points."""
    axis = torch.linspace(-12, 12, 300, dtype=DOUBLE)
    cell = float(axis[1] - axis[0]) ** 2
    grid = torch.cartesian_prod(axis, axis)
    context = torch.randn(3, dtype=DOUBLE)
    totals = []
    for name in ("maf", "nsf"):
        flow = lb.Flow(name, 2, context=3, transforms=1, hidden_features=(8,)).double()
        with torch.no_grad():
            totals.append(float(flow(context).log_prob(grid).exp().sum()) * cell)
    return max(abs(total - 1) for total in totals)


@check(
    "flow-density-of-its-draws",
    "A flow scores its draws as it scores the same points given to it, and their moments are those "
    "of its density on a grid (in standard errors)",
    tolerance=4,
)
def compare_flow_draws() -> float:
    """For 2 means and 3 products. By chance it fails for one seed in 3,000."""
    flow = lb.Flow("maf", 2, context=3, transforms=1, hidden_features=(8,)).double()
    q = flow(torch.randn(3, dtype=DOUBLE))
    axis = torch.linspace(-12, 12, 300, dtype=DOUBLE)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        share = q.log_prob(grid).exp() * float(axis[1] - axis[0]) ** 2
        z, log_q = q.rsample_and_log_prob(torch.Size((_DRAWS,)))
        if not largest(q.log_prob(z) - log_q) < 1e-9:
            return math.inf
    mean = share @ grid
    shift = grid - mean
    return _compare_moments(z, mean.numpy(), (shift.T @ (share[:, None] * shift)).numpy())
