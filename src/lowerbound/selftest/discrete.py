"""Checks of models with few binary latents, whose values can be enumerated."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.selftest.known import (
    DOUBLE,
    compute_gradients,
    enumerate_bits,
    errors_above,
    errors_apart,
    largest,
    log_joint,
    make_copied_vae,
    select_decoder,
    select_encoder,
    set_linear,
)
from lowerbound.selftest.registry import check

_COPIES = 50_000


def _make_twelve_bits_vae() -> tuple[lb.LatentModel, Tensor, Tensor]:
    """Make a model with twelve binary latents, examples, and their log p(x) by enumeration."""
    model = lb.LatentModel(
        lb.Bernoulli(lb.constant(12, -0.4, learned=False)),
        lb.Bernoulli(lb.mlp(6, 12)),
        lb.Gaussian(lb.mlp(12, 8, 6, activation="tanh"), scale=1.0),
    ).double()
    set_linear(
        model.posterior,
        0.1 * torch.randn(12, 6, dtype=DOUBLE),
        torch.full((12,), -0.3, dtype=DOUBLE),
    )
    x = torch.randn(20, 6, dtype=DOUBLE)
    return model, x, log_joint(model, x, enumerate_bits(12)).logsumexp(0)


@check(
    "binary-bound",
    "With 12 binary latents the importance-weighted bound is below the enumerated log likelihood "
    "(in standard errors)",
    tolerance=3,
)
def measure_binary_bound() -> Iterator[float]:
    """For 1 and 10 samples, and 100 copies of 20 examples.

    By chance it fails for far less than one seed in 20.
    """
    model, x, exact = _make_twelve_bits_vae()
    for count in (1, 10):
        with torch.no_grad():
            bounds = lb.IWAE(samples=count)(model.draw(x.repeat(100, 1), count))
        yield errors_above(bounds.reshape(100, -1) - exact)


@check(
    "binary-likelihood",
    "With 12 binary latents the importance-sampled log likelihood is the enumerated one",
    tolerance=0.05,
)
def measure_binary_likelihood() -> float:
    """For 20 examples with 5,000 samples. The errors are about 0.008 nats."""
    model, x, exact = _make_twelve_bits_vae()
    return largest(lb.log_likelihood(model, x, 5000).per_example - exact)


def _enumerate_gradient(objective: lb.Objective) -> dict[str, Tensor]:
    """Compute the gradient of the expected bound of two samples.

    The expectation is the sum over all pairs of values, weighted by their probabilities.
    """
    model, x_1D = make_copied_vae(1, binary=True)
    values = enumerate_bits(3)
    log_q = model.posterior(x_1D).log_prob(values)
    log_w = (
        model.likelihood(values[:, None]).log_prob(x_1D)[:, 0]
        + model.prior().log_prob(values)
        - log_q
    )
    pair_log_w, pair_log_q = (
        torch.stack([entry[:, None].expand(8, 8), entry[None, :].expand(8, 8)])
        for entry in (log_w, log_q)
    )
    bound = pair_log_w.logsumexp(0) - math.log(2)
    if isinstance(objective, lb.ELBO):
        bound = pair_log_w.mean(0)
    expected = (pair_log_q.sum(0).exp() * bound).sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(expected, parameters)
    return dict(zip(names, found, strict=True))


def _compare_with_exact(objective: lb.Objective) -> float:
    model, x = make_copied_vae(_COPIES, binary=True)
    found, exact = compute_gradients(model, objective, x, 0), _enumerate_gradient(objective)
    return max(
        errors_apart(part(found), part(exact)[0]) for part in (select_encoder, select_decoder)
    )


@check(
    "binary-elbo-gradient",
    "With binary latents the mean of the ELBO's score-function gradient is the enumerated gradient "
    "(largest t of 100,000 draws)",
    tolerance=4,
)
def compare_binary_elbo_gradient() -> Iterator[float]:
    """With the KL term in closed form and sampled, for 15 parameters.

    By chance it fails for one seed in 500.
    """
    kinds = [
        lb.ELBO(samples=2, gradient="score-function", kl=kl) for kl in ("closed-form", "sampled")
    ]
    return (_compare_with_exact(objective) for objective in kinds)


@check(
    "vimco-gradient",
    "With binary latents the mean of VIMCO's gradient is the gradient enumerated over all pairs of "
    "samples (largest t of 100,000 draws)",
    tolerance=4,
)
def compare_vimco_gradient() -> float:
    """For 15 parameters. By chance it fails for one seed in 1,000."""
    return _compare_with_exact(lb.IWAE(samples=2, gradient="score-function"))
