"""Checks of densities and divergences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import integrate, stats
from torch.distributions import Bernoulli, Distribution, Independent, Normal, kl_divergence

import lowerbound as lb
from lowerbound.distributions import (
    DiagonalNormal,
    FactorialBernoulli,
    closed_form_kl,
    closed_form_unit_kl,
)
from lowerbound.selftest.known import DOUBLE, enumerate_bits, errors_apart, largest
from lowerbound.selftest.registry import check

_DRAWS = 50_000
_Pairs = Sequence[tuple[Distribution, Distribution]]


def _draw_gaussians() -> _Pairs:
    """Draw random Gaussians over three dimensions, each as our class and as torch's."""
    parameters = [
        (torch.randn(4, 3, dtype=DOUBLE), 0.5 * torch.randn(4, 3, dtype=DOUBLE)) for _ in range(4)
    ]
    return [
        (DiagonalNormal(loc, log), Independent(Normal(loc, log.exp()), 1))
        for loc, log in parameters
    ]


def _draw_bernoullis() -> _Pairs:
    """Draw random distributions over three binary units, each as our class and as torch's."""
    logits = [2 * torch.randn(4, 3, dtype=DOUBLE) for _ in range(4)]
    return [
        (FactorialBernoulli(entry), Independent(Bernoulli(logits=entry), 1)) for entry in logits
    ]


def _compare_with_torch(pairs: _Pairs) -> float:
    """Find the largest difference between our closed form and torch's, in total and by unit."""
    differences = []
    for (q, q_torch), (p, p_torch) in pairwise(pairs):
        expected, whole, units = (
            kl_divergence(q_torch, p_torch),
            closed_form_kl(q, p),
            closed_form_unit_kl(q, p),
        )
        assert whole is not None
        assert units is not None
        differences += [largest(whole - expected), largest(units.sum(-1) - expected)]
    return max(differences)


def _compare_with_draws(pairs: _Pairs) -> Iterator[float]:
    """Measure our closed form minus the mean of ``log q - log p``, in standard errors."""
    for (q, _), (p, _) in pairwise(pairs):
        z, kl = q.sample(torch.Size((_DRAWS,))), closed_form_kl(q, p)
        assert kl is not None
        yield errors_apart(q.log_prob(z) - p.log_prob(z), kl)


@check(
    "gaussian-kl", "The closed-form KL between diagonal Gaussians equals torch's", tolerance=1e-10
)
def compare_gaussian_kl() -> float:
    """For 12 pairs, in total and by unit."""
    return _compare_with_torch(_draw_gaussians())


@check(
    "bernoulli-kl",
    "The closed-form KL between factorial Bernoullis equals torch's",
    tolerance=1e-10,
)
def compare_bernoulli_kl() -> float:
    """For 12 pairs, in total and by unit."""
    return _compare_with_torch(_draw_bernoullis())


@check(
    "gaussian-kl-sampled",
    "The closed-form KL between diagonal Gaussians is the mean of log q - log p over draws (in "
    "standard errors)",
    tolerance=4,
)
def sample_gaussian_kl() -> Iterator[float]:
    """For 12 pairs. By chance it fails for one seed in 1,300."""
    return _compare_with_draws(_draw_gaussians())


@check(
    "bernoulli-kl-sampled",
    "The closed-form KL between factorial Bernoullis is the mean of log q - log p over draws (in "
    "standard errors)",
    tolerance=4,
)
def sample_bernoulli_kl() -> Iterator[float]:
    """For 12 pairs. By chance it fails for one seed in 1,300."""
    return _compare_with_draws(_draw_bernoullis())


@check(
    "bernoulli-sums-to-one", "A Bernoulli likelihood sums to 1 over all pictures", tolerance=1e-12
)
def sum_bernoulli() -> float:
    """Over the 4,096 pictures of twelve pixels, for three latents."""
    p = lb.Bernoulli(lb.mlp(2, 8, (1, 3, 4))).double()(3 * torch.randn(3, 1, 2, dtype=DOUBLE))
    pictures = enumerate_bits(12).reshape(-1, 1, 3, 4)
    return largest(p.log_prob(pictures).exp().sum(1) - 1)


@check(
    "gaussian-integrates-to-one",
    "A Gaussian likelihood integrates to 1, whether or not its scale is at a bound",
    tolerance=1e-12,
)
def integrate_gaussian() -> float:
    """By adaptive quadrature, for scales from 1e-3 to 1e3, the first and last at their bounds."""
    raw = torch.tensor(
        [[0.7, log_variance] for log_variance in (-20.0, -3.0, 0.0, 2.0, 20.0)], dtype=DOUBLE
    )
    with torch.no_grad():
        p = lb.Gaussian(lb.mlp(2, 2)).double().from_parameters(raw)

    def densities(steps: float) -> NDArray[np.float64]:
        return (p.stddev[:, 0] * p.log_prob(p.mean + steps * p.stddev).exp()).numpy()

    totals, _ = integrate.quad_vec(densities, -12, 12, epsabs=1e-14, epsrel=1e-14)
    return float(np.abs(totals - 1).max())


@check(
    "gaussian-reads-mean-then-variance",
    "The first half of a network's output is a Gaussian's mean, the second half its log variance",
    tolerance=1e-12,
)
def compare_gaussian_with_scipy() -> float:
    """Compare the density with scipy's (relative), and the mean and standard deviation."""
    raw, x = torch.randn(5, 6, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)
    mean, deviation = raw[:, :3], (0.5 * raw[:, 3:]).exp()
    p = lb.Gaussian(lb.mlp(6, 6)).double().from_parameters(raw)
    expected = torch.from_numpy(
        stats.norm(mean.numpy(), deviation.numpy()).logpdf(x.numpy()).sum(-1)
    )
    differences = [p.log_prob(x) / expected - 1, p.mean - mean, p.stddev - deviation]
    return max(largest(difference) for difference in differences)
