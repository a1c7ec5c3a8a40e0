"""A prior fitted to the latents of a trained model."""

import pytest
import torch

import lowerbound as lb
from lowerbound.conditionals.mixture import _choose_distant_rows as choose_distant_rows
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError
from lowerbound.training import fitting_prior

CENTRES = torch.tensor([[-3.0, 1.0], [2.0, -1.0]])


def make_model(prior=None, posterior=None):
    """Its latents are its data, up to a tenth."""
    encoder = lb.mlp(2, 4)
    with torch.no_grad():
        encoder.layers[0].weight.copy_(torch.cat([torch.eye(2), torch.zeros(2, 2)]))
        encoder.layers[0].bias.copy_(torch.tensor([0.0, 0.0, -4.6, -4.6]))
    return lb.LatentModel(
        prior or lb.StandardNormal(2),
        posterior or lb.Gaussian(encoder),
        lb.Gaussian(lb.mlp(2, 2), scale=0.5),
    )


def make_data(count=300):
    labels = (torch.arange(count) % 3 == 0).long()
    return lb.Examples(CENTRES[labels] + 0.3 * torch.randn(count, 2), labels=labels)


def evaluate(model, data):
    return lb.evaluate(model, lb.ELBO(kl="sampled"), data).mean


def test_a_mixture_finds_two_clusters_and_the_bound_rises():
    model, data = make_model(), make_data()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    prior = lb.MixturePrior(2, components=2)
    means = prior.means.detach().clone()
    better = lb.fit_prior(model, prior, data, epochs=1, progress=False)
    order = better.prior.means.detach()[:, 0].argsort()
    torch.testing.assert_close(better.prior.means.detach()[order], CENTRES, atol=0.1, rtol=0)
    # E log N(z; 0, I) is about -7.6 nats, and E log of the mixture -1.2: three quarters of the gap.
    assert evaluate(better, data) - evaluate(model, data) > 4.5
    assert torch.equal(prior.means, means)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    for part in ("posterior", "likelihood"):
        new, old = getattr(better, part).state_dict(), getattr(model, part).state_dict()
        assert all(torch.equal(new[name], old[name]) for name in old)
    assert all(parameter.requires_grad for parameter in better.parameters())
    assert better.sample(3).shape == (3, 2)


@pytest.mark.parametrize("seed", range(4))
def test_expectation_maximisation_finds_clusters_of_different_sizes_and_volumes(seed):
    """Two clusters have one centre, so that only their volumes tell them apart."""
    torch.manual_seed(seed)
    weights, scales = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 2.0, 0.5])
    centres = torch.tensor([[0.0, 0.0], [0.0, 0.0], [12.0, -9.0]])
    chosen = torch.multinomial(weights, 6000, replacement=True)
    z = centres[chosen] + scales[chosen, None] * torch.randn(6000, 2)
    prior = lb.MixturePrior(2, components=3)
    prior.start_from_latents(z)
    p = prior()
    order = p.components.variance[:, 0].detach().argsort()[[0, 2, 1]]
    found = p.components
    torch.testing.assert_close(found.mean.detach()[order], centres, rtol=0, atol=0.15)
    # Each component has seen one example more, whose spread is that of all latents.
    expected = scales[:, None].square() + z.var(0) / (6000 * weights[:, None])
    torch.testing.assert_close(found.variance.detach()[order], expected, rtol=0.15, atol=0)
    torch.testing.assert_close(p.log_weights.exp().detach()[order], weights, rtol=0, atol=0.04)


@pytest.mark.parametrize("seed", range(5))
def test_starting_means_are_far_from_each_other(seed):
    torch.manual_seed(seed)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    z = centres[torch.arange(400) % 4] + 0.01 * torch.randn(400, 2)
    means = choose_distant_rows(z, 4)
    assert torch.cdist(means, centres).amin(0).max() < 0.1  # one in every cluster


class _Watched(lb.Gaussian):
    """A posterior that remembers in which mode it was called."""

    def from_parameters(self, raw):
        self.modes = {*getattr(self, "modes", ()), self.training}
        return super().from_parameters(raw)


def test_the_encoder_is_evaluated_while_its_prior_is_fitted():
    model = make_model(posterior=_Watched(lb.mlp(2, 4)))
    better = lb.fit_prior(model, lb.MixturePrior(2, 2), make_data(60), epochs=2, progress=False)
    assert better.posterior.modes == {False}


def test_a_flow_and_a_prior_for_each_label_are_fitted_by_gradients():
    model, data = make_model(), make_data()
    before = evaluate(model, data)
    for prior in (
        lb.Flow("maf", 2, transforms=1, hidden_features=(8,)),
        lb.Given(lb.Gaussian(lb.mlp(2, 4)), "label", categories=2),
    ):
        better = lb.fit_prior(model, prior, data, epochs=8, learning_rate=0.03, progress=False)
        assert evaluate(better, data) > before + 1


def test_a_prior_that_shares_the_encoder_still_shares_it():
    model, data = make_model(), make_data(60)
    prior = lb.VampPrior(model.posterior, data.first(10))
    better = lb.fit_prior(model, prior, data, epochs=1, progress=False)
    assert better.prior.posterior is better.posterior
    assert better.posterior is not model.posterior
    assert torch.equal(
        better.posterior.network.layers[0].weight, model.posterior.network.layers[0].weight
    )


def test_a_deterministic_auto_encoder_gets_a_density_of_its_codes():
    model, data = make_model(posterior=lb.Point(lb.mlp(2, 2))), make_data(60)
    better = lb.fit_prior(model, lb.MixturePrior(2, 2), data, epochs=1, progress=False)
    assert evaluate(better, data) > evaluate(model, data)


@pytest.mark.parametrize(
    ("prior", "settings", "error", "message"),
    [
        (lambda: lb.StandardNormal(2), {}, SettingsError, "StandardNormal has no parameters of"),
        (lambda: lb.MixturePrior(3, 2), {}, ShapeError, "the prior is over \\(3,\\)"),
        (
            lambda: lb.Gaussian(lb.constant(4, 9.0)),
            {"learning_rate": 1e-6},
            SettingsError,
            "so the ELBO would fall. Use more epochs",
        ),
        (lambda: lb.OneHot(lb.constant((1, 2))), {}, ShapeError, "prior is over"),
        (
            lambda: lb.MixturePrior(2, 2),
            {"directory": "runs/prior"},
            SettingsError,
            r"takes no directory, .* lb\.save\(model, path\)",
        ),
        (lambda: "mixture", {}, UnsupportedError, "the prior is a str; it must be a module"),
        (lambda: lb.MixturePrior(2, 2), {"epoch": 3}, SettingsError, "did you mean 'epochs'"),
        (lambda: lb.MixturePrior(2, 2), {"patience": 3}, SettingsError, "patience needs a valid"),
        (lambda: lb.MixturePrior(2, 2), {"optimizer": "adamm"}, SettingsError, "'adamm' is"),
        (lambda: lb.MixturePrior(2, 2), {"device": "cuda:99"}, SettingsError, "cannot be used"),
        (
            lambda: lb.MixturePrior(2, 2),
            {"validation": torch.zeros(5, 7)},
            SettingsError,
            r"validation has examples of shape \(7,\)",
        ),
    ],
)
def test_priors_that_do_not_fit_are_refused(prior, settings, error, message):
    model, made, data = make_model(), prior(), make_data(20)
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        lb.fit_prior(model, made, data, **{"epochs": 1, "progress": False, **settings})
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("prior", "settings"),
    [
        (lambda: lb.StandardNormal(2), {}),
        (lambda: lb.MixturePrior(3, 2), {}),
        (lambda: lb.MixturePrior(2, 2), {"optimizer": "adamm"}),
        (lambda: lb.MixturePrior(2, 2), {"validation": torch.zeros(5, 7)}),
    ],
)
def test_nothing_is_evaluated_before_all_is_checked(prior, settings, monkeypatch):
    """The bound of a large model on large data may take minutes."""

    def work(*given, **settings):
        raise AssertionError("something was evaluated")

    monkeypatch.setattr(fitting_prior, "evaluate", work)
    monkeypatch.setattr(lb.MixturePrior, "start_from_latents", work)
    with pytest.raises((SettingsError, ShapeError)):
        lb.fit_prior(make_model(), prior(), make_data(20), progress=False, **settings)


def test_only_latent_variable_models_have_a_prior_to_replace():
    model = lb.LogJoint(lambda a: -a.square(), lb.mean_field, {"a": ()})
    with pytest.raises(UnsupportedError, match=r"fit_prior takes a lowerbound\.LatentModel"):
        lb.fit_prior(model, lb.MixturePrior(2, 2), None)


@pytest.mark.parametrize("training", [False, True])
def test_parameters_that_were_frozen_stay_frozen_and_the_mode_stays(training):
    model = make_model().train(training)
    model.posterior.network.layers[0].bias.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    better = lb.fit_prior(model, lb.MixturePrior(2, 2), make_data(60), epochs=1, progress=False)
    after = {name: p.requires_grad for name, p in better.named_parameters()}
    assert {name: after[name] for name in before} == before
    assert {module.training for module in better.modules()} == {training}


def test_a_prior_whose_parameters_are_frozen_is_refused():
    prior = lb.Gaussian(lb.constant(4)).requires_grad_(False)
    with pytest.raises(SettingsError, match="Gaussian has no parameters of its own to fit"):
        lb.fit_prior(make_model(), prior, make_data(20), epochs=1, progress=False)


def test_a_mixture_of_many_examples_starts_from_some_of_all_parts_of_the_data(monkeypatch):
    monkeypatch.setattr(fitting_prior, "_MOST_EXAMPLES", 30)
    data = make_data()
    ordered = lb.Examples(data.values[data.values[:, 0].argsort()])
    prior = lb.MixturePrior(2, components=2)
    better = lb.fit_prior(make_model(), prior, ordered, steps=1, learning_rate=1e-6, progress=False)
    means = better.prior.means.detach()
    torch.testing.assert_close(means[means[:, 0].argsort()], CENTRES, atol=0.5, rtol=0)


def test_the_seed_decides_where_a_mixture_starts():
    model, data = make_model(), lb.Examples(torch.randn(200, 2))

    def start(seed):
        prior = lb.MixturePrior(2, components=9)
        settings = {"seed": seed, "steps": 1, "learning_rate": 1e-9, "progress": False}
        return lb.fit_prior(model, prior, data, **settings).prior.means.detach()

    assert torch.equal(start(1), start(1))
    assert float((start(1) - start(2)).abs().max()) > 0.05


def test_a_field_that_only_the_encoder_needs_is_given_to_it():
    encoder = lb.Given(lb.Gaussian(lb.mlp(4, 4)), "label", categories=2)
    model, data = make_model(posterior=encoder), make_data(60)
    prior = lb.MixturePrior(2, components=2)
    better = lb.fit_prior(model, prior, data, epochs=2, learning_rate=0.01, progress=False)
    assert evaluate(better, data) > evaluate(model, data)
