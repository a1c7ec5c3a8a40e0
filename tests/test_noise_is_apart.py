"""Random numbers that should be unrelated share none; foreign draws have their moments."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    Dirichlet,
    Exponential,
    Gamma,
    Independent,
    Laplace,
    LogNormal,
    Normal,
    Poisson,
    Uniform,
)

import lowerbound as lb
from lowerbound.distributions import draw_samples
from lowerbound.runtime import noise

DRAWS = 400


def draw_requests(seed, example, count=6):
    with noise.per_example(seed, torch.tensor([example])):
        return [
            noise.standard_normal((DRAWS, 1), axis=1, dtype=torch.float64) for _ in range(count)
        ]


def count_shared(several):
    sets = [set(numbers.flatten().tolist()) for numbers in several]
    return sum(len(one & other) for one, other in itertools.combinations(sets, 2))


def test_requests_examples_and_seeds_share_no_number():
    """Streams that overlap would repeat each other's numbers at other places."""
    several = [
        numbers
        for seed, example in [(0, 3), (0, 4), (1, 3), (0, 0), (0, 1)]
        for numbers in draw_requests(seed, example)
    ]
    assert count_shared(several) == 0


def test_chunks_share_no_number():
    with noise.per_example(0, torch.tensor([3])), noise.in_chunks() as next_chunk:
        chunks = []
        for _ in range(5):
            next_chunk()
            chunks += [noise.standard_normal((DRAWS, 1), 1, dtype=torch.float64) for _ in range(2)]
    assert count_shared(chunks) == 0


FOREIGN = {
    "normal": Normal(1.0, 3.0),
    "uniform": Uniform(2.0, 5.0),
    "exponential": Exponential(4.0),
    "laplace": Laplace(1.0, 0.5),
    "log normal": LogNormal(0.2, 0.3),
    "gamma": Gamma(2.5, 0.5),
    "beta": Beta(2.0, 0.7),
    "bernoulli": Bernoulli(0.15),
    "binomial": Binomial(7, torch.tensor(0.2)),
    "poisson": Poisson(3.5),
    "dirichlet": Dirichlet(torch.tensor([0.4, 1.5, 3.0])),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_draws_of_other_libraries_have_their_moments(name):
    """Means and variances of 8,000 draws, within 4.5 standard errors."""
    base = FOREIGN[name]
    examples, samples = 4, 2000
    q = base.expand([examples])
    with noise.per_example(1, torch.arange(examples)):
        drawn = draw_samples(q, samples).double().flatten(0, 1)
    root = math.sqrt(examples * samples)
    mean, variance = base.mean.double(), base.variance.double()
    assert bool(((drawn.mean(0) - mean).abs() < 4.5 * variance.sqrt() / root).all())
    squares = (drawn - mean).square()
    assert bool(((squares.mean(0) - variance).abs() < 4.5 * squares.std(0) / root).all())


def test_cauchy_draws_have_their_quartiles():
    with noise.per_example(1, torch.arange(4)):
        drawn = draw_samples(Cauchy(1.0, 3.0).expand([4]), 2000).flatten()
    assert abs(float(drawn.median()) - 1) < 0.3
    assert abs(float((drawn - 1).abs().median()) - 3) < 0.3


IN_PLACE = {
    "normal": (lambda out: out.normal_(1.0, 3.0), Normal(1.0, 3.0)),
    "uniform": (lambda out: out.uniform_(2.0, 5.0), Uniform(2.0, 5.0)),
    "exponential": (lambda out: out.exponential_(4.0), Exponential(4.0)),
    "cauchy": (lambda out: out.cauchy_(1.0, 3.0), Cauchy(1.0, 3.0)),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_noise_in_place_has_its_parameters(name):
    """Quartiles of 8,000 draws, within 4.5 standard errors."""
    fill, expected = IN_PLACE[name]
    with noise.per_example(1, torch.arange(4)), noise.for_foreign(2000, 4):
        drawn = fill(torch.empty(2000, 4)).flatten()
    for share in (0.25, 0.5, 0.75):
        below = (drawn < expected.icdf(torch.tensor(share))).double().mean()
        assert abs(float(below) - share) < 4.5 * math.sqrt(share * (1 - share) / 8000)


def test_chances_need_not_sum_to_1():
    chances = torch.tensor([2.0, 6.0, 0.0, 8.0]).expand(4, 4)
    with noise.per_example(1, torch.arange(4)), noise.for_foreign(2000, 4):
        drawn = torch.multinomial(chances, 2000, True)  # as torch's distributions do
    counts = torch.stack([(drawn == code).double().mean() for code in range(4)])
    assert bool(((counts - chances[0] / 16).abs() < 4.5 * 0.5 / math.sqrt(8000)).all())


def test_replacement_may_be_asked_for_by_keyword():
    chances = torch.rand(4, 3)
    with noise.per_example(1, torch.arange(4)), noise.for_foreign(50, 4):
        drawn = torch.multinomial(chances, 50, True)
    with noise.per_example(1, torch.arange(4)), noise.for_foreign(50, 4):
        again = torch.multinomial(chances, 50, replacement=True)
    assert torch.equal(drawn, again)


def test_categories_of_several_variables_are_independent():
    chances = torch.tensor([0.5, 0.3, 0.2])
    q = Independent(Categorical(chances.expand(4, 2, 3)), 1)
    with noise.per_example(1, torch.arange(4)):
        drawn = draw_samples(q, 2000)
    counts = torch.stack([(drawn == code).double().mean((0, 1)) for code in range(3)])
    assert bool(((counts - chances[:, None]).abs() < 0.03).all())
    both = (drawn == 0).double().prod(-1).mean()
    assert abs(float(both) - 0.25) < 0.03


class OfLaplace(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return Independent(Laplace(self.layer(x), 1.0), 1)


def test_a_posterior_of_torch_has_the_noise_of_its_examples():
    vae = lb.LatentModel(lb.StandardNormal(2), OfLaplace(), lb.Gaussian(nn.Linear(2, 6)))
    x = torch.randn(7, 3)
    whole, parts = (
        lb.evaluate(vae, lb.ELBO(samples=3), x, batch_size=size).per_example for size in (7, 2)
    )
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)
