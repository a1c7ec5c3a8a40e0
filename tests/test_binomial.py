"""The binomial likelihood: against exact arithmetic and scipy, and on genotypes."""

import mpmath
import pytest
import scipy.stats
import torch
from torch import nn

import lowerbound as lb
from lowerbound.distributions import is_mass, natural_point
from lowerbound.errors import DataError, SettingsError

DOUBLE = torch.float64


def exact_binomial(x, trials, logit):
    """The log probability, computed with 40 digits."""
    ways, odds = mpmath.binomial(trials, x), mpmath.exp(logit)
    return float(mpmath.log(ways) - x * mpmath.log1p(1 / odds) - (trials - x) * mpmath.log1p(odds))


@pytest.mark.parametrize("trials", [1, 2, 17, 255])
@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-13), (torch.float32, 4e-6)])
def test_numbers_of_successes_are_scored_as_with_40_digits(trials, dtype, tolerance):
    logits = torch.linspace(-30, 30, 13, dtype=dtype)
    p = lb.Binomial(nn.Identity(), trials).from_parameters(logits)
    x = torch.arange(trials + 1, dtype=dtype)[:, None].expand(-1, 13)
    with mpmath.workdps(40):
        expected = torch.tensor(
            [
                [exact_binomial(wins, trials, logit) for logit in logits.tolist()]
                for wins in range(trials + 1)
            ],
            dtype=DOUBLE,
        )
    error = (p.entrywise_log_prob(x).double() - expected).abs() / expected.abs().clamp(min=1)
    assert float(error.max()) < tolerance


@pytest.mark.parametrize("trials", [1, 2, 17, 255])
def test_moments_are_those_of_scipy(trials):
    logits = torch.linspace(-5, 5, 13, dtype=DOUBLE)
    p = lb.Binomial(nn.Identity(), trials).from_parameters(logits)
    mean, variance = scipy.stats.binom.stats(trials, logits.sigmoid().numpy())
    torch.testing.assert_close(p.mean, torch.from_numpy(mean))
    torch.testing.assert_close(p.variance, torch.from_numpy(variance))
    assert is_mass(p)


def test_the_gradient_is_the_difference_from_the_mean():
    raw = torch.randn(3, 1, 5, 4, dtype=DOUBLE, requires_grad=True)
    likelihood = lb.Binomial(lb.mlp(2, (1, 5, 4)), trials=9)
    x = torch.randint(10, (3, 1, 5, 4)).to(DOUBLE)
    likelihood.from_parameters(raw).log_prob(x).sum().backward()
    torch.testing.assert_close(raw.grad, x - 9 * raw.detach().sigmoid())


def test_the_natural_point_is_the_most_probable_number():
    p = lb.Binomial(nn.Identity(), trials=4).from_parameters(torch.tensor([0.0, 9.0, -9.0]))
    assert natural_point(p).tolist() == [2.0, 4.0, 0.0]


def test_training_starts_at_the_share_of_successes():
    genotypes = torch.tensor(
        [[0.0, 2.0, 1.0], [0.0, 2.0, 2.0], [0.0, 1.0, torch.nan]], dtype=DOUBLE
    )
    likelihood = lb.Binomial(lb.mlp(4, 3), trials=2).double()
    shares = torch.tensor([0.5 / 4, 3 / 4, 2 / 3], dtype=DOUBLE)
    torch.testing.assert_close(likelihood.marginal_outputs(genotypes).sigmoid(), shares)


def test_genotypes_are_modelled_from_their_frequencies():
    """Two populations differ in the frequency of each allele; the latent tells them apart."""
    torch.manual_seed(0)
    population = torch.arange(200) % 2
    frequencies = torch.where(population[:, None] == 0, 0.1, 0.9).expand(-1, 30)
    genotypes = torch.binomial(torch.full((200, 30), 2.0), frequencies)
    data = lb.Examples(genotypes.byte(), kind="codes", levels=3)
    model = lb.LatentModel(
        lb.StandardNormal(1), lb.Gaussian(lb.mlp(30, 2)), lb.Binomial(lb.mlp(1, 30), trials=2)
    )
    run = lb.fit(model, lb.ELBO(), data, epochs=20, learning_rate=0.03, seed=0, progress=False)
    z = run.model.encode(data)[:, 0]
    assert bool((z[0::2].min() > z[1::2].max()) | (z[0::2].max() < z[1::2].min()))
    estimate = lb.evaluate(run.model, lb.ELBO(), data)
    assert estimate.mean > estimate.baseline
    assert set(run.model.reconstruct(data).unique().tolist()) <= {0.0, 1.0, 2.0}


@pytest.mark.parametrize("value", [3.0, -1.0, 0.5])
def test_values_that_are_not_numbers_of_successes_are_refused(value):
    x = torch.tensor([[0.0, 2.0], [1.0, value]])
    likelihood = lb.Binomial(lb.mlp(4, 2), trials=2)
    with pytest.raises(DataError, match=rf"row 8 has the value {value:g}, .* from 0 to 2; pass"):
        likelihood.check_data(x, torch.tensor([7, 8]))


@pytest.mark.parametrize("trials", [0, 1.5, True])
def test_other_numbers_of_trials_are_refused(trials):
    with pytest.raises(SettingsError, match="Binomial: trials"):
        lb.Binomial(lb.mlp(4, 2), trials=trials)
