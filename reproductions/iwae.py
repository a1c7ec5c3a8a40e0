"""Table 1 of Burda, Grosse & Salakhutdinov 2016 on MNIST, with one stochastic layer.

    python reproductions/iwae.py [--stages I] [--seed S] [k1 k5 k50]

The cells are the VAE with k = 1 and the IWAE with k = 5 and k = 50. The paper's schedule has the
stages i = 0 .. 7, each with 3^i epochs at the learning rate 1e-3 * 10^(-i/7). ``--stages I`` stops
after the first I stages, which are (3^I - 1) / 2 epochs in all; eight stages are the paper's 3,280
epochs. A run that was stopped resumes from its state in runs/iwae/. It can also resume with more
stages, because the learning rate of a stage does not depend on their number. Results go to
docs/results/iwae/NAME.json, and at the end docs/results/iwae.md is written from all of them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from page_text import item, paragraph, table

import lowerbound as lb
from lowerbound.recipes import find_recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "iwae"
RUNS = ROOT / "runs" / "iwae"

BATCH = 100
TEST_SAMPLES = 5000
# k, and from the paper's table: the cell's name, its negative log likelihood, its active units.
CELLS = {
    "k1": (1, "VAE, k = 1", 86.76, 19),
    "k5": (5, "IWAE, k = 5", 85.54, 22),
    "k50": (50, "IWAE, k = 50", 84.78, 25),
}


def count_epochs(stages: int) -> int:
    """The number of epochs in the first stages."""
    return (3**stages - 1) // 2


def rate_factor(epoch: int) -> float:
    """The factor of the learning rate in an epoch, counted from 0."""
    stage = 0
    while epoch >= count_epochs(stage + 1):
        stage += 1
    return float(10 ** (-stage / 7))


def train(cell: str, stages: int, seed: int) -> tuple[lb.Run, lb.Dataset]:
    """Train one cell to the end of its last stage, or resume it."""
    data = lb.load_data("mnist", pixels="binarize")
    torch.manual_seed(seed)
    model, objective = find_recipe("iwae").build(data.shape, {"samples": CELLS[cell][0]})
    bias = data.train.values.double().mean(0) / 255
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(layer.weight)
                layer.bias.zero_()
        # The published code starts the output at the logit of the mean pixel.
        model.likelihood.network.layers[-1].bias.copy_(bias.clamp(1e-3, 1 - 1e-3).logit().flatten())
    directory = RUNS / f"{cell}-seed{seed}"
    epochs = count_epochs(stages)
    run = lb.fit(
        model,
        objective,
        data.train,
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=1e-3,
        seed=seed,
        schedule=Stages(epochs),
        start=False,  # the bias is set above
        directory=directory,
        resume=(directory / "config.yaml").exists(),
        optimizer=adam,
        pictures_every=0,
    )
    return run, data


def adam(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam with the paper's settings."""
    return torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.999), eps=1e-4, fused=True)


class Stages:
    """The schedule as ``lb.fit`` takes it: from progress in [0, 1] to a factor."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def __call__(self, progress: float) -> float:
        return rate_factor(min(self.epochs - 1, int(progress * self.epochs + 1e-9)))


def run(cell: str, stages: int, seed: int) -> None:
    """Train and evaluate one cell, unless its results exist already."""
    target = RESULTS / f"{cell}-stages{stages}-seed{seed}.json"
    if target.exists():
        print(f"{target} exists already", file=sys.stderr)
        return
    trained, data = train(cell, stages, seed)
    test = lb.log_likelihood(trained.model, data.test, samples=TEST_SAMPLES)
    health = lb.latent_health(trained.model, data.test)
    samples, name, published, published_units = CELLS[cell]
    result = {
        "cell": name,
        "k": samples,
        "stages": stages,
        "epochs": count_epochs(stages),
        "steps": trained.history[-1]["step"],
        "batch": BATCH,
        "seed": seed,
        "published_nll": published,
        "published_active_units": published_units,
        "test_nll": -test.mean,
        "standard_error": test.standard_error,
        "test_samples": TEST_SAMPLES,
        "median_effective_sample_size": float(test.effective_sample_sizes.median()),
        "share_doubtful": float(test.doubtful.double().mean()),
        "warning": test.warning,
        "active_units": health.active_units,
        "elbo": test.terms["elbo"].mean,
        "training_seconds": trained.history[-1]["seconds"],
        "torch": torch.__version__,
        "lowerbound": lb.__version__,
    }
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")


HEAD = (
    "cell | epochs | seed | test NLL | published | active units | published | "
    "median effective samples | training time"
)


def table_row(result: dict[str, Any]) -> list[str]:
    return [
        result["cell"],
        f"{result['epochs']:,}",
        f"{result['seed']}",
        f"{result['test_nll']:.2f} ± {result['standard_error']:.2f}",
        f"{result['published_nll']:.2f}",
        f"{result['active_units']}",
        f"{result['published_active_units']}",
        f"{result['median_effective_sample_size']:.0f}",
        f"{result['training_seconds'] / 60:.0f} min",
    ]


def write_page() -> None:
    """Write docs/results/iwae.md from all results."""
    done = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    done.sort(key=lambda result: (-result["epochs"], result["seed"], result["k"]))
    lines = [
        "# Importance-weighted auto-encoders: table 1 on MNIST, one stochastic layer",
        "",
        paragraph(
            "Burda, Grosse & Salakhutdinov, *Importance Weighted Autoencoders*, 2016",
            "(arXiv:1509.00519). `python reproductions/iwae.py` writes this page. Encoder and",
            "decoder have two tanh layers of 200 units each, and there are 50 latents. Weights are",
            "initialised with Glorot's rule, and the output bias is the logit of the mean",
            "pixel. Training uses Adam (.9, .999, 1e-4) and batches of",
            f"{BATCH} (20 in the paper); the data are reshuffled",
            "and binarised anew at every epoch. The test NLL is the negative log likelihood of the",
            "10,000 test images, binarised once per image, by importance sampling with",
            f"{TEST_SAMPLES:,} samples, in nats; ± is the standard error over images. A unit is",
            "active if `Var_x(E_q[z]) > 0.01`. The published results took 3,280 epochs. After",
            "fewer epochs, only the order of the cells can be compared.",
        ),
        "",
        *table(HEAD, map(table_row, done)),
        "",
        *verdicts(done),
        "",
    ]
    (RESULTS.parent / "iwae.md").write_text("\n".join(lines), encoding="utf8")


def verdicts(done: list[dict[str, Any]]) -> list[str]:
    """For each length and seed with all three cells, whether their order is the paper's.

    At full length, the distance to the published value is added.
    """
    lines = []
    for stages, seed in sorted({(result["stages"], result["seed"]) for result in done}):
        same = [result for result in done if (result["stages"], result["seed"]) == (stages, seed)]
        cells = {result["k"]: result["test_nll"] for result in same}
        run = f"{count_epochs(stages):,} epochs, seed {seed}"
        if cells.keys() == {1, 5, 50}:
            holds = {True: "holds", False: "does not hold"}[cells[1] > cells[5] > cells[50]]
            lines.append(item(f"{run}: the order of the cells {holds}."))
        if stages == 8 and 1 in cells:
            distance = cells[1] - CELLS["k1"][2]
            lines.append(item(f"{run}, VAE k = 1: {distance:+.2f} nats from the published 86.76."))
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cells", nargs="*", choices=[*CELLS, []], help="which cells; all if none is named"
    )
    parser.add_argument("--stages", type=int, default=8, choices=range(1, 9))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for chosen in asked.cells or CELLS:
        run(chosen, asked.stages, asked.seed)
    write_page()
