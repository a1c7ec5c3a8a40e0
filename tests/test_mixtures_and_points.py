"""Mixtures against torch's, and the points that represent distributions."""

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    LogNormal,
    MixtureSameFamily,
    Normal,
    TransformedDistribution,
)
from torch.distributions.transforms import TanhTransform

from lowerbound.distributions import (
    DiagonalNormal,
    FactorialBernoulli,
    Mixture,
    PointMass,
    TriangularNormal,
    choose_point,
)

LOG_WEIGHTS = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()


def components_of(kind):
    loc = torch.tensor([[-1.0, 0.0], [1.5, 1.0], [0.5, 4.0]], dtype=torch.float64)
    if kind == "diagonal":
        return DiagonalNormal(loc, 0.3 * loc)
    if kind == "binary":
        return FactorialBernoulli(loc)
    if kind == "torch's":
        return Independent(Normal(loc, (0.3 * loc).exp()), 1)
    if kind == "positive":
        return Independent(LogNormal(loc, 0.2), 1)
    factor = torch.eye(2, dtype=torch.float64).expand(3, 2, 2).clone()
    factor[:, 1, 0] = torch.tensor([0.5, -0.5, 1.0])
    return TriangularNormal(loc, factor)


@pytest.mark.parametrize("kind", ["diagonal", "full rank", "torch's"])
def test_a_mixture_is_torch_s(kind):
    components = components_of(kind)
    ours = Mixture(components, 5.0 + LOG_WEIGHTS)
    whole = MixtureSameFamily(Categorical(LOG_WEIGHTS.exp()), components, validate_args=False)
    value = 2 * torch.randn(50, 2, dtype=torch.float64)
    torch.testing.assert_close(ours.log_prob(value), whole.log_prob(value))
    torch.testing.assert_close(ours.mean, whole.mean)
    torch.testing.assert_close(ours.variance, whole.variance)


@pytest.mark.parametrize("kind", ["diagonal", "full rank", "torch's", "binary", "positive"])
def test_draws_of_a_mixture_have_its_moments(kind):
    """Within 4.5 standard errors of 20,000 draws."""
    ours = Mixture(components_of(kind), LOG_WEIGHTS)
    drawn = ours.sample((20_000,))
    error = drawn.std(0) / len(drawn) ** 0.5
    assert bool(((drawn.mean(0) - ours.mean).abs() < 4.5 * error).all())
    squares = (drawn - ours.mean).square()
    error = squares.std(0) / len(drawn) ** 0.5
    assert bool(((squares.mean(0) - ours.variance).abs() < 4.5 * error).all())


def test_a_point_without_a_closed_form_is_a_mean_of_many_draws():
    q = TransformedDistribution(Normal(torch.tensor([0.5]), 0.4), TanhTransform())
    grid = Normal(0.0, 1.0).icdf(torch.linspace(0.0005, 0.9995, 1000))
    expected = (0.5 + 0.4 * grid).tanh().mean()
    found = choose_point(q, torch.device("cpu"))
    assert abs(float(found - expected)) < 4.5 * 0.3 / 256**0.5


def test_a_point_mass_is_impossible_elsewhere():
    q = PointMass(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert q.log_prob(torch.tensor([1.0, 2.0])).tolist() == [0.0, -torch.inf]
    assert q.log_prob(torch.tensor([1.0, 4.0])).tolist() == [-torch.inf, -torch.inf]
