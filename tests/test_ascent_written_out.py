"""Coordinate ascent: evidences of scipy, and optima that no small change improves."""

import math

import pytest
import scipy.stats
import torch
from torch.distributions import Gamma, Normal

from lowerbound.ascent.gaussian import MeanAndPrecision
from lowerbound.ascent.mixture import GaussianMixture, NormalWishart

X = torch.tensor([1.0, 2.5, -0.3, 4.0], dtype=torch.float64)
MODEL = MeanAndPrecision(mean=0.5, strength=1.7, concentration=2.2, rate=1.4)


def test_the_evidence_of_mean_and_precision_is_student_s_t():
    shape = 1.4 / 2.2 * (torch.eye(4, dtype=torch.float64) + 1 / 1.7)
    t = scipy.stats.multivariate_t(loc=[0.5] * 4, shape=shape.numpy(), df=2 * 2.2)
    assert float(MODEL.log_evidence(X)) == pytest.approx(float(t.logpdf(X.numpy())), rel=1e-9)


def test_the_bound_of_mean_and_precision_is_an_integral():
    """By draws from q of both, within 4.5 standard errors."""
    factors = {"mean": Normal(1.2, 0.4), "precision": Gamma(4.0, 6.0)}
    factors = {
        name: type(q)(
            *(torch.as_tensor(v, dtype=torch.float64) for v in _parameters(q)),
        )
        for name, q in factors.items()
    }
    mu, tau = (q.sample((20_000,)) for q in factors.values())
    log_joint = (
        Gamma(2.2, 1.4).log_prob(tau)
        + Normal(0.5, (1.7 * tau).rsqrt()).log_prob(mu)
        + Normal(mu[:, None], tau.rsqrt()[:, None]).log_prob(X).sum(1)
    )
    values = log_joint - factors["mean"].log_prob(mu) - factors["precision"].log_prob(tau)
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(MODEL.bound(factors, X) - float(values.mean())) < 4.5 * error


def _parameters(q):
    return (q.loc, q.scale) if isinstance(q, Normal) else (q.concentration, q.rate)


def test_no_small_change_of_a_factor_raises_the_bound_of_mean_and_precision():
    ascent = MODEL.fit(X)
    for name, q in ascent.factors.items():
        first, second = _parameters(q)
        for change in (0.99, 1.01):
            for other in ((first * change, second), (first, second * change)):
                factors = {**ascent.factors, name: type(q)(*other)}
                assert MODEL.bound(factors, X) < ascent.bound


def test_no_small_change_of_a_component_raises_the_bound_of_a_mixture():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    x = noise + torch.tensor([[-4.0, 0.0], [4.0, 1.0]], dtype=torch.float64).repeat(30, 1)
    model = GaussianMixture(2, concentration=0.8, strength=1.5)
    ascent = model.fit(x)
    own = ascent.factors["components"]
    fields = ("mean", "strength", "inverse_scale", "freedom")
    for field in fields:
        for change in (0.98, 1.02):
            changed = {name: getattr(own, name) for name in fields}
            changed[field] = changed[field] * change
            factors = {**ascent.factors, "components": NormalWishart(**changed)}
            assert model.bound(factors, x) < ascent.bound, (field, change)
