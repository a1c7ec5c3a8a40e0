"""Power means of importance weights where a naive formula overflows or has weights of zero."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import logsumexp

import lowerbound as lb
from lowerbound.objectives.importance import PowerMean

SPIKE = torch.cat([torch.zeros(1), torch.full((49,), -3000.0)])[:, None]
ZERO = torch.tensor([0.0, 0.0, 0.0, 0.0, -math.inf])[:, None]
WIDE = 300 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("is_schedule", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_w", [SPIKE, ZERO, WIDE], ids=["spike", "zero", "wide"])
@pytest.mark.parametrize("alpha", [0.5, 0.91, 0.95, 0.999, 1.05, 1.5])
def test_values_and_gradients_are_those_of_scipy(alpha, log_w, dtype, is_schedule):
    log_w = log_w.to(dtype, copy=True).requires_grad_()
    setting = torch.tensor(alpha, dtype=dtype) if is_schedule else alpha
    value = PowerMean(setting).value(log_w)
    order = float(1 - setting)  # in float32 a schedule's alpha is rounded
    terms = order * log_w.detach().double().numpy()
    expected = torch.from_numpy(logsumexp(terms, axis=0, b=1 / len(terms)) / order)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    if bool(expected.isfinite().all()):
        (gradient,) = torch.autograd.grad(value.sum(), log_w)
        shares = torch.from_numpy(terms).softmax(0)
        # In float32 the order is rounded, and with it differences of 1,000 nats.
        torch.testing.assert_close(gradient.double(), shares, rtol=0, atol=100 * tolerance)


def test_values_that_were_infinite_or_nan_near_alpha_one():
    assert float(PowerMean(0.91).value(SPIKE)) == pytest.approx(-43.467, abs=1e-3)
    assert float(PowerMean(0.95).value(SPIKE)) == pytest.approx(-78.240, abs=1e-3)
    assert float(PowerMean(0.95).value(ZERO)) == pytest.approx(-4.463, abs=1e-3)


def test_a_weight_of_zero_has_the_advantage_that_enumeration_gives():
    """VIMCO replaces a log weight by the mean of the others, which is -inf beside a zero."""
    log_w = torch.tensor([1.0, 2.0, 0.0, -math.inf], dtype=torch.float64)[:, None]
    for alpha in (0.0, 0.95):
        mean = PowerMean(alpha)
        expected = []
        for own in range(4):
            replaced = log_w.clone()
            replaced[own] = torch.cat([log_w[:own], log_w[own + 1 :]]).mean()
            expected.append(mean.value(log_w) - mean.value(replaced))
        found = mean.advantages(log_w)
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.9, 0.95, 0.999, 1.0001, 1.05, 1.1])
@pytest.mark.parametrize("scale", [0.1, 3.0, 200.0, 300.0, 950.0])
def test_advantages_are_those_of_scipy(scale, alpha, dtype):
    """Each log weight is replaced by the mean of the others, also one far above them."""
    spike = torch.cat([torch.full((1,), scale), torch.zeros(9)])
    random = scale * torch.randn(10, generator=torch.Generator().manual_seed(0))
    log_w = torch.stack([spike, spike.flip(0), random], 1).to(dtype)
    found = PowerMean(alpha).advantages(log_w).double()
    exact = log_w.double().numpy()
    order = 1 - alpha

    def mean(values):
        return logsumexp(order * values, axis=0, b=1 / len(values)) / order

    for own in range(len(exact)):
        replaced = exact.copy()
        replaced[own] = (exact.sum(0) - exact[own]) / (len(exact) - 1)
        expected = torch.from_numpy(mean(exact) - mean(replaced))
        # The reference is also only as accurate as a logarithm divided by the order.
        atol = 100 * (torch.finfo(dtype).eps * (scale + 1) + 2e-16 / abs(order))
        torch.testing.assert_close(found[own], expected, rtol=0, atol=atol)


def test_a_schedule_that_has_reached_zero_leaves_the_power_mean_of_a_zero_weight():
    mixed = PowerMean(0.0, elbo_weight=torch.tensor(0.0))
    assert float(mixed.value(ZERO)) == pytest.approx(math.log(0.8), abs=1e-6)


@pytest.mark.parametrize("gradient", ["pathwise", "dreg", "score-function"])
def test_the_renyi_bound_of_an_untrained_model_is_finite_and_can_be_trained(gradient):
    torch.manual_seed(0)
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(4, 4)),
        lb.Gaussian(lb.mlp(2, 8), min_scale=1e-3),
    )
    x = 300 * torch.randn(20, 4)
    objective = lb.Renyi(0.91, samples=20, gradient=gradient)
    value = lb.evaluate(vae, objective, x)
    elbo = lb.evaluate(vae, lb.ELBO(samples=20), x)
    assert math.isfinite(value.mean)
    assert elbo.mean - 1 < value.mean < lb.evaluate(vae, lb.IWAE(samples=20), x).mean
    lb.fit(vae, objective, x, steps=2, progress=False)
