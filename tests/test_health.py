"""What latents carry, against closed forms and quadrature; and each cause of a collapse."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import zuko
from scipy import integrate, stats
from torch import nn
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

import lowerbound as lb
from lowerbound.distributions import DiagonalNormal
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError
from lowerbound.evaluation.diagnosis import (
    find_broad_scale,
    find_causes_of_collapse,
    find_constant_data,
    find_dead_units,
    find_free_decoder,
    find_strong_rate_weight,
    probe_model,
)
from lowerbound.evaluation.findings import find_unfinished_schedules
from lowerbound.evaluation.health import latent_health
from lowerbound.recipes.aevb import aevb_gaussian

DOUBLE = torch.float64


class Table(nn.Module):
    """A posterior that is read from tables by the number of the example, which is its value."""

    def __init__(self, means, scales):
        super().__init__()
        self.means, self.log_scales = nn.Parameter(means), nn.Parameter(scales.log())

    def forward(self, x):
        row = x[:, 0].long()
        return DiagonalNormal(self.means[row], self.log_scales[row], self.means.dim() - 1)


def tabled(means, scales, posterior=Table) -> tuple[lb.LatentModel, torch.Tensor]:
    """A model with these posteriors, and its data."""
    likelihood = lb.Gaussian(lb.mlp(tuple(means.shape[1:]), 2))
    model = lb.LatentModel(
        lb.StandardNormal(tuple(means.shape[1:])), posterior(means, scales), likelihood
    ).double()
    return model, torch.arange(len(means), dtype=DOUBLE)[:, None]


@pytest.fixture
def _small_passes(monkeypatch):
    """Batches, and chunks of the mixture, that are far smaller than the data."""
    monkeypatch.setattr("lowerbound.runtime.memory._VALUES_PER_BATCH", 7)
    monkeypatch.setattr("lowerbound.evaluation.aggregate._CHUNK_VALUES", 30)


@pytest.fixture
def _without_preparations(monkeypatch):
    """Skip trial draws, which take most of the time in hundreds of evaluations of known data."""
    monkeypatch.setattr(lb.LatentModel, "check_data", lambda *_: None)
    monkeypatch.setattr(lb.LatentModel, "numbers_per_draw", lambda *_: 2)


# What the latents carry


@pytest.mark.usefixtures("_small_passes")
def test_separated_posteriors_carry_the_logarithm_of_all_examples():
    """Of all 60 examples, and not of those in a batch of 7."""
    means = 100 * torch.arange(60, dtype=DOUBLE)[:, None] + torch.rand(60, 3, dtype=DOUBLE)
    model, x = tabled(means, torch.full((60, 3), 0.7, dtype=DOUBLE))
    health = latent_health(model, x)
    assert health.mutual_information == pytest.approx(math.log(60), abs=1e-6)
    assert health.saturated
    assert (health.components, health.draws, latent_health(model, x, samples=1).draws) == (
        60,
        1020,
        60,
    )
    assert "(an upper bound, and so is the total correlation)" in str(health)
    assert "limited by log 60" in str(health)
    assert not health.collapsed


def test_the_same_posterior_everywhere_carries_nothing():
    model, x = tabled(
        torch.full((30, 2), 1.5, dtype=DOUBLE), torch.full((30, 2), 0.7, dtype=DOUBLE)
    )
    health = latent_health(model, x)
    assert abs(health.mutual_information) < 1e-9
    assert health.aggregate_kl == pytest.approx(health.rate, abs=1e-9)
    assert health.marginal_kl == pytest.approx(health.rate, abs=2.0)
    assert health.collapsed
    assert not health.saturated


def test_information_agrees_with_quadrature():
    """One latent, 12 posteriors that overlap, 12 x 4,000 draws.

    At four standard errors there is one false alarm in 16,000 runs for each.
    """
    means, scales = torch.randn(12, 1, dtype=DOUBLE), 0.3 + torch.rand(12, 1, dtype=DOUBLE)
    model, x = tabled(means, scales)

    z = np.linspace(-9, 9, 4001)
    mixture = stats.norm(means.numpy(), scales.numpy()).pdf(z).mean(0)

    def integral(values):
        fine, coarse = integrate.simpson(values, x=z), integrate.simpson(values[::2], x=z[::2])
        assert abs(fine - coarse) < 1e-6
        return fine

    entropy = integral(-mixture * np.log(mixture))
    expected = entropy - float((scales.log() + 0.5 * math.log(2 * math.pi * math.e)).mean())
    prior_kl = integral(mixture * (np.log(mixture) - stats.norm.logpdf(z)))
    health = latent_health(model, x, samples=4000)
    error = 1 / math.sqrt(12 * 4000)  # the log ratios' standard deviation is below 1
    assert 0.3 < expected < 1.5
    assert health.mutual_information == pytest.approx(expected, abs=4 * error)
    assert health.aggregate_kl == pytest.approx(prior_kl, abs=4 * error)
    assert health.marginal_kl == pytest.approx(prior_kl, abs=4 * error)
    assert abs(health.total_correlation) < 8 * error


def channel(count: int, units: int, information: float) -> tuple[lb.LatentModel, torch.Tensor]:
    """Posteriors that carry so many nats for infinitely many data, whose mean is the prior."""
    variance = math.exp(-2 * information / units)
    means = math.sqrt(1 - variance) * torch.randn(count, units, dtype=DOUBLE)
    return tabled(means, torch.full((count, units), math.sqrt(variance), dtype=DOUBLE))


@pytest.mark.usefixtures("_without_preparations")
def test_the_standard_error_is_that_over_sets_of_examples():
    """2 nats in 6 units, 60 sets of 200 examples.

    A standard deviation of 60 values is known to a tenth, so a third is more than three errors.
    """
    found = [latent_health(*channel(200, 6, 2.0), seed=seed) for seed in range(60)]
    values = torch.tensor([health.mutual_information for health in found])
    errors = torch.tensor([health.mutual_information_error for health in found])
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.35)
    assert "± 0.0" in next(line for line in found[0].lines() if line.startswith("information"))


def test_the_rate_of_all_examples_makes_the_information_precise(monkeypatch):
    """200 draws for 1,000 examples.

    Without the rate, the log densities of the few draws would give a standard deviation of 0.16.
    """
    monkeypatch.setattr("lowerbound.evaluation.aggregate._MOST_VALUES", 1)
    model, x = channel(1000, 20, 4.0)
    values = torch.tensor(
        [latent_health(model, x, seed=seed).mutual_information for seed in range(20)]
    )
    assert float(values.std()) < 0.06


def test_too_few_examples_are_said_to_be_too_few():
    """The aggregate is the prior, but a draw's own share of 1,000 examples is nearly half."""
    health = latent_health(*channel(1000, 10, 6.0))
    assert health.aggregate_kl > 0.4
    assert health.mutual_information < math.log(1000) - 1
    assert 0.3 < health.own_share < 0.6
    assert health.saturated
    enough = latent_health(*channel(1000, 10, 2.0))
    assert abs(enough.aggregate_kl) < 0.15
    assert not enough.saturated
    assert "upper bound" not in str(enough)
    same = latent_health(*tabled(torch.zeros(4, 2, dtype=DOUBLE), torch.ones(4, 2, dtype=DOUBLE)))
    assert (same.own_share, same.saturated) == (pytest.approx(0.25), False)


@pytest.mark.usefixtures("_without_preparations")
@pytest.mark.parametrize("count", [5, 8, 16])
def test_few_examples_that_carry_something_have_not_collapsed(count):
    """0.36 nats in 2 units: at most 5 of 100 sets; 0 or 1 is expected."""
    found = [latent_health(*channel(count, 2, 0.36), seed=seed) for seed in range(100)]
    assert sum(health.collapsed for health in found) <= 5


def test_a_negative_estimate_is_shown_with_its_sign():
    health = latent_health(*channel(20, 2, 1.0))
    below = type(health)(
        **vars(health) | {"mutual_information": -0.3, "mutual_information_error": 0.25}
    )
    assert "information about x: -0.30 ± 0.25 nats" in str(below)
    assert "information about x: 0.00 ± 0.25 nats" in str(
        type(below)(**vars(below) | {"mutual_information": -0.001})
    )


def test_total_correlation_is_that_of_the_aggregate():
    """The means have the correlation 0.9, so it is the log determinant of the correlation matrix.

    With 2,000 examples, the error of the mixture is below 0.1 nats.
    """
    correlation = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=DOUBLE)
    means = MultivariateNormal(torch.zeros(2, dtype=DOUBLE), correlation).sample((2000,))
    model, x = tabled(means, torch.full((2000, 2), 0.4, dtype=DOUBLE))
    health = latent_health(model, x)
    total = correlation + 0.16 * torch.eye(2, dtype=DOUBLE)
    expected = 0.5 * float(total.diagonal().log().sum() - torch.logdet(total))
    assert health.total_correlation == pytest.approx(expected, abs=0.1)
    assert expected > 0.4
    marginal = 0.5 * 2 * (1.16 - 1 - math.log(1.16))
    assert health.marginal_kl == pytest.approx(marginal, abs=0.08)
    information = 0.5 * float(torch.logdet(total)) - 2 * math.log(0.4)
    assert health.mutual_information == pytest.approx(information, abs=0.1)


def test_rates_are_closed_forms_by_unit():
    means, scales = torch.randn(40, 3, dtype=DOUBLE), 0.3 + torch.rand(40, 3, dtype=DOUBLE)
    model, x = tabled(means, scales)
    expected = 0.5 * (means**2 + scales**2 - 1 - 2 * scales.log()).mean(0)
    health = latent_health(model, x)
    torch.testing.assert_close(health.rate_per_unit, expected, rtol=1e-12, atol=1e-12)
    assert health.rate == pytest.approx(float(expected.sum()), rel=1e-12)
    assert health.rate == pytest.approx(
        lb.evaluate(model, lb.ELBO(), x).terms["rate"].mean, rel=1e-12
    )
    assert health.rate == pytest.approx(health.mutual_information + health.aggregate_kl, rel=1e-12)


@pytest.mark.usefixtures("_small_passes")
def test_active_units_vary_over_all_examples():
    """The population variance of means far from 0, in batches of 7 and a last one of 4."""
    means = torch.randn(60, 4, dtype=DOUBLE) * torch.tensor([1.0, 0.11, 0.09, 0.0], dtype=DOUBLE)
    means = (means - means.mean(0)) / means.std(0, correction=0).clamp_min(1e-12)
    means = 1e5 + means * torch.tensor([1.0, 0.101, 0.099, 0.0], dtype=DOUBLE)
    health = latent_health(*tabled(means, torch.ones(60, 4, dtype=DOUBLE)), samples=1)
    np.testing.assert_allclose(health.variances, [1.0, 0.101**2, 0.099**2, 0.0], atol=1e-9)
    assert (health.active_units, health.units) == (2, 4)
    assert health.active.tolist() == [True, True, False, False]


def test_results_do_not_depend_on_the_batches(monkeypatch):
    model, x = tabled(torch.randn(50, 2, dtype=DOUBLE), torch.full((50, 2), 0.5, dtype=DOUBLE))
    whole = latent_health(model, x, samples=3)
    monkeypatch.setattr("lowerbound.runtime.memory._VALUES_PER_BATCH", 16)
    parts = latent_health(model, x, samples=3)
    for name in ("rate", "mutual_information", "marginal_kl"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9), name
    assert latent_health(model, x, samples=3, seed=1).mutual_information != whole.mutual_information


def test_many_examples_are_spread_over(monkeypatch):
    monkeypatch.setattr("lowerbound.evaluation.aggregate._MOST_COMPONENTS", 500)
    monkeypatch.setattr("lowerbound.evaluation.aggregate._MOST_VALUES", 2 * 500 * 250)
    means = 100 * torch.arange(1300, dtype=DOUBLE)[:, None] + torch.zeros(1, 2, dtype=DOUBLE)
    health = latent_health(*tabled(means, torch.ones(1300, 2, dtype=DOUBLE)))
    assert (health.examples, health.components, health.draws) == (1300, 500, 250)
    assert health.mutual_information == pytest.approx(math.log(500), abs=1e-6)
    # Draws are evenly spaced too: the first half of the data is one posterior, where a draw carries
    # log 2 nats.
    means[:650] = -1e4
    health = latent_health(*tabled(means, torch.ones(1300, 2, dtype=DOUBLE)))
    assert health.mutual_information == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(500), abs=0.01
    )


def test_latents_that_are_images_count_each_entry_as_a_unit():
    means = torch.randn(20, 2, 3, 3, dtype=DOUBLE)
    health = latent_health(*tabled(means, torch.ones(20, 2, 3, 3, dtype=DOUBLE)))
    assert (health.units, len(health.rate_per_unit), health.active_units) == (18, 18, 18)


def test_binary_latents():
    """Each of two bits copies one of the data: log 4."""
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(5, 1)
    model = lb.LatentModel(
        lb.Bernoulli(lb.constant(2)), lb.Bernoulli(lb.mlp(2, 2)), lb.Bernoulli(lb.mlp(2, 2))
    )
    with torch.no_grad():
        model.posterior.network.layers[0].weight.copy_(60 * torch.eye(2))
        model.posterior.network.layers[0].bias.fill_(-30)
    health = latent_health(model, x)
    assert health.mutual_information == pytest.approx(math.log(4), abs=1e-6)
    assert health.rate_per_unit.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-6)
    assert health.active_units == 2


def test_posteriors_whose_units_are_not_independent():
    class Slanted(Table):
        def forward(self, x):
            covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=DOUBLE)
            return MultivariateNormal(super().forward(x).mean, covariance)

    means = 100 * torch.arange(30, dtype=DOUBLE)[:, None] + torch.zeros(1, 2, dtype=DOUBLE)
    health = latent_health(*tabled(means, torch.ones(30, 2, dtype=DOUBLE), Slanted))
    assert health.mutual_information == pytest.approx(math.log(30), abs=1e-6)
    assert health.rate_per_unit is None
    assert health.marginal_kl is None
    assert health.total_correlation is None
    assert "the rates of single units are not known in closed form" in str(health)


def test_a_flow_as_posterior():
    model = lb.LatentModel(
        lb.StandardNormal(2), zuko.flows.MAF(2, 4, hidden_features=(8,)), lb.Gaussian(lb.mlp(2, 8))
    )
    x = torch.randn(40, 4)
    health = latent_health(model, x)
    assert health.rate_per_unit is None
    assert health.mutual_information <= math.log(40) + 1e-6
    assert health.rate == pytest.approx(
        lb.evaluate(model, lb.ELBO(), x).terms["rate"].mean, rel=1e-5
    )


def test_torch_s_own_normal_is_one_too():
    class Theirs(Table):
        def forward(self, x):
            q = super().forward(x)
            return Independent(Normal(q.mean, q.stddev), 1)

    means, scales = torch.randn(30, 2, dtype=DOUBLE), torch.full((30, 2), 0.5, dtype=DOUBLE)
    ours, theirs = (
        latent_health(*tabled(means, scales)),
        latent_health(*tabled(means, scales, Theirs)),
    )
    torch.testing.assert_close(ours.rate_per_unit, theirs.rate_per_unit)
    assert theirs.mutual_information == pytest.approx(ours.mutual_information, rel=1e-9)
    assert theirs.marginal_kl == pytest.approx(ours.marginal_kl, rel=1e-9)


def test_superfluous_units_are_not_a_collapse():
    means = torch.randn(50, 10, dtype=DOUBLE) * (torch.arange(10) < 2)
    health = latent_health(
        *tabled(means, torch.where(torch.arange(10) < 2, 0.3, 1.0).double().expand(50, 10))
    )
    assert (health.active_units, health.collapsed, health.findings) == (2, False, ())
    assert "active units: 2 of 10; 8 superfluous ones are switched off" in str(health)


def test_units_without_a_rate_are_switched_off_if_there_are_enough_examples():
    """Seven units are not active, but they have a rate, because they are shifted for all x."""
    means = torch.randn(50, 10, dtype=DOUBLE) * (torch.arange(10) < 2) + (torch.arange(10) > 2)
    scales = torch.where(torch.arange(10) < 2, 0.3, 1.0).double().expand(50, 10)
    shifted = str(latent_health(*tabled(means, scales))).splitlines()
    assert shifted[0] == "active units: 2 of 10; 1 superfluous one is switched off"
    few = latent_health(*tabled(means[:10], scales[:10]))
    assert (
        next(line for line in few.lines() if line.startswith("active")) == "active units: 2 of 10"
    )


# Collapse


@pytest.fixture(scope="module")
def digits() -> lb.Dataset:
    return lb.load_data("digits")


def digit_vae(scale="shared", activation="tanh", **more) -> lb.LatentModel:
    entries = (2, 8, 8) if scale == "network" else (1, 8, 8)
    return lb.LatentModel(
        lb.StandardNormal(4),
        lb.Gaussian(lb.mlp((1, 8, 8), 32, 8, activation=activation)),
        lb.Gaussian(lb.mlp(4, 32, entries, activation=activation), scale=scale, **more),
    )


@pytest.mark.usefixtures("trains")
def test_rank_ten_data_have_ten_active_units_under_the_defaults():
    """The recipe has ten latents by default.

    Rate and reconstruction are both sums, so no unit switches off.
    """
    mixing = torch.linalg.qr(torch.randn(40, 10))[0]
    x = torch.randn(2000, 10) * torch.linspace(1, 2, 10) @ mixing.T + 0.2 * torch.randn(2000, 40)
    model, objective = aevb_gaussian((40,))
    lb.fit(model, objective, x, epochs=8, batch_size=32, progress=False)
    health = latent_health(model, x, objective=objective)
    assert (health.active_units, health.units) == (10, 10)
    assert float(health.variances.min()) > 0.5
    assert float(health.rate_per_unit.min()) > 1
    assert (health.collapsed, health.findings) == (False, ())


@pytest.mark.usefixtures("trains")
def test_a_model_that_learns_has_no_findings(digits):
    model = digit_vae()
    objective = lb.ELBO()
    lb.fit(model, objective, digits.train, epochs=15, learning_rate=0.01, progress=False)
    health = latent_health(model, digits.test, objective=objective)
    assert (health.collapsed, health.findings) == (False, ())
    assert health.active_units >= 3
    assert health.mutual_information > 2


def causes(health) -> list[str]:
    assert health.collapsed
    units = f"{health.active_units} of {health.units} units are active"
    assert all(
        finding.what.startswith(f"posterior collapse: {units}") for finding in health.findings
    )
    assert all(finding.remedy for finding in health.findings)
    assert str(health).startswith("posterior collapse: ")
    return [finding.cause for finding in health.findings]


def test_too_strong_a_weight_of_the_rate(digits):
    model, objective = digit_vae(), lb.ELBO(beta=20.0)
    lb.fit(model, objective, digits.train, epochs=15, learning_rate=0.01, progress=False)
    (cause,) = causes(latent_health(model, digits.test, objective=objective))
    assert "beta = 20" in cause
    # No other measurement finds a cause.
    (unknown,) = causes(latent_health(model, digits.test, objective=lb.ELBO()))
    assert unknown.startswith("none found")


@pytest.mark.parametrize(("scale", "collapses"), [(10.0, True), (1.0, True), (0.2, False)])
def test_a_scale_above_that_of_the_data(scale, collapses, digits):
    """The largest standard deviation in any direction is 0.84."""
    model, objective = digit_vae(scale=scale), lb.ELBO()
    lb.fit(model, objective, digits.train, epochs=15, learning_rate=0.01, progress=False)
    health = latent_health(model, digits.test, objective=objective)
    assert health.collapsed == collapses
    if collapses:
        (cause,) = causes(health)
        assert (
            f"({scale:g}) is above the data's standard deviation in every direction (at most 0.8"
            in cause
        )
        assert "set it near 0.2" in health.findings[0].remedy


def test_the_scale_is_compared_with_the_direction_of_most_variance():
    """One factor with 0.3 in each of 100 entries has a standard deviation of 3 along its
    direction."""
    factor, entries = torch.randn(200, 1, dtype=DOUBLE), torch.full((1, 100), 0.3, dtype=DOUBLE)
    x = factor @ entries
    along = float(x.std(0).square().sum().sqrt())
    for scale, expected in ((0.95 * along, False), (1.05 * along, True)):
        model = lb.LatentModel(
            lb.StandardNormal(2),
            lb.Gaussian(lb.mlp(100, 4)),
            lb.Gaussian(lb.mlp(2, 100), scale=scale),
        )
        with torch.no_grad():
            model.likelihood.network.layers[0].weight.zero_()
        look = probe_model(model.double(), lb.Examples.of(x), 0)
        assert (find_broad_scale(look) is not None) == expected


def test_a_floor_above_the_scale_of_the_data(digits):
    model, objective = digit_vae(min_scale=3.0), lb.ELBO()
    lb.fit(model, objective, digits.train, epochs=10, learning_rate=0.01, progress=False)
    health = latent_health(model, digits.test, objective=objective)
    assert "is above the data's standard deviation" in causes(health)[0]
    assert "min_scale" in health.findings[0].remedy


def test_dead_units_in_the_encoder(digits):
    model = digit_vae(activation="relu")
    with torch.no_grad():
        model.posterior.network.layers[0].bias.fill_(-100)
    lb.fit(model, lb.ELBO(beta=20.0), digits.train, epochs=1, progress=False)
    (cause,) = causes(latent_health(model, digits.test, objective=lb.ELBO(beta=20.0)))
    assert cause.startswith("all units of posterior.network.layers.1, in the encoder, are constant")


def test_some_dead_units_are_not_a_cause(digits):
    model = digit_vae(scale=10.0, activation="relu")
    with torch.no_grad():
        for network in (model.posterior.network, model.likelihood.network):
            network.layers[0].bias[:16] = -100
    lb.fit(model, lb.ELBO(), digits.train, epochs=15, learning_rate=0.01, progress=False)
    (cause,) = causes(latent_health(model, digits.test))
    assert "is above the data's standard deviation" in cause


def test_saturated_units_in_the_decoder(digits):
    model = digit_vae(activation="tanh")
    with torch.no_grad():
        # The activations are 1 and -1 in turn.
        model.likelihood.network.layers[0].bias.copy_(100 * (-1) ** torch.arange(32))
    lb.fit(model, lb.ELBO(), digits.train, epochs=15, learning_rate=0.01, progress=False)
    (cause,) = causes(latent_health(model, digits.test))
    assert cause.startswith(
        "all units of likelihood.network.layers.1, in the decoder, are constant"
    )


def test_an_encoder_that_is_constant_without_dead_units(digits):
    model = digit_vae()
    with torch.no_grad():
        model.posterior.network.layers[-1].weight.zero_()
    (cause,) = causes(latent_health(model, digits.test))
    assert cause == "the encoder's output does not depend on x"
    assert all(not module._forward_hooks for module in model.modules())


class Clusters(nn.Module):
    """A mixture over whole examples, which hardly depends on z."""

    def __init__(self, centres, slope=0.0):
        super().__init__()
        self.centres, self.slope = nn.Parameter(centres), slope

    def forward(self, z):
        leading = z.shape[:-1]
        logits = torch.zeros(*leading, len(self.centres)) + self.slope * z.mean(
            -1, keepdim=True
        ) * torch.arange(2)
        centres = self.centres.expand(*leading, *self.centres.shape)
        return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(centres, 0.1), 1))


def test_a_decoder_that_needs_no_latents():
    centres = torch.stack([torch.zeros(10), torch.ones(10)])
    x = centres[torch.arange(200) % 2] + 0.1 * torch.randn(200, 10)
    encoder = lb.Gaussian(lb.mlp(10, 4))
    with torch.no_grad():
        encoder.network.layers[0].weight.mul_(1e-3)
    model = lb.LatentModel(lb.StandardNormal(2), encoder, Clusters(centres))
    (cause,) = causes(latent_health(model, x, objective=lb.ELBO()))
    assert cause.startswith("the decoder models x without z: log p(x|z) changes by 0 nats")
    using = lb.LatentModel(lb.StandardNormal(2), encoder, Clusters(centres, slope=20.0))
    assert find_free_decoder(probe_model(using, lb.Examples.of(x), 0)) is None
    # For noise it is not better than independent entries.
    noise = torch.randn(200, 10)
    assert find_free_decoder(probe_model(model, lb.Examples.of(noise), 0)) is None


def test_data_that_are_all_the_same(digits):
    (cause,) = causes(latent_health(digit_vae(), digits.test.values[:1].repeat(20, 1, 1, 1)))
    assert "the examples are all the same" in cause


def test_too_few_examples_show_no_collapse(digits):
    model = digit_vae(scale=10.0)
    for count in (1, 4):
        health = latent_health(model, digits.test.spread(count))
        assert (health.collapsed, health.examples) == (False, count)


@pytest.mark.parametrize(
    ("objective", "schedules", "hint"),
    [
        (lb.ELBO(), {}, None),
        (lb.ELBO(beta=4.0), {}, "beta = 4"),
        (lb.ELBO(beta=0.5), {}, None),
        (lb.ELBO(beta=lb.Ramp(0.0, 4.0, epochs=10)), {}, "beta = 4"),
        (lb.ELBO(beta=lb.Ramp(0.0, 4.0, epochs=10)), {"beta": {"reached": 0.5, "end": 4.0}}, None),
        (
            lb.ELBO(beta=lb.Ramp(4.0, 1.0, epochs=10)),
            {"beta": {"reached": 3.0, "end": 1.0}},
            "beta = 3",
        ),
        (lb.ELBO(beta=10.0, capacity=0.0), {}, "capacity"),
        (
            lb.ELBO(capacity=lb.Ramp(0.0, 25.0, epochs=9)),
            {"capacity": {"reached": 0.1, "end": 25.0}},
            "0.1 nats",
        ),
        (lb.ELBO(free_bits=0.5), {}, "free bits of 0.5"),
        (lb.IWAE(samples=5), {}, None),
        (None, {}, None),
    ],
)
def test_the_weight_of_the_rate(objective, schedules, hint):
    cause = find_strong_rate_weight(objective, schedules)
    assert (cause is None) == (hint is None)
    assert cause is None or hint in cause[0]


def test_channels_of_a_few_examples_are_not_taken_for_draws():
    """Four examples, as many as draws; half of the first layer's channels are dead."""
    encoder = lb.conv((1, 8, 8), 6, 4, activation="relu")
    layer = next(module for module in encoder.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        layer.weight[3:].zero_()
        layer.bias.copy_(torch.tensor([9.0, 9.0, 9.0, -9.0, -9.0, -9.0]))
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(encoder),
        lb.Gaussian(lb.conv(2, 6, (1, 8, 8)), scale="shared"),
    )
    dead = probe_model(model, lb.Examples.of(torch.rand(4, 1, 8, 8)), 0).dead
    shares = {path.split(".")[0]: share for path, share in dead.items()}
    assert shares["posterior"] == 0.5
    assert shares["likelihood"] < 0.9


def test_causes_that_do_not_apply_are_not_reported(digits):
    look = probe_model(digit_vae(), digits.test, 0)
    assert [
        measure(look) for measure in (find_constant_data, find_dead_units, find_free_decoder)
    ] == [None] * 3
    ((cause, remedy),) = find_causes_of_collapse(
        probe_model(digit_vae(scale=0.1), digits.test, 0), None, {}
    )
    assert "none found" in cause
    assert "warm-up" in remedy


# Findings without a collapse


def test_a_warm_up_that_outlasted_the_training(digits):
    health = latent_health(
        digit_vae(), digits.test, schedules={"beta": {"reached": 0.2, "end": 1.0}}
    )
    found = [
        finding for finding in health.findings if "beta was 0.2, on its way to 1" in finding.what
    ]
    assert len(found) == 1
    for schedule in (
        {"reached": 1.0, "end": 1.0},
        {"reached": 1.0, "end": 1.0, "ended": False},
        {"reached": 0.9999, "end": 1.0, "ended": False},
        {"reached": 0.5, "end": 1.0, "ended": True},
    ):
        assert not list(find_unfinished_schedules({"beta": schedule}))
    (kept,) = find_unfinished_schedules(
        {"beta": {"reached": 0.12345, "end": 1.0, "ended": False, "epoch": 7}}
    )
    assert kept.what == "the weights are those of epoch 7, when beta was 0.123, on its way to 1"


def test_a_scale_at_its_floor():
    """The decoder's scale for three of four entries is far below the floor."""
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(lb.mlp(2, 8), min_scale=0.01)
    )
    decoder = model.likelihood.network.layers[0]
    with torch.no_grad():
        decoder.weight[4:].zero_()
        decoder.bias[4:] = torch.tensor([-100.0, -100.0, -100.0, -2.0])
    health = latent_health(model, torch.randn(30, 4))
    assert health.scale_floor_reached == 0.75
    assert health.scale_ceiling_reached == 0
    assert any(
        "75% of the likelihood's scales are at their floor min_scale=0.01" in f.what
        for f in health.findings
    )
    with torch.no_grad():
        decoder.bias[4:] = torch.tensor([100.0, 0.0, 0.0, 0.0])
    health = latent_health(model, torch.randn(30, 4))
    assert (health.scale_floor_reached, health.scale_ceiling_reached) == (0, 0.25)
    assert any("at their ceiling max_scale=1000" in finding.what for finding in health.findings)


@pytest.mark.parametrize(
    "likelihood", [lb.Gaussian(lb.mlp(2, 4), scale=0.3), lb.Bernoulli(lb.mlp(2, 4))]
)
def test_no_floor_without_a_learned_scale(likelihood):
    model = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), likelihood)
    health = latent_health(model, torch.randn(30, 4).round().clamp(0, 1))
    assert health.scale_floor_reached is None
    assert health.scale_ceiling_reached is None


# Use


def test_the_model_and_torch_s_randomness_are_left_as_they_were():
    model, x = tabled(torch.randn(30, 2, dtype=DOUBLE), torch.ones(30, 2, dtype=DOUBLE))
    model.train()
    before = torch.random.get_rng_state()
    one, again = latent_health(model, x), latent_health(model, x)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert one.mutual_information == again.mutual_information


def test_mistakes_are_named():
    class Other(lb.Model):
        def draw(self, x, samples=1, gradient="pathwise"):
            return replace(model.draw(x, samples, gradient), q=None, prior=None)

    model, x = tabled(torch.randn(30, 2, dtype=DOUBLE), torch.ones(30, 2, dtype=DOUBLE))
    with pytest.raises(UnsupportedError, match="the draws of a Other do not say what q and the"):
        latent_health(Other(), x)
    joint = lb.LogJoint(lambda a: a, lb.mean_field, {"a": ()})
    with pytest.raises(UnsupportedError, match=r"LogJoint.*use lb\.posterior_health"):
        latent_health(joint, x)
    with pytest.raises(SettingsError, match="samples=0"):
        latent_health(model, x, samples=0)
    with pytest.raises(SettingsError, match="seed=-1"):
        latent_health(model, x, seed=-1)
    with pytest.raises(ShapeError, match=r"\(5,\)"):
        latent_health(digit_vae(), torch.rand(3, 5))


def test_too_few_examples_are_reported():
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6))
    )
    assert "3 examples are too few to say" in str(lb.latent_health(model, torch.randn(3, 3)))
    assert "too few to say" not in str(lb.latent_health(model, torch.randn(9, 3)))
