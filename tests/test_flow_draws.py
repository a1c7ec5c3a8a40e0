"""Draws of a flow are scored while they are made, without the slow inverse of the flow."""

import math

import pytest
import torch

import lowerbound as lb
from lowerbound.evaluation import aggregate, health

UNITS = 3


def make_model(name="iaf"):
    torch.manual_seed(0)
    return lb.LatentModel(
        lb.StandardNormal(UNITS),
        lb.Flow(name, UNITS, context=6, transforms=2, hidden_features=(8,)),
        lb.Gaussian(lb.mlp(UNITS, 12)),
    )


@pytest.fixture
def data():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def scored(monkeypatch):
    """The numbers of given points that flows score."""
    numbers = []
    flow = type(make_model().posterior(torch.zeros(1, 6)))
    log_prob = flow.log_prob

    def count(self, x):
        numbers.append(math.prod(x.shape[:-1]))
        return log_prob(self, x)

    monkeypatch.setattr(flow, "log_prob", count)
    return numbers


@pytest.mark.parametrize("name", ["iaf", "maf", "nsf"])
def test_the_density_that_comes_with_a_draw_is_that_of_the_point(name, data):
    model = make_model(name).double()
    draw = model.draw(data.double(), samples=5)
    torch.testing.assert_close(draw.log_q, draw.q.log_prob(draw.z), rtol=1e-6, atol=1e-6)


def test_no_evaluation_of_the_model_s_own_draws_inverts_the_flow(data, scored):
    model = make_model()
    lb.evaluate(model, lb.ELBO(samples=2), data)
    lb.log_likelihood(model, data, samples=20)
    lb.fit(model, lb.IWAE(samples=2), data, epochs=1, progress=False)
    model.encode(data)
    lb.fit_prior(model, lb.MixturePrior(UNITS, components=2), data, epochs=1, progress=False)
    assert not scored


def test_the_information_is_the_same_if_draws_are_scored_as_given_points(data, monkeypatch):
    model = make_model()
    with_draws = lb.latent_health(model, data)

    draw = aggregate.draw_with_log_q

    def score_again(q, samples, gradient):
        z, _ = draw(q, samples, gradient)
        return z, lambda: q.log_prob(z)

    monkeypatch.setattr(aggregate, "draw_with_log_q", score_again)
    again = lb.latent_health(model, data)
    for name in ("mutual_information", "mutual_information_error", "own_share"):
        assert getattr(with_draws, name) == pytest.approx(getattr(again, name), rel=1e-4)


def test_a_costly_density_is_computed_for_fewer_pairs(data, scored, monkeypatch):
    model = make_model()
    lb.latent_health(model, data)
    all_pairs = sum(scored)
    assert all_pairs > len(data) ** 2
    scored.clear()
    monkeypatch.setattr(aggregate, "_MOST_COSTLY_VALUES", 200_000)
    found = lb.latent_health(model, data)
    assert sum(scored) < all_pairs / 4
    assert found.components < len(data)
    assert math.isfinite(found.mutual_information)


def test_means_that_are_averages_over_draws_are_those_of_fewer_examples(data, monkeypatch):
    model = make_model("maf")
    whole = lb.latent_health(model, data)
    torch.testing.assert_close(
        whole.variances, model.encode(data).double().var(0, correction=0), rtol=1e-5, atol=1e-8
    )
    monkeypatch.setattr(health, "_MOST_AVERAGED_EXAMPLES", 10)
    some = lb.latent_health(model, data)
    codes = model.encode(lb.Examples.of(data).spread(10)).double()
    torch.testing.assert_close(some.variances, codes.var(0, correction=0), rtol=1e-5, atol=1e-8)
    assert (some.rate, some.mutual_information) == (whole.rate, whole.mutual_information)


def test_the_cost_of_a_density_grows_with_the_passes_of_the_flow(data):
    costs = {}
    for name in ("maf", "iaf"):
        q = make_model(name).posterior(data[:1])
        costs[name] = aggregate._count_values(q)
    assert costs["iaf"] > (UNITS - 1) * costs["maf"]
