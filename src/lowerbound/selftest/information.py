"""Checks of the information in latents: rates, units, the aggregate posterior and codes."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

import lowerbound as lb
from lowerbound.evaluation.aggregate import measure_aggregate_posterior
from lowerbound.evaluation.health import latent_health
from lowerbound.selftest.known import DOUBLE, set_linear
from lowerbound.selftest.registry import check

Float = NDArray[np.float64]
_SCALES = np.array([0.6, 0.9])


def _make_model(gain: Tensor) -> lb.LatentModel:
    """Make q(z|x) = N(gain x, diag of the scales squared) with the prior N(0, I)."""
    latents, dims = gain.shape
    model = lb.LatentModel(
        lb.StandardNormal(latents),
        lb.Gaussian(lb.mlp(dims, 2 * latents)),
        lb.Gaussian(lb.mlp(latents, dims), scale=1.0),
    ).double()
    log_variances = 2 * torch.from_numpy(_SCALES[:latents]).log()
    weight = torch.cat([gain, torch.zeros_like(gain)])
    set_linear(model.posterior, weight, torch.cat([0 * log_variances, log_variances]))
    return model


def _compute_rates(means: Float) -> Float:
    """The rate of each unit, ``[N, J]``, from the means of q."""
    scales = _SCALES[: means.shape[1]]
    rates: Float = 0.5 * (scales**2 + means**2 - 1) - np.log(scales)
    return rates


@check(
    "information",
    "Rate, mutual information, aggregate KL, marginal KL and total correlation of 20 examples are "
    "those of a mixture on a grid",
    tolerance=0.02,
)
def integrate_information() -> float:
    """For two latents that are correlated over the examples, with 1,000 draws for each.

    The errors are about 0.005 nats. The rates and the variances of the means are exact.
    """
    x, gain = torch.randn(20, 2, dtype=DOUBLE), torch.tensor([[1.0, 0.0], [0.9, 0.3]], dtype=DOUBLE)
    found = latent_health(_make_model(gain), x, samples=1000)
    means = (x @ gain.T).numpy()
    axis = np.linspace(-7, 7, 400)
    cell = axis[1] - axis[0]
    # Densities of each unit, [N, points], and of both, [points, points].
    first, second = (stats.norm(means[:, unit, None], _SCALES[unit]).pdf(axis) for unit in (0, 1))
    both = first.T @ second / len(x)
    entropy = float(special.entr(both).sum() * cell**2)
    marginals = [float(special.entr(part.mean(0)).sum() * cell) for part in (first, second)]
    energy = [float((part.mean(0) * axis**2).sum() * cell) / 2 for part in (first, second)]
    rates = _compute_rates(means)
    own = float(np.log(_SCALES).sum()) + 1 + math.log(2 * math.pi)
    information = entropy - own
    marginal = sum(energy) + math.log(2 * math.pi) - sum(marginals)
    aggregate = float(rates.sum(1).mean()) - information
    assert found.rate_per_unit is not None
    assert found.mutual_information is not None
    assert found.aggregate_kl is not None
    assert found.total_correlation is not None
    assert found.marginal_kl is not None
    exact = (
        np.abs(found.rate_per_unit.numpy() - rates.mean(0)).max(),
        np.abs(found.variances.numpy() - means.var(0)).max(),
        abs(found.rate - rates.sum(1).mean()),
    )
    if max(exact) > 1e-9:
        return math.inf
    differences = (
        found.mutual_information - information,
        found.aggregate_kl - aggregate,
        found.total_correlation - (sum(marginals) - entropy),
        found.marginal_kl - marginal,
    )
    return float(np.abs(differences).max())


@check(
    "information-error",
    "The standard error of the mutual information is the standard deviation of its estimates from "
    "other examples and draws (logarithm of the ratio)",
    tolerance=0.35,
)
def compare_information_error() -> float:
    """For 60 sets of 40 examples; the ratio has an error of about 0.09.

    By chance it fails for one seed in 1,000.
    """
    model = _make_model(torch.tensor([[1.5]], dtype=DOUBLE))
    estimates, errors = np.empty(60), np.empty(60)
    with torch.no_grad():
        for number in range(60):
            x = torch.randn(40, 1, dtype=DOUBLE)
            rates = torch.from_numpy(_compute_rates(1.5 * x.numpy()).sum(1))
            found = measure_aggregate_posterior(
                model, lb.Examples(x), "z", samples=20, seed=number, rates=rates
            )
            estimates[number] = found["mutual_information"]
            errors[number] = found["mutual_information_error"]
    return abs(0.5 * math.log(float((errors**2).mean() / estimates.var(ddof=1))))


@check(
    "codes",
    "The usage and the perplexity of binary codes are those of the examples' mean probabilities",
    tolerance=1e-6,
)
def compare_codes() -> float:
    """For 3 units and 50 examples, computed with scipy."""
    logits = 2 * torch.randn(50, 3, dtype=DOUBLE) + torch.tensor([0.0, 4.0, -9.0], dtype=DOUBLE)
    model = lb.LatentModel(
        lb.Bernoulli(lb.constant(3, 0.0, learned=False)),
        lb.Bernoulli(lb.mlp(3, 3)),
        lb.Gaussian(lb.mlp(3, 3), scale=1.0),
    ).double()
    set_linear(model.posterior, torch.eye(3, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE))
    codes = latent_health(model, logits).codes
    if codes is None:
        return math.inf
    chances = special.expit(logits.numpy())
    mean = chances.mean(0)
    perplexity = np.exp(special.entr(mean) + special.entr(1 - mean))
    usage = (chances > 0.5).any(0).astype(int) + (chances < 0.5).any(0)
    return float(
        max(
            np.abs(codes.perplexity.numpy() - perplexity).max(),
            np.abs(codes.usage.numpy() - usage).max(),
        )
    )
