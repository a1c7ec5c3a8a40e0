"""Checks of annealed importance sampling."""

from __future__ import annotations

import torch

import lowerbound as lb
from lowerbound.evaluation.annealing import annealed_log_likelihood, bidirectional
from lowerbound.selftest.known import make_grid_vae, make_some_linear_vae
from lowerbound.selftest.registry import check


@check(
    "annealing-gap",
    "Annealing from the posterior to the prior agrees with annealing from the prior within 0.15 "
    "nats",
    tolerance=0.15,
)
def measure_annealing_gap() -> float:
    """The mean absolute gap over 10 examples that a linear Gaussian model simulates.

    It uses 500 distributions and 64 chains.
    """
    model, _ = make_some_linear_vae()
    interval = bidirectional(model, 10, distributions=500, chains=64, leapfrog_steps=2)
    return float(interval.gap.per_example.abs().mean())


@check(
    "annealing-evidence",
    "Annealing gives the log likelihood of a linear Gaussian model, even if its posterior is bad",
    tolerance=0.05,
)
def measure_annealing_evidence() -> float:
    """The mean over 20 examples, with 200 distributions and 64 chains.

    Its error is about 0.02 nats.
    """
    model, evidence = make_some_linear_vae(shift=5.0)
    x = evidence.sample(torch.Size((20,)))
    found = annealed_log_likelihood(model, x, distributions=200, chains=64, leapfrog_steps=2)
    return abs(found.mean - float(evidence.log_prob(x).mean()))


@check(
    "annealing-quadrature",
    "Annealing gives the log likelihood of a nonlinear model with two latents, as computed on a "
    "200 x 200 grid",
    tolerance=0.05,
)
def measure_annealing_quadrature() -> float:
    """The mean over 20 binary examples.

    It uses 200 distributions and 64 chains. Its error is about 0.01 nats.
    """
    model, x, expected = make_grid_vae(20)
    found = annealed_log_likelihood(model, x, distributions=200, chains=64, leapfrog_steps=2)
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
