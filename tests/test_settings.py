"""Settings: one class gives the checks, the configuration, the keywords and the flags."""

import inspect
import math
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
import typer
from pydantic import Field, ValidationError

import lowerbound as lb
from lowerbound.ascent import GaussianMixture
from lowerbound.data.load import load_data
from lowerbound.errors import SettingsError
from lowerbound.recipes import RECIPES, find_recipe, recipe
from lowerbound.settings import (
    Settings,
    check_arguments,
    check_settings,
    read_settings,
    takes_settings,
    write_help,
)
from lowerbound.training.settings import FitKeywords, TrainingSettings

sys.path.insert(0, str(Path(__file__).parent))
from constructors import examples_for


def brew(
    water: int = 3,
    *,
    cups: Annotated[int, Field(ge=1, description="how many cups")] = 2,
    strength: Annotated[float, Field(gt=0, lt=1, description="of the brew")] = 0.5,
    kind: Annotated[Literal["green", "black"], Field(description="of leaves")] = "green",
    milk: Annotated[float | None, Field(ge=0, description="in spoons")] = None,
    hot: Annotated[bool, Field(description="or cold")] = True,
    guest: str = "nobody",
) -> None:
    """Brew tea; neither ``water`` nor ``guest`` is a setting."""


DEFAULTS = {"cups": 2, "strength": 0.5, "kind": "green", "milk": None, "hot": True}


@pytest.fixture
def own_recipe():
    """A recipe of one's own, for as long as a test lasts."""

    @recipe(training={"epochs": 2}, pixels="binarize", image_size=16)
    def my_own(shape, *, latent: Annotated[int, Field(ge=1, description="dimensions of z")] = 2):
        """A model of my own.

        The rest is not the summary.
        """
        model = lb.LatentModel(
            lb.StandardNormal(latent),
            lb.Gaussian(lb.mlp(shape, 2 * latent)),
            lb.Bernoulli(lb.mlp(latent, shape)),
        )
        return model, lb.ELBO()

    yield my_own
    del RECIPES["my-own"]


def flag_names(name: str) -> set[str]:
    """The flags of ``lowerbound train NAME``."""
    from lowerbound.cli.application import app

    command = typer.main.get_command(app).commands["train"].commands[name]
    return {option for parameter in command.params for option in parameter.opts}


def test_annotated_keywords_are_settings_and_nothing_else():
    assert check_arguments(brew, {}) == DEFAULTS


def test_given_values_replace_defaults():
    assert check_arguments(brew, {"cups": 5, "kind": "black"}) == DEFAULTS | {
        "cups": 5,
        "kind": "black",
    }


@pytest.mark.parametrize(
    ("unknown", "hint"),
    [
        ("cupz", "did you mean 'cups'"),
        ("strenght", "did you mean 'strength'"),
        ("quux", "the settings are cups, strength, kind, milk, hot"),
        ("guest", "the settings are"),
        (7, "the settings are"),
    ],
)
def test_an_unknown_setting_is_refused_with_a_hint(unknown, hint):
    with pytest.raises(SettingsError, match=f"brew: {unknown!r} is not a setting; {hint}"):
        check_arguments(brew, {unknown: 1})


@pytest.mark.parametrize(
    "values",
    [
        {"cups": 0},
        {"cups": 2.0},
        {"cups": True},
        {"cups": "2"},
        {"cups": None},
        {"cups": np.float64(2)},
        {"cups": torch.tensor(2)},
        {"strength": 0.0},
        {"strength": 1},
        {"strength": math.nan},
        {"strength": "0.5"},
        {"strength": True},
        {"milk": -0.1},
        {"kind": "red"},
        {"kind": 3},
        {"hot": 1},
        {"hot": "yes"},
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_setting(values):
    (name,) = values
    with pytest.raises(SettingsError, match=f"^brew: {name}="):
        check_arguments(brew, values)


def test_the_function_may_go_by_another_name():
    with pytest.raises(SettingsError, match=r"^tea: cups=0"):
        check_arguments(brew, {"cups": 0}, name="tea")


@pytest.mark.parametrize("values", [None, 3, "cups", ["cups"]])
def test_settings_come_by_name(values):
    with pytest.raises(SettingsError, match="expected settings by name"):
        check_arguments(brew, values)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(np.int64(4), 4), (np.uint8(4), 4), (np.array(4), 4)],
    ids=["int64", "uint8", "array"],
)
def test_numpys_numbers_are_numbers(value, expected):
    cups = check_arguments(brew, {"cups": value})["cups"]
    assert (cups, type(cups)) == (expected, int)


def test_a_whole_number_serves_as_a_real_one():
    assert check_arguments(brew, {"milk": 2})["milk"] == 2.0
    assert check_arguments(brew, {"strength": np.float32(0.25)})["strength"] == 0.25


# Classes of settings


class Tea(Settings, use_attribute_docstrings=True):
    """How tea is brewed."""

    cups: Annotated[int, Field(ge=1)] = 2
    """Number
    of cups.

    Saucers are included.
    """

    kind: Literal["green", "black"] = "green"


@takes_settings(Tea)
def serve(guest: str, /, **keywords: Any) -> Tea:
    """Serve tea.

    Args:
        guest: who drinks it.
        keywords: the fields of Tea.

    Returns:
        The settings.
    """
    return check_settings(Tea, keywords, name="serve")


def test_settings_are_frozen_and_have_types():
    tea = serve("Ada", cups=np.int64(3))
    assert (tea.cups, type(tea.cups), tea.kind) == (3, int, "green")
    with pytest.raises(ValidationError, match="frozen"):
        tea.cups = 4


def test_a_function_shows_its_settings_as_keywords():
    keyword = inspect.Parameter.KEYWORD_ONLY
    shown = inspect.signature(serve).parameters
    assert list(shown) == ["guest", "cups", "kind"]
    assert shown["cups"] == inspect.Parameter("cups", keyword, default=2, annotation=int)
    assert inspect.signature(serve).return_annotation is Tea


def test_a_function_describes_its_settings_among_its_arguments():
    assert serve.__doc__.splitlines()[2:6] == [
        "Args:",
        "    guest: who drinks it.",
        "    cups: Number of cups. Saucers are included.",
        "    kind:",
    ]


def test_the_help_text_is_the_first_paragraph():
    assert write_help(Tea.model_fields["cups"]) == "Number of cups."
    assert write_help(read_settings(brew).model_fields["cups"]) == "How many cups."


# The settings of a training


def test_fit_takes_describes_and_records_every_setting_of_a_training():
    signature = inspect.signature(lb.fit)
    for name, field in FitKeywords.model_fields.items():
        shown = signature.parameters[name]
        assert (shown.default, shown.annotation) == (field.default, field.annotation)
        assert f"\n    {name}: {write_help(field)[:20]}" in lb.fit.__doc__
    assert list(FitKeywords().training) == list(TrainingSettings.model_fields)
    assert list(signature.parameters)[:3] == ["model", "objective", "data"]


def test_fit_refuses_an_unknown_keyword_with_a_hint():
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6))
    )
    with pytest.raises(SettingsError, match="'epoch' is not a setting; did you mean 'epochs'"):
        lb.fit(model, lb.ELBO(), torch.rand(4, 3), epoch=1)


def test_the_settings_can_be_read_without_torch():
    code = "import sys, lowerbound.training.settings; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# Recipes


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_of_a_recipe_is_described_and_is_a_flag(name):
    flags = flag_names(name)
    for schema in (read_settings(RECIPES[name].make), TrainingSettings, read_settings(load_data)):
        for setting, info in schema.model_fields.items():
            assert info.description, f"{schema.__name__}: {setting}"
            assert f"--{setting.replace('_', '-')}" in flags
    assert {"--data", "--out", "--validation"} <= flags


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_summary_and_builds_with_its_defaults(name):
    entry = RECIPES[name]
    examples = examples_for(entry)
    model, objective = entry.build(examples, {"hidden": 4})
    objective = objective.for_training_on(len(examples))
    assert entry.summary.endswith(".")
    x = examples.batch(torch.arange(3))
    given = examples.given(torch.arange(3), model.needs)
    assert objective(model.draw(x, objective.samples, **given)).shape == (3,)


@pytest.mark.parametrize("name", RECIPES)
def test_the_usual_training_of_a_recipe_is_valid(name):
    entry = RECIPES[name]
    settings = check_settings(TrainingSettings, entry.training, name="training")
    assert dict(settings).items() >= entry.training.items()
    assert check_arguments(load_data, {"pixels": entry.pixels})["pixels"] == entry.pixels


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(
        SettingsError, match="'aevb-gausian' is not a recipe; did you mean 'aevb-gaussian'"
    ):
        find_recipe("aevb-gausian")


def test_an_unlike_recipe_is_refused_with_all():
    with pytest.raises(SettingsError, match="the recipes are aevb-gaussian, aevb-bernoulli"):
        find_recipe("quux")


def test_a_recipe_refuses_what_it_does_not_take():
    with pytest.raises(
        SettingsError, match="aevb-gaussian: 'latents' is not a setting; did you mean 'latent'"
    ):
        find_recipe("aevb-gaussian").build((4,), {"latents": 3})


def test_the_decorator_lists_a_recipe_under_its_name_with_dashes(own_recipe):
    entry = find_recipe("my-own")
    assert entry.make is own_recipe
    assert entry.summary == "A model of my own."
    assert (dict(entry.training), entry.pixels, entry.image_size) == ({"epochs": 2}, "binarize", 16)
    model, _ = entry.build((1, 8, 8), {"latent": 3})
    assert model.prior.shape == (3,)


def test_a_recipe_of_ones_own_becomes_a_command(own_recipe):
    from lowerbound.cli import training

    app = typer.Typer()
    training.register(app)
    command = typer.main.get_command(app).commands["train"].commands["my-own"]
    defaults = {parameter.name: parameter.default for parameter in command.params}
    assert (defaults["latent"], defaults["epochs"], defaults["pixels"]) == (2, 2, "binarize")


def test_a_path_may_be_given_where_a_folder_is_wanted(tmp_path):
    assert check_arguments(lb.load_data, {"cache": tmp_path})["cache"] == str(tmp_path)


@pytest.mark.parametrize("seed", [-1, 2**31, 1.5, True, "a"])
def test_an_impossible_seed_is_refused_by_name(seed):
    vae = lb.LatentModel(lb.StandardNormal(1), lb.Gaussian(lb.mlp(2, 2)), lb.Gaussian(lb.mlp(1, 4)))
    x = torch.zeros(3, 2)
    joint = lb.LogJoint(lambda a: -a.square(), lb.mean_field, {"a": ()})
    calls = {
        "evaluate": lambda: lb.evaluate(vae, lb.ELBO(), x, seed=seed),
        "log_likelihood": lambda: lb.log_likelihood(vae, x, 2, seed=seed),
        "latent_health": lambda: lb.latent_health(vae, x, seed=seed),
        "posterior_health": lambda: lb.posterior_health(joint, seed=seed),
        "posterior_sample": lambda: joint.posterior_sample(2, seed=seed),
        "start": lambda: joint.start(1, seed=seed),
        "sample": lambda: vae.sample(2, seed=seed),
        "fit": lambda: GaussianMixture(2).fit(torch.randn(9, 2), seed=seed),
    }
    for name, call in calls.items():
        with pytest.raises(SettingsError, match=f"{name}: seed={seed!r} must be a whole number"):
            call()
