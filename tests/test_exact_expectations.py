"""Expectations and errors against closed forms, other libraries and repeated experiments."""

import math

import pytest
import scipy.stats
import torch
from torch.distributions import Normal

import lowerbound as lb
from lowerbound.ascent.mixture import NormalWishart
from lowerbound.conditionals import ByVariable
from lowerbound.conditionals.gaussian import LowRankGaussian
from lowerbound.conditionals.variables import Variables
from lowerbound.evaluation.aggregate import _regress
from lowerbound.networks import constant

# The order of cyclic places is not its own inverse.
VARIABLES = Variables({"a": 1, "b": 2, "c": 1})


def make_wishart(freedom, scale):
    inverse = torch.linalg.inv(torch.as_tensor(scale, dtype=torch.float64))
    size = len(inverse)
    return NormalWishart(
        torch.zeros(1, size, dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
        inverse[None],
        torch.tensor([freedom], dtype=torch.float64),
    )


def test_the_expected_log_determinant_of_one_dimension_is_that_of_a_gamma_variable():
    wishart = make_wishart(3.5, [[0.7]])
    expected = math.log(2 * 0.7) + float(torch.digamma(torch.tensor(1.75, dtype=torch.float64)))
    assert float(wishart.expected_log_det) == pytest.approx(expected, rel=1e-12)


def test_the_expected_log_determinant_of_three_dimensions_is_that_of_draws():
    """It would fail by chance once in 15,000."""
    scale = [[1.0, 0.3, 0.0], [0.3, 0.5, 0.1], [0.0, 0.1, 2.0]]
    drawn = scipy.stats.wishart(df=4.5, scale=scale).rvs(4000, random_state=0)
    logs = torch.linalg.slogdet(torch.from_numpy(drawn)).logabsdet
    found = float(make_wishart(4.5, scale).expected_log_det)
    assert abs(found - float(logs.mean())) < 4 * float(logs.std()) / math.sqrt(len(logs))


def test_the_normaliser_and_the_entropy_of_a_wishart_variable_are_scipy_s():
    scale = [[1.0, 0.3], [0.3, 0.5]]
    wishart, other = make_wishart(4.5, scale), scipy.stats.wishart(df=4.5, scale=scale)
    point = torch.tensor([[2.0, 0.4], [0.4, 3.0]], dtype=torch.float64)
    exponent = 0.5 * (4.5 - 2 - 1) * point.logdet()
    density = wishart.log_normaliser + exponent - 0.5 * (wishart.inverse_scale[0] @ point).trace()
    assert float(density) == pytest.approx(float(other.logpdf(point.numpy())), rel=1e-10)
    of_means = 0.5 * (2 * (1 + math.log(2 * math.pi)) - wishart.expected_log_det)
    expected = float(other.entropy() + of_means)
    assert float(wishart.entropy()) == pytest.approx(expected, rel=1e-10)


def test_a_low_rank_covariance_has_variances_on_its_diagonal():
    posterior = LowRankGaussian(constant(3 * 4), rank=2).double()
    raw = torch.randn(12, dtype=torch.float64)
    loc, log_variance, columns = raw.split((3, 3, 6))
    w = columns.reshape(3, 2)
    q = posterior.from_parameters(raw)
    assert torch.equal(q.mean, loc)
    torch.testing.assert_close(q.covariance_matrix, log_variance.exp().diag() + w @ w.T)


def test_a_low_rank_posterior_starts_with_a_small_correlation():
    """Its columns are not zero, where they would get no gradient."""
    torch.manual_seed(0)
    posterior = lb.low_rank(1)(2)
    covariance = posterior().covariance_matrix.detach()
    assert 0 < abs(float(covariance[0, 1])) < 0.01


def test_parts_of_a_posterior_have_the_order_of_the_variables():
    made = []

    def make(size):
        part = lb.mean_field(size)
        with torch.no_grad():
            next(part.parameters())[:size] = torch.arange(size) + 10.0 * len(made)
        made.append(part)
        return part

    posterior = ByVariable({"c": make, "a": make, "b": make}).over(VARIABLES)
    q = posterior()
    assert q.mean.tolist() == [10.0, 20.0, 21.0, 0.0]
    point = torch.tensor([10.5, 20.0, 21.0, 0.0])
    expected = Normal(q.mean, 1.0).log_prob(point).sum()
    torch.testing.assert_close(q.log_prob(point), expected)
    assert (q.sample((500,)).mean(0) - q.mean).abs().max() < 0.3


@pytest.mark.parametrize(("samples", "spread"), [(1, 1.0), (5, 0.1)])
def test_the_error_of_a_regression_is_its_deviation_over_experiments(samples, spread):
    """The estimates of 800 experiments vary by the reported error, within four of its errors.

    Each example has an effect of its own, and its rate is known; draws add noise.
    """
    examples, estimates, errors = 30, [], []
    rows = torch.arange(examples).repeat(samples)
    for _ in range(800):
        known = 2 + spread * torch.randn(examples, dtype=torch.float64)
        t = known[rows] + torch.randn(len(rows), dtype=torch.float64)
        effect = 0.5 * torch.randn(examples, dtype=torch.float64)
        y = 1.5 * t + effect[rows] + 0.5 * torch.randn(len(rows), dtype=torch.float64)
        estimate, error = _regress(y, t, known, rows)
        estimates.append(estimate)
        errors.append(error**2)
    ratio = float(torch.tensor(estimates).var() / torch.tensor(errors).mean())
    assert abs(float(torch.tensor(estimates).mean()) - 3.0) < 0.07
    assert abs(ratio - 1) < 0.25


def test_the_errors_of_a_posterior_s_bound_and_evidence_are_those_of_means():
    """The first by its formula; the second is at most that of a mean of q's draws."""
    model = lb.LogJoint(lambda a: Normal(0.0, 1.3).log_prob(a), lb.mean_field, {"a": ()}).double()
    # log w = 0.5 u^2 (1 - 1 / 1.69) - log 1.3 for u from N(0, 1), so its variance is 2 c^2.
    deviation = math.sqrt(2) * 0.5 * (1 - 1 / 1.69)
    # The variance of w is E w^2 - 1, with E w^2 = 1 / (1.3^2 sqrt(2 / 1.69 - 1)).
    of_weights = math.sqrt(1 / (1.69 * math.sqrt(2 / 1.69 - 1)) - 1)
    found = {samples: lb.posterior_health(model, samples=samples) for samples in (200, 2000)}
    for samples, health in found.items():
        assert health.elbo_error == pytest.approx(deviation / math.sqrt(samples), rel=0.2)
        assert 0 < health.log_evidence_error < 1.25 * of_weights / math.sqrt(samples)
    ratio = found[200].log_evidence_error / found[2000].log_evidence_error
    assert ratio == pytest.approx(math.sqrt(10), rel=0.3)


@pytest.mark.parametrize(("scale", "is_found"), [(1.2, False), (2.0, True)])
def test_a_gain_from_stretching_q_is_reported_above_a_twentieth_of_a_nat(scale, is_found):
    """By half a Newton step: (1 - 1 / scale^2)^2 / 4, here 0.02 and 0.14 nats."""
    model = lb.LogJoint(lambda a: Normal(0.0, scale).log_prob(a), lb.mean_field, {"a": ()})
    health = lb.posterior_health(model.double(), samples=2000)
    assert any("ELBO is largest" in finding.what for finding in health.findings) is is_found
