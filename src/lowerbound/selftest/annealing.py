"""Checks of annealed importance sampling."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special, stats

import lowerbound as lb
from lowerbound.evaluation.annealing import annealed_log_likelihood, bidirectional
from lowerbound.selftest.known import (
    DOUBLE,
    WatchedBound,
    largest,
    make_grid_vae,
    make_some_linear_vae,
    set_linear,
)
from lowerbound.selftest.registry import check


@check(
    "annealing-gap",
    "Annealing from the posterior to the prior agrees with annealing from the prior within 0.15 "
    "nats",
    tolerance=0.15,
)
def measure_annealing_gap() -> float:
    """The mean absolute gap over 4 examples that a linear Gaussian model simulates.

    It uses 60 distributions and 512 chains; the gap is about 0.06 nats.
    """
    model, _ = make_some_linear_vae()
    interval = bidirectional(model, 4, distributions=60, chains=512, leapfrog_steps=1)
    return float(interval.gap.per_example.abs().mean())


@check(
    "annealing-evidence",
    "Annealing gives the log likelihood of a linear Gaussian model, even if its posterior is bad",
    tolerance=0.05,
)
def measure_annealing_evidence() -> float:
    """The mean over 6 examples, with 40 distributions and 512 chains.

    Its error is about 0.02 nats.
    """
    model, evidence = make_some_linear_vae(shift=5.0)
    x = evidence.sample(torch.Size((6,)))
    found = annealed_log_likelihood(
        model, x, distributions=40, chains=512, leapfrog_steps=1, check_length=False
    )
    return abs(found.mean - float(evidence.log_prob(x).mean()))


@check(
    "annealing-quadrature",
    "Annealing gives the log likelihood of a nonlinear model with two latents, as computed on a "
    "120 x 120 grid",
    tolerance=0.05,
)
def measure_annealing_quadrature() -> float:
    """The mean over 8 binary examples.

    It uses 12 distributions and 256 chains. Its error is about 0.011 nats.
    """
    model, x, expected = make_grid_vae(8)
    found = annealed_log_likelihood(
        model, x, distributions=12, chains=256, leapfrog_steps=1, check_length=False
    )
    return abs(found.mean - float(expected.mean()))


@check(
    "annealing-at-length",
    "Annealing in both directions agrees within 0.15 nats by default, for ten latents and a "
    "nonlinear decoder",
    tolerance=0.15,
    thorough=True,
)
def measure_annealing_at_length() -> float:
    """The absolute value of the mean gap over 20 examples."""
    model = lb.LatentModel(
        lb.StandardNormal(10),
        lb.Gaussian(lb.mlp(30, 20)),
        lb.Gaussian(lb.mlp(10, 40, 30, activation="tanh"), scale=0.3),
    ).double()
    return abs(bidirectional(model, 20).gap.mean)


@check(
    "annealing-written-out",
    "An annealed estimate of two distributions is importance sampling from the prior: the value, "
    "the effective sample size and the halves follow from the likelihoods, as computed explicitly",
    tolerance=1e-9,
)
def compute_annealing_explicitly() -> float:
    """For 7 examples and 12 chains. The draws are those of a model whose posterior is its prior."""
    model, x, _ = make_grid_vae(7)
    found = annealed_log_likelihood(model, x, distributions=2, chains=12, leapfrog_steps=1, seed=3)
    weights = WatchedBound(12)
    lb.evaluate(model, weights, x, seed=3)
    log_w = torch.cat(weights.seen, 1).numpy()
    halves = [special.logsumexp(part, axis=0) - math.log(6) for part in (log_w[:6], log_w[6:])]
    shares = special.softmax(log_w, axis=0)
    expected = (
        (found.per_example, special.logsumexp(log_w, axis=0) - math.log(12)),
        (found.effective_sample_sizes, 1 / (shares**2).sum(0)),
        (found.halves, np.stack(halves)),
    )
    return max(largest(ours - torch.from_numpy(exact)) for ours, exact in expected)


@check(
    "annealing-shortfall",
    "An annealed estimate may be too low by the upper end of an interval: that of the growth since "
    "chains of half the length, as computed with scipy",
    tolerance=1e-9,
)
def compare_annealing_shortfall() -> float:
    """For 4 examples, whose interval is Student's. The shorter chains have their own noise."""
    model, x, _ = make_grid_vae(4)
    found = annealed_log_likelihood(model, x, distributions=8, chains=6, leapfrog_steps=1)
    assert found.shorter is not None
    if float((found.shorter - found.per_example).abs().min()) == 0:
        return math.inf
    growth = (found.per_example - found.shorter).numpy()
    _, high = stats.t.interval(0.95, 3, growth.mean(), stats.sem(growth))
    return abs(found.shortfall - max(0.0, float(high)))


@check(
    "annealing-doubt",
    "If short annealing ranks the worse of two models first, the comparison is not certain, and "
    "the better model's estimate is marked as doubtful in most examples",
    tolerance=0,
)
def measure_annealing_doubt() -> float:
    """For linear decoders with noise 0.1 and 0.3, 24 examples of the first, and 4 latents.

    At 20 distributions the better model's estimate is far below its log likelihood. For each of 15
    seeds that were tried, all of this holds.
    """
    weight, bias = torch.randn(10, 4, dtype=DOUBLE), torch.zeros(10, dtype=DOUBLE)
    models = []
    for scale in (0.1, 0.3):
        likelihood = lb.Gaussian(lb.mlp(4, 10), scale=scale)
        set_linear(likelihood, weight, bias)
        posterior = lb.Gaussian(lb.mlp(10, 8))
        models.append(lb.LatentModel(lb.StandardNormal(4), posterior, likelihood).double())
    x = models[0].sample(24)
    better, worse = (
        annealed_log_likelihood(model, x, distributions=20, chains=8, leapfrog_steps=1)
        for model in models
    )
    difference = lb.paired_difference(better, worse)
    if not difference.high < 0:
        return math.inf  # the models are in the right order, so that nothing is tested
    return float(difference.is_certain) + float(better.doubtful_share < 0.5)
