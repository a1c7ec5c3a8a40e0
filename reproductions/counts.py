"""Simulated counts with a known batch effect: the recipe `counts` beside scvi-tools' SCVI.

    python3 -m venv .venv-scvi
    .venv-scvi/bin/python -m pip install --editable . --requirement reproductions/counts-scvi.txt
    .venv-scvi/bin/python reproductions/counts.py [--report]

One process simulates cells, trains the recipe and SCVI on the same of them for as many epochs, and
estimates the log likelihood of the others, under each model and under the distribution that they
come from, by the same importance sampling. Seeds whose results are there already are skipped.
Then it measures the memory that a large sparse matrix takes. Results go to docs/results/counts/,
and docs/results/counts.md is written from all of them.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from counts_page import write_page
from counts_settings import (
    EPOCHS,
    FACTORS,
    GENES,
    LARGE,
    LARGE_STEPS,
    MODELS,
    NETWORK,
    OWN_CELLS,
    RESULTS,
    SAMPLES,
    SEEDS,
    TEST_CELLS,
    TRAINING_CELLS,
)
from page_text import describe_machine
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.distributions import FactorialNegativeBinomial
from lowerbound.errors import DoubtfulEstimateWarning
from lowerbound.recipes import find_recipe


@dataclass(frozen=True)
class Truth:
    """The distribution of the counts.

    The counts of a cell are negative binomial with the means e rho(z, b), where e is the depth of
    the cell, z ~ N(0, I), and rho = softmax(base + z loadings + b effect), for the batch b.

    Args:
        base: ``[D]``.
        loadings: ``[J, D]``.
        effect: of the second batch, ``[D]``.
        inverse_dispersion: ``[D]``.
    """

    base: Tensor
    loadings: Tensor
    effect: Tensor
    inverse_dispersion: Tensor

    @classmethod
    def draw(cls, seed: int) -> "Truth":
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random, dtype=torch.float64)

        return cls(
            base=normal(GENES),
            loadings=0.5 * normal(FACTORS, GENES),
            effect=0.5 * normal(GENES),
            inverse_dispersion=(0.4 * normal(GENES) + np.log(3.0)).exp(),
        )

    def log_shares(self, z: Tensor, batch: Tensor) -> Tensor:
        """log rho, ``[..., D]``."""
        return (self.base + z @ self.loadings + batch[..., None] * self.effect).log_softmax(-1)

    def simulate(self, cells: int, seed: int) -> tuple[Any, Tensor]:
        """Cells as AnnData of a sparse matrix, and their latents."""
        import anndata
        import pandas
        from scipy.sparse import csr_matrix

        random = np.random.default_rng(seed)
        z = torch.from_numpy(random.normal(size=(cells, FACTORS)))
        batch = random.integers(0, 2, cells)
        depth = np.exp(random.normal(np.log(2000.0), 0.4, cells))
        mean = depth[:, None] * self.log_shares(z, torch.from_numpy(batch)).exp().numpy()
        size = self.inverse_dispersion.numpy()
        counts = random.poisson(random.gamma(size, mean / size))
        obs = pandas.DataFrame(
            {"batch": pandas.Categorical.from_codes(batch, ["first", "second"])},
            index=[f"cell{number}" for number in range(cells)],
        )
        var = pandas.DataFrame(index=[f"gene{number}" for number in range(GENES)])
        return anndata.AnnData(csr_matrix(counts.astype(np.float32)), obs=obs, var=var), z


class TrueLikelihood(nn.Module):
    """The likelihood that the cells come from, with the sum of each row as its depth."""

    needs = ("batch", "exposure")

    def __init__(self, truth: Truth) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, z: Tensor, batch: Tensor, exposure: Tensor) -> FactorialNegativeBinomial:
        """p(x|z, batch)."""
        log_mean = self.truth.log_shares(z.double(), batch).to(z.dtype) + exposure.log()[:, None]
        log_dispersion = self.truth.inverse_dispersion.log().to(z.dtype)
        return FactorialNegativeBinomial(log_mean, log_dispersion, 1)


def train_encoder(truth: Truth, cells: lb.Examples, batch_size: int, seed: int) -> Any:
    """The true prior and likelihood with a trained encoder, which importance sampling needs."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = lb.Gaussian(lb.mlp(GENES + 2, NETWORK["hidden"], 2 * FACTORS, activation="relu"))
    posterior = lb.LogInput(lb.Given(encoder, "batch", categories=2))
    model = lb.LatentModel(lb.StandardNormal(FACTORS), posterior, TrueLikelihood(truth))
    settings = {"epochs": EPOCHS // 2, "batch_size": batch_size}
    return lb.fit(model, lb.ELBO(), cells, seed=seed, progress=False, **settings).model


def train_recipe(
    cells: lb.Examples, batch_size: int, seed: int
) -> tuple[lb.LatentModel, dict[str, Any]]:
    """Train the recipe `counts` with its usual settings."""
    recipe = find_recipe("counts")
    arguments = {**NETWORK, "covariates": "batch", "shares": True}
    model, objective = recipe.build(cells, arguments, seed=seed)
    settings = {**recipe.training, "epochs": EPOCHS, "batch_size": batch_size}
    start = time.perf_counter()
    run = lb.fit(model, objective, cells, seed=seed, progress=False, **settings)
    seconds = time.perf_counter() - start
    return run.model, {"seconds": seconds}


def find_inverse_dispersions(model: Any) -> Tensor:
    """The learned inverse dispersion of each gene."""
    (parameter,) = (
        value
        for name, value in model.likelihood.named_parameters()
        if name.endswith("log_inverse_dispersion")
    )
    return parameter.detach().exp().double()


@torch.no_grad()
def measure_effect(model: Any, cells: lb.Examples) -> Tensor:
    """The logarithm of how much more of each gene the second batch has, on average over cells."""
    both = [model.reconstruct(cells, batch=batch).double() for batch in (0, 1)]
    first, second = ((each / each.sum(1, keepdim=True)).log() for each in both)
    return (second - first).mean(0)


def compare(found: Tensor, true: Tensor) -> float:
    """The root mean square of the errors relative to that of the true values."""
    return float(((found - true).square().mean() / true.square().mean()).sqrt())


def score(model: Any, cells: lb.Examples) -> dict[str, Any]:
    """The log likelihood of each cell, and the average bound."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulEstimateWarning)  # written on the page
        estimate = lb.log_likelihood(model, cells, samples=SAMPLES, seed=0)
    return {
        "log_likelihood": estimate.mean,
        "bound": lb.evaluate(model, lb.ELBO(), cells, seed=0).mean,
        "doubtful": estimate.doubtful_share,
        "cells": estimate.per_example,
    }


def run(seed: int) -> dict[str, Any]:
    """Simulate, train and evaluate everything for one seed."""
    import counts_scvi

    batch_size = find_recipe("counts").training["batch_size"]
    truth = Truth.draw(seed)
    cells, _ = truth.simulate(TRAINING_CELLS, 2 * seed + 1)
    others, z = truth.simulate(TEST_CELLS, 2 * seed + 2)
    training, test = (
        lb.load_data(part, kind="counts", fields=["batch"], test_fraction=0.0).train
        for part in (cells, others)
    )
    first, second = (truth.log_shares(z, torch.full((len(z),), batch)) for batch in (0, 1))
    effect = (second - first).mean(0)
    found: dict[str, Any] = {}
    for name in MODELS:
        own = None
        if name == "lowerbound":
            model, record = train_recipe(training, batch_size, seed)
        else:
            theirs, record = counts_scvi.train(
                cells, NETWORK, EPOCHS, batch_size, seed, same=name == "same"
            )
            own = counts_scvi.estimate_by_itself(theirs, others[:OWN_CELLS].copy(), SAMPLES)
            model = counts_scvi.convert(theirs.module)
        dispersion = find_inverse_dispersions(model)
        ratio = dispersion / truth.inverse_dispersion
        record |= score(model, test) | {
            "effect_error": compare(measure_effect(model, test), effect),
            "dispersion_bias": float(ratio.log().mean().exp() - 1),
            "dispersion_error": float((ratio - 1).abs().median()),
        }
        if own is not None:
            record["own_log_likelihood"] = own
            record["converted_log_likelihood"] = float(record["cells"][:OWN_CELLS].mean())
        found[name] = record
        print(seed, name, {key: value for key, value in record.items() if key != "cells"})
    found["truth"] = score(train_encoder(truth, training, batch_size, seed), test)
    ours = found["lowerbound"]["cells"]
    for record in found.values():
        difference = ours - record.pop("cells")
        record["ahead"] = float(difference.mean())
        record["ahead_error"] = float(difference.std() / len(difference) ** 0.5)
    return {"models": found, "machine": describe_machine(packages=["scvi-tools"])}


def use_large_matrix() -> None:
    """Load a large sparse matrix, train for some steps, and encode and score the test part."""
    from scipy.sparse import csr_matrix

    rows, columns, stored = LARGE
    random = np.random.default_rng(0)
    places = random.integers(0, rows, stored), random.integers(0, columns, stored)
    matrix = csr_matrix((np.ones(stored, dtype=np.float32), places), shape=(rows, columns))
    start = time.perf_counter()
    data = lb.load_data(matrix, kind="counts", test_fraction=0.02)
    seconds = {"load": time.perf_counter() - start}
    model, objective = lb.recipes.counts(data, hidden=32, seed=0)
    start = time.perf_counter()
    lb.fit(model, objective, data.train, steps=LARGE_STEPS, compile="never", progress=False)
    seconds["train"] = time.perf_counter() - start
    start = time.perf_counter()
    model.encode(data.test)
    lb.evaluate(model, lb.ELBO(), data.test)
    seconds["test"] = time.perf_counter() - start
    print(json.dumps(seconds))


def measure_memory() -> dict[str, Any]:
    """The memory and the seconds that a large sparse matrix takes, in a process of its own."""
    command = [sys.executable, __file__, "--use-large-matrix"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "seconds": json.loads(done.stdout.splitlines()[-1]),
        "peak_gigabytes": peak * 1024 / 1e9,
        "dense_gigabytes": LARGE[0] * LARGE[1] * 4 / 1e9,
        "machine": describe_machine(packages=["scvi-tools"]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--use-large-matrix", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.use_large_matrix:
        use_large_matrix()
        return 0
    if not asked.report and find_spec("scvi") is None:
        parser.error("scvi-tools is not installed; the first lines of this program say how")
    RESULTS.mkdir(parents=True, exist_ok=True)
    jobs = {f"seed{seed}": partial(run, seed) for seed in SEEDS} | {"memory": measure_memory}
    for name, job in () if asked.report else jobs.items():
        target = RESULTS / f"{name}.json"
        if target.exists():
            print(f"{target} exists already", file=sys.stderr)
            continue
        target.write_text(json.dumps(job(), indent=1) + "\n", encoding="utf8")
    write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
