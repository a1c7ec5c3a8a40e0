"""Checks of the inference gaps, and of the values of a posterior's verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.distributions import Normal

import lowerbound as lb
from lowerbound.evaluation.posterior import PosteriorHealth
from lowerbound.selftest.known import (
    DOUBLE,
    make_linear_vae,
    make_some_linear_vae,
    squared_weights,
)
from lowerbound.selftest.registry import check


@check(
    "inference-gaps",
    "The approximation gap is the divergence of the best factorised Gaussian from the posterior, "
    "and the amortisation gap is what the encoder's error adds, as computed with numpy",
    tolerance=0.04,
)
def compare_inference_gaps() -> float:
    """For a linear Gaussian model with correlated latents, and 40 examples.

    The errors are about 0.01 nats, from 200 draws and from the search.
    """
    shift, widen = 0.6, 1.3
    loadings = torch.tensor([[1.0, 0.8], [0.2, 0.9], [-0.5, 0.3]], dtype=DOUBLE)
    noise = torch.tensor(0.5, dtype=DOUBLE)
    model, evidence = make_linear_vae(
        loadings, torch.zeros(3, dtype=DOUBLE), noise, shift=shift, widen=widen
    )
    precision = np.eye(2) + loadings.numpy().T @ loadings.numpy() / 0.25
    scales = precision.diagonal() ** -0.5
    best = 0.5 * (np.log(precision.diagonal()).sum() - np.linalg.slogdet(precision)[1])
    away = shift * scales
    moved = 0.5 * (away @ precision @ away) + widen**2 - 1 - 2 * math.log(widen)
    x = evidence.sample(torch.Size((40,)))
    gaps = lb.inference_gaps(model, x, samples=200, steps=25, learning_rate=0.2)
    differences = (
        gaps.approximation.mean - best,
        gaps.amortisation.mean - moved,
        gaps.log_likelihood.mean - float(evidence.log_prob(x).mean()),
    )
    return float(np.abs(differences).max())


@check(
    "gaps-count-each-draw-once",
    "Without a search, the gaps' log likelihood varies like one from twice as many independent "
    "draws of the encoder's posterior, and has their effective sample size (relative)",
    tolerance=0.2,
)
def compare_draws_of_gaps() -> float:
    """For 1,000 examples with 2 x 50 draws; the variance has an error of about 0.05.

    By chance it fails for one seed in 10,000.
    """
    shift, widen = 0.3, 1.2
    model, evidence = make_some_linear_vae(shift=shift, widen=widen)
    x = evidence.sample(torch.Size((1000,)))
    found = lb.inference_gaps(model, x, samples=50, steps=0).log_likelihood
    squares = squared_weights(shift, widen)
    deviation = (found.per_example - evidence.log_prob(x)).exp() - 1
    return max(
        abs(float(found.effective_sample_sizes.mean()) * squares / 100 - 1),
        abs(float(deviation.square().mean()) * 100 / (squares - 1) - 1),
    )


def _judge_normal(mean: float, scale: float) -> PosteriorHealth:
    """Judge q = N(mean, scale^2) where the posterior is N(0, 1)."""
    model = lb.LogJoint(
        lambda z: Normal(torch.zeros((), dtype=DOUBLE), 1.0).log_prob(z), lb.mean_field, {"z": ()}
    ).double()
    with torch.no_grad():
        next(model.parameters()).copy_(torch.tensor([mean, 2 * math.log(scale)], dtype=DOUBLE))
    return lb.posterior_health(model)


_NORMALS = ((0.0, 1.0), (0.3, 1.2), (-0.2, 0.95), (0.5, 1.6))


@check(
    "posterior-health-values",
    "The bound and the log evidence of a posterior's verdict are the closed forms of Gaussians (in "
    "its own standard errors)",
    tolerance=4,
)
def compare_posterior_values() -> Iterator[float]:
    """For three wrong posteriors with 10,000 draws. By chance it fails for one seed in 2,500."""
    for mean, scale in _NORMALS[1:]:
        found = _judge_normal(mean, scale)
        bound = math.log(scale) - 0.5 * (scale**2 + mean**2 - 1)
        yield abs(found.elbo - bound) / found.elbo_error
        yield abs(found.log_evidence) / found.log_evidence_error
        yield abs(found.gap - found.log_evidence + found.elbo) * 1e9


@check(
    "posterior-health-errors",
    "The standard error of the bound and the effective sample size in a verdict on a posterior are "
    "the closed forms of Gaussians, and the error of the log evidence is at most that of q's draws "
    "(relative)",
    tolerance=0.1,
)
def compare_posterior_errors() -> Iterator[float]:
    """For three wrong posteriors with 10,000 draws, and for the exact one, whose errors are 0.

    The closed forms have errors of about 0.02.
    """
    for mean, scale in _NORMALS[1:]:
        found = _judge_normal(mean, scale)
        # log w = const - m s e + (1 - s^2) e^2 / 2 for e ~ N(0, 1).
        variance = (mean * scale) ** 2 + 0.5 * (1 - scale**2) ** 2
        squares = squared_weights(mean, scale, 1)
        yield abs(found.elbo_error / math.sqrt(variance / 10_000) - 1)
        yield found.log_evidence_error / math.sqrt((squares - 1) / 10_000) - 1
        yield abs(found.effective_samples * squares / 10_000 - 1)
    exact = _judge_normal(*_NORMALS[0])
    yield max(exact.elbo_error, exact.log_evidence_error, 10_000 - exact.effective_samples)
