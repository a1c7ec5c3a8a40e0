"""The search for the best q of an example, for a linear Gaussian model."""

import math

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.evaluation.search import Search, _Batch
from lowerbound.models.passes import iterate_batches

X = torch.tensor([[0.7], [-1.2], [2.0]], dtype=torch.float64)


@pytest.fixture
def model():
    """x ~ N(z, 0.25), whose posterior is N(0.8 x, 0.2)."""
    decoder, encoder = nn.Linear(1, 1), nn.Linear(1, 2)
    with torch.no_grad():
        decoder.weight.fill_(1.0)
        decoder.bias.fill_(0.0)
        encoder.weight.copy_(torch.tensor([[0.8], [0.0]]))
        encoder.bias.copy_(torch.tensor([0.0, math.log(0.2)]))
    return lb.LatentModel(
        lb.StandardNormal(1), lb.Gaussian(encoder), lb.Gaussian(decoder, scale=0.5)
    ).double()


@pytest.fixture
def batch(model):
    rows, x, given = next(iterate_batches(X, model, seed=0))
    return _Batch(x, rows, given)


def make_search(model, **settings):
    chosen = {"samples": 12, "steps": 5, "learning_rate": 0.1, "seed": 0} | settings
    return Search(model, **chosen)


def test_at_the_exact_posterior_the_gradient_has_no_noise(model, batch):
    search = make_search(model)
    start = search._encode(batch)
    torch.testing.assert_close(search._maximise(start, batch), start, rtol=0, atol=1e-6)


def test_the_learning_rate_falls_as_half_a_cosine(model, batch, monkeypatch):
    rates, original = [], torch.optim.Adam.step

    def step(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    search = make_search(model)
    search._maximise(search._encode(batch), batch)
    expected = [0.05 * (1 + math.cos(math.pi * k / 5)) for k in range(5)]
    assert rates == pytest.approx(expected)


def test_the_better_of_start_and_end_is_kept(model, batch, monkeypatch):
    search = make_search(model)
    start = search._encode(batch).detach()
    end = start + torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    monkeypatch.setattr(Search, "_maximise", lambda self, *_: end)
    better, gains = search._search_round(batch, start, 0)
    torch.testing.assert_close(better, start)
    assert gains.tolist() == [0.0, 0.0, 0.0]
    # From the worse start all is gained.
    monkeypatch.setattr(Search, "_maximise", lambda self, *_: start)
    better, gains = search._search_round(batch, end, 0)
    torch.testing.assert_close(better, start)
    assert bool((gains[1:] > 0.1).all())


def test_bounds_and_weights_are_the_evidence_at_the_exact_posterior(model, batch):
    """Every weight is p(x) = N(x; 0, 1.25) there, so nothing is random."""
    search = make_search(model)
    raw = search._encode(batch)
    exact = torch.distributions.Normal(0.0, math.sqrt(1.25)).log_prob(X[:, 0])
    bounds = search._estimate_bounds((raw, raw), batch, "report")
    torch.testing.assert_close(bounds, exact.expand(2, -1), rtol=0, atol=1e-6)
    found = search._weigh_mixture((raw, raw), batch).results()
    torch.testing.assert_close(found["log_likelihood"], exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(found["effective"], torch.full((3,), 24.0, dtype=torch.float64))


def test_the_two_proposals_have_their_own_draws(model, batch):
    search = make_search(model, samples=10)
    raw = search._encode(batch) + torch.tensor([0.5, 0.0])
    weights = search._weigh_mixture((raw, raw), batch)
    assert len(weights.largest.unique()) == weights.largest.numel()


def test_the_error_of_a_difference_is_that_of_its_draws(model, batch):
    """log w of N(0.8 x + c, 0.2) is a constant minus c e / sqrt(0.2) for standard normal e."""
    search = make_search(model, samples=4000)
    raw = search._encode(batch)
    moved = raw + torch.tensor([0.3, 0.0])
    (exact, worse), error = search._compare_bounds((raw, moved), batch, "report")
    expected = 0.3 / math.sqrt(0.2 * 4000)
    torch.testing.assert_close(error, torch.full_like(error, expected), rtol=0.05, atol=0)
    assert bool(((exact - worse - 0.3**2 / (2 * 0.2)).abs() < 5 * error).all())
