"""The information in latents: sums over examples and thresholds, written out."""

import math

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.data.examples import Examples
from lowerbound.distributions import FactorialBernoulli
from lowerbound.evaluation.aggregate import (
    _make_aggregate_posterior,
    _sum_densities,
    measure_aggregate_posterior,
)
from lowerbound.evaluation.diagnosis import _residual_scale
from lowerbound.evaluation.group_health import CodeUse, GroupHealth
from lowerbound.evaluation.health import LatentHealth, _GroupSums, _has_collapsed
from lowerbound.evaluation.latent_groups import Group, find_code_probabilities

SAMPLES = 4


@pytest.fixture
def parts():
    encoder = nn.Linear(3, 4)
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(encoder), lb.Gaussian(nn.Linear(2, 6))
    ).double()
    x = 2 * torch.randn(7, 3, dtype=torch.float64)
    with torch.no_grad():
        q = model.posterior(x)
        kl = 0.5 * (q.variance + q.mean.square() - 1) - q.log_scale
    return model, Examples.of(x), q, kl.sum(1)


@torch.no_grad()
def test_draws_belong_to_their_examples_and_sums_are_over_all(parts):
    model, examples, q, _ = parts
    mixture = _make_aggregate_posterior(model, examples, "z", SAMPLES, seed=0)
    assert sorted(mixture.rows.tolist()) == sorted(list(range(7)) * SAMPLES)
    own = torch.distributions.Normal(q.loc[mixture.rows], q.stddev[mixture.rows])
    torch.testing.assert_close(mixture.own, own.log_prob(mixture.z).sum(1))
    each = torch.distributions.Normal(q.loc, q.stddev).log_prob(mixture.z[:, None])
    joint, marginal = _sum_densities(mixture, with_marginal=True)
    torch.testing.assert_close(joint, each.sum(2).logsumexp(1))
    torch.testing.assert_close(marginal, each.exp().sum(1))


@torch.no_grad()
def test_the_measures_follow_from_these_sums(parts):
    model, examples, _, rates = parts
    mixture = _make_aggregate_posterior(model, examples, "z", SAMPLES, seed=0)
    joint, marginal = _sum_densities(mixture, with_marginal=True)
    found = measure_aggregate_posterior(model, examples, "z", samples=SAMPLES, seed=0, rates=rates)
    assert found["own_share"] == pytest.approx(float((mixture.own - joint).exp().mean()))
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(mixture.z)
    kl = ((marginal / 7).log() - prior).sum(1).mean()
    assert found["marginal_kl"] == pytest.approx(float(kl))
    # At the known mean of the rates, by least squares.
    y = mixture.own - joint + math.log(7)
    t = mixture.own - prior.sum(1)
    slope = float(((t - t.mean()) * (y - y.mean())).sum() / (t - t.mean()).square().sum())
    expected = float(y.mean()) + slope * float(rates.mean() - t.mean())
    assert found["mutual_information"] == pytest.approx(expected)


def test_variances_of_means_over_batches_are_those_of_the_population():
    x = 5 + torch.randn(11, 3, dtype=torch.float64)
    sums = _GroupSums()
    for part in (x[:2], x[2:7] + 3, x[7:]):
        sums._add_means(part[..., None])
    whole = torch.cat([x[:2], x[2:7] + 3, x[7:]])
    found = (sums.squares / sums.count).sum(-1)
    torch.testing.assert_close(found, whole.var(0, correction=0))


def test_the_residual_scale_is_that_of_the_smallest_components():
    variances = torch.tensor([1.0, 2.0, 3.0, 10.0], dtype=torch.float64)
    assert _residual_scale(variances, 1, torch.zeros(9, 4)) == pytest.approx(math.sqrt(2.0))
    assert _residual_scale(variances, 3, torch.zeros(9, 4)) == pytest.approx(1.0)


def test_codes_of_binary_units_are_0_and_1():
    q = FactorialBernoulli(torch.tensor([[2.0, -1.0]]))
    found = find_code_probabilities(q)
    torch.testing.assert_close(found[..., 1], q.mean)
    torch.testing.assert_close(found[..., 0], 1 - q.mean)


def test_codes_in_use_are_the_most_probable_ones():
    sums = _GroupSums()
    q = torch.distributions.Categorical(torch.tensor([[[0.6, 0.3, 0.1]], [[0.1, 0.2, 0.7]]]))
    q = torch.distributions.Independent(q, 1)
    rates = torch.zeros(2, 1)
    sums.add(Group(q, q, rates, lambda: rates.sum(1)), torch.device("cpu"))
    values, _ = sums.results()
    assert values["codes"].used.tolist() == [[True, False, True]]
    torch.testing.assert_close(
        values["codes"].probabilities, torch.tensor([[0.35, 0.25, 0.4]], dtype=torch.float64)
    )


def test_perplexity_is_that_of_the_mean_probabilities():
    use = CodeUse(torch.tensor([[0.25, 0.25, 0.5], [1.0, 0.0, 0.0]]), torch.ones(2, 3).bool())
    assert use.perplexity.tolist() == pytest.approx([2**1.5, 1.0])


def make_group(**values):
    return GroupHealth(
        **{"rate": 3.0, "rate_per_unit": torch.zeros(4), "variances": torch.zeros(4)} | values
    )


def test_units_are_active_above_a_hundredth():
    variances = torch.tensor([0.009, 0.011, 0.05, 1.0])
    group = make_group(variances=variances, rate_per_unit=torch.tensor([0.005, 0.006, 0.02, 1.0]))
    assert group.active.tolist() == [False, True, True, True]
    assert group.switched_off() == 1


@pytest.mark.parametrize(
    ("components", "share", "is_saturated"),
    [(4, 0.25, False), (4, 0.39, False), (4, 0.41, True), (1000, 0.19, False), (1000, 0.21, True)],
)
def test_too_few_examples_show_in_the_own_share(components, share, is_saturated):
    assert make_group(own_share=share, components=components).saturated is is_saturated


def test_the_rate_has_three_parts():
    group = make_group(mutual_information=1.5, marginal_kl=0.4)
    assert group.aggregate_kl == 1.5
    assert group.total_correlation == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("information", "error", "variance", "collapsed"),
    [
        (0.02, 0.03, 1.0, True),
        (0.02, 0.05, 1.0, False),  # it may be more than a tenth of a nat
        (0.3, 0.05, 0.0, True),  # no unit is active
        (0.3, 0.05, 1.0, False),
        (0.3, 0.15, 0.0, False),
        (0.9, 0.01, 0.0, False),
    ],
)
def test_a_collapse_is_certain(information, error, variance, collapsed):
    health = LatentHealth(
        rate=3.0,
        rate_per_unit=None,
        variances=torch.full((2,), variance),
        mutual_information=information,
        mutual_information_error=error,
        examples=100,
    )
    assert _has_collapsed(health) is collapsed
