"""Recipes with other objectives than a plain bound: they build, train and come back from files."""

import pytest
import torch

import lowerbound as lb
from lowerbound.cli.runs import build_objective
from lowerbound.data import make_sprites
from lowerbound.networks import MLP, Conv
from lowerbound.recipes import RECIPES
from lowerbound.runs.directory import RunDirectory

NAMES = ("beta-vae", "beta-tc", "factor", "dip", "info", "mmd-wae", "adversarial", "rae")
WITHOUT_ELBO = ("mmd-wae", "adversarial", "rae")
SMALL = {"hidden": 4, "channels": 2, "latent": 3}

recipe = pytest.mark.parametrize("name", NAMES)


def build(name, shape, **settings):
    return RECIPES[name].build(shape, SMALL | settings, seed=0)


@recipe
def test_a_recipe_trains_on_sprites_and_can_be_loaded(name, tmp_path):
    sprites = make_sprites(9)
    model, objective = build(name, sprites.shape)
    usual = {"progress": False, "pictures_every": 0, "directory": tmp_path / "run"}
    training = {**RECIPES[name].training, "epochs": 1, "batch_size": 4}
    run = lb.fit(model, objective, sprites, **training, **usual)
    terms = run.history[-1]["train"]
    assert torch.tensor(list(terms.values())).isfinite().all()
    is_score = name in (*WITHOUT_ELBO, "info")
    assert run.objective.label(model) == ("score" if is_score else "bound")
    assert ("elbo" in terms) == (name == "info")
    again = lb.load(tmp_path / "run")
    assert torch.equal(again.encode(sprites), run.model.encode(sprites))


@recipe
def test_convolutions_are_for_pictures(name):
    for shape, kind, layers in (
        ((1, 64, 64), Conv, 4),
        ((1, 8, 8), Conv, 3),
        ((3, 28, 20), Conv, 4),
        ((6,), MLP, 4),
        ((1, 2, 9), MLP, 4),
    ):
        model, objective = build(name, shape)
        network = model.posterior.network
        assert isinstance(network, kind)
        assert len(network.channels if kind is Conv else network.hidden) == layers
        x = (torch.rand(3, *shape) < 0.5).float()
        draw = model.draw(x, objective.samples)
        assert objective.for_training_on(9)(draw).isfinite().all()
    plain, _ = build(name, (1, 8, 8), network="mlp", likelihood="gaussian")
    assert isinstance(plain.posterior.network, MLP)
    assert isinstance(plain.likelihood, lb.Gaussian)


@recipe
def test_a_recipe_says_what_its_paper_is(name):
    text = RECIPES[name].make.__doc__
    assert 'The paper is "' in text
    assert RECIPES[name].summary.endswith(".")


def test_the_encoder_of_a_wasserstein_auto_encoder_may_be_random():
    for name in ("mmd-wae", "adversarial"):
        model, objective = build(name, (6,), posterior="gaussian")
        assert isinstance(model.posterior, lb.Gaussian)
        assert "elbo" in objective.terms(model.draw(torch.zeros(4, 6)))


@pytest.mark.parametrize("validation", [None, 0.25])
@pytest.mark.parametrize("name", ["factor", "adversarial", "beta-tc"])
def test_the_command_evaluates_with_the_trained_objective(name, validation, tmp_path):
    """With the critic of the run, and the size of its training data."""
    x = torch.randn(40, 6)
    model, objective = build(name, (6,), likelihood="gaussian")
    run = lb.fit(
        model,
        objective,
        x,
        validation=validation,
        epochs=2,
        batch_size=8,
        learning_rate=0.01,
        progress=False,
        directory=tmp_path,
    )
    again = lb.load(tmp_path)
    rebuilt = build_objective(tmp_path, RunDirectory(tmp_path).read_config(), again, None)
    one, other = lb.evaluate(run.model, run.objective, x), lb.evaluate(again, rebuilt, x)
    assert {name: term.mean for name, term in one.terms.items()} == {
        name: term.mean for name, term in other.terms.items()
    }
    assert one.mean == other.mean
