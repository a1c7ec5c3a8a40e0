"""Checks of layers, labels, codes and enumerated latents, of penalties and of factors' scores."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import (
    Independent,
    MultivariateNormal,
    OneHotCategorical,
    RelaxedOneHotCategorical,
    kl_divergence,
)

import lowerbound as lb
from lowerbound.distributions import closed_form_kl
from lowerbound.distributions.one_hot import FactorialOneHot, RelaxedOneHot
from lowerbound.distributions.sphere import PowerSpherical, SphereUniform
from lowerbound.evaluation.factor_scores import (
    Factor,
    compute_factor_vae_score,
    compute_information,
    compute_mig,
    compute_modularity,
)
from lowerbound.objectives.discrepancy import compute_discrepancy
from lowerbound.selftest.known import DOUBLE, largest, set_linear
from lowerbound.selftest.registry import check

# Distributions of latents


@check(
    "one-hot-codes",
    "One-hot codes and relaxed ones have torch's densities, and the closed-form KL is torch's",
    tolerance=1e-10,
)
def compare_one_hot_codes() -> Iterator[float]:
    """For two variables of four categories, and five draws."""
    logits, others = torch.randn(2, 3, 2, 4, dtype=DOUBLE)
    q, p = FactorialOneHot(logits), FactorialOneHot(others)
    q_torch, p_torch = (
        Independent(OneHotCategorical(logits=entry), 1) for entry in (logits, others)
    )
    drawn, kl = q.sample(torch.Size((5,))), closed_form_kl(q, p)
    assert kl is not None
    yield largest(q.log_prob(drawn) - q_torch.log_prob(drawn))
    yield largest(kl - kl_divergence(q_torch, p_torch))
    relaxed = RelaxedOneHot(logits, 0.7)
    temperature = torch.tensor(0.7, dtype=DOUBLE)
    expected = Independent(RelaxedOneHotCategorical(temperature, logits=logits), 1)
    soft = relaxed.rsample(torch.Size((5,)))
    yield largest(relaxed.log_prob(soft) - expected.log_prob(soft))


@check(
    "sphere",
    "A power spherical distribution integrates to 1 over the sphere, and its mean, its variance, "
    "its entropy and its KL to the uniform distribution are integrals",
    tolerance=1e-8,
)
def integrate_over_sphere() -> Iterator[float]:
    """By a product rule of 64 x 64 points, for three directions in three dimensions."""
    heights, shares = np.polynomial.legendre.leggauss(64)
    height, weight = torch.from_numpy(heights), torch.from_numpy(shares)
    angle = 2 * math.pi / 64 * torch.arange(64, dtype=DOUBLE)
    radius = (1 - height.square()).sqrt()
    points = torch.stack(
        [
            radius[:, None] * angle.cos(),
            radius[:, None] * angle.sin(),
            height[:, None].expand(-1, 64),
        ],
        -1,
    ).reshape(-1, 1, 3)
    area = (2 * math.pi / 64 * weight[:, None]).expand(-1, 64).reshape(-1, 1)
    loc = nn.functional.normalize(torch.randn(3, 3, dtype=DOUBLE), dim=-1)
    q = PowerSpherical(loc, torch.tensor([4.0, 6.0, 9.0], dtype=DOUBLE))
    log_density = q.log_prob(points)
    density = area * log_density.exp()
    mean = (density[..., None] * points).sum(0)
    yield largest(density.sum(0) - 1)
    yield largest(q.mean - mean)
    yield largest(q.variance - (density[..., None] * (points - mean).square()).sum(0))
    yield largest(q.entropy() + (density * log_density).sum(0))
    kl = closed_form_kl(q, SphereUniform(3, like=loc))
    assert kl is not None
    yield largest(kl - (density * (log_density + math.log(4 * math.pi))).sum(0))


# Models


def _make_chain(merge: str) -> tuple[lb.LayeredModel, MultivariateNormal]:
    """Make z2 -> z1 -> x, each with two dimensions, with its exact posterior, and its evidence.

    z2 is standard normal, z1 = 0.8 z2 + 0.6 noise, and x = z1 + 0.5 noise.
    """
    slope, own, noise = 0.8, 0.6**2, 0.5**2
    eye, zero = torch.eye(2, dtype=DOUBLE), torch.zeros(2, 2, dtype=DOUBLE)
    around = own + noise  # the variance of x given z2
    top = 1 / (1 + slope**2 / around)
    lower = 1 / (1 / own + 1 / noise)
    given_x = torch.cat([lower / noise * eye, lower * slope / own * eye], 1)
    scale = math.sqrt(lower)
    if merge == "product":  # the likelihood of z1 alone, which is multiplied with the prior
        given_x, scale = eye, math.sqrt(noise)
    posterior = lb.Gaussian(lb.mlp(given_x.shape[1], 2), scale=scale)
    above = lb.Gaussian(lb.mlp(2, 2), scale=math.sqrt(top))
    prior = lb.Gaussian(lb.mlp(2, 2), scale=math.sqrt(own))
    likelihood = lb.Gaussian(lb.mlp(2, 2), scale=math.sqrt(noise))
    model = lb.LayeredModel(
        [prior, lb.StandardNormal(2)],
        [posterior, above],
        likelihood,
        features=[nn.Identity(), nn.Identity()],
        merge=merge,  # type: ignore[arg-type]
    ).double()
    for part, weight in (
        (posterior, given_x),
        (above, top * slope / around * eye),
        (prior, slope * eye),
        (likelihood, eye),
    ):
        set_linear(part, weight, zero[0])
    return model, MultivariateNormal(zero[0], (slope**2 + around) * eye)


@check(
    "top-down-layers",
    "If the posteriors of a model with top-down inference are exact, concatenated with the layer "
    "above or multiplied with its prior, every log weight is the log likelihood",
    tolerance=1e-5,
)
def compare_top_down_layers() -> Iterator[float]:
    """For two layers, 5 examples, and 4 draws. The fixed scales are rounded to float32."""
    for merge in ("concatenate", "product"):
        model, evidence = _make_chain(merge)
        x = evidence.sample(torch.Size((5,)))
        with torch.no_grad():
            yield largest(model.draw(x, 4).log_w - evidence.log_prob(x))


@check(
    "labels-summed-out",
    "If the posteriors of a semi-supervised model are exact for every label, the log weight of an "
    "example is log p(x, y) if its label is known, and else log p(x)",
    tolerance=1e-5,
)
def compare_labels() -> Iterator[float]:
    """For three labels, 6 examples, and 4 draws. The fixed scales are rounded to float32."""
    shift, noise = torch.randn(3, dtype=DOUBLE), 0.5**2
    spread = 1 / (1 + 1 / noise)
    posterior, likelihood = (
        lb.Gaussian(lb.mlp(4, 1), scale=math.sqrt(variance)) for variance in (spread, noise)
    )
    probabilities = (0.5, 0.3, 0.2)
    model = lb.SemiSupervised(
        lb.StandardNormal(1),
        lb.mlp(1, 3),
        lb.Given(posterior, "y", categories=3),
        lb.Given(likelihood, "y", categories=3),
        categories=3,
        label_probabilities=probabilities,
    ).double()
    # x = z + shift[y] + noise; a code of the label is appended to the input.
    one = torch.ones(1, dtype=DOUBLE)
    set_linear(likelihood, torch.cat([one, shift])[None], 0 * one)
    set_linear(posterior, spread / noise * torch.cat([one, -shift])[None], 0 * one)
    x, label = torch.randn(6, 1, dtype=DOUBLE), torch.tensor([0, 1, 2, -1, -1, -1])
    evidence = torch.distributions.Normal(shift, math.sqrt(1 + noise)).log_prob(x)
    joint = evidence + torch.tensor(probabilities, dtype=DOUBLE).log()
    expected = torch.where(
        label < 0, joint.logsumexp(1), joint.gather(1, label.clamp(min=0)[:, None])[:, 0]
    )
    with torch.no_grad():
        draw = model.draw(x, 4, label=label)
        yield largest(draw.log_w - expected)
        # The ELBO of an unknown label averages log p(x, y) - log q(y|x) over q(y|x).
        log_q = model.classify(x)
        bound = (log_q.exp() * (joint - log_q)).sum(1)
        yield largest(lb.ELBO().bound(draw) - torch.where(label < 0, bound, expected))


@check(
    "enumerated-latents",
    "The log weights of enumerated latents are the log likelihood, and their ELBO is an exact "
    "expectation, as summed over all states",
    tolerance=1e-10,
)
def compare_enumerated_latents() -> Iterator[float]:
    """For two variables of three categories, and five examples."""
    model = lb.EnumeratedModel(
        lb.OneHot(lb.constant((2, 3), spread=1.0)),
        lb.OneHot(lb.mlp(4, (2, 3))),
        lb.Bernoulli(lb.mlp((2, 3), 4)),
    ).double()
    x = torch.randint(2, (5, 4)).to(DOUBLE)
    codes = torch.eye(3, dtype=DOUBLE)
    states = torch.stack([torch.stack([first, second]) for first in codes for second in codes])
    states = states[:, None]
    with torch.no_grad():
        draw, q = model.draw(x, 1), model.posterior(x)
        joint = model.likelihood(states).log_prob(x) + model.prior().log_prob(states)
        log_q = q.log_prob(states)
        yield largest(draw.log_w - joint.logsumexp(0))
        bound = (log_q.exp() * (joint - log_q)).sum(0)
        yield largest(lb.ELBO(kl="sampled").bound(draw) - bound)


@check(
    "quantised-codes",
    "A vector-quantised posterior chooses the nearest code in each stage, passes the gradient of "
    "its value on to the encoder, and a uniform prior over its codes costs log K for each",
    tolerance=1e-10,
)
def compare_codes() -> Iterator[float]:
    """For two stages of seven codes, and 20 outputs of three dimensions."""
    posterior = lb.VectorQuantized(lb.mlp(3, 3), codes=7, stages=2, decay=None).double()
    with torch.no_grad():
        posterior.tables.copy_(torch.randn_like(posterior.tables))
    raw = torch.randn(20, 3, dtype=DOUBLE, requires_grad=True)
    q = posterior.from_parameters(raw)
    left, whole = raw.detach(), torch.zeros(20, 3, dtype=DOUBLE)
    for stage, table in enumerate(posterior.get_tables().detach()):
        nearest = (left[:, None] - table).square().sum(-1).argmin(1)
        yield float((q.codes[:, stage] != nearest).sum())
        whole, left = whole + table[nearest], left - table[nearest]
    yield largest(q.mean - whole)
    direction = torch.randn(20, 3, dtype=DOUBLE)
    (gradient,) = torch.autograd.grad((q.mean * direction).sum(), raw)
    yield largest(gradient - direction)
    kl = closed_form_kl(q, lb.CodePrior(posterior)())
    assert kl is not None
    yield largest(kl - 2 * math.log(7))


# Penalties and scores


def _draw_some(examples: int) -> tuple[lb.Draw, Tensor, Tensor]:
    """Draw once from a model of two latents: the draw, and the mean and the deviation of q."""
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(lb.mlp(2, 8))
    ).double()
    x = torch.randn(examples, 4, dtype=DOUBLE)
    with torch.no_grad():
        q = model.posterior(x)
        return model.draw(x, 1), q.mean, q.stddev


@check(
    "total-correlation-parts",
    "The three parts of beta-TC's KL are those of stratified weights, as computed in loops, and "
    "their sum is the sampled rate",
    tolerance=1e-10,
)
def compute_parts_in_loops() -> Iterator[float]:
    """For a batch of 6 of 40 examples."""
    draw, mean, deviation = _draw_some(6)
    parts = lb.BetaTCVAE(size=40).parts(draw)
    z, size, batch = draw.z[0], 40, 6
    for row in range(batch):
        log_q = torch.distributions.Normal(mean, deviation).log_prob(z[row])
        weights = torch.full((batch,), (size - 1) / (size * (batch - 1)), dtype=DOUBLE)
        weights[row] = 1 / size
        aggregate = (weights * log_q.sum(1).exp()).sum().log()
        product = (weights[:, None] * log_q.exp()).sum(0).log().sum()
        expected = (
            log_q[row].sum() - aggregate,
            aggregate - product,
            product - draw.log_prior[0, row],
        )
        for part, value in zip(parts.values(), expected, strict=True):
            yield largest(part[row] - value)
    yield largest(sum(parts.values(), -(draw.log_q - draw.log_prior)[0]))


@check(
    "moments-of-the-aggregate",
    "The covariance that DIP penalises is that of the aggregate posterior, and the kernel "
    "discrepancy is the unbiased one, as computed explicitly with numpy",
    tolerance=1e-10,
)
def compute_moments_explicitly() -> Iterator[float]:
    """For a batch of 6, and two sets of 5 points."""
    draw, mean, deviation = _draw_some(6)
    covariance = np.cov(mean.numpy().T) + np.diag(deviation.square().mean(0).numpy())
    yield largest(lb.DIPVAE().covariance(draw) - torch.from_numpy(covariance))
    z, y = torch.randn(2, 1, 5, 3, dtype=DOUBLE)

    def kernel(a: Tensor, b: Tensor) -> float:
        width = 2 * 3 * 0.5
        return width / (width + float((a - b).square().sum()))

    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    expected = sum(
        kernel(z[0, i], z[0, j]) + kernel(y[0, i], y[0, j]) - 2 * kernel(z[0, i], y[0, j])
        for i, j in pairs
    ) / len(pairs)
    found = compute_discrepancy(z, y, "imq", (0.5,))
    yield largest(found.mean() - expected)


@check(
    "scores-of-factors",
    "Codes that are the factors, permuted and rescaled, have a mutual information gap, a "
    "modularity and a FactorVAE score of 1; with a copy of one of them the gap of this factor is 0",
    tolerance=1e-9,
)
def score_known_codes() -> Iterator[float]:
    """For 300 examples of a factor with three and one with four values."""
    rows = np.arange(300)
    factors = [Factor.of("a", rows % 3, bins=12), Factor.of("b", rows // 3 % 4, bins=12)]
    codes = np.stack([-2.0 * factors[1].values, 5.0 + factors[0].values], 1)
    information = compute_information(codes, factors, bins=12)
    yield float(np.abs(compute_mig(information, factors) - 1).max())
    yield abs(compute_modularity(information) - 1)
    yield abs(compute_factor_vae_score(codes, factors, seed=0) - 1)
    with_copy = compute_information(np.concatenate([codes, codes[:, :1]], 1), factors, bins=12)
    yield float(np.abs(compute_mig(with_copy, factors) - [1, 0]).max())
