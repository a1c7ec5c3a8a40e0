"""Checks of coordinate ascent: its bounds, its evidence and its optima."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from lowerbound.ascent import GaussianMixture, KnownGaussian, LinearRegression, MeanAndPrecision
from lowerbound.errors import LowerboundError
from lowerbound.selftest.known import DOUBLE, errors_apart
from lowerbound.selftest.registry import check

Float = NDArray[np.float64]
_DRAWS, _WEIGHTS = 20_000, 20


@check(
    "ascent-known-gaussian",
    "Coordinate ascent on a known Gaussian finds its mean, the variances 1 / P_ii, and a bound "
    "that is below 0 by the known divergence",
    tolerance=1e-6,
)
def compare_known_gaussian() -> float:
    """For a random precision in 4 dimensions (Bishop 2006, section 10.1.2)."""
    root, mean = np.random.default_rng(0).normal(size=(4, 4)), np.array([3.0, -1.0, 0.5, 2.0])
    precision = root @ root.T + 0.5 * np.eye(4)
    found = KnownGaussian(mean, precision).fit(tolerance=1e-15)
    gap = 0.5 * (np.log(precision.diagonal()).sum() - np.linalg.slogdet(precision)[1])
    factors = list(found.factors.values())
    differences = [found.bound + gap]
    differences += [float(q.mean) - exact for q, exact in zip(factors, mean, strict=True)]
    differences += [
        float(q.variance) * own - 1 for q, own in zip(factors, precision.diagonal(), strict=True)
    ]
    return float(max(map(abs, differences)))


@check(
    "ascent-evidence",
    "The log evidence of a Gaussian with unknown mean and precision is that by quadrature, and the "
    "bound of coordinate ascent is below it by less than 0.1 nats",
    tolerance=1e-6,
)
def integrate_mean_and_precision() -> float:
    """By quadrature over the precision; given it, the data are a Gaussian in scipy."""
    x, settings = [1.2, -0.3, 2.2, 0.9], (0.5, 0.7, 1.5, 2.0)
    model = MeanAndPrecision(*settings)
    mean, strength, concentration, rate = settings
    log_tau = np.linspace(-9, 6, 300)
    heights = []
    for tau in np.exp(log_tau):
        covariance = (np.eye(4) + np.ones((4, 4)) / strength) / tau
        heights.append(stats.multivariate_normal([mean] * 4, covariance).logpdf(x))
    prior = stats.gamma(concentration, scale=1 / rate).logpdf(np.exp(log_tau)) + log_tau
    exact = special.logsumexp(np.array(heights) + prior) + math.log(log_tau[1] - log_tau[0])
    evidence, bound = float(model.log_evidence(x)), model.fit(x).bound
    if not evidence - 0.1 < bound < evidence:
        return math.inf
    return abs(evidence - float(exact))


@check(
    "ascent-regression",
    "The bound of coordinate ascent for a linear regression is the mean of log p - log q over "
    "draws from its factors, as computed with scipy (in standard errors)",
    tolerance=4,
)
def measure_regression_bound() -> float:
    """For two inputs and 15 rows, before and after the ascent.

    By chance it fails for one seed in 8,000.
    """
    table = torch.randn(15, 3, dtype=DOUBLE)
    table[:, 2] = table[:, :2] @ torch.tensor([1.0, -2.0], dtype=DOUBLE) + 0.3 * table[:, 2]
    model = LinearRegression(concentration=1.5, rate=0.8)
    generator = np.random.default_rng(0)
    x, y = table[:, :2].numpy(), table[:, 2].numpy()
    prior = stats.gamma(1.5, scale=1 / 0.8)
    worst = 0.0
    for sweeps in (1, 100):
        found = model.fit(table, sweeps=sweeps)
        weights, precisions = found.factors["weights"], []
        log_q = np.zeros(_DRAWS)
        for name in ("weights_precision", "noise_precision"):
            q = found.factors[name]
            gamma = stats.gamma(float(q.concentration), scale=1 / float(q.rate))
            precisions.append(gamma.rvs(_DRAWS, random_state=generator))
            log_q += gamma.logpdf(precisions[-1])
        normal = stats.multivariate_normal(weights.mean.numpy(), weights.covariance_matrix.numpy())
        drawn = normal.rvs(_DRAWS, random_state=generator)
        log_q += normal.logpdf(drawn)
        alpha, beta = precisions
        log_p = prior.logpdf(alpha) + prior.logpdf(beta)
        log_p += stats.norm(0, alpha[:, None] ** -0.5).logpdf(drawn).sum(1)
        log_p += stats.norm(drawn @ x.T, beta[:, None] ** -0.5).logpdf(y).sum(1)
        worst = max(worst, errors_apart(torch.from_numpy(log_p - log_q)[:, None], found.bound))
    return worst


@check(
    "ascent-mixture",
    "The bound of coordinate ascent for a mixture of Gaussians is log p - log q at every draw from "
    "its factors, as computed with scipy",
    tolerance=1e-8,
)
def compare_mixture_bound() -> Iterator[float]:
    """For 2 components in 2 dimensions and 12 examples, after 1 and 20 sweeps, at 20 draws.

    Given the assignments, the other factors are the exact posterior. So log p - log q, averaged
    over the assignments, is the same at every draw.
    """
    x = torch.randn(12, 2, dtype=DOUBLE)
    x[:6] += 2.0
    model = GaussianMixture(2, concentration=0.8, strength=0.6)
    for sweeps in (1, 20):
        try:
            found = model.fit(x, sweeps=sweeps)
        except LowerboundError:  # an update that lowers the bound
            yield math.inf
            return
        yield float(np.abs(_weigh_mixture(found.factors, x) - found.bound).max())


def _weigh_mixture(factors: Mapping[str, Any], x: Tensor) -> Float:
    """log p - log q of draws from the factors; the prior is the one that the class documents."""
    generator, points = np.random.default_rng(0), x.numpy()
    shares, components = factors["assignments"].shares.numpy(), factors["components"]
    dirichlet = factors["proportions"].concentration.numpy()
    proportions = generator.dirichlet(dirichlet, _WEIGHTS)
    log_w = stats.dirichlet([0.8, 0.8]).logpdf(proportions.T)
    log_w -= stats.dirichlet(dirichlet).logpdf(proportions.T)
    log_likelihood = np.empty((_WEIGHTS, 2, len(points)))
    centre, prior_scale = points.mean(0), np.linalg.inv(np.cov(points.T))
    for c in range(2):
        mean, strength = components.mean[c].numpy(), float(components.strength[c])
        scale = np.linalg.inv(components.inverse_scale[c].numpy())
        q = stats.wishart(float(components.freedom[c]), scale)
        precisions: Any = q.rvs(_WEIGHTS, random_state=generator)
        last = np.moveaxis(precisions, 0, -1)
        log_w += stats.wishart(2, prior_scale).logpdf(last) - q.logpdf(last)
        covariances = np.linalg.inv(precisions)
        root = np.linalg.cholesky(covariances / strength)
        means = mean + np.einsum("nij,nj->ni", root, generator.normal(size=(_WEIGHTS, 2)))
        log_w += _log_normal(means, centre, 0.6 * precisions)
        log_w -= _log_normal(means, mean, strength * precisions)
        for n, point in enumerate(points):
            log_likelihood[:, c, n] = _log_normal(point, means, precisions)
    # The assignments are summed with their shares, and are not drawn.
    each = log_likelihood + np.log(proportions)[:, :, None] - np.log(shares.T)
    found: Float = log_w + (shares.T * each).sum((1, 2))
    return found


def _log_normal(x: Float, mean: Float, precisions: Float) -> Float:
    shift = x - mean
    quadratic = np.einsum("...i,...ij,...j->...", shift, precisions, shift)
    found: Float = 0.5 * (
        np.linalg.slogdet(precisions)[1] - shift.shape[-1] * math.log(2 * math.pi) - quadratic
    )
    return found
