"""Zero-inflated and hurdle likelihoods: by hand, by enumeration and by quadrature."""

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad
from torch import nn
from torch.distributions import (
    Gamma,
    Geometric,
    Independent,
    LogNormal,
    MultivariateNormal,
    Poisson,
    constraints,
)

import lowerbound as lb
from lowerbound.conditionals import Parametric
from lowerbound.distributions import (
    FactorialCategorical,
    FactorialCodes,
    FactorialNegativeBinomial,
    FactorialPoisson,
    HurdleDistribution,
    ZeroInflatedDistribution,
    has_point_masses,
    is_mass,
    natural_point,
)
from lowerbound.errors import DataError, SettingsError, ShapeError, UnsupportedError

DOUBLE = torch.float64
GATE = torch.tensor([-1.0, 0.0, 1.5], dtype=DOUBLE)
PI = GATE.sigmoid().numpy()
MU, THETA = np.array([0.2, 3.0, 20.0]), np.array([0.5, 2.0, 1.0])
NEGATIVE_BINOMIAL = FactorialNegativeBinomial(
    torch.tensor(MU).log(), torch.tensor(THETA).log().expand(3)
)


def test_zero_inflated_negative_binomials_are_those_by_hand():
    p = ZeroInflatedDistribution(NEGATIVE_BINOMIAL, GATE)
    theirs = scipy.stats.nbinom(THETA, THETA / (THETA + MU))
    x = np.arange(5.0)[:, None]
    expected = PI * (x == 0) + (1 - PI) * theirs.pmf(x)
    found = p.entrywise_log_prob(torch.tensor(x).expand(5, 3))
    np.testing.assert_allclose(found.exp(), expected, rtol=1e-12)
    np.testing.assert_allclose(p.mean, (1 - PI) * MU)
    # As scvi-tools writes it, with softplus(-g) = -log(pi).
    softplus = nn.functional.softplus
    log_p0 = torch.tensor(theirs.logpmf(0))
    zero = softplus(-GATE + log_p0) - softplus(-GATE)
    torch.testing.assert_close(found[0], zero)


def test_hurdles_cut_off_the_zeros_of_counts():
    x = np.arange(5.0)[:, None]
    for base, theirs in [
        (NEGATIVE_BINOMIAL, scipy.stats.nbinom(THETA, THETA / (THETA + MU))),
        (FactorialPoisson(torch.tensor(MU).log()), scipy.stats.poisson(MU)),
    ]:
        found = HurdleDistribution(base, GATE).entrywise_log_prob(torch.tensor(x).expand(5, 3))
        positive = (1 - PI) * theirs.pmf(x) / theirs.sf(0)
        expected = np.where(x == 0, PI, positive)
        np.testing.assert_allclose(found.exp(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [ZeroInflatedDistribution, HurdleDistribution])
def test_masses_with_zeros_sum_to_one_and_have_the_stated_moments(kind):
    p = kind(NEGATIVE_BINOMIAL, GATE)
    x = torch.arange(3000, dtype=DOUBLE)[:, None]
    mass = p.entrywise_log_prob(x).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(3, dtype=DOUBLE), rtol=0, atol=1e-12)
    mean = (mass * x).sum(0)
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.variance, (mass * (x - mean) ** 2).sum(0))
    assert is_mass(p)
    assert p.expand((4,)).log_prob(torch.zeros(4, 3, dtype=DOUBLE)).shape == (4,)


@pytest.mark.parametrize(
    ("base", "theirs"),
    [
        (
            LogNormal(torch.full((3,), 0.3, dtype=DOUBLE), torch.tensor(0.8, dtype=DOUBLE)),
            scipy.stats.lognorm(0.8, 0, np.exp(0.3)),
        ),
        (
            Gamma(torch.full((3,), 2.0, dtype=DOUBLE), torch.tensor(1.5, dtype=DOUBLE)),
            scipy.stats.gamma(2.0, 0, 1 / 1.5),
        ),
    ],
)
def test_hurdles_of_densities_integrate_to_one_with_their_zero(base, theirs):
    p = HurdleDistribution(Independent(base, 1), GATE)
    for entry in range(3):

        def weigh(power, at=entry):
            def integrand(x):
                value = torch.full((3,), x, dtype=DOUBLE)
                return x**power * float(p.entrywise_log_prob(value)[at].exp())

            return quad(integrand, 0, np.inf, epsabs=1e-12, epsrel=1e-12, limit=400)[0]

        assert weigh(0) + PI[entry] == pytest.approx(1, abs=1e-9)
        assert weigh(1) == pytest.approx(float(p.mean[entry]), abs=1e-8)
        assert weigh(2) - weigh(1) ** 2 == pytest.approx(float(p.variance[entry]), abs=1e-6)
    x = torch.tensor([0.7, 0.0, 2.0], dtype=DOUBLE)
    expected = np.log(1 - PI[0]) + theirs.logpdf(0.7) + np.log(PI[1])
    expected += np.log(1 - PI[2]) + theirs.logpdf(2.0)
    assert float(p.log_prob(x)) == pytest.approx(expected, rel=1e-12)


def test_a_hurdle_of_a_density_is_neither_a_mass_nor_a_density():
    density = Independent(LogNormal(torch.zeros(2), 1.0), 1)
    mixed = HurdleDistribution(density, torch.zeros(2))
    assert is_mass(mixed) is None
    assert has_point_masses(mixed)
    assert not has_point_masses(density)
    assert is_mass(HurdleDistribution(FactorialPoisson(torch.zeros(2)), torch.zeros(2)))
    inside = mixed.support.check(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
    assert inside.tolist() == [True, False]
    assert repr(mixed.support.base_constraint) == "zero or GreaterThan(lower_bound=0.0)"


def test_the_gradient_is_finite_where_the_density_of_zero_is_not():
    mean = torch.zeros(2, requires_grad=True)
    gate = torch.zeros(2, requires_grad=True)
    p = HurdleDistribution(Independent(LogNormal(mean, 1.0), 1), gate)
    of_mean, of_gate = torch.autograd.grad(p.log_prob(torch.tensor([0.0, 1.0])), (mean, gate))
    assert of_mean.tolist() == [0.0, 0.0]
    assert of_gate.tolist() == [0.5, -0.5]


def test_a_hurdle_of_levels_draws_those_above_zero():
    """10,000 draws of each of four levels at 5 standard errors."""
    torch.manual_seed(0)
    p = HurdleDistribution(FactorialCategorical(torch.randn(4, 1)), torch.tensor([0.5]))
    levels = torch.arange(4)[:, None] / 3
    exact = p.entrywise_log_prob(levels).exp().flatten()
    assert float(exact.sum()) == pytest.approx(1)
    found = (p.sample((10_000,)) == levels.flatten()).float().mean(0)
    assert ((found - exact).abs() <= 5 * (exact * (1 - exact) / 10_000).sqrt()).all()


def test_a_base_without_positive_draws_is_drawn_from_until_they_are():
    """10,000 draws at 5 standard errors."""
    torch.manual_seed(0)

    def make(rate):
        return HurdleDistribution(Independent(Poisson(torch.tensor([rate])), 1), torch.zeros(1))

    p = make(0.7)
    exact = p.entrywise_log_prob(torch.arange(5.0)[:, None]).exp().flatten()
    found = (p.sample((10_000,)) == torch.arange(5.0)).float().mean(0)
    assert ((found - exact).abs() <= 5 * (exact * (1 - exact) / 10_000).sqrt()).all()
    with pytest.raises(UnsupportedError, match="give it a method sample_positive"):
        make(1e-20).sample()


ALMOST_ZERO = {
    "levels": (lambda m, g: lb.Hurdle(lb.Categorical(m, levels=4), g), 1 / 3, (4,), -30.0),
    "codes": (lambda m, g: lb.Hurdle(lb.Ordinal(m, levels=4), g), 1.0, (1,), -40.0),
    "successes": (lambda m, g: lb.Hurdle(lb.Binomial(m, trials=3), g), 1.0, (1,), -25.0),
    "logistics": (lambda m, g: lb.Hurdle(lb.DiscretizedLogistic(m, 8), g), 1 / 7, (2,), -3.0),
    "counts": (lambda m, g: lb.Hurdle(lb.Poisson(m), g), 1.0, (1,), -25.0),
    "dispersed counts": (lambda m, g: lb.Hurdle(lb.NegativeBinomial(m), g), 1.0, (2,), -25.0),
}


@pytest.mark.parametrize("name", ALMOST_ZERO)
def test_a_hurdle_is_accurate_where_the_base_is_almost_surely_zero(name):
    """In float32 the probability of 0 rounds to 1, and the bound would be infinite."""
    make, value, outputs, low = ALMOST_ZERO[name]
    network = lb.constant(outputs)
    part = make(network, lb.constant(1))
    with torch.no_grad():
        network.numbers.fill_(low)
        network.numbers[0] = {"levels": 0.0}.get(name, low)
    x = torch.full((1,), value)
    exact = part.double()().log_prob(x.double())
    single = part.float()()
    torch.testing.assert_close(single.log_prob(x).double(), exact, rtol=1e-5, atol=1e-5)
    assert single.log_prob(x) < 0
    (gradient,) = torch.autograd.grad(single.log_prob(x), network.numbers)
    assert gradient.isfinite().all()
    if hasattr(single.base, "sample_positive"):
        drawn = single.sample((100,))
        assert 0 < (drawn > 0).sum() < 100


def test_a_hurdle_of_a_mass_that_rounds_to_its_zero_has_no_infinite_bound():
    p = HurdleDistribution(Independent(Geometric(torch.tensor([1 - 2e-8])), 1), torch.zeros(1))
    assert p.log_prob(torch.ones(1)) < 0


@pytest.mark.parametrize("kind", [ZeroInflatedDistribution, HurdleDistribution])
def test_the_natural_point_of_codes_with_zeros_is_the_most_probable_code(kind):
    torch.manual_seed(0)
    p = kind(FactorialCodes(torch.randn(50, 4, 3)), torch.randn(50, 3))
    scores = torch.stack(
        [p.entrywise_log_prob(torch.full((3,), code)) for code in (0.0, 1.0, 2.0, 3.0)]
    )
    assert torch.equal(natural_point(p), scores.argmax(0).float())


def test_zeros_do_not_count_for_an_optimal_scale():
    """They are replaced by another value before the density scores them."""
    torch.manual_seed(0)
    likelihood = lb.LogNormal(lb.constant(3), scale="optimal")
    x = rainfall()
    lb.Hurdle(likelihood, lb.constant(3))().log_prob(x)
    found = likelihood.deviation / likelihood.deviation_weight
    torch.testing.assert_close(found, x[x > 0].log().square().mean())
    seen = torch.rand(40, 3) < 0.5
    again = lb.LogNormal(lb.constant(3), scale="optimal")
    lb.Masked(lb.Hurdle(again, lb.constant(3)))(observed=seen).log_prob(x)
    found = again.deviation / again.deviation_weight
    torch.testing.assert_close(found, x[(x > 0) & seen].log().square().mean())


def test_what_cannot_have_more_zeros_is_refused_with_the_reason():
    density = Independent(Gamma(torch.ones(2), torch.ones(2)), 1)
    with pytest.raises(UnsupportedError, match=r"not a probability mass.*use lb\.Hurdle"):
        ZeroInflatedDistribution(density, torch.zeros(2))
    with pytest.raises(UnsupportedError, match="are not independent"):
        HurdleDistribution(MultivariateNormal(torch.zeros(2), torch.eye(2)), torch.zeros(2))
    with pytest.raises(ShapeError, match=r"the gate has the shape \(3,\)"):
        HurdleDistribution(density, torch.zeros(3))
    with pytest.raises(SettingsError, match=r"lb\.Masked must be outside"):
        lb.Hurdle(lb.Masked(lb.Poisson(lb.mlp(2, 3))), lb.mlp(2, 3))


class Positive(Parametric):
    """Log-normal entries of one scale, around the network's output."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def from_parameters(self, raw):
        return Independent(LogNormal(raw, 0.5, validate_args=False), 1)

    def marginal_outputs(self, x):
        return x.log().nanmean(0)

    def check_data(self, x, rows, name="data", **fields):
        if bool((x <= 0).any()):
            raise DataError(f"{name}: row {int(rows[(x <= 0).any(1)][0])} is not positive")


def vae_of(likelihood):
    return lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), likelihood)


def rainfall():
    torch.manual_seed(0)
    return torch.randn(40, 3).exp() * (torch.rand(40, 3) < 0.6)


def test_positive_data_with_zeros_train_without_bits_per_dimension():
    x = rainfall()
    vae = vae_of(lb.Hurdle(Positive(lb.mlp(2, 3)), lb.mlp(2, 3)))
    run = lb.fit(vae, lb.ELBO(), x, epochs=2, progress=False)
    estimate = lb.evaluate(run.model, lb.ELBO(), x)
    assert np.isfinite(estimate.mean)
    assert estimate.bits_per_dimension is None
    assert vae.likelihood_is_mass(lb.Examples.of(x)) is None
    assert (vae.sample(200) == 0).any()
    x[5, 1] = -1.0
    with pytest.raises(DataError, match="row 5 is not positive"):
        lb.evaluate(vae, lb.ELBO(), x)
    pixels = lb.Examples(torch.randint(0, 256, (9, 3), dtype=torch.uint8), levels=256)
    with pytest.raises(DataError, match="'dequantize' makes the pixels continuous"):
        lb.evaluate(vae, lb.ELBO(), pixels.prepare("dequantize"))


def test_a_likelihood_that_does_not_check_is_checked_by_its_support():
    vae = vae_of(lb.Hurdle(Positive(lb.mlp(2, 3)), lb.mlp(2, 3)))
    vae.likelihood.part.check_data = lambda *given, **fields: None
    x = rainfall()
    vae.check_support(lb.Examples.of(x))
    x[5, 1] = -1.0
    with pytest.raises(DataError, match=r"row 5, entry 1 is -1, .* zero or GreaterThan"):
        vae.check_support(lb.Examples.of(x))


def test_missing_entries_are_not_zeros():
    x = rainfall()
    seen = torch.rand(40, 3) < 0.7
    vae = vae_of(lb.Masked(lb.Hurdle(Positive(lb.mlp(2, 3)), lb.mlp(2, 3))))
    data = lb.Examples(x.where(seen, 0.0), fields={"observed": seen})
    other = lb.Examples(x.where(seen, 7.0), fields={"observed": seen})
    p, z = vae.likelihood, torch.zeros(1, 40, 2)
    torch.testing.assert_close(
        p(z, observed=seen).log_prob(data.values), p(z, observed=seen).log_prob(other.values)
    )
    p.start_from(data.values, observed=seen)
    zeros = ((x == 0) & seen).sum(0) + 0.5
    expected = (zeros / (seen.sum(0) + 1)).logit()
    torch.testing.assert_close(p.part.gate.layers[-1].bias, expected)


@pytest.mark.parametrize("kind", [lb.ZeroInflated, lb.Hurdle])
def test_the_likelihood_behind_a_gate_starts_at_the_values_other_than_zero(kind):
    torch.manual_seed(0)
    x = torch.poisson(torch.full((500, 3), 6.0)).masked_fill(torch.rand(500, 3) < 0.5, 0.0)
    likelihood = kind(lb.Poisson(lb.constant(3)), lb.constant(3))
    likelihood.start_from(x)
    found = likelihood.part.network.numbers.detach().exp()
    torch.testing.assert_close(found, x.sum(0) / (x > 0).sum(0))


def test_the_gate_starts_at_the_zeros_that_the_likelihood_does_not_explain():
    """Counts 0 with probability 0.6, else Poisson of mean 3: the gate's share is found."""
    torch.manual_seed(0)
    x = torch.poisson(torch.full((20_000, 2), 3.0)) * (torch.rand(20_000, 2) < 0.4)
    likelihood = lb.ZeroInflated(lb.Poisson(lb.constant(2)), lb.constant(2))
    likelihood.start_from(x)
    p = likelihood()
    torch.testing.assert_close(p.log_zero.exp(), (x == 0).float().mean(0), rtol=0.01, atol=0)
    hurdle = lb.Hurdle(lb.Poisson(lb.constant(2)), lb.constant(2))
    hurdle.start_from(x)
    torch.testing.assert_close(
        hurdle().log_zero.exp(), (x == 0).float().mean(0), rtol=0.001, atol=0
    )


def test_layers_that_gate_and_likelihood_share_are_stored_once(tmp_path):
    torch.manual_seed(0)
    trunk = nn.Linear(2, 8)

    def head():
        return lb.flatten_leading(nn.Sequential(trunk, nn.ReLU(), nn.Linear(8, 3)), 2, 3)

    vae = vae_of(lb.ZeroInflated(lb.NegativeBinomial(head(), "shared"), head()))
    x = torch.poisson(torch.ones(9, 3))
    lb.save(vae, tmp_path / "model.safetensors")
    again = lb.load(tmp_path / "model.safetensors")
    parts = again.likelihood
    assert parts.gate.network[0] is parts.part.network.network[0]
    assert torch.equal(
        lb.evaluate(again, lb.ELBO(), x).per_example, lb.evaluate(vae, lb.ELBO(), x).per_example
    )


def test_zero_inflation_depends_on_exposures_and_other_fields():
    likelihood = lb.Given(
        lb.ZeroInflated(lb.NegativeBinomial(lb.mlp(5, 6), exposure=True), lb.mlp(5, 3)),
        "batch",
        categories=3,
    )
    assert likelihood.needs == ("batch", "exposure")
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), likelihood)
    x = torch.poisson(torch.ones(9, 3)) + 1
    data = lb.Examples(x, kind="counts", fields={"batch": torch.arange(9) % 3})
    run = lb.fit(vae, lb.ELBO(), data, epochs=2, progress=False)
    assert run.model.reconstruct(data, batch=1).shape == (9, 3)
    assert constraints.nonnegative_integer.check(run.model.sample(5, batch=0, exposure=9.0)).all()
