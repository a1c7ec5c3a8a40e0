"""Recipes, priors that depend on a label, evaluations of new posteriors, and fast flows."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

import lowerbound as lb
from lowerbound.errors import DataError, SettingsError
from lowerbound.recipes import RECIPES

sys.path.insert(0, str(Path(__file__).parent))
from constructors import examples_for

SMALL = {"hidden": 8, "latent": 3}
BINARY = [name for name, entry in RECIPES.items() if entry.pixels == "binarize"]


def make_pixels():
    return (torch.rand(30, 1, 4, 4) * 255).to(torch.uint8)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_is_saved(name, tmp_path):
    entry = RECIPES[name]
    data = examples_for(entry)
    model, objective = entry.build(data, SMALL, seed=0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    run = lb.fit(model, objective, data, steps=3, batch_size=3, progress=False)
    assert len(run.history) == 1
    changed = [
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    ]
    assert sum(changed) > 0.7 * len(changed)
    known = {"label": 3, "exposure": 20.0}
    given = {name: known[name] for name in known if name in model.needs}
    assert model.sample(2, **given).shape == (2, *data.shape)
    lb.save(model, tmp_path / "model.safetensors")
    loaded = lb.load(tmp_path / "model.safetensors")
    bound = lb.evaluate(model, run.objective, data).mean
    assert lb.evaluate(loaded, run.objective, data).mean == bound
    again, _ = entry.build(data, SMALL, seed=0)
    assert all(map(torch.equal, before, again.parameters()))


@pytest.mark.parametrize("name", BINARY)
def test_recipes_of_binary_data_refuse_grey_values(name):
    data = lb.load_data(make_pixels()).train
    data = dataclasses.replace(data, labels=torch.arange(len(data)) % 10)
    model, objective = RECIPES[name].build(data.shape, SMALL)
    with pytest.raises(DataError, match=r"has grey values.*set pixels='binarize'"):
        lb.fit(model, objective, data, epochs=1, progress=False)


@pytest.mark.parametrize("gradient", ["score-function", "relaxed", "enumerated"])
def test_categorical_latents_train_by_every_gradient(gradient):
    data = (torch.rand(30, 6) < 0.5).float()
    settings = {**SMALL, "categories": 2, "gradient": gradient, "samples": 2}
    model, objective = RECIPES["categorical"].build((6,), settings)
    lb.fit(model, objective, data, steps=3, progress=False)
    assert objective.label(model) == "bound"


def test_one_sample_has_no_baseline():
    with pytest.raises(SettingsError, match="use samples=2 or more"):
        RECIPES["categorical"].build((6,), {"gradient": "score-function"})


def test_a_sphere_has_two_dimensions_at_least():
    with pytest.raises(SettingsError, match="sphere: latent=1"):
        RECIPES["sphere"].build((6,), {"latent": 1})


# Priors given a label

PRIORS = {
    "GaussianMixture": (lambda: lb.GaussianMixture(lb.mlp(3, 10), 2), lb.Gaussian, 4, 2),
    "Flow": (lambda: lb.Flow("maf", 2, context=3, transforms=1), lb.Gaussian, 4, 2),
    "PowerSpherical": (lambda: lb.PowerSpherical(lb.mlp(3, 4)), lb.PowerSpherical, 4, 3),
    "OneHot": (
        lambda: lb.OneHot(lb.mlp(3, (2, 4))),
        lambda network: lb.OneHot(network, "straight-through"),
        (2, 4),
        (2, 4),
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_priors_may_depend_on_a_label(name):
    make, posterior, outputs, latent = PRIORS[name]
    model = lb.LatentModel(
        lb.Given(make(), "label", categories=3),
        posterior(lb.mlp(6, 8, outputs)),
        lb.Bernoulli(lb.mlp(latent, 8, 6)),
    )
    data = lb.Examples((torch.rand(30, 6) < 0.5).float(), labels=torch.arange(30) % 3)
    lb.fit(model, lb.ELBO(), data, steps=3, progress=False)
    z = model.prior(label=torch.arange(3)).sample()
    assert z.shape[0] == 3
    assert model.sample(4, label=2).shape == (4, 6)
    rows, values = torch.tensor([0, 1]), data.values[:2]
    rates = [
        lb.ELBO(kl="sampled")(model.draw(values, 50, label=label)).mean()
        for label in (rows * 0, rows * 0 + 1)
    ]
    assert rates[0] != rates[1]


POSTERIORS = {
    "GaussianMixture": (lambda: lb.GaussianMixture(lb.mlp(6, 10), 2), lb.MixturePrior, (2, 3), 2),
    "PowerSpherical": (lambda: lb.PowerSpherical(lb.mlp(6, 4)), lb.SphereUniform, (3,), 3),
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_evaluations_work_with_posteriors_of_other_shapes(name):
    make, prior, arguments, latent = POSTERIORS[name]
    model = lb.LatentModel(prior(*arguments), make(), lb.Bernoulli(lb.mlp(latent, 6)))
    data = (torch.rand(40, 6) < 0.5).float()
    assert lb.latent_health(model, data, samples=3).rate > -1
    gaps = lb.inference_gaps(model, data[:3], steps=3, samples=20)
    assert torch.isfinite(gaps.best_bound.per_example).all()
    estimate = lb.log_likelihood(model, data, samples=50)
    assert estimate.mean >= lb.evaluate(model, lb.ELBO(20, kl="sampled"), data).mean - 0.1


# Inverse autoregressive flows


def test_an_inverse_autoregressive_flow_draws_in_one_pass():
    flow = lb.Flow("iaf", 4, context=2, transforms=3, hidden_features=(8,)).double()
    calls = []
    for module in flow.modules():
        if type(module).__name__ == "MaskedMLP":
            module.register_forward_hook(lambda *_: calls.append(1))
    q = flow(torch.randn(5, 2, dtype=torch.float64))
    z, log_q = q.rsample_and_log_prob(torch.Size((3,)))
    assert len(calls) == 3
    calls.clear()
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=1e-10, atol=1e-10)
    assert len(calls) > 3 * 4


def test_the_log_determinant_of_an_inverse_autoregressive_flow_is_autograd_s():
    flow = lb.Flow("iaf", 3, context=2, transforms=2, hidden_features=(8,)).double()
    q = flow(torch.randn(2, dtype=torch.float64))
    z = q.rsample()
    jacobian = torch.autograd.functional.jacobian(q.transform, z.detach())
    noise = q.transform(z)
    expected = q.base.log_prob(noise) + jacobian.slogdet().logabsdet
    torch.testing.assert_close(q.log_prob(z), expected, rtol=0, atol=1e-10)
