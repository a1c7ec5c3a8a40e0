"""Gradients of penalties in place of the rate, against the penalties written out."""

import pytest
import torch
from torch import nn

import lowerbound as lb


@pytest.fixture
def model():
    return lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(nn.Linear(3, 4)), lb.Gaussian(nn.Linear(2, 6))
    ).double()


def gradients_of(loss, model):
    found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    return torch.cat([gradient.flatten() for gradient in found])


def draw_and_rates(model, examples=5):
    x = 3 * torch.randn(examples, 3, dtype=torch.float64)
    draw = model.draw(x, 2)
    mean, log_scale = draw.q.loc, draw.q.log_scale
    return draw, 0.5 * ((2 * log_scale).exp() + mean.square() - 1) - log_scale


@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("free_bits", [0.4, 2.0])
def test_free_bits_are_weighted_by_beta(model, beta, free_bits):
    draw, rates = draw_and_rates(model)
    penalty = beta * rates.mean(0).clamp_min(free_bits).sum()
    expected = gradients_of(draw.log_likelihood.mean() - penalty, model)
    objective = lb.ELBO(samples=2, beta=beta, free_bits=free_bits)
    found = gradients_of(objective(draw).mean(), model)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_the_capacity_is_compared_with_the_mean_rate(model, share):
    """Some examples have rates above the capacity, and others below."""
    draw, rates = draw_and_rates(model)
    rates = rates.sum(1)
    capacity = share * float(rates.detach().mean())
    assert rates.min() < capacity < rates.max()
    penalty = 3.0 * (rates.mean() - capacity).abs()
    expected = gradients_of(draw.log_likelihood.mean() - penalty, model)
    objective = lb.ELBO(samples=2, beta=3.0, capacity=capacity)
    found = gradients_of(objective(draw).mean(), model)
    torch.testing.assert_close(found, expected)


def test_another_number_of_samples_keeps_the_groups():
    objective = lb.IWAE(samples=20, groups=5, encoder_groups=10, elbo_weight=0.25)
    other = objective.with_samples(10)
    assert (other.samples, other.groups, other.encoder_groups) == (10, 5, None)
    assert other.elbo_weight == 0.25
    log_w = torch.randn(10, 3, dtype=torch.float64)
    power = (log_w.reshape(5, 2, 3).exp().mean(1)).log().mean(0)
    expected = 0.25 * log_w.mean(0) + 0.75 * power
    [mean, _] = other._make_power_means()
    torch.testing.assert_close(mean.value(log_w), expected)
