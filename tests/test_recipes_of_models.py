"""Recipes of models with layers, codes and labels: each trains for a few steps."""

import json
from pathlib import Path

import pytest
import torch

import lowerbound as lb
from lowerbound.errors import SettingsError
from lowerbound.recipes import RECIPES

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "recipes"
SMALL = {
    "iwae-2layer": {"latent": 4, "top_latent": 2, "hidden": 8, "top_hidden": 6, "samples": 3},
    "ladder": {"latent": 4, "hidden": 8, "depth": 3},
    "vq": {"latent": 3, "hidden": 8, "codes": 6},
    "residual-vq": {"latent": 3, "hidden": 8, "codes": 6, "stages": 2},
    "fsq": {"latent": 2, "levels": 3, "hidden": 8},
    "conditional": {"latent": 3, "hidden": 8},
    "semi-supervised": {"latent": 3, "hidden": 8},
    "deep": {"latent": 2, "hidden": 6},
    "photos": {"latent": 3, "hidden": 8, "channels": 4},
}
OF_VECTORS = sorted(set(SMALL) - {"deep", "photos"})


def digits(recipe):
    return lb.load_data("digits", pixels=RECIPES[recipe].pixels).train.first(40)


@pytest.mark.parametrize("name", SMALL)
def test_a_recipe_trains_and_its_model_is_used(name, tmp_path):
    train = digits(name)
    model, objective = RECIPES[name].build(train, SMALL[name], seed=0)
    run = lb.fit(
        model, objective, train, steps=3, batch_size=20, progress=False, directory=tmp_path / "run"
    )
    assert torch.isfinite(torch.tensor(run.history[-1]["train"]["bound"]))
    given = {"label": 3} if model.needs else {}
    assert model.sample(4, **given).shape == (4, 1, 8, 8)
    assert model.reconstruct(train).shape == (40, 1, 8, 8)
    again = lb.load(tmp_path / "run")
    scores = [lb.evaluate(one, objective, train).per_example for one in (model, again)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("name", OF_VECTORS)
def test_a_recipe_takes_vectors(name):
    x = (torch.rand(12, 7, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    data = lb.Examples(x, labels=torch.arange(12) % 10)
    model, objective = RECIPES[name].build((7,), SMALL[name], seed=0)
    run = lb.fit(model, objective, data, steps=3, progress=False)
    assert run.history[-1]["train"].keys() >= {"bound", "rate", "distortion"}


def test_pictures_of_a_run_use_the_labels_that_are_known(tmp_path):
    train = digits("semi-supervised")
    labels = torch.where(torch.arange(40) % 2 == 0, train.labels, -1)
    some = lb.Examples(train.values, levels=train.levels, pixels="binarize", labels=labels)
    model, objective = lb.recipes.semi_supervised(train.shape, latent=2, hidden=8, seed=0)
    lb.fit(model, objective, some, steps=3, progress=False, directory=tmp_path / "run")
    assert list((tmp_path / "run" / "samples").iterdir())


def test_a_recipe_takes_a_number_of_dimensions_and_refuses_what_is_not_a_shape_in_a_line():
    model, _ = lb.recipes.aevb_gaussian(6, latent=2, hidden=4)
    assert model.encode(torch.rand(3, 6)).shape == (3, 2)
    for data in (torch.rand(100, 6), None, "digits"):
        with pytest.raises(SettingsError, match=r"^a recipe takes .*lb\.load_data$"):
            lb.recipes.aevb_gaussian(data)
    for shape in ((), (0,), (2.5,)):
        with pytest.raises(SettingsError, match="is not a size"):
            lb.recipes.aevb_gaussian(shape)


def test_layers_of_a_recipe_have_the_sizes_of_the_paper():
    model, objective = lb.recipes.iwae_2layer((784,), seed=0)
    x = torch.zeros(2, 784)
    sizes = {name: latent.z.shape[-1] for name, latent in model.draw(x, 1).groups.items()}
    assert (sizes, objective.samples) == ({"z1": 100, "z2": 50}, 50)
    ladder, _ = lb.recipes.ladder((784,), seed=0)
    sizes = {name: latent.z.shape[-1] for name, latent in ladder.draw(x, 1).groups.items()}
    assert sizes == {"z5": 4, "z4": 8, "z3": 16, "z2": 32, "z1": 64}


def test_a_deep_model_has_layers_at_each_resolution():
    model, _ = lb.recipes.deep((1, 28, 28), hidden=4, latent=2, scales=2, depth=2, seed=0)
    latents = model.draw(torch.zeros(2, 1, 28, 28)).groups
    sizes = {name: tuple(latent.z.shape[2:]) for name, latent in latents.items()}
    assert sizes == {"z4": (2, 7, 7), "z3": (2, 7, 7), "z2": (2, 14, 14), "z1": (2, 14, 14)}
    with pytest.raises(SettingsError, match="must be pictures"):
        lb.recipes.deep((7,))
    with pytest.raises(SettingsError, match=r"8 x 3 pixels cannot be halved scales=2 times"):
        lb.recipes.deep((1, 8, 3))


@pytest.mark.parametrize(
    ("shape", "details"),
    [
        ((1, 8, 8), (2, 4, 4)),
        ((3, 28, 21), (2, 14, 10)),
        ((1, 64, 64), (2, 32, 32)),
        ((3, 65, 90), (2, 16, 22)),
        ((3, 256, 256), (2, 32, 32)),
    ],
)
def test_photos_have_details_of_at_most_32_pixels_a_side(shape, details):
    model, _ = lb.recipes.photos(shape, **SMALL["photos"], components=2, seed=0)
    x = torch.randint(256, (2, *shape), dtype=torch.uint8)
    points = model.encode(x)
    assert {name: point.shape[1:] for name, point in points.items()} == {"z2": (3,), "z1": details}
    assert model.sample(2, mean=True, seed=0).shape == (2, *shape)


def test_photos_without_a_warmup_have_the_bound_from_the_first_step():
    _, objective = lb.recipes.photos((1, 8, 8), kl_warmup_steps=0)
    assert objective.beta == 1.0


def test_photos_learn_the_embedding_before_the_details():
    model, objective = lb.recipes.photos((1, 8, 8), detail_warmup_steps=100)
    weights = objective.group_weights
    assert weights["z2"] == 0.5
    assert (weights["z1"].start, weights["z1"].end, weights["z1"].steps) == (20.0, 1.0, 100)
    assert isinstance(model.priors[-1], lb.Flow)
    model, objective = lb.recipes.photos((1, 8, 8), detail_warmup_steps=0, transforms=0)
    assert objective.group_weights == {"z2": 0.5}
    assert isinstance(model.priors[-1], lb.StandardNormal)


@pytest.mark.parametrize(
    ("shape", "message"), [((64,), "must be pictures"), ((1, 7, 9), "8 to 256 pixels a side")]
)
def test_photos_refuse_other_shapes(shape, message):
    with pytest.raises(SettingsError, match=message):
        lb.recipes.photos(shape)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_reached(name):
    """As reproductions/recipes.py measured it."""
    measured = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf8"))
    reached = RECIPES[name].reached
    seconds, baseline = round(measured["cpu_seconds"]), measured["independent_entries"]
    assert f"reached {measured['bound']:,.1f} nats on the test part of the" in reached
    assert f"after {seconds:,} s of training" in reached
    if baseline is None:
        assert reached.endswith("; a score that is not a bound.")
    else:
        assert reached.endswith(f"; a model of independent entries has {baseline:,.1f}.")
    assert reached in RECIPES[name].description
