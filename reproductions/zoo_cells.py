"""Train and evaluate one cell of the zoo, and write its results as JSON.

    python reproductions/zoo_cells.py CELL --seed S --epochs N --target FILE [--small]

``reproductions/zoo.py`` calls this for each cell, in a process of its own. The cells of pythae need
an environment that has it. A training of lowerbound that was stopped resumes from runs/zoo/.
"""

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from page_text import describe_machine

import lowerbound as lb
from lowerbound.data import make_sprites
from lowerbound.recipes import find_recipe

RUNS = Path(__file__).parents[1] / "runs" / "zoo"

BATCH, LEARNING_RATE = 100, 1e-3
NETWORK = {"latent": 50, "hidden": 200, "layers": 2, "activation": "tanh"}
BOUND_SAMPLES = {"samples": 5}
COMPONENTS = {"components": 200}
TWO_LAYERS = {"latent": 100, "top_latent": 50, "hidden": 200, "top_hidden": 100}
# For the sprites. The recipes' usual convolutions take five times as long.
DENSE = {"network": "mlp", "hidden": 256, "layers": 2}
TEST_SEED = 0
ACTIVE_VARIANCE = 0.01  # of a unit's posterior mean over the images
RATE_SAMPLES = 16
SPRITES_SEED = 1  # that of the data set is 0


@dataclass(frozen=True)
class Cell:
    """A model to train.

    Args:
        title: its name on the page.
        recipe: its recipe, or for pythae the name of its class.
        arguments: of the recipe, or the settings that a model of pythae shares with it.
        library: "lowerbound" or "pythae".
        data: "mnist" or "sprites".
        warmup: the share of the epochs in which the weight of the rate rises.
    """

    title: str
    recipe: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    library: str = "lowerbound"
    data: str = "mnist"
    warmup: float = 0.0


CELLS = {
    "vae": Cell("standard Gaussian prior", "aevb-bernoulli", NETWORK),
    "iwae": Cell("importance-weighted bound", "iwae", NETWORK | BOUND_SAMPLES),
    "dreg": Cell("doubly reparameterised gradient", "dreg", NETWORK | BOUND_SAMPLES),
    "vampprior": Cell("VampPrior", "vampprior", NETWORK | COMPONENTS),
    "mixture-prior": Cell(
        "mixture of Gaussians as the prior", "mixture-prior", NETWORK | COMPONENTS
    ),
    "flow-prior": Cell("autoregressive flow as the prior", "flow-prior", NETWORK),
    "iaf": Cell("inverse autoregressive flow as the posterior", "iaf", NETWORK),
    "iwae-2layer": Cell(
        "importance-weighted bound, two stochastic layers",
        "iwae-2layer",
        NETWORK | TWO_LAYERS | BOUND_SAMPLES,
    ),
    "ladder": Cell(
        "ladder of five stochastic layers",
        "ladder",
        {"latent": 100, "hidden": 200, "depth": 5, "activation": "tanh"},
        warmup=0.2,
    ),
    "pythae-vae": Cell("standard Gaussian prior", "VAE", NETWORK, library="pythae"),
    "pythae-iwae": Cell(
        "importance-weighted bound", "IWAE", NETWORK | BOUND_SAMPLES, library="pythae"
    ),
    "pythae-vamp": Cell("VampPrior", "VAMP", NETWORK | COMPONENTS, library="pythae"),
    "pythae-iaf": Cell(
        "inverse autoregressive flow as the posterior", "VAE_IAF", NETWORK, library="pythae"
    ),
    "beta-vae": Cell("weight of the rate 4", "beta-vae", DENSE, data="sprites"),
    "beta-tc": Cell("weight of the total correlation 6", "beta-tc", DENSE, data="sprites"),
    "factor": Cell("total correlation measured by a critic", "factor", DENSE, data="sprites"),
}


@dataclass(frozen=True)
class Scale:
    """How much is trained and evaluated, as recorded with each result.

    Args:
        epochs: of the training.
        examples: the number of training examples.
        test_examples: the number of test examples.
        test_samples: the draws of z for the log likelihood of each.
    """

    epochs: int
    examples: int
    test_examples: int
    test_samples: int = 5000


def choose_scale(cell: Cell, epochs: int, *, small: bool) -> Scale:
    """The scale of a cell, or with ``small`` one that only tries the programs."""
    if small:
        return Scale(epochs, examples=300, test_examples=60, test_samples=50)
    return {
        "mnist": Scale(epochs, examples=60_000, test_examples=1000),
        "sprites": Scale(epochs, examples=40_000, test_examples=5000, test_samples=0),
    }[cell.data]


def load_mnist(scale: Scale) -> tuple[lb.Examples, lb.Examples]:
    """Training images that are binarised in every epoch, and test images binarised once."""
    data = lb.load_data("mnist")
    train, test = data.train.spread(scale.examples), data.test.spread(scale.test_examples)
    return train.prepare("binarize"), test.prepare("binarize-once", seed=TEST_SEED)


def train(
    name: str, train_data: lb.Examples, scale: Scale, seed: int
) -> tuple[lb.Model, dict[str, Any]]:
    """Train a cell of lowerbound, or resume it.

    Returns:
        The model, and what is recorded about the training.
    """
    cell, arguments = CELLS[name], dict(CELLS[name].arguments)
    if cell.warmup:
        arguments["kl_warmup"] = cell.warmup * scale.epochs
    recipe = find_recipe(cell.recipe)
    model, objective = recipe.build(train_data, arguments, seed=seed)
    directory = RUNS / f"{name}-epochs{scale.epochs}-seed{seed}"
    resume = (directory / "config.yaml").exists()
    before = measure_cpu_seconds()
    run = lb.fit(
        model,
        objective,
        train_data,
        epochs=scale.epochs,
        batch_size=recipe.training.get("batch_size", BATCH),
        learning_rate=recipe.training.get("learning_rate", LEARNING_RATE),
        seed=seed,
        directory=directory,
        resume=resume,
        pictures_every=0,
    )
    record = {"steps": run.history[-1]["step"]}
    if not resume:
        record["cpu_seconds"] = measure_cpu_seconds() - before
    return run.model, record


def measure_cpu_seconds() -> float:
    """The processor time of this process and of the processes that it started, in seconds.

    Unlike the time that passes, it hardly depends on what else the machine does.
    """
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def evaluate(model: lb.Model, test: lb.Examples, scale: Scale) -> dict[str, Any]:
    """The log likelihood of test images, the rate, and the number of active units."""
    likelihood = lb.log_likelihood(model, test, samples=scale.test_samples)
    terms = lb.evaluate(model, lb.ELBO(RATE_SAMPLES), test).terms
    return {
        "test_nll": -likelihood.mean,
        "standard_error": likelihood.standard_error,
        "elbo": likelihood.terms["elbo"].mean,
        "median_effective_sample_size": float(likelihood.effective_sample_sizes.median()),
        "share_doubtful": likelihood.doubtful_share,
        "rate": terms["rate"].mean,
        **count_units(model, test),
    }


def count_units(model: lb.Model, test: lb.Examples) -> dict[str, int]:
    """The number of units, and of those whose posterior mean varies between images."""
    codes = model.encode(test)
    groups = [codes]
    if isinstance(codes, Mapping):
        groups = list(codes.values())
    variances = torch.cat([group.flatten(1).double().var(0, correction=0) for group in groups])
    return {"units": len(variances), "active_units": int((variances > ACTIVE_VARIANCE).sum())}


def run_mnist(name: str, scale: Scale, seed: int) -> dict[str, Any]:
    """Train and evaluate a cell on MNIST."""
    train_data, test = load_mnist(scale)
    if CELLS[name].library == "lowerbound":
        model, record = train(name, train_data, scale, seed)
    else:
        import zoo_pythae

        model, record = zoo_pythae.train(CELLS[name], train_data, scale, seed)
    return record | evaluate(model, test, scale)


def run_sprites(name: str, scale: Scale, seed: int) -> dict[str, Any]:
    """Train a cell on the sprites, and measure how well it separates the factors of others."""
    model, record = train(name, make_sprites(scale.examples), scale, seed)
    test = make_sprites(scale.test_examples, seed=SPRITES_SEED)
    scores = asdict(lb.disentanglement(model, test))
    del scores["examples"]  # they are the scale's test examples
    terms = lb.evaluate(model, lb.ELBO(), test).terms
    return record | scores | count_units(model, test) | {"rate": terms["rate"].mean}


def run(name: str, scale: Scale, seed: int) -> dict[str, Any]:
    """Train and evaluate a cell."""
    cell = CELLS[name]
    measured = {"mnist": run_mnist, "sprites": run_sprites}[cell.data](name, scale, seed)
    return {
        "cell": name,
        "seed": seed,
        "settings": dict(cell.arguments),
        **asdict(scale),
        **measured,
        "machine": describe_machine(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cell", choices=CELLS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--target", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--small", action="store_true", help="few examples, to try the program")
    asked = parser.parse_args()
    if asked.small:
        RUNS /= "small"
    result = run(
        asked.cell, choose_scale(CELLS[asked.cell], asked.epochs, small=asked.small), asked.seed
    )
    unfinished = asked.target.with_suffix(".part")
    unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    unfinished.replace(asked.target)
