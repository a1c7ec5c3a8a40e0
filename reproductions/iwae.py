"""Table 1 of Burda, Grosse & Salakhutdinov 2016 on MNIST.

    python reproductions/iwae.py [--epochs N] [--seed S] [k1 k5 k50 k1-2layer k5-2layer k50-2layer]

The cells are the VAE with k = 1 and the IWAE with k = 5 and k = 50, with one or two stochastic
layers. The paper's schedule has the stages i = 0 .. 7, each with 3^i epochs at the learning rate
1e-3 * 10^(-i/7), 3,280 epochs in all. ``--epochs N`` stops after N of them. A run that was stopped
resumes from its state in runs/iwae/. It can also resume with more epochs, because the learning rate
of an epoch does not depend on their number. Results go to docs/results/iwae/NAME.json, and at the
end docs/results/iwae.md is written from all of them.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from page_text import describe_machine, describe_machines, item, paragraph, table

import lowerbound as lb
from lowerbound.recipes import find_recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "iwae"
RUNS = ROOT / "runs" / "iwae"

BATCH = 100
TEST_SAMPLES = 5000
ALL_EPOCHS = 3280


@dataclass(frozen=True)
class Cell:
    """A cell of the paper's table.

    Args:
        layers: of latents.
        k: the number of samples in the bound.
        nll: the negative log likelihood in the paper.
        units: the number of active units in the paper, of each layer; empty where not known.
    """

    layers: int
    k: int
    nll: float
    units: str = ""

    @property
    def title(self) -> str:
        """The name in the table."""
        name = {1: "VAE"}.get(self.k, "IWAE")
        return f"{name}, k = {self.k}"

    @property
    def recipe(self) -> str:
        """The recipe of the model."""
        return {1: "iwae", 2: "iwae-2layer"}[self.layers]


CELLS = {
    "k1": Cell(1, 1, 86.76, "19"),
    "k5": Cell(1, 5, 85.54, "22"),
    "k50": Cell(1, 50, 84.78, "25"),
    "k1-2layer": Cell(2, 1, 85.33),
    "k5-2layer": Cell(2, 5, 83.89),
    "k50-2layer": Cell(2, 50, 82.90, "26+7"),
}


def rate_factor(epoch: int) -> float:
    """The factor of the learning rate in an epoch, counted from 0."""
    stage = 0
    while epoch >= (3 ** (stage + 1) - 1) // 2:
        stage += 1
    return float(10 ** (-stage / 7))


def train(name: str, epochs: int, seed: int) -> tuple[lb.Run, lb.Dataset]:
    """Train one cell to its last epoch, or resume it."""
    data, cell = lb.load_data("mnist", pixels="binarize"), CELLS[name]
    torch.manual_seed(seed)
    model, objective = find_recipe(cell.recipe).build(data.shape, {"samples": cell.k})
    bias = data.train.values.double().mean(0) / 255
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(layer.weight)
                layer.bias.zero_()
        # The published code starts the output at the logit of the mean pixel.
        model.likelihood.network.layers[-1].bias.copy_(bias.clamp(1e-3, 1 - 1e-3).logit().flatten())
    directory = RUNS / f"{name}-seed{seed}"
    note_machine(directory / "machines.txt")
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


def note_machine(path: Path) -> None:
    """Add this machine to those that worked on a cell, which may have been resumed elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    machines = path.read_text(encoding="utf8").splitlines() if path.exists() else []
    machine = describe_machine("cuda" if torch.cuda.is_available() else "cpu")
    if machine not in machines:
        path.write_text("\n".join([*machines, machine]) + "\n", encoding="utf8")


def adam(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam with the paper's settings."""
    return torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.999), eps=1e-4, fused=True)


class Stages:
    """The schedule as ``lb.fit`` takes it: from progress in [0, 1] to a factor."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def __call__(self, progress: float) -> float:
        return rate_factor(min(self.epochs - 1, int(progress * self.epochs + 1e-9)))


def run(name: str, epochs: int, seed: int) -> None:
    """Train and evaluate one cell, unless its results exist already."""
    target, cell = RESULTS / f"{name}-epochs{epochs}-seed{seed}.json", CELLS[name]
    if target.exists():
        print(f"{target} exists already", file=sys.stderr)
        return
    trained, data = train(name, epochs, seed)
    test = lb.log_likelihood(trained.model, data.test, samples=TEST_SAMPLES)
    health = lb.latent_health(trained.model, data.test)
    groups = health.groups or {"z": health}
    result = {
        "cell": name,
        "layers": cell.layers,
        "k": cell.k,
        "epochs": epochs,
        "steps": trained.history[-1]["step"],
        "batch": BATCH,
        "seed": seed,
        "test_nll": -test.mean,
        "standard_error": test.standard_error,
        "test_samples": TEST_SAMPLES,
        "median_effective_sample_size": float(test.effective_sample_sizes.median()),
        "share_doubtful": float(test.doubtful.double().mean()),
        "warning": test.warning,
        "active_units": [group.active_units for group in groups.values()],
        "elbo": test.terms["elbo"].mean,
        "training_seconds": trained.history[-1]["seconds"],
        "machines": (trained.directory / "machines.txt").read_text(encoding="utf8").splitlines(),
    }
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")


HEAD = (
    "layers | cell | epochs | seed | test NLL | published | active units | published | "
    "median effective samples | training time"
)


def table_row(result: dict[str, Any]) -> list[str]:
    cell = CELLS[result["cell"]]
    return [
        f"{cell.layers}",
        cell.title,
        f"{result['epochs']:,}",
        f"{result['seed']}",
        f"{result['test_nll']:.2f} ± {result['standard_error']:.2f}",
        f"{cell.nll:.2f}",
        "+".join(map(str, result["active_units"])),
        cell.units,
        f"{result['median_effective_sample_size']:.0f}",
        f"{result['training_seconds'] / 60:.0f} min",
    ]


def write_page() -> None:
    """Write docs/results/iwae.md from all results."""
    done = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    done.sort(key=lambda result: [-result["epochs"], *map(result.get, ("seed", "layers", "k"))])
    lines = [
        "# Importance-weighted auto-encoders: table 1 on MNIST",
        "",
        paragraph(
            "Burda, Grosse & Salakhutdinov, *Importance Weighted Autoencoders*, 2016",
            "(arXiv:1509.00519). `python reproductions/iwae.py` writes this page. With one",
            "layer of latents, the encoder and the decoder have two tanh layers of 200 units each,",
            "and there are 50 latents. With two layers, there are 100 latents, then two tanh",
            "layers of 100 units, then 50 latents. Weights are initialised with Glorot's",
            "rule, and the output bias is the logit of the mean pixel. Training uses Adam",
            f"(.9, .999, 1e-4) and batches of {BATCH} (20 in the paper); the data are",
            "reshuffled and binarised anew in every epoch. The test NLL is the negative log",
            "likelihood of the 10,000 test images, binarised once, by importance sampling with",
            f"{TEST_SAMPLES:,} samples, in nats; ± is the standard error over images. With few",
            "effective samples, this estimate is probably too high. A unit is active if",
            "`Var_x(E_q[z]) > 0.01`. The published results took 3,280 epochs. After",
            "fewer epochs, only the order of the cells can be compared. `--epochs N` stops after",
            "N epochs.",
        ),
        "",
        *table(HEAD, map(table_row, done)),
        "",
        *verdicts(done),
        "",
        describe_machines(machine for result in done for machine in result["machines"]),
        "",
    ]
    (RESULTS.parent / "iwae.md").write_text("\n".join(lines), encoding="utf8")


def verdicts(done: list[dict[str, Any]]) -> list[str]:
    """For results of equal length and seed, whether their order is the paper's.

    At full length, the distance to the published value is added.
    """
    lines = []
    by_length: dict[tuple[int, int], dict[str, float]] = {}
    for result in done:
        found = by_length.setdefault((result["epochs"], result["seed"]), {})
        found[result["cell"]] = result["test_nll"]
    for (epochs, seed), found in by_length.items():
        length = f"{epochs:,} epochs, seed {seed}"
        published = sorted(found, key=lambda name: CELLS[name].nll)
        if len(found) > 1:
            holds = {True: "holds", False: "does not hold"}
            same = published == sorted(found, key=found.__getitem__)
            lines.append(
                item(f"{length}: the published order of the {len(found)} cells {holds[same]}.")
            )
        if epochs == ALL_EPOCHS:
            lines += [
                item(
                    f"{length}, {CELLS[name].title}: {nll - CELLS[name].nll:+.2f} nats from the "
                    f"published {CELLS[name].nll}."
                )
                for name, nll in found.items()
            ]
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cells", nargs="*", choices=[*CELLS, []], help="which cells; all if none is named"
    )
    parser.add_argument("--epochs", type=int, default=ALL_EPOCHS, help="%(default)s by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="only write the page")
    asked = parser.parse_args()
    if not 1 <= asked.epochs <= ALL_EPOCHS:
        parser.error(f"--epochs {asked.epochs}: the schedule has 1 to {ALL_EPOCHS:,} epochs")
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not asked.report:
        for chosen in asked.cells or CELLS:
            run(chosen, asked.epochs, asked.seed)
    write_page()
