"""Log joints and their standardised space, written out."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Dirichlet, Gamma, LogNormal, Normal, constraints

import lowerbound as lb
from lowerbound.conditionals.variables import Variable
from lowerbound.models.resampling import resample_by_weight

VARIABLES = {"a": (2,), "b": Variable((), constraints.positive)}
X = torch.tensor([[0.3], [1.2], [-0.5], [2.0]], dtype=torch.float64)


def prior(a, b):
    return Normal(1.0, 2.0).log_prob(a).sum(-1) + Gamma(2.0, 3.0).log_prob(b)


def likelihood(x, a, b):
    return Normal(a[:, :1], b[:, None]).log_prob(x[:, 0]).sum(-1)


def in_batches(x, scale, a, b):
    return prior(a, b) + scale * likelihood(x, a, b)


def make_model(**settings):
    model = lb.LogJoint(in_batches, lb.mean_field, VARIABLES, size=len(X), **settings).double()
    model.centre.copy_(torch.tensor([1.0, -2.0, 0.5]))
    model.spread.copy_(torch.tensor([0.5, 2.0, 0.25]))
    return model


def test_the_density_of_standardised_coordinates_has_both_determinants():
    model = make_model()
    u = torch.randn(6, 3, dtype=torch.float64)
    real = model.centre + model.spread * u
    a, b = real[:, :2], real[:, 2].exp()
    values, log_det = model.values(u)
    torch.testing.assert_close(values["a"], a)
    torch.testing.assert_close(values["b"], b)
    expected = real[:, 2] + math.log(0.5 * 2.0 * 0.25)
    torch.testing.assert_close(log_det, expected)
    whole = model.with_all_data(X)
    assert torch.equal(whole.centre, model.centre)
    assert torch.equal(whole.spread, model.spread)
    found = whole.log_density(u)
    torch.testing.assert_close(found, prior(a, b) + likelihood(X, a, b) + expected)


def test_a_batch_is_scaled_to_all_data():
    model = make_model()
    draw = model.draw(X[:1], 5)
    values, log_det = model.values(draw.z[:, 0])
    expected = prior(**values) + 4 * likelihood(X[:1], **values) + log_det
    torch.testing.assert_close(draw.log_likelihood[:, 0], expected)


@pytest.mark.parametrize("again", [False, True])
def test_start_finds_centre_and_spread_also_for_a_second_time(again):
    model = lb.LogJoint(Normal(50.0, 3.0).log_prob, lb.mean_field, {"value": ()}).double()
    model.start()
    if again:
        model.start()
    assert float(model.centre) == pytest.approx(50.0, abs=0.1)
    assert float(model.spread) == pytest.approx(3.0, rel=0.1)


def test_start_at_a_point_has_the_spread_as_standard_deviation():
    model = lb.LogJoint(Normal(50.0, 3.0).log_prob, lb.mean_field, {"value": ()})
    model.start(at={"value": 7.0}, spread=3.0)
    assert (float(model.centre), float(model.spread)) == (7.0, 3.0)


def test_the_evidence_of_transformed_variables_is_0_at_the_exact_posterior():
    """log p = 0 for a normalised density of constrained values, in any coordinates."""
    model = lb.LogJoint(
        LogNormal(0.7, 1.3).log_prob, lb.mean_field, {"value": Variable((), constraints.positive)}
    ).double()
    model.centre.fill_(0.7)
    model.spread.fill_(1.3)
    draw = model.draw(model.repetition, 5)
    assert float(draw.log_w.detach().abs().max()) < 1e-6


def test_simplexes_have_a_normalised_density():
    """By the mean importance weight, within 4.5 standard errors."""
    model = lb.LogJoint(
        Dirichlet(torch.tensor([1.5, 2.0, 3.0], dtype=torch.float64)).log_prob,
        lb.mean_field,
        {"value": Variable((3,), constraints.simplex)},
    ).double()
    weights = model.draw(model.repetition, 4000).log_w.detach().exp()
    error = float(weights.std()) / math.sqrt(len(weights))
    assert abs(float(weights.mean()) - 1) < 4.5 * error


def test_resampling_chooses_from_many_candidates():
    """The wrong q is far off, so that few candidates would leave the draws far off, too."""
    model = lb.LogJoint(Normal(1.0, 0.5).log_prob, lb.mean_field, {"value": ()})
    drawn = model.posterior_sample(400, resample=True, seed=0)["value"]
    assert abs(float(drawn.mean()) - 1) < 0.1
    assert abs(float(drawn.std()) - 0.5) < 0.05
    assert abs(len(drawn.unique()) / 400 - 1) < 0.1


def test_the_noise_of_an_example_belongs_to_its_row():
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6)))
    data = lb.Examples.of(torch.randn(9, 3))
    whole = lb.evaluate(vae, lb.ELBO(), data).per_example
    rows = torch.tensor([7, 2, 5])
    torch.testing.assert_close(
        lb.evaluate(vae, lb.ELBO(), data.subset(rows)).per_example, whole[rows]
    )


def test_resampled_draws_come_in_random_order():
    """Copies of a draw would otherwise stand side by side."""

    def draw(count):
        z = torch.arange(float(count)).reshape(count, 1, 1)
        return SimpleNamespace(z=z, log_w=torch.zeros(count, 1, dtype=torch.float64))

    chosen = resample_by_weight(draw, 40, candidates=200, chunk=200)[:, 0]
    assert len(chosen.unique()) == 40
    assert not torch.equal(chosen, chosen.sort().values)
