"""A training starts from its data: biases, scales, units, and the score of independent entries."""

import math
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import lowerbound as lb
from lowerbound.conditionals.moments import average_entries, estimate_variances
from lowerbound.errors import TrainingWarning
from lowerbound.networks import set_output_bias

D = 4


def _make_vae(likelihood, latent=2):
    return lb.LatentModel(
        lb.StandardNormal(latent), lb.Gaussian(lb.mlp(D, 8, 2 * latent)), likelihood
    )


def _make_real_data(count=300):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, D, generator=generator)
    return x * torch.tensor([0.01, 0.1, 1.0, 2.0]) + torch.tensor([5.0, -3.0, 0.0, 1.0])


def _fit(model, data, **settings):
    usual = {"steps": 1, "batch_size": 50, "learning_rate": 1e-9, "progress": False}
    return lb.fit(model, lb.ELBO(), data, **usual | settings)


LIKELIHOODS = {
    "network": lambda: lb.Gaussian(lb.mlp(2, 8, 2 * D)),
    "shared": lambda: lb.Gaussian(lb.mlp(2, 8, D), scale="shared"),
    "elementwise": lambda: lb.Gaussian(lb.mlp(2, 8, D), scale="elementwise"),
    "fixed": lambda: lb.Gaussian(lb.mlp(2, 8, D), scale=0.5),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_marginal_outputs_are_the_moments(name):
    x, likelihood = _make_real_data(), LIKELIHOODS[name]()
    likelihood.start_from(x)
    p = likelihood.from_parameters(likelihood.marginal_outputs(x))
    torch.testing.assert_close(p.mean, x.mean(0))
    expected = {
        "shared": x.var(0, correction=0).mean().expand(D),
        "fixed": torch.full((D,), 0.25),
    }
    torch.testing.assert_close(
        p.variance.expand(D), expected.get(name, x.var(0, correction=0)), rtol=1e-5, atol=0
    )


def test_the_frequencies_of_pixels_are_the_start():
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    p = lb.Bernoulli(lb.mlp(2, 2)).from_parameters(lb.Bernoulli(lb.mlp(2, 2)).marginal_outputs(x))
    torch.testing.assert_close(p.mean, torch.tensor([0.5, 2.5]) / 4)
    levels = lb.Categorical(lb.mlp(2, 6), levels=3)
    p = levels.from_parameters(levels.marginal_outputs(torch.tensor([[0.0, 0.5], [0.0, 1.0]])))
    everywhere = torch.tensor([3.0, 2.0, 2.0]) / 7
    for value, counts in ((0.0, [2.0, 0.0]), (0.5, [0.0, 1.0]), (1.0, [0.0, 1.0])):
        frequency = (torch.tensor(counts) + everywhere[round(2 * value)]) / 3
        torch.testing.assert_close(p.entrywise_log_prob(torch.full((2,), value)).exp(), frequency)


def test_missing_entries_do_not_count():
    x = torch.tensor([[1.0, math.nan], [3.0, math.nan], [math.nan, math.nan]])
    torch.testing.assert_close(average_entries(x), torch.tensor([2.0, 2.0]))
    assert estimate_variances(x)[0] == 1
    assert estimate_variances(x)[1] > 0


def test_the_variance_of_an_entry_does_not_depend_on_the_units_of_others():
    x = _make_real_data()
    large = torch.cat([x, 1e8 * x], 1)
    torch.testing.assert_close(estimate_variances(large)[:D], estimate_variances(x))


def test_masked_entries_are_left_out():
    x, observed = _make_real_data(), torch.rand(300, D) < 0.5
    plain, masked = (lb.Gaussian(lb.mlp(2, 2 * D)) for _ in range(2))
    plain.start_from(x.masked_fill(~observed, math.nan))
    lb.Masked(masked).start_from(x.where(observed, 1e6), observed=observed)
    biases = [part.network.layers[-1].bias for part in (plain, masked)]
    torch.testing.assert_close(*biases)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_fit_raises_the_first_bound(name):
    x, bounds = _make_real_data(), {}
    for start in (False, True):
        torch.manual_seed(0)
        model = _make_vae(LIKELIHOODS[name]())
        run = _fit(model, x, start=start)
        bounds[start] = lb.evaluate(model, lb.ELBO(), x).mean
    assert bounds[True] > bounds[False] + 1
    assert run.history[0]["start"]["after"] > run.history[0]["start"]["before"]


def test_a_trained_model_stays_as_it_is():
    x = torch.randn(300, 1) * torch.ones(D) + 0.1 * torch.randn(300, D)
    model = _make_vae(LIKELIHOODS["network"]())
    lb.fit(model, lb.ELBO(), x, epochs=30, batch_size=20, learning_rate=0.01, progress=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = _fit(model, x, learning_rate=1e-30)
    assert "start" not in run.history[0]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-20)


def test_a_frozen_likelihood_stays_as_it_is():
    model = _make_vae(LIKELIHOODS["shared"]())
    model.likelihood.requires_grad_(False)
    before = {name: value.clone() for name, value in model.likelihood.state_dict().items()}
    run = _fit(model, _make_real_data())
    assert "start" not in run.history[0]
    for name, value in model.likelihood.state_dict().items():
        assert torch.equal(value, before[name])


def test_no_random_state_changes():
    x, states = _make_real_data(), []
    for start in (False, True):
        torch.manual_seed(3)
        model = _make_vae(LIKELIHOODS["network"]())
        _fit(model, x, start=start)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_resumed_run_does_not_start_again(tmp_path):
    x = _make_real_data()
    torch.manual_seed(0)
    whole = _make_vae(LIKELIHOODS["network"]())
    _fit(whole, x, steps=12)
    torch.manual_seed(0)
    model = _make_vae(LIKELIHOODS["network"]())
    _fit(model, x, steps=6, directory=tmp_path / "run", pictures_every=0)
    run = _fit(model, x, steps=12, directory=tmp_path / "run", resume=True, pictures_every=0)
    for old, new in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.equal(old, new)
    assert ["start" in record for record in run.history] == [True, False]


def test_a_run_that_was_interrupted_in_its_first_step_does_not_start_twice(tmp_path):
    class Stops(lb.LatentModel):
        stops = False

        def draw(self, *given, **named):
            if self.stops and self.training:
                raise KeyboardInterrupt
            return super().draw(*given, **named)

    x, models = _make_real_data(), []
    for interrupted in (False, True):
        torch.manual_seed(0)
        plain = _make_vae(LIKELIHOODS["network"]())
        model = Stops(plain.prior, plain.posterior, plain.likelihood)
        settings = {"steps": 3, "directory": tmp_path / str(interrupted), "pictures_every": 0}
        if interrupted:
            model.stops = True
            with pytest.raises(KeyboardInterrupt):
                _fit(model, x, **settings)
            assert list((tmp_path / "True" / "checkpoints").glob("step-*0"))
            model.stops = False
        run = _fit(model, x, resume=interrupted, **settings)
        models.append((list(model.parameters()), run.history[0]["start"], run.baseline))
    for old, new in zip(models[0][0], models[1][0], strict=True):
        assert torch.equal(old, new)
    assert models[0][1:] == models[1][1:]


def test_weights_that_would_drown_a_narrow_entry_are_scaled():
    x = 1e-2 * torch.randn(200, D)
    likelihood = lb.Gaussian(lb.mlp(2, 8, 2 * D))
    likelihood.start_from(x)
    p = likelihood(torch.randn(50, 2))
    z_scores = (p.mean - x.mean(0)) / x.std(0)
    assert z_scores.abs().max() < 5


def test_the_bias_of_a_convolution_is_the_mean_of_its_channel():
    network = lb.conv(3, 8, (2, 4, 4))
    outputs = torch.arange(32.0).reshape(2, 4, 4)
    assert set_output_bias(network, outputs)
    *_, last = [module for module in network.modules() if hasattr(module, "bias")]
    torch.testing.assert_close(last.bias, torch.tensor([7.5, 23.5]))


def test_a_network_without_a_fitting_bias_is_left_alone():
    assert not set_output_bias(torch.nn.Identity(), torch.zeros(3))
    assert not set_output_bias(lb.mlp(2, 4), torch.zeros(3))
    assert not set_output_bias(lb.constant(3, learned=False), torch.zeros(3))


def test_large_outputs_are_judged_by_few_draws_at_once(monkeypatch):
    """100 draws in all: standard deviations at 5 standard errors."""
    part = lb.Gaussian(lb.mlp(2, 6), scale="network")
    outputs = torch.tensor([0.0, 0.0, 0.0, -2.0, -4.0, -6.0])
    sizes = []
    own = part.from_parameters
    monkeypatch.setattr(part, "from_parameters", lambda raw: (sizes.append(len(raw)), own(raw))[1])
    monkeypatch.setattr("lowerbound.conditionals.base._MOST_OUTPUTS", 6 * 30)
    steps = part._find_one_nat_steps(outputs)
    assert sizes == [30, 30, 30, 10]
    wanted = torch.tensor([-1.0, -2.0, -3.0]).exp()
    torch.testing.assert_close(steps[:3], wanted, rtol=5 / (2 * 100) ** 0.5, atol=0)


# Units.


def _make_table(count=400):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, generator=generator)
    x[:, 2] += x[:, 0]
    return x * torch.tensor([1e-3, 1.0, 1e5]) + torch.tensor([0.0, 50.0, 2e6])


@contextmanager
def without_warnings_of_units():
    """Within the block, a warning that recommends standardize=True is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", r".*--standardize\)", TrainingWarning)
        yield


def test_columns_in_different_units_are_reported_by_name():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(_make_table().numpy(), columns=["length", "age", "income"])
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6))
    )
    said = r"of income \(1\.5e\+05\), length \(0\.00\d+\) are far from 1.*--standardize\)"
    with pytest.warns(TrainingWarning, match=said):
        lb.fit(model, lb.ELBO(), lb.Examples.of(table), steps=1)
    with pytest.raises(TrainingWarning, match=said), without_warnings_of_units():
        lb.fit(model, lb.ELBO(), lb.Examples.of(table), steps=1)


@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_nothing_is_said_about_usual_units(factor):
    x = torch.randn(1000, 3) * torch.tensor([1.0, 2.0, 0.5]) * factor
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6))
    )
    with without_warnings_of_units():
        lb.fit(model, lb.ELBO(), x, steps=1)


def test_missing_entries_do_not_spread_a_column():
    x = 50 + torch.randn(200, 3)
    x[::2, 0] = math.nan  # stored as 0
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Masked(lb.Gaussian(lb.mlp(2, 6)))
    )
    with without_warnings_of_units():
        lb.fit(model, lb.ELBO(), lb.Examples.of(x, missing="nan"), steps=1)


def test_positive_data_are_not_asked_to_be_standardized():
    x = (torch.randn(200, 3) * torch.tensor([0.1, 1.0, 4.0])).exp()
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.LogNormal(lb.mlp(2, 6))
    )
    with without_warnings_of_units():
        lb.fit(model, lb.ELBO(), x, steps=1)


def _train_standardized(x, **settings):
    torch.manual_seed(0)
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 16, 4)), lb.Gaussian(lb.mlp(2, 16, 6))
    )
    usual = {"epochs": 3, "progress": False, "standardize": True}
    return model, lb.fit(model, lb.ELBO(), x, **usual | settings)


def test_a_standardized_bound_is_that_of_the_data():
    """Two units give the same bound, apart from the logarithm of their ratio."""
    x = _make_table()
    factors = torch.tensor([1e3, 1.0, 1e-5])
    bounds = [
        lb.evaluate(_train_standardized(data)[0], lb.ELBO(), data).mean for data in (x, x * factors)
    ]
    assert bounds[0] - bounds[1] == pytest.approx(float(factors.log().sum()), rel=1e-3)


def test_samples_and_reconstructions_are_in_the_units_of_the_data():
    x = _make_table()
    model, _ = _train_standardized(x)
    for values in (model.sample(2000, seed=0), model.reconstruct(x)):
        error = (values.mean(0) - x.mean(0)) / x.std(0)
        assert error.abs().max() < 0.3
    assert 0.5 < float(model.sample(2000, seed=0)[:, 2].std() / x[:, 2].std()) < 2


def test_a_standardized_model_is_saved_with_its_units(tmp_path):
    x = _make_table()
    model, _ = _train_standardized(x)
    lb.save(model, tmp_path / "model.safetensors")
    loaded = lb.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded.encode(x), model.encode(x))
    assert loaded.posterior.standardization is loaded.likelihood.standardization
    assert torch.equal(
        lb.evaluate(loaded, lb.ELBO(), x).per_example, lb.evaluate(model, lb.ELBO(), x).per_example
    )


def test_a_standardized_run_is_resumed(tmp_path):
    x, directory = _make_table(), tmp_path / "run"
    whole, _ = _train_standardized(x, epochs=4)
    _train_standardized(x, epochs=2, directory=directory, pictures_every=0)
    resumed, _ = _train_standardized(
        x, epochs=4, directory=directory, resume=True, pictures_every=0
    )
    for old, new in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(old, new)


def test_discrete_data_are_not_standardized():
    model = _make_vae(lb.Bernoulli(lb.mlp(2, D)))
    with pytest.raises(lb.errors.SettingsError, match="discrete"):
        _fit(model, torch.ones(20, D, dtype=torch.bool), standardize=True)


def test_a_likelihood_on_a_part_of_the_line_is_not_standardized():
    class Positive(lb.Gaussian):
        def from_parameters(self, raw):
            mean, scale = raw.chunk(2, -1)
            return torch.distributions.Independent(
                torch.distributions.LogNormal(mean, scale.exp()), 1
            )

    with pytest.raises(lb.errors.UnsupportedError, match="all real numbers"):
        _fit(_make_vae(Positive(lb.mlp(2, 2 * D))), torch.rand(20, D) + 1, standardize=True)


def test_a_vamp_prior_sees_standardized_pseudo_inputs():
    x = _make_table()
    encoder = lb.Gaussian(lb.mlp(3, 8, 4))
    model = lb.LatentModel(lb.VampPrior(encoder, x[:10]), encoder, lb.Gaussian(lb.mlp(2, 8, 6)))
    lb.fit(model, lb.ELBO(), x, epochs=1, standardize=True, progress=False)
    assert model.prior.posterior is model.posterior
    assert model.prior().components.mean.abs().max() < 10


def test_missing_entries_are_standardized_to_zero():
    x = _make_table()
    x[::3, 2] = math.nan
    data = lb.Examples.of(x, missing="nan")
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Given(lb.Gaussian(lb.mlp(6, 8, 4)), "observed"),
        lb.Masked(lb.Gaussian(lb.mlp(2, 8, 6))),
    )
    lb.fit(model, lb.ELBO(), data, epochs=1, standardize=True, progress=False)
    observed = x[~x[:, 2].isnan(), 2].double()
    centre = model.likelihood.standardization.centre
    assert float(centre[2]) == pytest.approx(float(observed.mean()), rel=1e-6)
    filled = data.values.clone()
    filled[::3, 2] = -1e9
    q = model.posterior(data.values, observed=data.fields["observed"])
    other = model.posterior(filled, observed=data.fields["observed"])
    torch.testing.assert_close(q.mean, other.mean)


# The baseline of independent entries.


def _score(likelihood, data):
    model = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(data.shape, 4)), likelihood)
    return lb.evaluation.score_independent_entries(model, data)


def test_gaussian_entries_score_their_entropy():
    x = torch.randn(500, 3) * torch.tensor([0.1, 1.0, 30.0]) + 5
    p = Normal(x.mean(0), x.std(0, correction=0))
    expected = p.log_prob(x).sum(1).mean().item() - 6 / 500
    assert _score(lb.Gaussian(lb.mlp(2, 6)), lb.Examples.of(x)) == pytest.approx(expected, rel=1e-5)


def test_the_baseline_is_the_score_of_new_data():
    """The mean over data sets equals the mean score of other data of the same distribution."""
    generator = torch.Generator().manual_seed(0)
    scores, held_out = [], []
    for _ in range(300):
        x = torch.randn(60, 5, generator=generator)
        scores.append(_score(lb.Gaussian(lb.mlp(2, 10)), lb.Examples.of(x)))
        p = Normal(x.mean(0), x.std(0, correction=0))
        held_out.append(p.log_prob(torch.randn(500, 5, generator=generator)).sum(1).mean().item())
    difference = torch.tensor(scores) - torch.tensor(held_out)
    # The estimate is correct to first order: 10 / 60 nats. About 4% of that is left.
    assert abs(difference.mean()) < 4 * difference.std() / 300**0.5 + 0.04


def test_binary_entries_are_scored_by_all_other_rows():
    x = torch.rand(40, 3) < torch.tensor([0.1, 0.5, 1.1])
    expected = 0.0
    for row in range(40):
        others = torch.cat([x[:row], x[row + 1 :]]).double()
        p = (others.sum(0) + 0.5) / 40
        expected += float(p.where(x[row], 1 - p).log().sum()) / 40
    assert _score(lb.Bernoulli(lb.mlp(2, 3)), lb.Examples.of(x)) == pytest.approx(expected)


@pytest.mark.parametrize("count", [10, 30, 3000])
def test_few_pixels_of_many_levels_do_not_flatter_the_baseline(count):
    """Frequencies of 256 levels in 30 rows would seem to know more than they do."""
    generator = torch.Generator().manual_seed(0)
    levels = (128 + 30 * torch.randn(count, 50, generator=generator)).round().clamp(0, 255)
    data = lb.Examples(levels.to(torch.uint8), levels=256)
    entropy = 50 * (0.5 * math.log(2 * math.pi * math.e) + math.log(30))
    found = _score(lb.Categorical(lb.mlp(2, 256 * 50)), data)
    assert -entropy - 50 * 3 / count < found < -entropy + 50 * 1 / count


def test_constant_pixels_cost_nothing():
    data = lb.Examples(torch.full((20, 5), 7, dtype=torch.uint8), levels=256)
    assert -0.5 < _score(lb.Categorical(lb.mlp(2, 256 * 5)), data) <= 0


def test_counts_score_their_negative_binomial():
    stats = pytest.importorskip("scipy.stats")
    x = torch.from_numpy(stats.nbinom.rvs(3, 0.2, size=(4000, 2), random_state=0))
    data = lb.Examples.of(x, kind="counts")

    class Counts(lb.Gaussian):
        def from_parameters(self, raw):
            return torch.distributions.Independent(torch.distributions.Poisson(raw.exp()), 1)

    exact = 2 * stats.nbinom.logpmf(x.numpy(), 3, 0.2).mean()
    assert _score(Counts(lb.mlp(2, 2), scale=1.0), data) == pytest.approx(exact, abs=0.01)


def test_counts_are_scored_with_the_exposures_of_the_likelihood():
    """An entry whose rate is the same for all rows needs no more than its rate."""
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    exposure = generator.uniform(1, 100, size=(4000, 1))
    means = exposure * np.array([0.5, 3.0])
    x = stats.nbinom.rvs(4, 4 / (4 + means), random_state=generator)
    x[::5, 1] = 0
    seen = torch.ones(4000, 2, dtype=torch.bool)
    seen[::5, 1] = False
    fields = {"exposure": exposure[:, 0], "observed": seen}
    data = lb.Examples(torch.from_numpy(x), kind="counts", fields=fields)
    scores = stats.nbinom.logpmf(x, 4, 4 / (4 + means))
    exact = (scores * seen.numpy()).sum() / 4000

    def make(exposure):
        return lb.Masked(lb.Poisson(lb.mlp(2, 2), exposure=exposure))

    assert _score(make(True), data) == pytest.approx(exact, abs=0.01)
    assert _score(make(False), data) < exact - 0.5
    by_entry = exposure * np.array([1.0, 4.0])
    of_entries = lb.Examples(
        torch.from_numpy(stats.nbinom.rvs(4, 4 / (4 + by_entry), random_state=generator)),
        kind="counts",
        fields={"exposure": by_entry},
    )
    wanted = stats.nbinom.logpmf(of_entries.values.numpy(), 4, 4 / (4 + by_entry)).sum(1).mean()
    assert _score(lb.Poisson(lb.mlp(2, 2), exposure=True), of_entries) == pytest.approx(
        wanted, abs=0.01
    )
    model = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(2, 4)), make(True))
    run = lb.fit(model, lb.ELBO(), data, epochs=1, progress=False)
    assert run.baseline == _score(make(True), data)
    assert lb.evaluate(model, lb.ELBO(), data).baseline == run.baseline


@pytest.mark.parametrize("progress", [False, True])
def test_a_bound_below_the_baseline_is_a_warning(progress):
    x = 1e4 * torch.randn(200, 3)
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 3), scale=1.0)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrainingWarning)
        run = lb.fit(model, lb.ELBO(), x, epochs=2, progress=progress)
    (found,) = [warning for warning in caught if "BELOW" in str(warning.message)]
    assert found.category is TrainingWarning
    assert found.filename == __file__
    assert "the train bound, " in str(found.message)
    assert "standardize=True" in str(found.message)
    estimate = lb.evaluate(model, lb.ELBO(), x)
    assert run.baseline == pytest.approx(estimate.baseline)
    assert [record["baseline"] for record in run.history] == [run.baseline] * 2
    assert estimate.gain.nats == estimate.mean - estimate.baseline < 0
    assert estimate.warning == str(estimate.gain)
    assert "BELOW" in estimate.warning


def test_a_bound_above_the_baseline_is_no_warning(capsys):
    x = torch.randn(200, 1) + 0.1 * torch.randn(200, 4)
    model = lb.LatentModel(
        lb.StandardNormal(1), lb.Gaussian(lb.mlp(4, 2)), lb.Gaussian(lb.mlp(1, 8))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        run = lb.fit(model, lb.ELBO(), x, epochs=100, learning_rate=0.02)
    gain = run.history[-1]["train"]["bound"] - run.baseline
    assert gain > 1
    said = f"the train bound is {gain:.2f} nats above that of independent entries"
    assert said in capsys.readouterr().err
    assert lb.evaluate(model, lb.ELBO(), x).warning is None


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_few_examples_have_no_baseline(count):
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6))
    )
    estimate = lb.evaluate(model, lb.ELBO(), torch.rand(4, 3)[:count])
    assert (estimate.baseline is None) == (count < 4)
    assert (estimate.warning is None) or count == 4


def test_a_score_has_no_baseline():
    model = lb.LatentModel(lb.StandardNormal(2), lb.Point(lb.mlp(3, 2)), lb.Gaussian(lb.mlp(2, 6)))
    x = torch.randn(50, 3)
    assert lb.fit(model, lb.ELBO(), x, epochs=1, progress=False).baseline is None
    assert lb.evaluate(model, lb.ELBO(), x).baseline is None
