"""Files that an earlier version wrote: see tests/data/README.md.

Processors differ in the last bits of a sum. An evaluation is therefore compared to a relative 1e-5,
and the metrics of a training, which adds up such differences from step to step, to 1e-4.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import lowerbound as lb
from lowerbound.cli import main

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "expected.json").read_text(encoding="utf8"))
CLOCKS = ("seconds", "examples_per_second")
FILES = {"model": ("model.safetensors", "dequantize"), "run": ("run", "binarize")}


def numbers(value, place=""):
    """The numbers of a nested value by their place, without those of clocks."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {place: value}
    kept = {key: part for key, part in value.items() if key not in CLOCKS}
    return {at: n for key in kept for at, n in numbers(kept[key], f"{place}.{key}").items()}


@pytest.fixture
def run(tmp_path) -> Path:
    """A copy of the run that was stopped."""
    return Path(shutil.copytree(DATA / "run", tmp_path / "run"))


def metrics_of(directory: Path) -> list[dict]:
    lines = (directory / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    return [json.loads(line) for line in lines]


def figures_of(estimate: lb.Estimate) -> dict[str, float]:
    return {"mean": estimate.mean, "standard_error": estimate.standard_error}


@pytest.mark.parametrize("name", FILES)
def test_a_model_from_earlier_files_comes_to_the_same_numbers(name):
    file, pixels = FILES[name]
    model, test = lb.load(DATA / file), lb.load_data("digits", pixels=pixels).test
    found = {
        "bound": figures_of(lb.evaluate(model, lb.ELBO(samples=5), test, seed=1)),
        "log_likelihood": figures_of(lb.log_likelihood(model, test, samples=100, seed=1)),
        "codes": model.encode(test.first(3)).tolist(),
    }
    assert numbers(found) == pytest.approx(numbers(EXPECTED[name]), rel=1e-5, abs=1e-6)


def test_the_earlier_run_was_stopped_halfway():
    assert numbers(metrics_of(DATA / "run")) == numbers(EXPECTED["metrics"][:2])
    assert len(EXPECTED["metrics"]) == 4


def test_fit_goes_on_with_an_earlier_run(run):
    digits = lb.load_data("digits", pixels="binarize")
    torch.manual_seed(1)  # the weights come from the checkpoint
    model, objective = lb.recipes.aevb_bernoulli(digits.shape, latent=2, hidden=12, kl_warmup=3.0)
    settings = {"batch_size": 128, "learning_rate": 0.01, "schedule": "cosine", "ema": 0.9}
    settings |= {"device": "cpu", "pictures_every": 0, "progress": False, "validation": 0.1}
    files = {"directory": run, "resume": True}
    went_on = lb.fit(model, objective, digits.train, epochs=4, **settings, **files)
    expected = numbers(EXPECTED["metrics"])
    assert numbers(went_on.history) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert numbers(metrics_of(run)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_command_goes_on_with_an_earlier_run(run):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", str(run)])
    assert ended.value.code == 0
    expected = numbers(EXPECTED["metrics"])
    assert numbers(metrics_of(run)) == pytest.approx(expected, rel=1e-4, abs=1e-6)
