"""Levels, supports, masses, and the memory of a draw."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import (
    Binomial,
    Distribution,
    Gamma,
    Independent,
    Poisson,
    Uniform,
    constraints,
)

import lowerbound as lb
from lowerbound.conditionals import Parametric, event_dims_of
from lowerbound.distributions import (
    DiagonalNormal,
    FactorialBernoulli,
    FactorialCategorical,
    is_mass,
)
from lowerbound.errors import DataError, ShapeError

sys.path.insert(0, str(Path(__file__).parent))
from peak_memory import measure_peak_memory

# Levels


def test_levels_are_torch_s_categories():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 6, 2, 4, dtype=torch.float64, requires_grad=True)
    p = FactorialCategorical(logits, 2)
    theirs = Independent(torch.distributions.Categorical(logits=logits.movedim(2, -1)), 2)
    level = torch.randint(0, 6, (5, 2, 4))
    torch.testing.assert_close(p.log_prob(level / 5), theirs.log_prob(level))
    torch.testing.assert_close(p.entropy(), theirs.entropy())
    torch.testing.assert_close(p.mode, theirs.mode / 5.0, check_dtype=False)
    found, expected = (
        torch.autograd.grad(value.sum(), logits)[0]
        for value in (p.log_prob(level / 5), theirs.log_prob(level))
    )
    torch.testing.assert_close(found, expected)
    assert p.stop_gradient().logits.requires_grad is False
    assert p.expand((7, 3, 5)).log_prob(level / 5).shape == (7, 3, 5)
    levels = torch.arange(6, dtype=torch.float64)[:, None] / 5
    whole = FactorialCategorical(torch.randn(6, 1, dtype=torch.float64)).log_prob(levels)
    torch.testing.assert_close(whole.logsumexp(0), torch.zeros((), dtype=torch.float64))


def test_levels_are_drawn_by_their_probabilities_and_stay_in_range():
    """10,000 draws of each at 5 standard errors."""
    logits = torch.tensor([[-1e9, 0.0], [1.0, -1e9], [0.0, 2.0], [-1e9, 0.5]])
    draws = (FactorialCategorical(logits).sample((10_000,)) * 3).round().long()
    assert draws.min() >= 0
    found = nn.functional.one_hot(draws, 4).float().mean(0).T
    probs = logits.softmax(0)
    assert ((found - probs).abs() <= 5 * (probs * (1 - probs) / 10_000).sqrt()).all()


def test_eight_bit_pixels_are_scored_as_they_are():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8)
    data = lb.Examples.of(pixels)
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp((1, 4, 4), 4)),
        lb.Categorical(lb.mlp(2, (256, 4, 4))),
    )
    for parameter in vae.likelihood.parameters():
        nn.init.zeros_(parameter)
    estimate = lb.log_likelihood(vae, data, 20)
    assert estimate.terms["elbo"].mean <= -16 * np.log(256) + 1e-3
    log_p = float(vae.draw(data.batch(torch.arange(20))).log_likelihood.detach().mean())
    assert data.bits_per_dimension(log_p, mass=True) == pytest.approx(8.0)
    assert vae.likelihood_is_mass(data)
    annealed = lb.annealed_log_likelihood(
        vae, data.first(2), distributions=2, chains=2, leapfrog_steps=1
    )
    for found in (estimate, annealed, lb.evaluate(vae, lb.ELBO(), data)):
        assert found.bits_per_dimension == pytest.approx(-found.mean / (16 * np.log(2)))
    with pytest.raises(DataError, match="'dequantize' makes the pixels continuous"):
        lb.evaluate(vae, lb.ELBO(), data.prepare("dequantize"))
    few = lb.Examples(torch.randint(0, 17, (9, 1, 4, 4)).to(torch.uint8), levels=17)
    with pytest.raises(DataError, match=r"row 0 has the value .* multiples of 1/255"):
        lb.evaluate(vae, lb.ELBO(), few)
    with pytest.raises(ShapeError, match="cannot be split into 256 levels"):
        lb.Categorical(lb.mlp(2, (100, 4, 4)))


def test_a_likelihood_of_256_levels_stays_within_a_few_passes_of_memory():
    """Each tensor may take 16 MiB, and a pass needs several at once; uncut, a pass takes 500 MB."""
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp((1, 8, 8), 32, 4)),
        lb.Categorical(lb.mlp(2, 32, (256, 8, 8))),
    )
    x = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8)
    assert measure_peak_memory(lambda: lb.log_likelihood(vae, x[:20], 200)) < 4 * 16
    assert measure_peak_memory(lambda: vae.sample(1000, mean=True)) < 4 * 16


def test_memory_is_reckoned_by_the_data_unless_a_draw_needs_much_more():
    data = lb.Examples.of(torch.zeros(5, 1, 8, 8))

    def numbers(hidden, likelihood=lb.Bernoulli, outputs=(1, 8, 8)):
        return lb.LatentModel(
            lb.StandardNormal(2),
            lb.Gaussian(lb.mlp((1, 8, 8), hidden, 4)),
            likelihood(lb.mlp(2, hidden, outputs)),
        ).numbers_per_draw(data)

    assert numbers(500) == 64
    assert numbers(1000) == 1000
    assert numbers(500, lb.Categorical, (256, 8, 8)) == 64 * 256


def test_measuring_leaves_no_trace():
    class Counting(lb.Bernoulli):
        calls = 0

        def forward(self, *given):
            self.calls += 1
            return super().forward(*given)

    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), Counting(lb.mlp(2, 6)))
    vae.train()
    state = torch.get_rng_state()
    with lb.noise.per_example(0, torch.arange(3)):
        vae.numbers_per_draw(lb.Examples.of(torch.zeros(5, 6)))
        found = lb.noise.uniform((3, 1), 0)
    with lb.noise.per_example(0, torch.arange(3)):
        assert torch.equal(found, lb.noise.uniform((3, 1), 0))
    assert vae.likelihood.calls == 0
    assert vae.training
    assert torch.equal(torch.get_rng_state(), state)


# Support and mass


class Theirs(Parametric):
    """Independent entries of torch's."""

    def __init__(self, network, make):
        super().__init__()
        self.network = network
        self.make = make

    def from_parameters(self, raw):
        return Independent(self.make(raw.exp()), event_dims_of(self.network))


@pytest.mark.parametrize(
    ("make", "good", "bad", "message"),
    [
        (Poisson, 3.0, 2.5, r"row 4, entry 1 is 2.5, which lies outside .* Poisson"),
        (Poisson, 3.0, -1.0, "row 4, entry 1 is -1"),
        (lambda a: Gamma(a, a), 3.0, -0.5, "row 4, entry 1 is -0.5, .* Gamma"),
        (lambda a: Binomial(7, logits=a), 7.0, 8.0, "entry 1 is 8, .* Binomial"),
        (lambda a: Uniform(-torch.ones_like(a), 9.0), 3.0, 9.5, "entry 1 is 9.5, .* Uniform"),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_data_outside_of_a_torch_distribution_s_support_are_refused_by_row(
    make, good, bad, message, masked
):
    likelihood = Theirs(lb.mlp(2, 3), make)
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), likelihood)
    x = torch.full((6, 3), good)
    fields = {}
    if masked:
        vae = lb.LatentModel(vae.prior, vae.posterior, lb.Masked(likelihood))
        fields["observed"] = torch.ones(6, 3, dtype=torch.bool)
        fields["observed"][2] = False
        x[2] = bad
    state = torch.get_rng_state()
    data = lb.Examples(x, fields=fields)
    vae.check_support(data)
    assert torch.equal(torch.get_rng_state(), state)
    x = x.clone()
    x[4, 1] = bad
    data = lb.Examples(x, fields=fields)
    for use in (
        lambda: lb.evaluate(vae, lb.ELBO(), data),
        lambda: lb.log_likelihood(vae, data, 5),
        lambda: lb.fit(vae, lb.ELBO(), data, epochs=1, progress=False),
    ):
        with pytest.raises(DataError, match=message):
            use()


class Rising(constraints.Constraint):
    """Vectors whose entries do not fall."""

    event_dim = 1
    is_discrete = True

    def check(self, value):
        return (value.diff() >= 0).all(-1)


class RisingNormal(DiagonalNormal):
    """A distribution whose support checks the entries of an event together."""

    @property
    def support(self):
        return Rising()


class RisingLikelihood(Parametric):
    def __init__(self):
        super().__init__()
        self.network = lb.mlp(2, 3)

    def from_parameters(self, raw):
        return RisingNormal(raw, torch.zeros_like(raw))


def test_a_support_that_checks_entries_together_refuses_the_row_that_is_outside():
    """Rows of which nothing is observed are not checked, and no row is refused for another."""
    likelihood = lb.Masked(RisingLikelihood())
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), likelihood)
    x = torch.tensor([1.0, 2.0, 3.0]).repeat(6, 1)
    x[2] = x[2].flip(0)
    observed = torch.ones(6, 3, dtype=torch.bool)
    observed[2] = False
    vae.check_support(lb.Examples(x, fields={"observed": observed}))
    x = x.clone()
    x[4] = x[4].flip(0)
    with pytest.raises(DataError, match="data: row 4 lies outside"):
        vae.check_support(lb.Examples(x, fields={"observed": observed}))


def test_a_support_that_the_latents_move_is_left_to_the_draw():
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(3, 4)),
        Theirs(lb.mlp(2, 3), lambda a: Uniform(-a, a, validate_args=False)),
    )
    vae.check_support(lb.Examples.of(torch.full((6, 3), 9.0)))


def test_masses_and_densities_are_told_apart_by_their_support():
    a = torch.ones(3)
    assert is_mass(Independent(Poisson(a), 1))
    assert is_mass(FactorialBernoulli(a))
    assert is_mass(FactorialCategorical(torch.ones(4, 3)))
    assert not is_mass(DiagonalNormal(a, a))
    assert not is_mass(Independent(Gamma(a, a), 1))

    class Silent(Distribution):
        arg_constraints = {}  # noqa: RUF012

        @property
        def support(self):
            raise NotImplementedError

    assert is_mass(Silent(validate_args=False)) is None


def test_bits_per_dimension_of_a_mass_and_of_a_density():
    pixels = lb.Examples.of(torch.zeros(5, 8, dtype=torch.uint8))
    bound = -8 * np.log(2) * 3
    assert pixels.bits_per_dimension(bound, mass=True) == pytest.approx(3)
    assert pixels.bits_per_dimension(bound) is None
    assert pixels.bits_per_dimension(bound, mass=None) is None
    assert pixels.prepare("dequantize").bits_per_dimension(bound) == pytest.approx(3 + 8)
    some = lb.Examples(torch.zeros(2, 8), fields={"observed": torch.zeros(2, 8) > 0})
    assert some.bits_per_dimension(bound, mass=True) is None
