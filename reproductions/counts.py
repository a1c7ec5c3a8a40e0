"""Simulated counts with a known batch effect: the recipe `counts` beside scvi-tools' SCVI.

    python3 -m venv .venv-scvi
    .venv-scvi/bin/python -m pip install --editable . --requirement reproductions/counts-scvi.txt
    .venv-scvi/bin/python reproductions/counts.py [--report]

One process simulates cells, trains the recipe and SCVI on the same of them for as many epochs, and
estimates the log likelihood of the others, under each model and under the distribution that they
come from, by the same importance sampling. Seeds whose results are there already are skipped.
Results go to docs/results/counts/, and docs/results/counts.md is written from all of them.
"""

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from page_text import describe_machines, paragraph, read_results, table, verdict
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.distributions import FactorialNegativeBinomial
from lowerbound.errors import DoubtfulEstimateWarning
from lowerbound.recipes import find_recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "counts"

SEEDS = (0, 1, 2)
TRAINING_CELLS, TEST_CELLS, GENES, FACTORS = 5000, 1000, 200, 3
NETWORK = {"latent": 10, "hidden": 128, "layers": 1}
EPOCHS = 100
SAMPLES = 1000
# So many test cells are also scored by scvi-tools itself.
OWN_CELLS = 200
TOLERANCE = 0.1

MODELS = {
    "lowerbound": "the recipe `counts`",
    "same": "SCVI, same network",
    "default": "SCVI, its own defaults",
}


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
        """p(x given z, batch)."""
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
    return {"models": found, "machine": describe_machine()}


def describe_machine() -> str:
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, lowerbound "
        f"{lb.__version__}, scvi-tools {version('scvi-tools')}"
    )


def write_page() -> None:
    """Write docs/results/counts.md from all results."""
    done = list(read_results(RESULTS, [f"seed{seed}" for seed in SEEDS]).values())
    lines = [
        "# Counts: a known batch effect, beside scvi-tools",
        "",
        paragraph(
            "`reproductions/counts.py` writes this page; its first lines say how to create the",
            "environment that it needs. It simulates cells whose counts are negative binomial,",
            f"{TRAINING_CELLS:,} to train on and {TEST_CELLS:,} to test with, of {GENES} genes and",
            f"two batches. The logarithm of the share of a gene is linear in {FACTORS} latent",
            "factors and in the batch, up to the sum of the shares. The effect of the batch and",
            "the dispersions differ between genes, and are known.",
        ),
        "",
        paragraph(
            f"One process trains all models for {EPOCHS} epochs, with {NETWORK['latent']} latents,",
            f"one layer of {NETWORK['hidden']} units and the same batch size and learning rate.",
            "As in SCVI, the recipe's rates are shares that sum to 1 (`shares=True`); its other",
            "settings are the usual.",
            "*Same network* is SCVI without normalisation over batches, without dropout and",
            "without a warm-up of the rate, and with the batch as an input of its encoder, as in",
            "the recipe. SCVI by default differs in these points; its warm-up takes 400 epochs,",
            f"so after {EPOCHS} the weight of the rate is a quarter.",
        ),
        "",
        "## Held-out log likelihood",
        "",
        paragraph(
            "In nats per cell, by importance sampling with the same estimator for all models:",
            f"{SAMPLES:,} draws for each test cell. *True distribution* is the likelihood that the",
            "cells come from, with an encoder trained for it. *Ahead* is how far the recipe is",
            "above the model, with its standard error over the same cells. The last column is the",
            "share of cells whose estimate is not to be trusted (Pareto's k-hat), and most likely",
            "too low.",
        ),
        "",
        *table(
            "model | seed | log likelihood | bound | the recipe is ahead by | training | doubtful",
            (
                [
                    label,
                    str(seed),
                    f"{record['log_likelihood']:.2f}",
                    f"{record['bound']:.2f}",
                    f"{record['ahead']:.2f} ± {record['ahead_error']:.2f}",
                    f"{record['seconds']:.0f} s" if "seconds" in record else "",
                    f"{record['doubtful']:.0%}",
                ]
                for name, label in {**MODELS, "truth": "true distribution"}.items()
                for seed, result in enumerate(done)
                for record in [result["models"][name]]
            ),
        ),
        "",
        paragraph(
            f"scvi-tools' own estimate for the first {OWN_CELLS} test cells is at most",
            f"{max(abs(gap) for gap in _list_gaps(done)):.2f} nats from that of the converted",
            "model, which is the same distribution.",
        ),
        "",
        "## What is recovered",
        "",
        paragraph(
            "The effect of the batch on a gene is the logarithm of how much larger its share is",
            "in the second batch, on average over the test cells: for a model,",
            '`model.reconstruct(cells, batch="second")` beside `batch="first"`. Its error is the',
            "root mean square over genes, relative to that of the true effects. For the inverse",
            "dispersions the table has the geometric mean of found over true values, less 1, and",
            "the median over genes of the relative error.",
        ),
        "",
        *table(
            "model | seed | error of the effect | dispersion, mean | dispersion, median error",
            (
                [
                    label,
                    str(seed),
                    f"{record['effect_error']:.1%}",
                    f"{record['dispersion_bias']:+.1%}",
                    f"{record['dispersion_error']:.1%}",
                ]
                for name, label in MODELS.items()
                for seed, result in enumerate(done)
                for record in [result["models"][name]]
            ),
        ),
        "",
        *table("check | result", _list_checks(done)),
        "",
        describe_machines(result["machine"] for result in done),
        "",
    ]
    (RESULTS.parent / "counts.md").write_text("\n".join(lines), encoding="utf8")


def _list_gaps(done: list[dict[str, Any]]) -> list[float]:
    return [
        record["own_log_likelihood"] - record["converted_log_likelihood"]
        for result in done
        for record in result["models"].values()
        if "own_log_likelihood" in record
    ]


def _list_checks(done: list[dict[str, Any]]) -> Iterator[list[str]]:
    """What is claimed, and whether it holds for every seed."""
    models = [result["models"] for result in done]
    ours = [model["lowerbound"] for model in models]
    share = f"{TOLERANCE:.0%}"
    yield [
        f"the recipe recovers the effect of the batch within {share}",
        verdict(all(record["effect_error"] < TOLERANCE for record in ours)),
    ]
    yield [
        f"the recipe recovers the dispersions within {share}, in the mean and in the median",
        verdict(
            all(
                abs(record["dispersion_bias"]) < TOLERANCE
                and record["dispersion_error"] < TOLERANCE
                for record in ours
            )
        ),
    ]
    for name in ("same", "default"):
        yield [
            f"its log likelihood is at least that of {MODELS[name]}",
            verdict(all(model[name]["ahead"] >= 0 for model in models)),
        ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", action="store_true", help="only write the page")
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in [] if asked.report else SEEDS:
        target = RESULTS / f"seed{seed}.json"
        if target.exists():
            print(f"{target} exists already", file=sys.stderr)
            continue
        target.write_text(json.dumps(run(seed), indent=1) + "\n", encoding="utf8")
    write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
