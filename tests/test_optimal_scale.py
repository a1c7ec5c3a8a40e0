"""The scale under which data are most probable: in training, evaluations, files, resumed runs."""

import copy
import math

import pytest
import torch

import lowerbound as lb
from lowerbound.errors import NonFiniteError, UnsupportedError
from lowerbound.training.loop import Observer

DOUBLE = torch.float64
FAMILIES = {"Gaussian": lb.Gaussian, "Laplace": lb.Laplace, "LogNormal": lb.LogNormal}
family = pytest.mark.parametrize("name", FAMILIES)


def make_part(name, size=3):
    """A likelihood that gives the same location to every z."""
    torch.manual_seed(0)
    return FAMILIES[name](lb.constant(size), scale="optimal").double()


def make_vae(seed=0):
    torch.manual_seed(seed)
    return lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(3, 8, 4)),
        lb.Gaussian(lb.mlp(2, 8, 3), scale="optimal"),
    )


def make_data(count=40, spread=1.0):
    generator = torch.Generator().manual_seed(1)
    return spread * torch.randn(count, 3, generator=generator)


def find_scale(part):
    """The scale that an evaluation uses."""
    return math.exp(0.5 * float(part._find_optimal_log_variance(DOUBLE)))


@family
def test_the_scale_makes_the_data_it_has_seen_most_probable(name):
    part = make_part(name)
    x = make_data().double().exp()
    part().log_prob(x)
    part.eval()

    def score(factor):
        scaled = copy.deepcopy(part)
        scaled.deviation *= factor**part.optimal_power
        return scaled().log_prob(x).sum().item()

    assert score(1.0) > max(score(0.999), score(1.001))
    slope = (score(1.0001) - score(0.9999)) / 2e-4
    assert abs(slope) < 1e-6 * abs(score(1.0))


@family
def test_the_scale_is_an_average_over_batches_in_which_each_counts_less_with_time(name):
    part, power = make_part(name), FAMILIES[name].optimal_power
    batches = [make_data(5 + step, 1.0 + step).double().exp() for step in range(4)]
    total = weight = 0.0
    for x in batches:
        part().log_prob(x)
        values = x.log() if name == "LogNormal" else x
        total = 0.9 * total + 0.1 * float((values.abs() ** power).mean())
        weight = 0.9 * weight + 0.1
        assert find_scale(part) == pytest.approx((total / weight) ** (1 / power), rel=1e-9)


def test_a_step_is_scored_with_the_scale_of_the_steps_before_it():
    vae, x = make_vae().double(), make_data().double()
    twin = copy.deepcopy(vae).eval()
    for _ in range(2):
        twin.load_state_dict(vae.state_dict())
        torch.manual_seed(7)
        bound = lb.ELBO()(vae.draw(x))
        torch.manual_seed(7)
        torch.testing.assert_close(lb.ELBO()(twin.draw(x)), bound, rtol=0, atol=0)
    assert not torch.equal(vae.likelihood.deviation, twin.likelihood.deviation)


def test_nothing_changes_outside_of_training():
    vae, x = make_vae(), make_data()
    lb.fit(vae, lb.ELBO(), x, epochs=1, progress=False)
    before = copy.deepcopy(vae.state_dict())
    vae.train()
    lb.evaluate(vae, lb.ELBO(), x)
    lb.log_likelihood(vae, x, samples=3)
    vae.sample(3)
    vae.reconstruct(x)
    with torch.no_grad():
        vae.draw(x).log_likelihood  # noqa: B018 (computed when it is read)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


@pytest.mark.parametrize("standardized", [False, True])
def test_missing_entries_do_not_count(standardized):
    x = make_data(50, 2.0)
    seen = torch.rand(50, 3, generator=torch.Generator().manual_seed(2)) < 0.6
    part = make_part("Gaussian").float()
    likelihood = part
    scale = 1.0
    if standardized:
        units = lb.conditionals.Standardization(3)
        units.spread.fill_(2.0)
        likelihood, scale = lb.conditionals.Standardized(part, units), 2.0
    lb.Masked(likelihood)(observed=seen).log_prob(x.masked_fill(~seen, 1e6))
    wanted = x[seen].square().mean().sqrt() / scale
    assert find_scale(part) == pytest.approx(float(wanted), rel=1e-5)


def test_a_batch_without_observed_entries_does_not_count():
    part, x = lb.Masked(make_part("Gaussian")), make_data().double()
    part(observed=torch.ones(40, 3, dtype=torch.bool)).log_prob(x)
    before = copy.deepcopy(part.state_dict())
    part(observed=torch.zeros(40, 3, dtype=torch.bool)).log_prob(x)
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())


def test_a_model_that_sums_latents_out_does_not_learn_an_optimal_scale():
    """It would learn from the errors at improbable values of the latents as well."""
    likelihood = lb.Gaussian(lb.mlp(2, 6), scale="optimal")
    enumerated = lb.EnumeratedModel(
        lb.Bernoulli(lb.constant(2)), lb.Bernoulli(lb.mlp(6, 2)), likelihood
    )
    semi = lb.SemiSupervised(
        lb.StandardNormal(2),
        lb.mlp(6, 3),
        lb.Given(lb.Gaussian(lb.mlp(6 + 3, 4)), "y", categories=3),
        lb.Given(lb.Gaussian(lb.mlp(2 + 3, 6), scale="optimal"), "y", categories=3),
        categories=3,
    )
    for model in (enumerated, semi):
        with pytest.raises(UnsupportedError, match="learned from the errors at draws from q"):
            lb.fit(model, lb.ELBO(), torch.randn(5, 6), progress=False)


def test_a_posterior_with_an_optimal_scale_is_refused():
    vae = make_vae()
    posterior = lb.Gaussian(lb.mlp(3, 2), scale="optimal")
    vae = lb.LatentModel(vae.prior, posterior, vae.likelihood)
    with pytest.raises(UnsupportedError, match=r"scale='optimal', is for likelihoods"):
        lb.fit(vae, lb.ELBO(), make_data(), epochs=1, progress=False)


def test_a_prior_with_an_optimal_scale_fits_the_latents():
    vae = make_vae()
    prior = lb.Gaussian(lb.constant(2, learned=False), scale="optimal")
    vae = lb.LatentModel(prior, vae.posterior, vae.likelihood)
    lb.fit(vae, lb.ELBO(), make_data(), epochs=1, progress=False)
    assert find_scale(prior) != 1.0


def test_a_refused_step_leaves_the_scale_as_it_was():
    x = make_data()
    x[-1] = 1e30  # its square is infinite
    vae = make_vae()
    seen = []

    class Watch(Observer):
        def on_step(self, loop):
            seen.append(float(vae.likelihood.deviation))

    with pytest.raises(NonFiniteError):
        lb.fit(
            vae, lb.ELBO(), x, epochs=1, batch_size=4, start=False, progress=False,
            observers=[Watch()],
        )  # fmt: skip
    assert float(vae.likelihood.deviation) == (seen or [0.0])[-1]
    assert math.isfinite(find_scale(vae.likelihood))


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9, "validation": 0.25}])
def test_a_resumed_run_ends_with_the_same_scale(settings, tmp_path):
    usual = {"batch_size": 8, "progress": False, "compile": "never"} | settings

    class Stop(Observer):
        def on_step(self, loop):
            if loop.progress.step == 7:
                raise RuntimeError("power cut")

    def train(name, **more):
        return lb.fit(
            make_vae(), lb.ELBO(), make_data(), epochs=3, directory=tmp_path / name, **usual, **more
        )

    straight = train("straight")
    with pytest.raises(RuntimeError, match="power cut"):
        train("resumed", observers=[Stop()])
    resumed = train("resumed", resume=True)
    kept, wanted = resumed.model.state_dict(), straight.model.state_dict()
    assert "likelihood.deviation" in wanted
    assert all(torch.equal(kept[name], value) for name, value in wanted.items())


def test_a_saved_model_keeps_its_scale(tmp_path):
    vae, x = make_vae(), make_data(40, 0.1)
    lb.fit(vae, lb.ELBO(), x, epochs=2, progress=False)
    lb.save(vae, tmp_path / "vae.safetensors")
    again = lb.load(tmp_path / "vae.safetensors")
    assert find_scale(again.likelihood) == find_scale(vae.likelihood) != 1.0
    both = [lb.evaluate(model, lb.ELBO(), x).per_example for model in (vae, again)]
    assert torch.equal(*both)


def test_the_scale_ends_at_the_error_of_the_trained_model():
    """It is an average over the last ten steps or so, while the error still falls a little."""
    model, objective = lb.recipes.sigma_vae((3,), latent=2, hidden=16, seed=0)
    x = make_data(200, 0.05) + make_data(200)[:, :1]
    lb.fit(model, objective, x, epochs=300, progress=False, learning_rate=3e-3)
    model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        draw = model.draw(x, samples=20)
    error = float((x - draw.p.mean).square().mean().sqrt())
    assert find_scale(model.likelihood) == pytest.approx(error, rel=0.1)
    assert error < 0.5 * float(x.std())
