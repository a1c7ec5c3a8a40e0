"""Table 1 of Burda, Grosse & Salakhutdinov 2016 on MNIST, one stochastic layer: VAE k = 1, IWAE k =
5 and k = 50.

    python reproductions/iwae.py [--stages I] [--seed S] [k1 k5 k50]

The paper's schedule has stages i = 0 .. 7 of 3^i passes over the data each, at the rate 1e-3 *
10^(-i/7). ``--stages I`` stops after the first I of them, (3^I - 1) / 2 passes in all; eight are
the paper's 3,280. A run goes on where it stopped (state in runs/iwae/), also with more stages,
because the rate of a stage does not depend on their number. Figures go to
docs/results/iwae/NAME.json, and in the end docs/results/iwae.md is written from all that are there.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

import lowerbound as lb
from lowerbound.recipes import find_recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "iwae"
RUNS = ROOT / "runs" / "iwae"

BATCH = 100
TEST_SAMPLES = 5000
# k: the table's name of the cell, its negative log likelihood and its active units.
CELLS = {
    "k1": (1, "VAE, k = 1", 86.76, 19),
    "k5": (5, "IWAE, k = 5", 85.54, 22),
    "k50": (50, "IWAE, k = 50", 84.78, 25),
}


def passes(stages: int) -> int:
    """Passes over the data in the first stages."""
    return (3**stages - 1) // 2


def rate_factor(epoch: int) -> float:
    """The factor of the learning rate in a pass, counted from 0."""
    stage = 0
    while epoch >= passes(stage + 1):
        stage += 1
    return float(10 ** (-stage / 7))


def train(cell: str, stages: int, seed: int) -> tuple[lb.Run, lb.Dataset]:
    """Train one cell to the end of its last stage, or go on with it."""
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
    epochs = passes(stages)
    run = lb.fit(
        model,
        objective,
        data.train,
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=1e-3,
        seed=seed,
        schedule=Stages(epochs),
        directory=directory,
        resume=(directory / "config.yaml").exists(),
        optimizer=adam,
        pictures_every=0,
    )
    return run, data


def adam(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam as the paper sets it."""
    return torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.999), eps=1e-4, fused=True)


class Stages:
    """The schedule as ``lb.fit`` takes it: from progress in [0, 1] to a factor."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def __call__(self, progress: float) -> float:
        return rate_factor(min(self.epochs - 1, int(progress * self.epochs + 1e-9)))


def run(cell: str, stages: int, seed: int) -> None:
    """Train and evaluate one cell, unless its figures are there."""
    target = RESULTS / f"{cell}-stages{stages}-seed{seed}.json"
    if target.exists():
        print(f"{target} is there already", file=sys.stderr)
        return
    trained, data = train(cell, stages, seed)
    test = lb.log_likelihood(trained.model, data.test, samples=TEST_SAMPLES)
    health = lb.latent_health(trained.model, data.test)
    samples, name, published, published_units = CELLS[cell]
    figures = {
        "cell": name,
        "k": samples,
        "stages": stages,
        "passes": passes(stages),
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
    target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf8")


def write_page() -> None:
    """docs/results/iwae.md, from the figures that are there."""
    done = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    done.sort(key=lambda figures: (-figures["passes"], figures["seed"], figures["k"]))
    lines = [
        "# Importance-weighted auto-encoders: table 1 on MNIST, one stochastic layer",
        "",
        "Burda, Grosse & Salakhutdinov, *Importance Weighted Autoencoders*, 2016 "
        "(arXiv:1509.00519). Written by "
        "`python reproductions/iwae.py`. tanh 200-200 both ways, 50 latents, Glorot "
        "initialisation, output bias at the logit of the mean "
        f"pixel, Adam (.9, .999, 1e-4), batches of {BATCH} where the paper has 20, reshuffled and "
        "binarised afresh at every pass. "
        f"The test figure is the negative log likelihood of the 10,000 test images, binarised once "
        f"per image, by importance sampling with {TEST_SAMPLES:,} "
        "samples, in nats; ± is the standard error over images. A unit is active if Var_x(E_q[z]) "
        "> 0.01. "
        "The published figures are of 3,280 passes; with fewer, only the order of the cells is to "
        "be compared.",
        "",
        "| cell | passes | seed | test NLL | published | active units | published | median "
        "effective samples | training time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {f['cell']} | {f['passes']:,} | {f['seed']} | {f['test_nll']:.2f} ± "
        f"{f['standard_error']:.2f} | {f['published_nll']:.2f} | "
        f"{f['active_units']} | {f['published_active_units']} | "
        f"{f['median_effective_sample_size']:.0f} | "
        f"{f['training_seconds'] / 60:.0f} min |"
        for f in done
    ]
    lines += ["", *verdicts(done), ""]
    (RESULTS.parent / "iwae.md").write_text("\n".join(lines), encoding="utf8")


def verdicts(done: list[dict[str, float]]) -> list[str]:
    """For each length and seed with all three cells, whether their order is the paper's; at full
    length, the distance."""
    lines = []
    for stages, seed in sorted({(f["stages"], f["seed"]) for f in done}):
        cells = {f["k"]: f["test_nll"] for f in done if (f["stages"], f["seed"]) == (stages, seed)}
        if cells.keys() == {1, 5, 50}:
            holds = cells[1] > cells[5] > cells[50]
            lines.append(
                f"- {passes(int(stages)):,} passes, seed {seed}: the order of the cells "
                f"{'holds' if holds else 'does not hold'}."
            )
        if stages == 8 and 1 in cells:
            lines.append(
                f"- 3,280 passes, seed {seed}, VAE k = 1: {cells[1] - CELLS['k1'][2]:+.2f} nats "
                "from the published 86.76."
            )
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
