"""Binary entries and entries with levels against torch's distributions."""

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent

from lowerbound.distributions import FactorialBernoulli, FactorialCategorical
from lowerbound.distributions.bernoulli import _compute_in_one_pass, _exp_of_negative

LEVELS = 5


@pytest.mark.parametrize("size", [1, 2, 7, 33, 100])
def test_binary_entries_are_torch_s(size):
    logits = (3 * torch.randn(4, size, dtype=torch.float64)).requires_grad_()
    ours, torch_s = FactorialBernoulli(logits), Independent(Bernoulli(logits=logits), 1)
    for name in ("mean", "variance"):
        torch.testing.assert_close(getattr(ours, name), getattr(torch_s, name))
    torch.testing.assert_close(ours.entropy(), torch_s.entropy())
    value = torch.randint(2, (4, size)).double().requires_grad_()
    found, expected = ours.log_prob(value), torch_s.log_prob(value)
    torch.testing.assert_close(found, expected)
    inputs = (logits, value)
    for one, other in zip(
        torch.autograd.grad(found.sum(), inputs),
        torch.autograd.grad(expected.sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(ours.entrywise_log_prob(value).sum(1), expected)
    compiled = _compute_in_one_pass(value.detach().float(), logits.detach().float())
    torch.testing.assert_close(compiled.double(), expected.detach(), rtol=1e-5, atol=1e-5)


def test_the_exponential_of_compiled_code_has_the_stated_error():
    x = (-torch.rand(10_000) * 80).square().neg().clamp(min=-80) / 8
    found = _exp_of_negative(x).double()
    assert float((found - x.double().exp()).abs().max()) < 2e-7


def test_entries_with_levels_are_torch_s():
    logits = torch.randn(3, LEVELS, 4, dtype=torch.float64)
    ours = FactorialCategorical(logits)
    torch_s = Independent(Categorical(logits=logits.movedim(1, -1)), 1)
    torch.testing.assert_close(ours.entropy(), torch_s.entropy())
    level = torch.randint(LEVELS, (3, 4))
    torch.testing.assert_close(ours.log_prob(level / (LEVELS - 1)), torch_s.log_prob(level))
    rounded = level / (LEVELS - 1) - 1e-7  # as numbers of float32 may be
    torch.testing.assert_close(ours.log_prob(rounded), torch_s.log_prob(level))
    probs = torch_s.base_dist.probs
    values = torch.linspace(0, 1, LEVELS, dtype=torch.float64)
    mean = (probs * values).sum(-1)
    torch.testing.assert_close(ours.mean, mean)
    torch.testing.assert_close(ours.variance, (probs * (values - mean[..., None]) ** 2).sum(-1))
    drawn = ours.sample((4000,))
    shares = torch.stack([(drawn == value).double().mean(0) for value in values], -1)
    assert bool(((shares - probs).abs() < 4.5 * 0.5 / 4000**0.5).all())


@pytest.mark.parametrize("kind", [FactorialBernoulli, FactorialCategorical])
def test_a_stop_gradient_stops_the_logits(kind):
    logits = torch.randn(3, LEVELS, 4, dtype=torch.float64, requires_grad=True)
    stopped = kind(logits).stop_gradient()
    assert not stopped.mean.requires_grad
    assert not stopped.log_prob(torch.zeros(4, dtype=torch.float64)).requires_grad
    assert stopped.event_shape == kind(logits).event_shape
