"""Likelihoods of counts: against scipy, exact arithmetic and enumeration; exposures."""

import mpmath
import numpy as np
import pytest
import scipy.sparse
import scipy.stats
import torch
from torch import nn
from torch.distributions import Independent, NegativeBinomial, Poisson

import lowerbound as lb
from lowerbound.data.preprocessing import Preprocessing
from lowerbound.distributions import FactorialNegativeBinomial, FactorialPoisson, is_mass
from lowerbound.errors import DataError, SettingsError, ShapeError

DOUBLE = torch.float64
COUNTS = [0.0, 1.0, 2.0, 5.0, 11.0, 12.0, 13.0, 50.0, 1000.0, 1e5, 1e6]


def exact_poisson(x, log_mean):
    """The log probability, computed with 40 digits."""
    x, log_mean = mpmath.mpf(x), mpmath.mpf(log_mean)
    return float(x * log_mean - mpmath.exp(log_mean) - mpmath.loggamma(x + 1))


def exact_negative_binomial(x, log_mean, log_theta):
    """The log probability, computed with 40 digits."""
    mu, theta, x = mpmath.exp(log_mean), mpmath.exp(log_theta), mpmath.mpf(x)
    return float(
        mpmath.loggamma(x + theta)
        - mpmath.loggamma(theta)
        - mpmath.loggamma(x + 1)
        + theta * mpmath.log(theta / (theta + mu))
        + x * mpmath.log(mu / (theta + mu))
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mean", [1e-8, 1e-3, 1.0, 10.0, 1e3, 1e6, 1e9])
def test_counts_are_scored_as_with_40_digits(mean, dtype):
    tolerance = {torch.float64: 4e-15, torch.float32: 2e-6}[dtype]
    x, log_mean = torch.tensor(COUNTS, dtype=dtype), torch.tensor(np.log(mean), dtype=dtype)
    found = [FactorialPoisson(log_mean.expand(len(x))).entrywise_log_prob(x)]
    with mpmath.workdps(40):
        expected = [[exact_poisson(count, log_mean.item()) for count in COUNTS]]
        for theta in (1e-3, 0.1, 1.0, 10.0, 1e3, 1e6):
            log_theta = torch.tensor(np.log(theta), dtype=dtype)
            p = FactorialNegativeBinomial(log_mean.expand(len(x)), log_theta)
            found.append(p.entrywise_log_prob(x))
            expected.append(
                [
                    exact_negative_binomial(count, log_mean.item(), log_theta.item())
                    for count in COUNTS
                ]
            )
    exact = torch.tensor(expected, dtype=DOUBLE)
    error = (torch.stack(found).double() - exact).abs() / exact.abs().clamp(min=1)
    assert float(error.max()) < tolerance


def test_counts_are_scipy_s():
    x = torch.arange(40, dtype=DOUBLE)[:, None]
    mu, theta = torch.tensor([0.3, 2.0, 17.0]), torch.tensor([0.4, 3.0, 50.0])
    mu, theta = mu.double(), theta.double()
    found = FactorialPoisson(mu.log()).entrywise_log_prob(x)
    np.testing.assert_allclose(found, scipy.stats.poisson.logpmf(x, mu), rtol=1e-12)
    p = FactorialNegativeBinomial(mu.log(), theta.log())
    theirs = scipy.stats.nbinom(theta, theta / (theta + mu))
    np.testing.assert_allclose(p.entrywise_log_prob(x), theirs.logpmf(x), rtol=1e-11)
    np.testing.assert_allclose(p.mean, theirs.mean(), rtol=1e-12)
    np.testing.assert_allclose(p.variance, theirs.var(), rtol=1e-12)


def test_counts_sum_to_one():
    x = torch.arange(3000, dtype=DOUBLE)[:, None]
    log_mean = torch.tensor([-4.0, 0.0, 3.0], dtype=DOUBLE)
    log_theta = torch.tensor([0.5, -0.5, 1.0], dtype=DOUBLE)
    for p in (FactorialPoisson(log_mean), FactorialNegativeBinomial(log_mean, log_theta)):
        assert is_mass(p)
        total = p.entrywise_log_prob(x).logsumexp(0)
        torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-12)


def test_large_counts_are_scored_in_float32_where_torch_is_off_by_a_nat():
    """At the mean, and three standard deviations above it."""
    log_mean = torch.tensor(np.log(1e6), dtype=torch.float32)
    with mpmath.workdps(40):
        for x in (1e6, 1e6 + 3000):
            exact = exact_poisson(x, log_mean.item())
            ours = float(FactorialPoisson(log_mean[None]).log_prob(torch.tensor([x])))
            assert abs(ours - exact) < 2e-3
        theirs = float(Poisson(log_mean.exp()).log_prob(torch.tensor(1e6)))
        assert abs(theirs - exact_poisson(1e6, log_mean.item())) > 0.5


def test_the_gradients_are_those_of_torch_s_formulas():
    log_mean = torch.tensor([-6.0, 0.3, 2.0, 4.0], dtype=DOUBLE, requires_grad=True)
    log_theta = torch.tensor([-1.0, 0.0, 2.0, 5.0], dtype=DOUBLE, requires_grad=True)
    x = torch.tensor([[0.0], [1.0], [7.0], [11.0], [12.0], [400.0]], dtype=DOUBLE)
    ours = FactorialNegativeBinomial(log_mean, log_theta).log_prob(x)
    theirs = NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta).log_prob(x).sum(-1)
    torch.testing.assert_close(ours, theirs)
    for mine, reference in zip(
        torch.autograd.grad(ours.sum(), (log_mean, log_theta)),
        torch.autograd.grad(theirs.sum(), (log_mean, log_theta)),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(FactorialPoisson(log_mean).log_prob(x).sum(), log_mean)
    torch.testing.assert_close(gradient, (x - log_mean.exp()).sum(0))


@pytest.mark.parametrize(
    "p",
    [
        FactorialPoisson(torch.tensor([-9.0, -2.0, 0.0, 1.5], dtype=DOUBLE)),
        FactorialNegativeBinomial(
            torch.tensor([-9.0, -2.0, 0.0, 1.5], dtype=DOUBLE),
            torch.tensor([0.0, -1.0, -3.0, 0.5], dtype=DOUBLE),
        ),
    ],
)
def test_positive_draws_have_the_truncated_distribution(p):
    """100,000 draws; each of 40 frequencies at 5 standard errors: one false alarm in 40,000."""
    torch.manual_seed(0)
    draws = p.sample_positive((100_000,))
    x = torch.arange(1, 11, dtype=DOUBLE)[:, None]
    exact = (p.entrywise_log_prob(x) - torch.log(-torch.expm1(p.entrywise_log_prob(0 * x)))).exp()
    found = (draws[:, None] == x).double().mean(0)
    error = (exact * (1 - exact) / 100_000).sqrt()
    assert draws.min() == 1
    assert ((found - exact).abs() <= 5 * error + 1e-4).all()


# The conditionals


def test_the_network_gives_log_rates_and_the_exposure_multiplies_them():
    torch.manual_seed(0)
    z, exposure = torch.randn(4, 5, 2), torch.tensor([0.5, 1.0, 20.0, 3.0, 1e4])
    network = lb.mlp(2, 8, 6)
    p = lb.NegativeBinomial(network, exposure=True)(z, exposure=exposure)
    torch.testing.assert_close(p.mean, exposure[:, None] * network(z)[..., :3].exp())
    torch.testing.assert_close(p.inverse_dispersion, network(z)[..., 3:].exp())
    of_entries = torch.rand(5, 6) + 0.5
    p = lb.Poisson(network, exposure=True)(z, exposure=of_entries)
    torch.testing.assert_close(p.mean, of_entries * network(z).exp())
    assert lb.Poisson(network).needs == ()
    assert lb.Poisson(network, exposure=True).needs == ("exposure",)
    pictures = lb.Poisson(lb.mlp(2, (1, 3, 4)), exposure=True)(z, exposure=exposure)
    assert pictures.event_shape == (1, 3, 4)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"dispersion": "gene"}, SettingsError, "dispersion='gene' is unknown"),
        ({"dispersion": -1.0}, SettingsError, r"dispersion=-1.0 is unknown"),
        ({"dispersion": True}, SettingsError, r"dispersion=True is unknown"),
        (
            {"dispersion": 2.0, "exposure": 1000.0},
            SettingsError,
            r"NegativeBinomial: exposure=1000.0 must be True or False",
        ),
        ({}, ShapeError, r"\(3,\) cannot be split into rates and inverse dispersions"),
    ],
)
def test_an_invalid_negative_binomial_says_why(settings, error, message):
    with pytest.raises(error, match=message):
        lb.NegativeBinomial(lb.mlp(2, 3), **settings)
    with pytest.raises(ShapeError, match="declares its output_shape"):
        lb.NegativeBinomial(torch.nn.Linear(2, 3), dispersion="elementwise")


def vae_of_counts(shape=6, exposure=True, **settings):
    torch.manual_seed(0)
    return lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(shape, 4)),
        lb.NegativeBinomial(lb.mlp(2, shape), "elementwise", exposure=exposure, **settings),
    )


def simulated_counts(rows=30, entries=6):
    torch.manual_seed(1)
    return torch.poisson(3 * torch.rand(rows, entries)).long() + 1


def test_the_exposure_of_counts_is_by_default_the_sum_of_their_row(tmp_path):
    x = simulated_counts()
    vae, counts = vae_of_counts(), lb.Examples(x, kind="counts")
    own = lb.Examples(x, kind="counts", fields={"exposure": x.sum(1).float()})
    sparse = lb.Examples.of(scipy.sparse.csr_matrix(x.numpy()), kind="counts")
    bound = lb.evaluate(vae, lb.ELBO(), own).per_example
    for data in (counts, sparse):
        assert torch.equal(lb.evaluate(vae, lb.ELBO(), data).per_example, bound)
    half = own.subset(torch.arange(10, 20))
    torch.testing.assert_close(
        lb.evaluate(vae, lb.ELBO(), counts.subset(torch.arange(10, 20))).per_example,
        lb.evaluate(vae, lb.ELBO(), half).per_example,
    )
    other = lb.Examples(x, kind="counts", fields={"exposure": torch.ones(30)})
    assert lb.evaluate(vae, lb.ELBO(), other).mean != bound.mean()
    torch.testing.assert_close(vae.reconstruct(counts), vae.reconstruct(own))
    assert vae.sample(3, exposure=100.0).shape == (3, 6)
    lb.fit(vae, lb.ELBO(), counts, epochs=1, progress=False, directory=tmp_path / "run")
    again = lb.load(tmp_path / "run")
    assert torch.equal(
        lb.evaluate(again, lb.ELBO(), counts).per_example,
        lb.evaluate(vae, lb.ELBO(), own).per_example,
    )
    with pytest.raises(DataError, match=r"needs the field 'exposure'.*kind='counts'"):
        lb.evaluate(vae, lb.ELBO(), x.float())


def test_a_model_that_learned_other_exposures_does_not_take_sums_in_their_place():
    x = simulated_counts()
    vae = vae_of_counts()
    vae.preprocessing = Preprocessing((6,), value_kind="counts", fields={"exposure": None})
    with pytest.raises(DataError, match="needs the field 'exposure'"):
        vae.reconstruct(x.numpy())
    vae.preprocessing = Preprocessing((6,), value_kind="counts")
    assert vae.reconstruct(x.numpy()).shape == (30, 6)


def test_rows_without_counts_and_exposures_that_are_not_positive_are_refused_by_row():
    x = simulated_counts()
    x[7] = 0
    with pytest.raises(DataError, match=r"'exposure' is 0 in row 7.*drop the rows"):
        lb.evaluate(vae_of_counts(), lb.ELBO(), lb.Examples(x, kind="counts"))
    exposure = torch.ones(30, 6)
    exposure[3, 1] = -2.0
    data = lb.Examples(x, kind="counts", fields={"exposure": exposure})
    with pytest.raises(DataError, match="'exposure' is -2 in row 3"):
        lb.fit(vae_of_counts(), lb.ELBO(), data, epochs=1, progress=False)
    data = lb.Examples(x, kind="counts", fields={"exposure": torch.ones(30, 1, 6)})
    with pytest.raises(DataError, match=r"'exposure' has the shape \(1, 6\) for each example"):
        lb.evaluate(vae_of_counts(), lb.ELBO(), data)


@pytest.mark.parametrize("bad", [2.5, -1.0])
@pytest.mark.parametrize("wrap", [lambda p: p, lb.Masked])
def test_values_that_are_not_counts_are_refused_by_row(bad, wrap):
    vae = vae_of_counts(exposure=False)
    vae.likelihood = wrap(vae.likelihood)
    x = simulated_counts().float()
    assert lb.evaluate(vae, lb.ELBO(), x).mean < 0
    x[4, 2] = bad
    with pytest.raises(DataError, match=f"row 4 has the value {bad:g}, and a NegativeBinomial"):
        lb.evaluate(vae, lb.ELBO(), x)


def test_counts_are_a_mass_in_bits():
    x = simulated_counts()
    estimate = lb.evaluate(vae_of_counts(), lb.ELBO(), lb.Examples(x, kind="counts"))
    assert estimate.bits_per_dimension == pytest.approx(-estimate.mean / (6 * np.log(2)))


# The start from the data, and recovery


def test_training_starts_from_the_moments_of_the_counts():
    torch.manual_seed(0)
    rate, theta = torch.tensor([0.02, 0.3, 0.68]), torch.tensor([0.5, 2.0, 20.0])
    exposure = torch.rand(50_000) * 100 + 10
    mean = exposure[:, None] * rate
    x = NegativeBinomial(theta, logits=(mean / theta).log()).sample()
    x[:100, 0] = torch.nan
    for dispersion, size in [("network", 6), ("elementwise", 3)]:
        likelihood = lb.NegativeBinomial(lb.constant(size), dispersion, exposure=True)
        likelihood.start_from(x, exposure=exposure)
        p = likelihood(exposure=exposure)
        torch.testing.assert_close(p.mean[0] / exposure[0], rate, rtol=0.03, atol=0)
        found = p.inverse_dispersion.reshape(-1, 3)[0]
        torch.testing.assert_close(found, theta, rtol=0.1, atol=0)
    shared = lb.NegativeBinomial(lb.constant(3), "shared")
    same = NegativeBinomial(torch.tensor(3.0), logits=torch.tensor([-1.0, 0.0, 1.0])).sample(
        (9999,)
    )
    shared.start_from(same)
    assert float(shared().inverse_dispersion.detach()) == pytest.approx(3.0, rel=0.1)
    assert torch.equal(shared.marginal_outputs(same), shared.network.numbers)


def test_the_start_scales_weights_for_the_means_of_the_counts_and_not_for_their_rates():
    torch.manual_seed(0)
    x = torch.poisson(torch.full((300, 2), 30.0, dtype=DOUBLE))
    weights = []
    for fields in ({}, {"exposure": torch.full((300,), 10.0)}):
        torch.manual_seed(1)
        likelihood = lb.Poisson(lb.mlp(3, 2), exposure=bool(fields)).double()
        likelihood.start_from(x, **fields)
        weights.append(likelihood.network.layers[0].weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=0)


def test_the_start_is_finite_for_counts_whose_squares_overflow():
    counts = torch.poisson(torch.ones(50, 2))
    counts[3, 1] = 1e30
    likelihood = lb.NegativeBinomial(lb.constant((4,)))
    likelihood.start_from(counts)
    assert likelihood().mean.isfinite().all()
    torch.testing.assert_close(likelihood().mean[0], counts[:, 0].mean())


def test_the_start_is_finite_for_entries_without_counts_or_observations():
    x = torch.zeros(3, 4)
    x[:, 1] = torch.nan
    x[1, 2] = 5.0
    for likelihood in (
        lb.Poisson(lb.mlp(2, 4)),
        lb.NegativeBinomial(lb.mlp(2, 8)),
        lb.NegativeBinomial(lb.mlp(2, 4), "shared"),
    ):
        likelihood.start_from(x)
        p = likelihood(torch.zeros(1, 3, 2))
        assert p.log_prob(x.nan_to_num(0.0)).isfinite().all()
        torch.testing.assert_close(p.mean[0, 0, 2], torch.tensor(5 / 3))


class Same(nn.Module):
    """Gives the same three outputs for every input."""

    output_shape = (3,)

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, z):
        return self.bias.expand(*z.shape[:-1], 3)


def test_a_constant_network_recovers_the_parameters_of_simulated_counts():
    """Maximum likelihood: the found parameters are at least as likely as the true ones."""
    torch.manual_seed(0)
    rate, theta = torch.tensor([0.05, 0.25, 0.7]), torch.tensor([0.7, 3.0, 12.0])
    exposure = torch.rand(4000) * 50 + 5
    mean = exposure[:, None] * rate
    x = NegativeBinomial(theta, logits=(mean / theta).log()).sample()
    data = lb.Examples(x, kind="counts", fields={"exposure": exposure})
    likelihood = lb.NegativeBinomial(Same(), "elementwise", exposure=True)
    vae = lb.LatentModel(lb.StandardNormal(1), lb.Gaussian(lb.mlp(3, 2)), likelihood)
    lb.fit(vae, lb.ELBO(), data, epochs=15, batch_size=500, learning_rate=0.02, progress=False)
    p = likelihood(torch.zeros(4000, 1), exposure=exposure)
    torch.testing.assert_close(p.mean[0] / exposure[0], rate, rtol=0.05, atol=0)
    torch.testing.assert_close(p.inverse_dispersion, theta, rtol=0.1, atol=0)
    true = Independent(NegativeBinomial(theta, logits=(mean / theta).log()), 1)
    assert p.log_prob(x).mean() > true.log_prob(x).mean() - 1e-3
