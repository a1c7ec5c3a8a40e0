"""The command: what it prints and writes, and how each mistake ends."""

import csv
import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.cli.describing import describe_examples
from lowerbound.cli.given import check_given, list_conditions
from lowerbound.cli.inspecting import _describe_rows
from lowerbound.cli.runs import dumps, read_schedules
from lowerbound.describe import describe
from lowerbound.errors import TrainingWarning
from lowerbound.evaluation.comparison import paired_difference
from lowerbound.evaluation.health import latent_health
from lowerbound.evaluation.importance import log_likelihood
from lowerbound.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("without_learning_curves")

FAST = [
    "--no-start",
    "--hidden",
    "4",
    "--latent",
    "2",
    "--samples",
    "1",
    "--epochs",
    "2",
    "--pictures-every",
    "0",
]
COUNT = 60


def call(capsys, *arguments) -> tuple[int, str, str]:
    """The exit code of the command, and what it wrote to standard output and error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def refused(capsys, *arguments) -> str:
    """The one line with which a mistake ends."""
    code, _, err = call(capsys, *arguments)
    lines = [
        line
        for line in err.splitlines()
        if not line.startswith("epoch ") and " training, " not in line
    ]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("lowerbound: ")
    return lines[0]


def metrics(directory: Path) -> list[dict]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("seconds", "examples_per_second")}
        for line in lines
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with data and a run of each recipe."""
    folder = tmp_path_factory.mktemp("home")
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (COUNT, 8, 8), dtype=np.uint8)
    np.savez(folder / "pictures.npz", x=pictures, y=np.arange(COUNT) % 7)
    np.save(folder / "others.npy", draw.integers(0, 256, (20, 9, 9), dtype=np.uint8))
    np.save(folder / "vectors.npy", draw.random((COUNT, 6), dtype=np.float32))
    for name, source in (
        ("gaussian", "pictures.npz"),
        ("bernoulli", "pictures.npz"),
        ("vectors", "vectors.npy"),
    ):
        recipe = "aevb-bernoulli" if name == "bernoulli" else "aevb-gaussian"
        with pytest.raises(SystemExit, match=r"^0$"):
            main(
                [
                    "train",
                    recipe,
                    "--data",
                    str(folder / source),
                    "--out",
                    str(folder / name),
                    *FAST,
                ]
            )
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
    )
    data = np.load(folder / "vectors.npy")
    lb.fit(model, lb.ELBO(), data, epochs=1, directory=folder / "python", progress=False)
    (folder / "empty").mkdir()
    (folder / "file").touch()
    return folder


@pytest.fixture
def here(home, monkeypatch) -> Path:
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def copied(here, tmp_path) -> Path:
    """A run that a test may damage."""
    shutil.copytree(here / "gaussian", tmp_path / "run")
    return tmp_path / "run"


# Light and quick


PROGRAMS = [
    "import lowerbound",
    "import lowerbound; dir(lowerbound)",
    *(
        f"from lowerbound.cli import main\ntry: main({arguments!r})\nexcept SystemExit as end: "
        "assert end.code == 0"
        for arguments in (
            ["--help"],
            ["--version"],
            ["train", "--help"],
            ["train", "aevb-gaussian", "--help"],
            ["evaluate", "--help"],
            ["compare", "--help"],
            ["recipes"],
            ["datasets"],
        )
    ),
]


@pytest.fixture(scope="module")
def heavy_imports() -> dict[str, list[str]]:
    """The heavy modules that each program has imported.

    The programs run one after another in one process, because starting ten takes seconds. So a
    module that one of them imports is also found for all programs after it.
    """
    code = (
        "import contextlib, io, json, sys\n"
        "names, found = {'torch', 'numpy', 'matplotlib', 'PIL', 'sklearn'}, {}\n"
        f"for program in {PROGRAMS!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        exec(program, {})\n"
        "    found[program] = sorted(names & sys.modules.keys())\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_heavy_is_imported_to_answer(program, heavy_imports):
    assert heavy_imports[program] == []


def test_the_version(capsys):
    assert call(capsys, "--version") == (0, f"lowerbound {lb.__version__}\n", "")


def test_recipes_are_listed_in_a_line_each_and_the_settings_of_one(capsys):
    code, out, err = call(capsys, "recipes")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for line, (name, recipe) in zip(lines, RECIPES.items(), strict=False):
        assert line.split(maxsplit=1) == [name, recipe.summary]
    assert lines[len(RECIPES) :] == ["", "lowerbound recipes RECIPE lists the settings of one."]
    assert "    --latent 10  " in call(capsys, "recipes", "aevb-gaussian")[1]


def test_the_help_of_a_recipe_names_its_paper_and_has_no_markup(capsys):
    code, out, _ = call(capsys, "train", "categorical", "--help")
    text = " ".join(out.split())
    assert code == 0
    assert "Mnih & Rezende 2016" in text
    assert 'All settings of gradient but "relaxed" maximise a bound' in text


def test_datasets_are_listed(capsys):
    code, out, err = call(capsys, "datasets")
    assert (code, err) == (0, "")
    assert [name for name in ("digits", "mnist", "frey-faces") if name in out] == [
        "digits",
        "mnist",
        "frey-faces",
    ]


def test_without_arguments_the_help_is_shown(capsys):
    code, out, err = call(capsys)
    assert (code, err) == (2, "")
    assert "train" in out


# Training


def test_training_says_what_came_of_it_and_what_is_next(here, tmp_path, capsys):
    out = tmp_path / "run"
    code, told, err = call(
        capsys, "train", "aevb-gaussian", "--data", "pictures.npz", "--out", out, *FAST
    )
    assert code == 0
    first, *epochs = err.splitlines()[:3]
    parts = "49 training, 5 validation and 6 test examples of 1 x 8 x 8, 256 levels, 7 classes"
    assert first == f"pictures.npz: {parts}; cpu -> {out}"
    assert [line.split()[:2] for line in epochs] == [["epoch", "1"], ["epoch", "2"]]
    assert told.startswith("test bound ")
    assert "nats per example" in told
    assert f"pictures: {out}/manifold.png, {out}/bound.png" in told
    assert f"  lowerbound evaluate {out} --log-likelihood 100" in told


def test_the_next_commands_work(copied, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "evaluate", "run", "--samples", 64)[0] == 0
    assert call(capsys, "sample", "run", "--count", 100, "--out", "samples.png")[0] == 0
    assert call(capsys, "encode", "run", "--out", "latents.csv")[0] == 0


def test_a_configuration_runs_again_to_the_same_figures(here, tmp_path, capsys):
    code, _, _ = call(
        capsys, "train", "--config", "gaussian/config.yaml", "--out", tmp_path / "again"
    )
    assert code == 0
    assert metrics(tmp_path / "again") == metrics(here / "gaussian")
    assert (tmp_path / "again" / "config.yaml").read_text() == (
        here / "gaussian" / "config.yaml"
    ).read_text()


def test_a_configuration_may_run_for_longer(here, tmp_path, capsys):
    assert (
        call(
            capsys,
            "train",
            "--config",
            "gaussian/config.yaml",
            "--out",
            tmp_path / "x",
            "--epochs",
            3,
        )[0]
        == 0
    )
    assert metrics(tmp_path / "x")[:2] == metrics(here / "gaussian")
    assert len(metrics(tmp_path / "x")) == 3


def test_resuming_for_longer_is_as_training_for_longer(copied, tmp_path, capsys):
    assert call(capsys, "train", "--resume", copied, "--epochs", 3)[0] == 0
    assert (
        call(
            capsys,
            "train",
            "--config",
            copied / "config.yaml",
            "--out",
            tmp_path / "x",
            "--epochs",
            3,
        )[0]
        == 0
    )
    assert metrics(copied) == metrics(tmp_path / "x")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--epochs", 1],
            "the run has 2 epochs already, more than the 1 asked for; to continue, ask for more "
            "than 2 epochs\n",
        ),
        (
            ["--epochs", 2],
            "the training is complete at epoch 2; to continue, ask for more than 2 epochs\n",
        ),
        (["--steps", 1], "steps already, more than the 1 asked for; to continue, ask for more"),
    ],
)
def test_resuming_a_complete_run_says_what_is_done_and_what_was_asked(
    flags, message, copied, capsys
):
    before = metrics(copied)
    code, _, err = call(capsys, "train", "--resume", copied, *flags)
    assert code == 0
    assert message in err
    assert metrics(copied) == before


def test_the_configuration_has_what_was_asked(here):
    config = yaml.safe_load((here / "gaussian" / "config.yaml").read_text())
    assert config["recipe"]["name"] == "aevb-gaussian"
    assert config["recipe"]["arguments"]["latent"] == 2
    assert config["recipe"]["arguments"]["min_scale"] == 0.01
    assert config["data"]["source"] == str(here / "pictures.npz")
    assert config["validation"] == 0.1
    assert (config["training"]["batch_size"], config["training"]["epochs"]) == (32, 2)


def test_steps_replace_a_recipes_usual_epochs(here, tmp_path, capsys):
    code, _, _ = call(
        capsys,
        "train",
        "aevb-bernoulli",
        "--data",
        "pictures.npz",
        "--out",
        tmp_path / "run",
        "--steps",
        3,
        "--hidden",
        4,
    )
    assert code == 0
    assert metrics(tmp_path / "run")[-1]["step"] == 3


def test_epochs_replace_a_recipes_usual_steps(here, tmp_path, capsys):
    photos = ["train", "photos", "--data", "pictures.npz", "--out", tmp_path / "run"]
    small = ["--epochs", 1, "--channels", 4, "--hidden", 4, "--latent", 2, "--batch-size", 32]
    assert call(capsys, *photos, *small)[0] == 0
    training = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]
    assert (training["epochs"], training["steps"]) == (1, None)


def test_without_validation_all_training_data_are_used(here, tmp_path, capsys):
    arguments = [
        "train",
        "aevb-gaussian",
        "--data",
        "pictures.npz",
        "--out",
        tmp_path / "run",
        "--validation",
        0,
        *FAST,
    ]
    assert call(capsys, *arguments)[0] == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["examples"]["train"]["count"] == 54
    assert "validation" not in config["examples"]
    assert "validation" not in metrics(tmp_path / "run")[0]


def test_runs_without_a_directory_are_numbered(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert call(capsys, "train", "aevb-gaussian", "--data", home / "vectors.npy", *FAST)[0] == 0
    made = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(made) == 2
    assert made[1] == f"{made[0]}-2"


# Evaluating


def test_evaluate_prints_one_json_object(here, capsys):
    code, out, err = call(capsys, "evaluate", "gaussian", "--samples", 3, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    told = json.loads(out)
    results = {"bound", "label", "objective", "elbo", "rate", "distortion", "health"}
    results |= {"baseline", "gain"}
    assert set(told) == results | {"split", "examples", "samples", "seed", "unit"}
    assert told["bound"] == told["elbo"]
    assert (told["objective"]["kind"], told["objective"]["samples"]) == ("ELBO", 3)
    assert told["elbo"]["mean"] == pytest.approx(
        -(told["rate"]["mean"] + told["distortion"]["mean"]), rel=1e-6
    )
    assert (told["split"], told["examples"], told["samples"], told["unit"]) == (
        "test",
        6,
        3,
        "nats",
    )


def test_evaluate_is_what_the_library_computes(here, capsys):
    told = json.loads(call(capsys, "evaluate", "gaussian", "--split", "train", "--json")[1])
    expected = lb.evaluate(lb.load("gaussian"), lb.ELBO(), lb.load_data("pictures.npz").train)
    assert told["elbo"] == {"mean": expected.mean, "standard_error": expected.standard_error}


@pytest.mark.parametrize(("split", "count"), [("train", 54), ("test", 6), ("all", 60)])
def test_the_parts_of_the_data(split, count, here, capsys):
    assert (
        json.loads(call(capsys, "evaluate", "gaussian", "--split", split, "--json")[1])["examples"]
        == count
    )


def test_evaluate_in_words(here, capsys):
    _, out, _ = call(capsys, "evaluate", "gaussian")
    told = json.loads(call(capsys, "evaluate", "gaussian", "--json")[1])
    assert out.startswith(
        f"test bound {told['elbo']['mean']:.2f} ± {told['elbo']['standard_error']:.2f} nats per "
        "example"
    )


@pytest.mark.parametrize("name", ["gaussian", "bernoulli"])
def test_evaluate_says_by_how_much_the_bound_beats_independent_entries(name, here, capsys):
    told = json.loads(call(capsys, "evaluate", name, "--json")[1])
    pixels = {"gaussian": "as-is", "bernoulli": "binarize"}[name]
    test = lb.load_data("pictures.npz", pixels=pixels).test
    expected = lb.evaluate(lb.load(name), lb.ELBO(), test)
    assert told["baseline"] == expected.baseline
    assert told["gain"] == told["bound"]["mean"] - told["baseline"] == expected.gain.nats
    said = call(capsys, "evaluate", name)[1]
    assert str(expected.gain).replace("standardize=True", "--standardize") in said.splitlines()
    assert ("BELOW" in said) == (expected.gain.nats < 0) == (name == "gaussian")
    assert "standardize=True" not in call(capsys, "compare", name, name, "--samples", 2)[1]


def test_a_training_below_independent_entries_ends_with_a_warning(here, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always", TrainingWarning)
        arguments = ["--data", "pictures.npz", *FAST, "--out", tmp_path / "run"]
        code, _, err = call(capsys, "train", "aevb-gaussian", *arguments)
    assert code == 0
    (line,) = [line for line in err.splitlines() if "BELOW" in line]
    assert line.startswith("lowerbound: warning: the validation bound, ")
    records = metrics(tmp_path / "run")
    assert [f"({record['baseline']:.2f})" in line for record in records] == [True, True]


def test_a_run_by_another_bound_has_both_that_and_the_elbo(copied, capsys):
    config = yaml.safe_load((copied / "config.yaml").read_text())
    (copied / "config.yaml").write_text(change(objective=describe(lb.IWAE(samples=20)))(config))
    told = json.loads(call(capsys, "evaluate", copied, "--json")[1])
    model, test = lb.load(copied), lb.load_data(config["data"]["source"]).test
    assert told["bound"]["mean"] == lb.evaluate(model, lb.IWAE(samples=20), test).mean
    assert (
        told["elbo"]["mean"]
        == lb.evaluate(model, lb.ELBO(samples=20), test).mean
        < told["bound"]["mean"]
    )
    assert told["elbo"]["mean"] == pytest.approx(
        -(told["rate"]["mean"] + told["distortion"]["mean"]), rel=1e-9
    )
    assert told["objective"] == describe(lb.IWAE(samples=20))
    line = call(capsys, "evaluate", copied)[1].splitlines()[0]
    assert line.startswith(f"test bound (IWAE) {told['bound']['mean']:.2f} ± ")
    assert f"; ELBO {told['elbo']['mean']:.2f} ± " in line
    assert f"(rate {told['rate']['mean']:.2f} ± " in line


def test_what_is_no_number_is_null_in_json():
    """Wherever it stands: JSON has no nan and no infinity."""
    told = dumps(
        {
            "a": -float("inf"),
            "b": [1.5, float("nan"), {"c": float("inf")}],
            "d": (True, None, "x", 3),
        }
    )
    assert told == '{"a": null, "b": [1.5, null, {"c": null}], "d": [true, null, "x", 3]}'


def test_a_likelihood_of_minus_infinity_is_null_or_refused(here, monkeypatch, capsys):
    from lowerbound.evaluation import importance

    def without_density(*given, **named):
        found = log_likelihood(*given, **named)
        found.per_example[2] = -float("inf")
        return found

    monkeypatch.setattr(importance, "log_likelihood", without_density)
    out = call(capsys, "evaluate", "gaussian", "--log-likelihood", 20, "--json")[1]
    assert "Infinity" not in out
    assert json.loads(out)["log_likelihood"]["mean"] is None
    assert "gaussian: the log likelihood is -inf at row 2" in refused(
        capsys, "compare", "gaussian", "gaussian"
    )


def test_schedules_are_those_of_the_epoch_that_was_kept(tmp_path):
    lines = [
        {
            "epoch": n,
            "validation": {"bound": bound},
            "schedules": {"beta": {"reached": n / 4, "end": 1.0, "ended": n == 4}},
        }
        for n, bound in ((1, -9.0), (2, -5.0), (3, -5.0), (4, -7.0))
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_schedules(tmp_path) == {
        "beta": {"reached": 0.5, "end": 1.0, "ended": False, "epoch": 2}
    }
    lines[-1]["validation"]["bound"] = -4.0
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_schedules(tmp_path) == {"beta": {"reached": 1.0, "end": 1.0, "ended": True}}
    file.write_text(
        json.dumps({"epoch": 1, "schedules": {"beta": {"reached": 0.5, "end": 1.0}}}) + "\n"
    )
    assert read_schedules(tmp_path) == {"beta": {"reached": 0.5, "end": 1.0}}


@pytest.mark.parametrize("flags", [["--gaps"], ["--refine", 20]])
def test_gaps_that_cannot_be_had_are_refused_before_the_rest(flags, here, monkeypatch, capsys):
    model = lb.LatentModel(
        lb.Bernoulli(lb.constant(2)),
        lb.Bernoulli(lb.mlp((1, 8, 8), 2)),
        lb.Gaussian(lb.mlp(2, (2, 8, 8))),
    )
    monkeypatch.setattr("lowerbound.runs.saving.load", lambda path: model)
    monkeypatch.setattr("lowerbound.evaluate", lambda *given, **named: pytest.fail("began"))
    for more in ([], ["--json"]):
        assert "cannot be reparameterised" in refused(capsys, "evaluate", "gaussian", *flags, *more)


def test_evaluate_reports_what_the_latents_carry(here, capsys):
    _, out, _ = call(capsys, "evaluate", "gaussian", "--split", "train")
    health = json.loads(call(capsys, "evaluate", "gaussian", "--split", "train", "--json")[1])[
        "health"
    ]
    expected = latent_health(lb.load("gaussian"), lb.load_data("pictures.npz").train)
    assert health["units"] == 2
    assert health["rate_per_unit"] == expected.rate_per_unit.tolist()
    assert health["mutual_information"] == expected.mutual_information
    assert health["aggregate_kl"] == pytest.approx(
        sum(health["rate_per_unit"]) - health["mutual_information"], rel=1e-9
    )
    assert f"active units: {health['active_units']} of 2" in out
    value = f"{health['mutual_information']:.2f} ± {health['mutual_information_error']:.2f}"
    assert f"information about x: {value} nats" in out
    assert health["upper_bounds"] == (
        ["aggregate_kl", "total_correlation"] if expected.saturated else []
    )
    assert {"scale_floor_reached", "collapsed", "findings", "active_units"} <= health.keys()


def test_a_collapse_comes_first_and_with_its_cause(here, tmp_path, capsys):
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 6), scale="shared")
    )
    objective = lb.ELBO(beta=lb.Ramp(8.0, 40.0, epochs=500))
    data = np.load("vectors.npy")
    lb.fit(
        model,
        objective,
        data,
        epochs=100,
        learning_rate=0.03,
        directory=tmp_path / "run",
        progress=False,
        pictures_every=0,
    )
    _, out, _ = call(capsys, "evaluate", tmp_path / "run", "--data", "vectors.npy")
    lines = out.splitlines()
    assert lines[0].startswith("all bound ")
    assert "that of independent entries" in lines.pop(1)
    assert lines[1].startswith("posterior collapse: 0 of 2 units are active")
    assert "beta = 14.4" in lines[1]  # what was reached, not the schedule's end
    assert lines[2].startswith("the training ended while beta was 14.4, on its way to 40.")
    assert lines[3] == "active units: 0 of 2"
    told = json.loads(
        call(capsys, "evaluate", tmp_path / "run", "--data", "vectors.npy", "--json")[1]
    )["health"]
    assert told["collapsed"] is True
    assert [set(finding) for finding in told["findings"]] == [{"what", "cause", "remedy"}] * 2
    (tmp_path / "run" / "metrics.jsonl").write_text("damaged")
    _, out, _ = call(capsys, "evaluate", tmp_path / "run", "--data", "vectors.npy")
    assert "beta = 40" in out.splitlines()[2]


def test_the_log_likelihood_comes_with_diagnostics_of_its_weights(here, capsys):
    code, out, _ = call(capsys, "evaluate", "gaussian", "--log-likelihood", 40)
    told = json.loads(call(capsys, "evaluate", "gaussian", "--log-likelihood", 40, "--json")[1])
    expected = log_likelihood(lb.load("gaussian"), lb.load_data("pictures.npz").test, 40)
    found = told["log_likelihood"]
    assert found["mean"] == expected.mean > told["elbo"]["mean"]
    assert (found["standard_error"], found["samples"], found["warning"]) == (
        expected.standard_error,
        40,
        expected.warning,
    )
    assert found["effective_sample_size"]["least"] == float(expected.effective_sample_sizes.min())
    assert code == 0
    assert (
        f"log likelihood {expected.mean:.2f} ± {expected.standard_error:.2f} nats per example "
        "(40 samples" in out
    )


def test_gaps_are_a_table_with_advice(here, capsys):
    _, out, _ = call(capsys, "evaluate", "gaussian", "--gaps")
    gaps = json.loads(call(capsys, "evaluate", "gaussian", "--gaps", "--json")[1])["gaps"]
    expected = gaps["log_likelihood"]["mean"] - gaps["amortised_bound"]["mean"]
    parts = gaps["approximation_gap"]["mean"] + gaps["amortisation_gap"]["mean"]
    assert (
        gaps["inference_gap"]["mean"]
        == pytest.approx(expected, rel=1e-6)
        == pytest.approx(parts, rel=1e-6)
    )
    assert gaps["generalisation_gap"]["standard_error"] > 0
    assert gaps["examples"] == 6
    assert f"{gaps['amortisation_gap']['mean']:.3f}" in out
    assert gaps["advice"] in out


def test_refined_posteriors_have_a_bound(here, capsys):
    _, out, _ = call(capsys, "evaluate", "gaussian", "--refine", 10, "--seed", 3)
    told = json.loads(
        call(capsys, "evaluate", "gaussian", "--refine", 10, "--seed", 3, "--json")[1]
    )["refined"]
    test = lb.load_data("pictures.npz").test
    expected = lb.refine(lb.load("gaussian"), test, steps=10, seed=3)
    assert told["bound"]["mean"] == expected.bound.mean
    assert told["amortised_bound"]["mean"] == expected.amortised_bound.mean
    assert told["gain"]["mean"] == expected.gain.mean > 0
    assert (told["steps"], told["examples"]) == (10, len(test))
    assert told["search_warning"] == expected.warning
    assert f"refined bound {expected.bound.mean:.2f} ± " in out
    assert f"{expected.gain.mean:.2f} ± {expected.gain.standard_error:.2f} nats above" in out


def test_a_model_that_does_not_say_its_posterior_has_a_bound_only(here, monkeypatch, capsys):
    class Wrapped(lb.Model):
        def __init__(self):
            super().__init__()
            self.vae = lb.load("gaussian")

        def draw(self, x, samples=1, gradient="pathwise"):
            return replace(self.vae.draw(x, samples, gradient), q=None, prior=None)

    monkeypatch.setattr("lowerbound.runs.saving.load", lambda path: Wrapped())
    code, out, _ = call(capsys, "evaluate", "gaussian")
    assert code == 0
    assert "latents were not examined: latent_health: the draws of a Wrapped do not say" in out
    assert json.loads(call(capsys, "evaluate", "gaussian", "--json")[1])["health"] is None
    assert "inference_gaps takes a lowerbound.LatentModel, not a Wrapped" in refused(
        capsys, "evaluate", "gaussian", "--gaps", "--json"
    )


def test_dequantised_data_have_bits_per_dimension(here, tmp_path, capsys):
    arguments = [
        "train",
        "aevb-gaussian",
        "--data",
        "pictures.npz",
        "--pixels",
        "dequantize",
        "--out",
        tmp_path / "run",
    ]
    assert call(capsys, *arguments, *FAST)[0] == 0
    told = json.loads(call(capsys, "evaluate", tmp_path / "run", "--json")[1])
    assert told["bits_per_dimension"] == pytest.approx(
        -told["elbo"]["mean"] / (64 * np.log(2)) + 8, rel=1e-9
    )


@pytest.mark.parametrize("count", [1, 5])
def test_a_run_is_applied_to_all_of_a_few_new_examples(count, here, tmp_path, capsys):
    np.save(tmp_path / "few.npy", np.zeros((count, 8, 8), np.uint8))
    told = json.loads(
        call(capsys, "evaluate", "gaussian", "--data", tmp_path / "few.npy", "--json")[1]
    )
    assert (told["examples"], told["split"]) == (count, "all")
    assert (
        call(
            capsys,
            "encode",
            "gaussian",
            "--data",
            tmp_path / "few.npy",
            "--out",
            tmp_path / "z.npy",
        )[0]
        == 0
    )
    assert len(np.load(tmp_path / "z.npy")) == count
    _, told, _ = call(
        capsys,
        "reconstruct",
        "gaussian",
        "--data",
        tmp_path / "few.npy",
        "--out",
        tmp_path / "r.png",
    )
    assert told.startswith(f"wrote {count} pairs, one for each example, to ")


def test_a_single_example_has_no_standard_error(here, tmp_path, capsys):
    np.savez(
        tmp_path / "one.npz",
        x_train=np.zeros((2, 8, 8), np.uint8),
        x_test=np.zeros((1, 8, 8), np.uint8),
    )
    told = json.loads(
        call(
            capsys,
            "evaluate",
            "gaussian",
            "--data",
            tmp_path / "one.npz",
            "--split",
            "test",
            "--json",
        )[1]
    )
    assert told["elbo"]["standard_error"] is None


def test_a_run_made_in_python_takes_its_data_from_the_flag(here, capsys):
    assert call(capsys, "evaluate", "python", "--data", "vectors.npy")[0] == 0


# Comparing


@pytest.fixture(scope="module")
def parted(tmp_path_factory) -> Path:
    """Two runs that differ in seed and length, on data with a test part of its own."""
    folder = tmp_path_factory.mktemp("parted")
    pictures = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(folder / "parted.npz", x_train=pictures[:40], x_test=pictures[40:])
    for name, epochs in (("short", 1), ("long", 8)):
        where = ["--data", str(folder / "parted.npz"), "--out", str(folder / name)]
        with pytest.raises(SystemExit, match=r"^0$"):
            main(
                [
                    "train",
                    "aevb-gaussian",
                    *where,
                    *FAST,
                    "--epochs",
                    str(epochs),
                    "--seed",
                    str(epochs),
                ]
            )
    return folder


def test_runs_are_compared_example_by_example(parted, monkeypatch, capsys):
    monkeypatch.chdir(parted)
    code, out, err = call(capsys, "compare", "short", "long", "--samples", 20, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    told = json.loads(out)
    test = lb.load_data("parted.npz").test
    expected = [log_likelihood(lb.load(run), test, 20) for run in ("short", "long")]
    assert [run["log_likelihood"]["mean"] for run in told["runs"]] == [
        estimate.mean for estimate in expected
    ]
    assert [run["run"] for run in told["runs"]] == ["short", "long"]
    shares = [float(estimate.doubtful.double().mean()) for estimate in expected]
    assert [run["log_likelihood"]["doubtful_share"] for run in told["runs"]] == shares
    difference = paired_difference(*expected)
    assert told["difference"]["mean"] == difference.mean < 0
    assert (told["difference"]["low"], told["difference"]["high"]) == (
        difference.low,
        difference.high,
    )
    assert told["better"] == ("long" if difference.is_certain else None)
    assert told["difference"]["sentence"] == difference.sentence("short", "long")
    assert (told["split"], told["examples"], told["samples"]) == ("test", 20, 20)
    baseline = lb.evaluation.score_independent_entries(lb.load("short"), test)
    assert [run["baseline"] for run in told["runs"]] == [baseline] * 2
    gains = [estimate.mean - baseline for estimate in expected]
    assert [run["gain"] for run in told["runs"]] == gains
    code, out, _ = call(capsys, "compare", "short", "long", "--samples", 20)
    assert code == 0
    for name, gain in zip(("short", "long"), gains, strict=True):
        lines = [each for each in out.splitlines() if "that of independent entries" in each]
        (line,) = [each for each in lines if each.startswith(f"{name}: the log likelihood")]
        assert f"{abs(gain):.2f} nats {'above' if gain > 0 else 'BELOW'} that of" in line
    assert out.splitlines()[0].startswith(f"short: test log likelihood {expected[0].mean:.2f} ± ")
    assert out.splitlines()[-1] == difference.sentence("short", "long")
    assert (
        "long is better by " in out.splitlines()[-1]
        or "the estimate of long is higher by " in out.splitlines()[-1]
    )


def test_log_likelihoods_of_different_things_are_not_compared_silently(parted, monkeypatch, capsys):
    monkeypatch.chdir(parted)
    found = iter([("label",), (), ("label",), ()])
    monkeypatch.setattr("lowerbound.cli.comparing.list_conditions", lambda *given: next(found))
    _, out, _ = call(capsys, "compare", "short", "long", "--samples", 5)
    assert out.splitlines()[-1] == (
        "short depends on label of the examples, but long depends on no fields of the examples: "
        "these are log likelihoods of different quantities"
    )
    _, out, _ = call(capsys, "compare", "short", "long", "--samples", 5, "--json")
    assert [run["depends_on_fields"] for run in json.loads(out)["runs"]] == [["label"], []]


def test_the_density_depends_on_the_fields_that_prior_and_likelihood_take():
    examples = lb.Examples(
        torch.zeros(4, 6), labels=torch.zeros(4, dtype=torch.long), fields={"age": torch.ones(4)}
    )
    likelihood = lb.Gaussian(lb.mlp(2, 12))
    models = {
        (): lb.LatentModel(
            lb.StandardNormal(2), lb.Given(lb.Gaussian(lb.mlp(7, 4)), "age"), likelihood
        ),
        ("age",): lb.LayeredModel(
            [lb.Gaussian(lb.mlp(2, 4)), lb.Given(lb.Gaussian(lb.mlp(1, 4)), "age")],
            [lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 4))],
            likelihood,
        ),
        ("label",): lb.SemiSupervised(
            lb.StandardNormal(2),
            lb.mlp(6, 3),
            lb.Given(lb.Gaussian(lb.mlp(6 + 3, 4)), "y", categories=3),
            lb.Given(lb.Gaussian(lb.mlp(2 + 3, 12)), "y", categories=3),
            categories=3,
        ),
    }
    for expected, model in models.items():
        assert list_conditions(model, examples) == expected
    with pytest.raises(lb.errors.SettingsError, match="needs the field 'age'"):
        check_given({}, models["age",])
    check_given({}, models["label",])


def test_annealed_estimates_are_compared_if_they_are_free_of_doubt(parted, monkeypatch, capsys):
    monkeypatch.chdir(parted)
    monkeypatch.setattr("lowerbound.evaluation.chains._PILOT_FEWEST", 30)
    code, out, _ = call(capsys, "compare", "short", "long", "--anneal", 30, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["better"], told["distributions"], told["examples"]) == ("long", 30, 20)
    assert told["runs"][0]["log_likelihood"].keys() >= {
        "mean",
        "standard_error",
        "acceptance",
        "chains",
    }
    code, out, _ = call(capsys, "evaluate", "long", "--anneal", 30)
    assert code == 0
    assert "annealed log likelihood " in out
    assert "(20 examples, 30 distributions, 16 chains, acceptance " in out


def test_evaluating_with_more_samples_leaves_the_encoder_s_groups_out(here, capsys):
    where = [
        "--data",
        "pictures.npz",
        "--out",
        "partial",
        "--samples",
        "4",
        "--encoder-groups",
        "2",
        "--epochs",
        "1",
    ]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(
            [
                "train",
                "iwae",
                *where,
                "--hidden",
                "8",
                "--latent",
                "2",
                "--pictures-every",
                "0",
                "--pixels",
                "binarize",
            ]
        )
    assert "test bound (IWAE) " in capsys.readouterr().out
    code, out, _ = call(capsys, "evaluate", "partial", "--samples", 5, "--json")
    assert (code, json.loads(out)["objective"]["encoder_groups"]) == (0, None)


def test_a_run_is_no_better_than_itself(here, capsys):
    code, out, _ = call(capsys, "compare", "gaussian", "gaussian", "--samples", 5)
    assert code == 0
    assert out.splitlines()[-1].startswith("the two cannot be distinguished")
    assert (
        json.loads(call(capsys, "compare", "gaussian", "gaussian", "--samples", 5, "--json")[1])[
            "better"
        ]
        is None
    )


def test_runs_with_other_test_examples_are_compared_on_data_that_are_named(here, tmp_path, capsys):
    """The random test part is drawn by the seed."""
    other = tmp_path / "other"
    train = ["train", "aevb-gaussian", "--data", "pictures.npz", "--out", other, *FAST, "--seed", 3]
    assert call(capsys, *train, "--keep-in", "memory")[0] == 0
    line = refused(capsys, "compare", "gaussian", other)
    assert "different test examples: seed 0 against 3; give --data" in line
    assert (
        call(capsys, "compare", "gaussian", other, "--samples", 3, "--data", "pictures.npz")[0] == 0
    )
    assert call(capsys, "compare", "gaussian", other, "--samples", 3, "--split", "all")[0] == 0
    assert "(1, 8, 8)" in refused(capsys, "compare", "gaussian", other, "--data", "others.npy")


@pytest.mark.parametrize(
    ("second", "hint"),
    [
        (
            "bernoulli",
            "pixels 'as-is' against 'binarize'; log likelihoods of data that are prepared in "
            "different ways cannot be compared",
        ),
        ("vectors", "vectors.npy'; give --data"),
        ("python", "--data NAME|PATH"),
        ("nope", "does not exist"),
        ("empty", "no config.yaml"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_what_cannot_be_compared_is_refused(second, hint, turned, here, capsys):
    line = refused(capsys, "compare", *(["gaussian", second][:: -1 if turned else 1]))
    assert (hint in line) or (turned and hint.split("; ")[-1] in line)


# Pictures and numbers


def test_samples_as_numbers_are_draws_and_as_means_are_means(here, tmp_path, capsys):
    for name, flags in (("draws", []), ("explicit", ["--draw"]), ("means", ["--mean"])):
        code, _, _ = call(
            capsys, "sample", "bernoulli", "--count", 5, "--out", tmp_path / f"{name}.npy", *flags
        )
        assert code == 0
    draws, explicit, means = (
        np.load(tmp_path / f"{name}.npy") for name in ("draws", "explicit", "means")
    )
    model = lb.load("bernoulli")
    np.testing.assert_array_equal(draws, explicit)
    np.testing.assert_array_equal(draws, model.sample(5, seed=0).numpy())
    np.testing.assert_array_equal(means, model.sample(5, mean=True, seed=0).numpy())
    assert set(np.unique(draws)) == {0.0, 1.0}


def test_samples_depend_on_the_seed(here, tmp_path, capsys):
    for seed in (0, 1):
        call(
            capsys,
            "sample",
            "gaussian",
            "--seed",
            seed,
            "--count",
            4,
            "--out",
            tmp_path / f"{seed}.npy",
        )
    assert not np.array_equal(np.load(tmp_path / "0.npy"), np.load(tmp_path / "1.npy"))


def test_samples_as_a_picture(here, tmp_path, capsys):
    code, out, _ = call(
        capsys, "sample", "gaussian", "--count", 9, "--out", tmp_path / "new" / "x.png"
    )
    assert (code, out) == (0, f"wrote 9 samples to {tmp_path / 'new' / 'x.png'}\n")
    with Image.open(tmp_path / "new" / "x.png") as image:
        assert image.size == (3 * 50 + 2, 3 * 50 + 2)


def test_reconstructions(here, tmp_path, capsys):
    assert (
        call(capsys, "reconstruct", "gaussian", "--count", 4, "--out", tmp_path / "x.npy")[0] == 0
    )
    expected = lb.load("gaussian").reconstruct(lb.load_data("pictures.npz").test)[:4]
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected.numpy(), rtol=1e-6)
    assert (
        call(capsys, "reconstruct", "gaussian", "--count", 4, "--out", tmp_path / "x.png")[0] == 0
    )
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (4 * 98 + 2, 52)


def test_codes_are_in_the_order_of_the_source(here, tmp_path, capsys):
    assert call(capsys, "encode", "gaussian", "--out", tmp_path / "z.npy")[0] == 0
    pixels = torch.from_numpy(np.load("pictures.npz")["x"][:, None])
    expected = lb.load("gaussian").encode(pixels)
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("split", "count"), [("all", 60), ("test", 6)])
def test_a_table_of_codes_names_rows_and_labels(split, count, here, tmp_path, capsys):
    assert call(capsys, "encode", "gaussian", "--split", split, "--out", tmp_path / "z.csv")[0] == 0
    with (tmp_path / "z.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["row", "label", "z0", "z1"]
    assert len(lines) == count
    rows = [int(line[0]) for line in lines]
    assert rows == sorted(rows)
    assert [int(line[1]) for line in lines] == [row % 7 for row in rows]
    pixels = torch.from_numpy(np.load("pictures.npz")["x"][rows][:, None])
    codes = np.array([[float(entry) for entry in line[2:]] for line in lines])
    np.testing.assert_allclose(
        codes, lb.load("gaussian").encode(pixels).numpy(), rtol=1e-5, atol=1e-6
    )


def test_a_table_of_codes_names_the_files_of_pictures(tmp_path, capsys):
    for number in range(20):
        folder = tmp_path / "faces" / ("b" if number % 2 else "a")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 12 * number, np.uint8)).save(folder / f"{number}.png")
    train = [
        "train",
        "aevb-gaussian",
        "--data",
        tmp_path / "faces",
        "--image-size",
        "8",
        "--out",
        tmp_path / "run",
        *FAST,
    ]
    assert call(capsys, *train)[0] == 0
    assert call(capsys, "encode", tmp_path / "run", "--out", tmp_path / "codes.csv")[0] == 0
    table = list(csv.DictReader((tmp_path / "codes.csv").read_text().splitlines()))
    assert [row["file"] for row in table] == [f"a/{n}.png" for n in range(0, 20, 2)] + [
        f"b/{n}.png" for n in range(1, 20, 2)
    ]
    assert [row["label"] for row in table] == ["a"] * 10 + ["b"] * 10
    assert [int(row["row"]) for row in table] == list(range(20))


def test_a_table_without_labels(here, tmp_path, capsys):
    assert call(capsys, "encode", "vectors", "--out", tmp_path / "z.csv")[0] == 0
    assert (tmp_path / "z.csv").read_text().splitlines()[0] == "row,z0,z1"


# Mistakes

TRAIN = ["train", "aevb-gaussian", "--data", "pictures.npz", "--out", "never", *FAST]

MISTAKES = {
    "unknown command": (["trian"], "'trian' is not a command; did you mean 'train'?"),
    "a command like no other": (["x"], "'x' is not a command; the commands are train, evaluate"),
    "unknown flag": (["--nonsense"], "--nonsense"),
    "no recipe": (["train"], "name a recipe"),
    "no data": (["train", "aevb-gaussian"], "--data"),
    "unknown flag of a recipe": ([*TRAIN, "--hiden", "3"], "did you mean --hidden?"),
    "unknown recipe": (["train", "aevb-gausian"], "did you mean 'aevb-gaussian'?"),
    "a recipe like no other": (["train", "x"], "is not a recipe; the recipes are aevb-"),
    "an option without a recipe": (["train", "--data", "digits"], "train RECIPE --data ..."),
    "an option like no other": ([*TRAIN, "--zzz", "3"], "train aevb-gaussian --help lists them"),
    "a recipe that resumes": ([*TRAIN, "--resume", "gaussian"], "lowerbound train --resume ..."),
    "resuming with a recipe": (
        ["train", "--resume", "gaussian", "aevb-gaussian"],
        "--resume takes no recipe: lowerbound train --resume gaussian",
    ),
    "flags before the recipe": (
        ["train", "--out", "x", "aevb-gaussian", "--data", "digits"],
        "put flags after",
    ),
    "text for a number": ([*TRAIN, "--hidden", "x"], "--hidden"),
    "too small": ([*TRAIN, "--hidden", "0"], "hidden=0"),
    "negative seed": ([*TRAIN, "--seed", "-1"], "seed=-1"),
    "no epochs": ([*TRAIN, "--epochs", "0"], "epochs=0"),
    "device": ([*TRAIN, "--device", "nonsense"], "use 'cpu' or 'auto'"),
    "all for validation": ([*TRAIN, "--validation", "1"], "between 0 and 1"),
    "validation above 1": ([*TRAIN, "--validation", "1.5"], "between 0 and 1"),
    "negative validation": ([*TRAIN, "--validation", "-0.1"], "between 0 and 1"),
    "validation nan": ([*TRAIN, "--validation", "nan"], "between 0 and 1"),
    "validation inf": ([*TRAIN, "--validation", "inf"], "between 0 and 1"),
    "learning rate": ([*TRAIN, "--learning-rate", "nan"], "learning_rate=nan"),
    "optimiser": ([*TRAIN, "--optimizer", "adm"], "torch.optim has"),
    "closure": ([*TRAIN, "--optimizer", "lbfgs"], "LBFGS"),
    "schedule": ([*TRAIN, "--schedule", "x"], "constant, linear"),
    "activation": ([*TRAIN, "--activation", "tnh"], "tanh"),
    "network": ([*TRAIN, "--network", "cnn"], "'mlp', 'conv'"),
    "pixels": ([*TRAIN, "--pixels", "grey"], "binarize"),
    "patience alone": ([*TRAIN, "--validation", "0", "--patience", "2"], "--validation 0.1"),
    "image size": ([*TRAIN, "--image-size", "big"], "64x48"),
    "missing file": (["train", "aevb-gaussian", "--data", "nope.npy"], "is not a file, a folder"),
    "misspelt data": (["train", "aevb-gaussian", "--data", "mnits"], "did you mean 'mnist'"),
    "empty folder": (["train", "aevb-gaussian", "--data", "empty"], "empty"),
    "grey for Bernoulli": (
        [
            "train",
            "aevb-bernoulli",
            "--data",
            "pictures.npz",
            "--out",
            "never",
            *FAST,
            "--pixels",
            "as-is",
        ],
        "--pixels binarize",
    ),
    "convolutions of vectors": (
        ["train", "aevb-gaussian", "--data", "vectors.npy", "--out", "never", "--network", "conv"],
        "from a picture",
    ),
    "too many convolutions": ([*TRAIN, "--network", "conv", "--layers", "4"], "fewer layers"),
    "a run in the way": (
        ["train", "aevb-gaussian", "--data", "pictures.npz", "--out", "gaussian", *FAST],
        "--resume gaussian",
    ),
    "a file in the way": (
        ["train", "aevb-gaussian", "--data", "pictures.npz", "--out", "file", *FAST],
        "cannot be written",
    ),
    "a file for a folder": (
        ["train", "aevb-gaussian", "--data", "pictures.npz", "--out", "file/x", *FAST],
        "cannot be written",
    ),
    "no configuration": (["train", "--config", "nope.yaml"], "nope.yaml"),
    "a folder as configuration": (["train", "--config", "gaussian"], "cannot be read"),
    "nothing to resume": (["train", "--resume", "nope"], "nope/config.yaml"),
    "both": (
        ["train", "--config", "gaussian/config.yaml", "--resume", "gaussian"],
        "--config FILE or --resume DIR",
    ),
    "resume elsewhere": (["train", "--resume", "gaussian", "--out", "x"], "remove --out"),
    "resume what Python made": (["train", "--resume", "python"], "made in Python"),
    "no samples": (["evaluate", "gaussian", "--samples", "0"], "--samples"),
    "unknown part": (["evaluate", "gaussian", "--split", "foo"], "'train', 'test', 'all'"),
    "no draws": (["evaluate", "gaussian", "--log-likelihood", "0"], "--log-likelihood"),
    "one run": (["compare", "gaussian"], "second"),
    "no samples to compare": (["compare", "gaussian", "gaussian", "--samples", "0"], "--samples"),
    "negative noise": (["evaluate", "gaussian", "--seed", "-1"], "--seed"),
    "none": (["sample", "gaussian", "--out", "x.npy", "--count", "0"], "--count"),
    "pictures of vectors": (["sample", "vectors", "--out", "x.png"], "--out FILE.npy"),
    "pairs of vectors": (["reconstruct", "vectors", "--out", "x.png"], "--out FILE.npy"),
    "codes as a picture": (["encode", "gaussian", "--out", "x.png"], ".npy, .csv, .tsv"),
}


@pytest.mark.parametrize(("arguments", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_in_one_line_that_helps(arguments, hint, here, capsys):
    assert hint in refused(capsys, *arguments)
    assert not (here / "never" / "config.yaml").exists()


INSPECTING = {
    "evaluate": [],
    "sample": ["--out", "x.npy"],
    "reconstruct": ["--out", "x.npy"],
    "encode": ["--out", "x.npy"],
}


@pytest.mark.parametrize("command", INSPECTING)
@pytest.mark.parametrize(
    ("directory", "hint"),
    [("nope", "does not exist"), ("empty", "no config.yaml"), ("file", "does not exist")],
)
def test_what_is_no_run_is_refused(command, directory, hint, here, capsys):
    if (command, directory) == ("sample", "file"):  # which also takes the file of a model
        hint = "is not a readable safetensors file"
    assert hint in refused(capsys, command, directory, *INSPECTING[command])


@pytest.mark.parametrize("command", ["evaluate", "reconstruct", "encode"])
def test_data_of_another_shape_are_refused(command, here, capsys):
    assert "(1, 8, 8)" in refused(
        capsys, command, "gaussian", "--data", "vectors.npy", *INSPECTING[command]
    )


@pytest.mark.parametrize("command", ["evaluate", "reconstruct", "encode"])
def test_a_run_made_in_python_wants_its_data_named(command, here, capsys):
    assert "--data NAME|PATH" in refused(capsys, command, "python", *INSPECTING[command])


@pytest.mark.parametrize("command", ["sample", "reconstruct", "encode"])
def test_another_suffix_is_refused(command, here, capsys):
    assert "ends in" in refused(capsys, command, "gaussian", "--out", "x.jpeg")


@pytest.mark.parametrize(
    ("command", "out"),
    [
        ("sample", "x.npy"),
        ("sample", "x.png"),
        ("reconstruct", "x.png"),
        ("reconstruct", "x.npy"),
        ("encode", "x.csv"),
    ],
)
def test_what_cannot_be_written_is_named(command, out, here, capsys):
    assert f"file/{out}: cannot be written" in refused(
        capsys, command, "gaussian", "--out", f"file/{out}"
    )


# Damaged configurations


def change(**entries):
    """A configuration with some of its entries replaced, or left out where they are ``None``."""

    def apply(config: dict) -> str:
        changed = config | entries
        return yaml.safe_dump({name: entry for name, entry in changed.items() if entry is not None})

    return apply


SECTIONS = ["recipe", "data", "training", "objective"]
NOT_A_CONFIGURATION = {
    "not YAML": "a: [1,",
    "a list": "- 1\n",
    "nothing": "",
    "a word": "hello",
    "binary": "\0\1",
}


@pytest.mark.parametrize("content", NOT_A_CONFIGURATION.values(), ids=NOT_A_CONFIGURATION)
@pytest.mark.parametrize("way", ["evaluate", "--resume", "--config"])
def test_a_file_that_is_no_configuration_is_named(way, content, copied, capsys):
    (copied / "config.yaml").write_text(content)
    target = copied / "config.yaml" if way == "--config" else copied
    assert "config.yaml" in refused(
        capsys, *([way, target] if way == "evaluate" else ["train", way, target])
    )


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\xfa", b"training: !!python/object/apply:os.system [true]"],
    ids=["bytes", "code"],
)
def test_a_configuration_runs_no_code(content, copied, capsys):
    (copied / "config.yaml").write_bytes(content)
    assert "config.yaml" in refused(capsys, "evaluate", copied)


@pytest.mark.parametrize("entry", [None, 3, "x", [1, 2]], ids=["missing", "number", "text", "list"])
@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("way", ["evaluate", "--resume", "--config"])
def test_a_damaged_section_is_refused_where_it_is_read(way, name, entry, copied, tmp_path, capsys):
    config = yaml.safe_load((copied / "config.yaml").read_text())
    (copied / "config.yaml").write_text(change(**{name: entry})(config))
    if way == "evaluate":
        arguments, reads = ["evaluate", copied], name in ("data", "objective")
    elif way == "--resume":
        arguments, reads = ["train", "--resume", copied], True
    else:
        arguments = ["train", "--config", copied / "config.yaml", "--out", tmp_path / "new"]
        reads = name != "objective"
    if reads:
        refused(capsys, *arguments)
    else:
        assert call(capsys, *arguments)[0] == 0


@pytest.mark.parametrize(
    ("entries", "hint"),
    [
        ({"recipe": {"name": "quux", "arguments": {}}}, "'quux' is not a recipe"),
        ({"recipe": {"name": ["x"], "arguments": {}}}, "is not a recipe"),
        ({"recipe": {}}, "is not a recipe"),
        ({"recipe": {"name": "aevb-gaussian", "arguments": [3]}}, "expected settings by name"),
        ({"recipe": {"name": "aevb-gaussian", "arguments": {"latent": "x"}}}, "latent='x'"),
        ({"training": {"epochs": "x"}}, "epochs='x'"),
        ({"training": {"epohcs": 3}}, "did you mean 'epochs'"),
        ({"training": {3: 3}}, "3 is not a setting"),
        ({"validation": "abc"}, "validation"),
        ({"validation": 3}, "between 0 and 1"),
        ({"data": {"source": "nope.npy"}}, "is not a file, a folder"),
        ({"data": {"source": 3}}, "data"),
        ({"data": {"source": "digits", "colour": "grey"}}, "did you mean 'color'"),
    ],
)
def test_a_wrong_entry_of_a_configuration_is_named(entries, hint, copied, tmp_path, capsys):
    config = yaml.safe_load((copied / "config.yaml").read_text())
    (copied / "config.yaml").write_text(change(**entries)(config))
    assert hint in refused(
        capsys, "train", "--config", copied / "config.yaml", "--out", tmp_path / "new"
    )


@pytest.mark.parametrize(
    ("objective", "hint"),
    [
        ({"kind": "quux"}, "names 'quux'"),
        ({"kind": "ELBO", "samples": "x"}, "samples='x'"),
        ({"kind": "ELBO", "sampels": 3}, "'sampels'"),
        ({"kind": "MLP"}, "the description of MLP"),
        ({}, "names 'None'"),
    ],
)
def test_a_wrong_objective_is_refused(objective, hint, copied, capsys):
    config = yaml.safe_load((copied / "config.yaml").read_text())
    (copied / "config.yaml").write_text(change(objective=objective)(config))
    assert hint in refused(capsys, "evaluate", copied)


def test_a_damaged_model_is_refused(copied, capsys):
    for path in copied.rglob("*model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    assert "missing or damaged" in refused(capsys, "evaluate", copied)
    assert "missing or damaged" in refused(capsys, "train", "--resume", copied)


# Faults and interruptions


def test_a_fault_of_ours_is_owned(here, monkeypatch, capsys):
    def fail(*given, **named):
        raise RuntimeError("a wheel came off")

    monkeypatch.setattr("lowerbound.evaluation.estimate.compute_dataset_terms", fail)
    code, out, err = call(capsys, "evaluate", "gaussian")
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert "RuntimeError: a wheel came off" in err
    assert err.splitlines()[-1] == (
        "lowerbound: this is a bug in lowerbound, not your mistake; please report it with "
        "the lines above"
    )


def test_an_interrupted_training_says_how_to_go_on(here, tmp_path, monkeypatch, capsys):
    from lowerbound.training import loop

    real = loop.Loop._read_schedules

    def request_to_stop(self):
        self.stop_requested = True
        return real(self)

    monkeypatch.setattr(loop.Loop, "_read_schedules", request_to_stop)
    out = tmp_path / "run"
    code, _, err = call(capsys, *TRAIN, "--out", out)
    assert code == 130
    assert err.splitlines()[1:] == [
        f"lowerbound: interrupted; to continue: lowerbound train --resume {out}"
    ]
    monkeypatch.undo()
    assert call(capsys, "train", "--resume", out)[0] == 0
    assert metrics(out) == metrics(here / "gaussian")


def test_numbers_that_end_are_explained(here, tmp_path, capsys):
    np.save(tmp_path / "huge.npy", np.full((40, 6), 1e30, dtype=np.float32))
    arguments = [
        "train",
        "aevb-gaussian",
        "--data",
        tmp_path / "huge.npy",
        "--out",
        tmp_path / "run",
        *FAST,
    ]
    line = refused(capsys, *arguments)
    assert "step 1: the log_likelihood is not finite" in line
    assert "scale of the data" in line


def test_a_command_of_the_shell(home):
    told = subprocess.run(
        [Path(sys.executable).with_name("lowerbound"), "evaluate", home / "nope"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2
    assert told.stdout == ""
    assert told.stderr.count("\n") == 1
    assert "Traceback" not in told.stderr


def test_a_run_made_in_python_on_binary_pixels_is_evaluated_on_binary_pixels(
    here, tmp_path, capsys
):
    binary = lb.load_data("pictures.npz", pixels="binarize")
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp((1, 8, 8), 4)), lb.Bernoulli(lb.mlp(2, (1, 8, 8)))
    )
    lb.fit(model, lb.ELBO(), binary.train, epochs=1, directory=tmp_path / "run", progress=False)
    code, out, _ = call(capsys, "evaluate", tmp_path / "run", "--data", "pictures.npz")
    assert code == 0
    assert out.startswith("all bound ")


def test_help_has_a_short_name(capsys):
    for arguments in (["-h"], ["evaluate", "-h"]):
        assert call(capsys, *arguments)[0] == 0


def test_a_score_is_called_a_score(here, monkeypatch, capsys):
    point = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Point(lb.mlp((1, 8, 8), 2)),
        lb.Gaussian(lb.mlp(2, (1, 8, 8)), scale=1.0),
    )
    monkeypatch.setattr("lowerbound.runs.saving.load", lambda path: point)
    code, out, _ = call(capsys, "evaluate", "gaussian")
    assert code == 0
    assert out.startswith("test score -")
    assert "latents were not examined: latent_health: the posterior (Point)" in out
    told = json.loads(call(capsys, "evaluate", "gaussian", "--json")[1])
    assert (told["label"], told["health"]) == ("score", None)
    monkeypatch.setattr("lowerbound.evaluate", lambda *given, **named: pytest.fail("began"))
    for flags in (["--log-likelihood", 10], ["--anneal", 10], ["--gaps"], ["--refine", 10]):
        assert "the posterior (Point)" in refused(capsys, "evaluate", "gaussian", *flags)


def test_a_label_that_is_a_latent_is_not_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = ["train", "semi-supervised", "--data", "digits", "--out", "run"]
    settings = ["--latent", 2, "--hidden", 4, "--epochs", 1, "--pictures-every", 0]
    assert call(capsys, *train, *settings)[0] == 0
    assert call(capsys, "sample", "run", "--count", 4, "--out", "any.npy")[0] == 0
    threes = ["--given", "label=3", "--out", "threes.npy"]
    assert call(capsys, "sample", "run", "--count", 4, *threes)[0] == 0


def test_a_label_that_is_not_known_is_neither_named_nor_a_class():
    examples = lb.Examples(
        torch.zeros(4, 2), labels=torch.tensor([0, -1, 1, -1]), label_names=("cat", "dog")
    )
    assert _describe_rows(examples)["label"] == ["cat", "-1", "dog", "-1"]
    told = describe_examples(examples, None, SimpleNamespace(has_test=False, schema=None))
    assert told.endswith(", 2 classes")


def test_codes_of_several_groups_are_written_side_by_side(here, tmp_path, monkeypatch, capsys):
    trained = lb.load("gaussian")

    class Groups(lb.Model):
        def __init__(self):
            super().__init__()
            self.vae = trained

        def draw(self, x, samples=1, gradient="pathwise"):
            q, prior = self.vae.posterior(x), self.vae.prior()
            groups = {name: lb.Latent.draw(q, prior, samples, gradient) for name in ("a", "b")}
            p = self.vae.likelihood(groups["a"].z)
            return lb.Draw.of(groups, lambda: p.log_prob(x), p=p)

    monkeypatch.setattr("lowerbound.runs.saving.load", lambda path: Groups())
    assert call(capsys, "encode", "gaussian", "--out", tmp_path / "z.csv")[0] == 0
    with (tmp_path / "z.csv").open() as file:
        columns = next(csv.reader(file))
    assert columns[-4:] == ["a_0", "a_1", "b_0", "b_1"]
    assert call(capsys, "encode", "gaussian", "--out", tmp_path / "z.npy")[0] == 0
    assert np.load(tmp_path / "z.npy").shape[1] == 4
    code, out, _ = call(capsys, "evaluate", "gaussian")
    assert code == 0
    assert "a: active units: " in out
    groups = json.loads(call(capsys, "evaluate", "gaussian", "--json")[1])["health"]["groups"]
    assert groups.keys() == {"a", "b"}
