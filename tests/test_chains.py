"""The parts of annealing, written out for a linear Gaussian model of one latent."""

import math

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.evaluation.chains import AnnealingPath, _choose_betas, change_length
from lowerbound.runtime import noise

X = torch.tensor([[0.7], [-1.2]], dtype=torch.float64)


@pytest.fixture
def model():
    likelihood = lb.Gaussian(nn.Linear(1, 1), scale=0.5)
    return lb.LatentModel(lb.StandardNormal(1), lb.Gaussian(nn.Linear(1, 2)), likelihood).double()


def make_path(model, **settings):
    return AnnealingPath(
        model, X, {"distributions": 2, "leapfrog_steps": 1, "chains": 6, "seed": 0} | settings
    )


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_a_trajectory_from_rest_follows_the_gradient(model, beta, monkeypatch):
    """A leapfrog step without momentum moves by half the squared step size times the gradient."""
    path = make_path(model)
    state = path.make_state(torch.randn(3, 2, 1, dtype=torch.float64))
    monkeypatch.setattr(noise, "standard_normal", lambda shape, *_, **__: torch.zeros(shape))
    monkeypatch.setattr(noise, "uniform", lambda shape, *_, **__: torch.zeros(shape))
    step = torch.tensor([0.3, 0.1], dtype=torch.float64)
    moved, chance = path.transition(state, beta, step)
    half = 0.5 * step[:, None] ** 2 * state.gradient(beta)
    torch.testing.assert_close(moved.z, state.z + half)
    momentum = 0.5 * step[:, None] * (state.gradient(beta) + moved.gradient(beta))
    gain = moved.log_density(beta) - state.log_density(beta) - 0.5 * momentum.square().sum(-1)
    torch.testing.assert_close(chance, gain.exp().clamp(max=1))


def test_proposals_are_accepted_with_their_probability(model, monkeypatch):
    path = make_path(model)
    state = path.make_state(torch.randn(500, 2, 1, dtype=torch.float64))
    moved, chance = path.transition(state, 1.0, torch.tensor([0.9, 0.9], dtype=torch.float64))
    share = (moved.z != state.z).double().mean()
    assert 0.2 < float(chance.mean()) < 0.95
    assert abs(float(share - chance.mean())) < 4.5 * 0.5 / math.sqrt(1000)


def test_step_sizes_adapt_to_the_acceptance(model):
    """The first step is short for these densities, so nearly all is accepted, and it grows."""
    steps = make_path(model, distributions=100).find_step_sizes(torch.arange(2))
    assert steps.shape == (100, 2)
    assert bool((steps[-20:] > 2 * steps[0]).all())


def test_step_sizes_of_another_length_keep_their_ends():
    steps = torch.linspace(1.0, 3.0, 5)[:, None]
    torch.testing.assert_close(change_length(steps, 9), torch.linspace(1.0, 3.0, 9)[:, None])


def test_temperatures_are_a_sigmoid_from_0_to_1():
    betas = torch.tensor(_choose_betas(11), dtype=torch.float64)
    assert (float(betas[0]), float(betas[-1])) == (0.0, 1.0)
    raw = torch.sigmoid(4 * (torch.arange(11, dtype=torch.float64) / 5 - 1))
    torch.testing.assert_close(betas, (raw - raw[0]) / (raw[-1] - raw[0]))


@pytest.mark.parametrize("down", [False, True])
def test_two_distributions_are_plain_averages_of_weights(model, down):
    path = make_path(model)
    z = torch.randn(6, 2, 1, dtype=torch.float64)
    log_w = model.likelihood(z).log_prob(X).detach()
    sign = 1.0
    if down:
        log_w, sign = -log_w, -1.0
    found = path.anneal(z, torch.ones(2, 2), down=down)
    weights = log_w.exp()
    expected = {
        "log_likelihood": sign * weights.mean(0).log(),
        "first half": sign * weights[:3].mean(0).log(),
        "second half": sign * weights[3:].mean(0).log(),
        "effective": weights.sum(0).square() / weights.square().sum(0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert found["acceptance"].isnan().all()


def test_pilot_run_weights_and_shorter_chains_share_no_number(model, monkeypatch):
    """So no step size depends on the chains that use it."""
    drawn, original = [], noise.standard_normal

    def record(*arguments, **keywords):
        numbers = original(*arguments, **keywords)
        if len(numbers) == 4:  # not those of a trial draw
            drawn.extend(numbers.flatten().tolist())
        return numbers

    monkeypatch.setattr(noise, "standard_normal", record)
    lb.annealed_log_likelihood(model, X, distributions=8, chains=4, leapfrog_steps=1)
    assert len(drawn) > 2 * 4 * (8 + 100)
    assert len(set(drawn)) == len(drawn)


def test_both_sides_enclose_the_evidence_of_a_linear_model(model):
    """With many chains and few distributions, the sides are apart, in the right order."""
    interval = lb.bidirectional(model, 40, distributions=6, chains=20, leapfrog_steps=2)
    weight, bias = (p.detach() for p in model.likelihood.network.parameters())
    scale = (weight.square().sum() + 0.25).sqrt()
    exact = torch.distributions.Normal(bias, scale).log_prob(interval.examples).sum(1)
    assert float((interval.lower.per_example - exact).mean()) < 0.05
    assert float((interval.upper.per_example - exact).mean()) > -0.05
    assert -0.1 < interval.gap.mean < 0.5
    assert float((interval.upper.per_example - exact).abs().mean()) < 0.5
