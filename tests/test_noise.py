from __future__ import annotations

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
    Gumbel,
    HalfNormal,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    Multinomial,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Poisson,
    RelaxedBernoulli,
    StudentT,
    Uniform,
    Weibull,
)

import lowerbound as lb
from lowerbound.conditionals import Parametric
from lowerbound.data import Examples
from lowerbound.errors import DataError
from lowerbound.runtime import noise
from lowerbound.runtime.noise import derived_seed, per_example, standard_normal

DRAWS = {"standard_normal": noise.standard_normal, "uniform": noise.uniform}


@pytest.fixture(params=DRAWS)
def draw(request):
    return DRAWS[request.param]


def of(draw, seed, indices, shape, axis, requests=1):
    with noise.per_example(seed, torch.tensor(indices)):
        return [draw(shape, axis) for _ in range(requests)][-1]


def test_noise_of_an_example_does_not_depend_on_its_batch(draw):
    whole = of(draw, 3, [0, 1, 2, 3, 9], (4, 5, 2), 1)
    for index, expected in zip([0, 3, 9], (0, 3, 4), strict=True):
        assert torch.equal(of(draw, 3, [index], (4, 1, 2), 1)[:, 0], whole[:, expected])
    assert torch.equal(of(draw, 3, [9, 1], (4, 2, 2), 1), whole[:, [4, 1]])


def test_streams_differ_between_seeds_examples_and_requests(draw):
    shape = (2, 64)
    first = of(draw, 0, [5, 6], shape, 0)
    others = {
        "example": first[1],
        "seed": of(draw, 1, [5, 6], shape, 0)[0],
        "request": of(draw, 0, [5, 6], shape, 0, requests=2)[0],
    }
    for name, other in others.items():
        assert (first[0] == other).float().mean() < 0.05, name


def test_requests_of_any_length_do_not_run_into_each_other(draw):
    """A long request must not reach the numbers of the next one."""
    with noise.per_example(0, torch.tensor([0])):
        long, following = draw((1, 4096), 0), draw((1, 256), 0)
    assert not set(long.flatten().tolist()[-2048:]) >= set(following.flatten().tolist())
    assert (long[0, :256] == following[0]).float().mean() < 0.05


def test_normal_moments():
    x = of(noise.standard_normal, 0, list(range(200)), (200, 1000), 0).double()
    error = 5 / math.sqrt(x.numel())  # five standard errors: fails once in two million
    assert abs(x.mean()) < error
    assert abs(x.square().mean() - 1) < error * math.sqrt(2)
    assert abs(x.pow(4).mean() - 3) < error * math.sqrt(96)
    assert abs((x[:-1] * x[1:]).mean()) < error


def test_uniform_moments_and_range():
    x = of(noise.uniform, 0, list(range(200)), (200, 1000), 0).double()
    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean() - 0.5) < 5 / math.sqrt(12 * x.numel())
    assert abs(x.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / x.numel())


def test_without_streams_torch_draws():
    torch.manual_seed(7)
    expected = torch.randn(3, 4)
    torch.manual_seed(7)
    assert torch.equal(noise.standard_normal((3, 4), 0), expected)


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), -1), ((3, 4), 0)])
def test_what_does_not_count_examples_comes_from_torch(draw, shape, axis):
    """A negative axis, or an axis of another length than the batch."""
    torch.manual_seed(7)
    expected = draw(shape, -1)
    torch.manual_seed(7)
    assert torch.equal(of(draw, 0, [1, 2], shape, axis), expected)


@pytest.mark.parametrize("count", [1, 149, 150, 200])
def test_a_negative_position_is_refused_for_any_number_of_examples(count):
    positions = torch.arange(count)
    positions[-1] = -7
    message = "position -7 of an example"
    with pytest.raises(DataError, match=message), noise.per_example(0, positions):
        pytest.fail("the block began")


def test_blocks_nest_and_end(draw):
    with noise.per_example(0, torch.tensor([1])):
        outer = draw((1, 3), 0)
        with noise.per_example(5, torch.tensor([1])):
            inner = draw((1, 3), 0)
        second = draw((1, 3), 0)
    assert torch.equal(inner, of(draw, 5, [1], (1, 3), 0))
    assert torch.equal(second, of(draw, 0, [1], (1, 3), 0, requests=2))
    assert not torch.equal(outer, second)
    torch.manual_seed(7)
    free = draw((1, 3), 0)
    torch.manual_seed(7)
    assert torch.equal(draw((1, 3), 0), free)


def test_a_block_ends_with_an_exception(draw):
    with pytest.raises(RuntimeError), noise.per_example(0, torch.tensor([1])):
        raise RuntimeError
    torch.manual_seed(7)
    first = draw((1, 3), 0)
    torch.manual_seed(8)
    assert not torch.equal(draw((1, 3), 0), first)


def test_type_is_honoured(draw):
    with noise.per_example(0, torch.tensor([0, 1])):
        assert draw((2, 3), 0, dtype=torch.float64).dtype == torch.float64
        assert draw((2, 3), 0).dtype == torch.float32


def test_purposes_do_not_share_their_numbers():
    seeds = {
        derived_seed(seed, *purpose)
        for seed in range(20)
        for purpose in [("order", 0), ("order", 1), ("training",)]
    }
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_pixels_drawn_once_are_unrelated_to_the_latents_noise():
    """Correlation over 20,000 pairs at 5 standard errors: one false alarm in 10^6 runs."""
    grey = Examples.of(torch.full((2000, 10), 0.5)).prepare("binarize-once", seed=0).values.double()
    with per_example(0, torch.arange(2000)):
        latents = standard_normal((1, 2000, 10), 1, dtype=torch.float64)[0]
    assert (
        abs(float(torch.corrcoef(torch.stack([grey.flatten(), latents.flatten()]))[0, 1]))
        < 5 / 20_000**0.5
    )


# Of parameters [B, 2] in (0, 1): torch's distributions by the functions that they draw with.
THEIRS = {
    "Normal": lambda a: Normal(a, a),
    "Uniform": lambda a: Uniform(a, 1 + a),
    "Exponential": Exponential,
    "Laplace": lambda a: Laplace(a, a),
    "Gumbel": lambda a: Gumbel(a, a),
    "Weibull": lambda a: Weibull(a, 1 + a),
    "HalfNormal": HalfNormal,
    "Cauchy": lambda a: Cauchy(a, a),
    "Gamma": lambda a: Gamma(a, 1 + a),
    "StudentT": lambda a: StudentT(5 + a, a, a),
    "Beta": lambda a: Beta(a, 2 * a),
    "Dirichlet": Dirichlet,
    "Dirichlet of small concentrations": lambda a: Dirichlet(a / 100),
    "Bernoulli": Bernoulli,
    "Poisson": lambda a: Poisson(9 * a),
    "Binomial": lambda a: Binomial(7, a),
    "NegativeBinomial": lambda a: NegativeBinomial(3 + a, a),
    "Categorical": Categorical,
    "Categorical of a matrix": lambda a: Categorical(torch.stack([a, a.flip(-1), a**2], -1)),
    "OneHotCategorical": OneHotCategorical,
    "Multinomial": lambda a: Multinomial(5, a),
    "RelaxedBernoulli": lambda a: RelaxedBernoulli(torch.tensor(0.5), a),
    "LowRankMultivariateNormal": lambda a: LowRankMultivariateNormal(a, a[..., None], a),
    "MixtureSameFamily": lambda a: MixtureSameFamily(Categorical(a), Normal(a, a)),
}


def draws_of(make, parameters, rows, samples=6, sizes=(6,)):
    """``[samples, B, ...]`` draws for some rows, by chunks of these sizes."""
    with noise.per_example(0, torch.tensor(rows)), noise.in_chunks() as next_chunk:
        parts = []
        for size in sizes:
            next_chunk()
            with noise.for_foreign(size, len(rows)):
                parts.append(make(parameters[rows]).sample((size,)))
    return torch.cat(parts)


@pytest.mark.parametrize("name", THEIRS)
def test_torch_s_distributions_draw_from_the_examples_streams(name):
    make = THEIRS[name]
    # Whole vectors of a processor: torch computes the powers of fewer numbers by other code.
    parameters = torch.rand(9, 16, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    state = torch.get_rng_state()
    whole = draws_of(make, parameters, list(range(9)))
    assert torch.equal(draws_of(make, parameters, [7, 2]), whole[:, [7, 2]])
    assert torch.equal(draws_of(make, parameters, [5], sizes=(1, 3, 2)), whole[:, [5]])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("name", THEIRS)
def test_a_draw_for_each_pair_comes_from_the_example_s_stream(name):
    """As of a posterior that depends on latents drawn before, batch shape [K, B]."""
    parameters = torch.rand(9, 2, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1

    def draws(rows):
        of_pairs = parameters[rows].expand(5, len(rows), 2)
        with (
            noise.per_example(0, torch.tensor(rows)),
            noise.for_foreign(5, len(rows), of_pairs=True),
        ):
            return THEIRS[name](of_pairs).sample()

    state = torch.get_rng_state()
    whole = draws(list(range(9)))
    assert torch.equal(draws([7, 2]), whole[:, [7, 2]])
    assert torch.equal(torch.get_rng_state(), state)


def test_categories_that_are_drawn_for_each_pair_have_their_chances():
    """Shares of 1,000 x 40 draws at 5 standard errors: one false alarm in 10^5 runs."""
    chances = torch.tensor([[[0.1, 0.6, 0.3]], [[0.5, 0.2, 0.3]]]).expand(2, 1000, 3)
    with noise.per_example(0, torch.arange(1000)), noise.for_foreign(2, 1000, of_pairs=True):
        shares = Multinomial(40, chances).sample().mean(1) / 40
    error = (chances[:, 0] * (1 - chances[:, 0]) / 40_000).sqrt()
    assert ((shares - chances[:, 0]).abs() <= 5 * error).all()


@pytest.mark.parametrize("name", [name for name in THEIRS if name != "Cauchy"])
def test_draws_from_the_streams_have_their_distribution(name):
    """Means and variances of 200 x 400 draws at 5 standard errors: one false alarm in 10^4 runs."""
    p = THEIRS[name](torch.tensor([[0.3, 0.7]], dtype=torch.float64).expand(200, 2))
    with noise.per_example(0, torch.arange(200)), noise.for_foreign(400, 200):
        draws = p.sample((400,)).double().flatten(0, 1)
    try:
        mean, variance = p.mean, p.variance
    except NotImplementedError:
        mean, variance = None, None
    if mean is None or bool(mean.isnan().any()):  # compared with torch's own draws instead
        torch.manual_seed(0)
        own = p.sample((400,)).double().flatten(0, 1)
        mean, variance = own.mean(0), own.var(0)
    else:
        mean, variance = mean[0], variance[0]
    spread = (2 * variance / len(draws)).sqrt()
    assert ((draws.mean(0) - mean).abs() <= 5 * spread + 1e-12).all()
    fourth = ((draws - mean) ** 4).mean(0)
    spread = (2 * (fourth - variance**2) / len(draws)).sqrt()
    assert (((draws - mean).square().mean(0) - variance).abs() <= 5 * spread + 1e-12).all()


def test_small_dirichlet_draws_are_shares():
    draws = draws_of(
        THEIRS["Dirichlet of small concentrations"], torch.full((3, 2), 0.1), [0, 1, 2]
    )
    torch.testing.assert_close(draws.sum(-1), torch.ones(6, 3))


@pytest.mark.parametrize("make", [Gamma, Beta])
def test_draws_from_the_streams_keep_the_implicit_gradient(make):
    """The gradient of the mean of the draws is that of the mean, to 5 standard errors."""
    a = torch.tensor([[1.5, 0.7]], dtype=torch.float64).expand(100, 2).clone().requires_grad_()
    p = make(a, torch.full_like(a, 2.0))
    with noise.per_example(0, torch.arange(100)), noise.for_foreign(300, 100):
        draws = p.rsample((300,))
    # By one example: the gradient of its mean draw, 100 independent estimates.
    (found,) = torch.autograd.grad(draws.mean(0).sum(), a)
    (expected,) = torch.autograd.grad(p.mean.sum(), a)
    error = (found - expected).mean(0).abs() / (found.std(0) / 10)
    assert (error < 5).all()
    assert (found.std(0) > 0).all()


class GammaPosterior(Parametric):
    """Independent gamma entries, given by a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def from_parameters(self, raw):
        concentration, rate = nn.functional.softplus(raw).chunk(2, -1)
        return Independent(Gamma(0.5 + concentration, 0.5 + rate), 1)


class GammaPrior(lb.Conditional):
    """Gamma(2, 1) entries."""

    def forward(self, *given):
        return Independent(Gamma(torch.full((2,), 2.0), torch.ones(2)), 1)


@pytest.fixture
def gamma_model():
    torch.manual_seed(0)
    decoder = lb.Gaussian(lb.mlp(2, 8, 10))
    return lb.LatentModel(GammaPrior(), GammaPosterior(lb.mlp(5, 8, 4)), decoder).double()


def test_a_gamma_posterior_s_values_do_not_depend_on_the_batch_size(gamma_model):
    x = torch.randn(23, 5, generator=torch.Generator().manual_seed(0)).double()
    for objective in (lb.ELBO(samples=3), lb.IWAE(4)):
        first = lb.evaluate(gamma_model, objective, x, batch_size=23).per_example
        for size in (1, 5):
            again = lb.evaluate(gamma_model, objective, x, batch_size=size).per_example
            torch.testing.assert_close(again, first)
    first = lb.log_likelihood(gamma_model, x, 60).per_example
    again = lb.log_likelihood(gamma_model, x, 60, batch_size=4, chunk_size=7).per_example
    torch.testing.assert_close(again, first)
    torch.testing.assert_close(gamma_model.encode(x)[3:5], gamma_model.encode(x[3:5]))


def test_a_gamma_posterior_s_gradient_in_training_is_torch_s(gamma_model):
    x = torch.randn(23, 5, generator=torch.Generator().manual_seed(0)).double()

    def gradients(bound):
        gamma_model.zero_grad()
        torch.manual_seed(3)
        bound().sum().backward()
        return [parameter.grad.clone() for parameter in gamma_model.parameters()]

    def by_hand():
        q, prior = gamma_model.posterior(x), gamma_model.prior()
        z = q.rsample((2,))
        log_w = gamma_model.likelihood(z).log_prob(x) + prior.log_prob(z) - q.log_prob(z)
        return log_w.mean(0)

    ours = gradients(lambda: lb.ELBO(samples=2, kl="sampled")(gamma_model.draw(x, 2)))
    for found, expected in zip(ours, gradients(by_hand), strict=True):
        torch.testing.assert_close(found, expected)


def test_noise_is_public():
    assert lb.noise.standard_normal is noise.standard_normal
    assert lb.noise.uniform is noise.uniform
