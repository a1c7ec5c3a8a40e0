"""Writes docs/results/zoo.md from the results of the zoo's cells."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from page_text import describe_machines, item, paragraph, table, verdict
from zoo_cells import (
    ACTIVE_VARIANCE,
    BATCH,
    BOUND_SAMPLES,
    CELLS,
    COMPONENTS,
    DENSE,
    LEARNING_RATE,
    NETWORK,
    RATE_SAMPLES,
)
from zoo_pythae import FLOW

SEEDS = [0, 1, 2]
Results = dict[str, list[dict[str, Any]]]

# The first should have the lower NLL, by more than the spread over seeds.
ORDERS = [("vampprior", "vae"), ("iwae-2layer", "iwae"), ("iwae", "vae")]
# Ours, and the model of pythae.
PAIRS = [
    ("vae", "pythae-vae"),
    ("iwae", "pythae-iwae"),
    ("vampprior", "pythae-vamp"),
    ("iaf", "pythae-iaf"),
]
# The first should have the higher MIG.
SEPARATIONS = [("beta-tc", "beta-vae"), ("factor", "beta-vae")]


def read_all(folder: Path, data: str) -> list[Results]:
    """The results on some data: for each scale, longest first, those of each cell by seed.

    Raises:
        SystemExit: if a result has other settings than the page says.
    """
    scales: dict[tuple[int, ...], Results] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf8"))
        if result["settings"] != dict(CELLS[result["cell"]].arguments):
            raise SystemExit(
                f"{path} was made with other settings than those of zoo_cells.py; delete it, and "
                "its run in runs/zoo/, and run the cell again"
            )
        if CELLS[result["cell"]].data == data:
            scale = tuple(
                -result[name] for name in ("epochs", "examples", "test_examples", "test_samples")
            )
            scales.setdefault(scale, {}).setdefault(result["cell"], []).append(result)
    return [
        {
            name: sorted(results[name], key=lambda result: result["seed"])
            for name in CELLS
            if name in results
        }
        for _, results in sorted(scales.items())
    ]


def average(results: Sequence[dict[str, Any]], name: str) -> float:
    """The mean of a value over seeds."""
    return mean(float(result[name]) for result in results)


def find_spread(results: Sequence[dict[str, Any]], name: str) -> float | None:
    """The standard deviation of a value over seeds; ``None`` for one seed."""
    if len(results) < 2:
        return None
    return stdev(float(result[name]) for result in results)


def show(results: Sequence[dict[str, Any]], name: str, digits: int) -> str:
    """The mean over seeds, with the spread if there is one."""
    text, spread = f"{average(results, name):.{digits}f}", find_spread(results, name)
    if spread is None:
        return text
    return f"{text} ± {spread:.{digits}f}"


def is_complete(results: Results, *names: str) -> bool:
    """Whether all these cells have results of all three seeds."""
    return all({result["seed"] for result in results.get(name, [])} >= set(SEEDS) for name in names)


def compare(results: Results, first: str, second: str, value: str) -> tuple[float, float]:
    """How much higher the value of the first cell is than that of the second, and the spread.

    The spread is the larger one of the two.
    """
    gap = average(results[first], value) - average(results[second], value)
    spreads = [find_spread(results[name], value) or 0.0 for name in (first, second)]
    return gap, max(spreads)


def check_orders(results: Results) -> Iterator[list[str]]:
    """The rows about the order of lowerbound's models, as far as they were run."""
    for better, worse in ORDERS:
        if is_complete(results, better, worse):
            gap, spread = compare(results, better, worse, "test_nll")
            yield [
                f"`{better}` below `{worse}`",
                f"{gap:+.2f} nats, spread {spread:.2f}",
                "below, by more than the spread",
                verdict(-gap > spread),
            ]


def check_pairs(results: Results) -> Iterator[list[str]]:
    """The rows about lowerbound and pythae, as far as they were run."""
    for ours, theirs in PAIRS:
        if is_complete(results, ours, theirs):
            gap, spread = compare(results, ours, theirs, "test_nll")
            yield [
                f"`{ours}` compared with pythae's {CELLS[theirs].recipe}",
                f"{gap:+.2f} nats, spread {spread:.2f}",
                "at or below",
                verdict(gap <= 0),
            ]


def check_separations(results: Results) -> Iterator[list[str]]:
    """The rows about the sprites, as far as they were run."""
    for better, worse in SEPARATIONS:
        if is_complete(results, better, worse):
            gap, spread = compare(results, better, worse, "mig")
            yield [
                f"MIG of `{better}` above that of `{worse}`",
                f"{gap:+.3f}, spread {spread:.3f}",
                "above",
                verdict(gap > 0),
            ]


TARGETS = "target | difference of the means | wanted | verdict"


def write_targets(rows: list[list[str]]) -> list[str]:
    """The table of the targets."""
    if not rows:
        return ["No target can be checked yet: each needs two cells with three seeds.", ""]
    return [*table(TARGETS, rows), ""]


def name_model(name: str) -> str:
    """How the table calls a cell: the recipe, or pythae's class."""
    cell = CELLS[name]
    if cell.library == "lowerbound":
        return f"`{name}`"
    return f"pythae {cell.recipe}"


def show_units(results: Sequence[dict[str, Any]]) -> str:
    """The active units of each seed, and the number of all."""
    active = ", ".join(str(result["active_units"]) for result in results)
    return f"{active} of {results[0]['units']}"


def show_seconds(results: Sequence[dict[str, Any]]) -> str:
    """The processor time of an epoch, from the trainings that were not resumed; else nothing."""
    times = [each["cpu_seconds"] / each["epochs"] for each in results if "cpu_seconds" in each]
    return f"{mean(times):.1f}" if times else ""


MNIST_HEAD = (
    "model | what it is | seeds | test NLL | rate | active units | doubtful | CPU s per epoch"
)


def write_mnist_row(name: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """The row of a cell."""
    return [
        name_model(name),
        CELLS[name].title,
        f"{len(results)}",
        show(results, "test_nll", 2),
        show(results, "rate", 1),
        show_units(results),
        f"{100 * average(results, 'share_doubtful'):.0f}%",
        show_seconds(results),
    ]


def write_mnist(results: Results) -> Iterator[str]:
    """The section of one number of epochs on MNIST."""
    any_result = next(iter(results.values()))[0]
    errors = [result["standard_error"] for cell in results.values() for result in cell]
    yield f"## MNIST, {any_result['epochs']:,} epochs"
    yield ""
    yield paragraph(
        f"{any_result['examples']:,} training images, {any_result['test_examples']:,} test images",
        f"that are evenly spaced in the test set, and {any_result['test_samples']:,} importance",
        f"samples for each. The standard error over images is at most {max(errors):.2f} nats; all",
        "models are tested on the same binarised images.",
    )
    yield ""
    yield from table(MNIST_HEAD, [write_mnist_row(name, cell) for name, cell in results.items()])
    yield ""
    yield from write_targets([*check_orders(results), *check_pairs(results)])


SPRITES_HEAD = (
    "model | what it is | seeds | MIG | SAP | disentanglement (DCI) | FactorVAE score | rate | "
    "active units | CPU s per epoch"
)


def write_sprites_row(name: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """The row of a cell."""
    return [
        name_model(name),
        CELLS[name].title,
        f"{len(results)}",
        *[show(results, score, 3) for score in ("mig", "sap", "disentanglement", "factor_vae")],
        show(results, "rate", 1),
        show_units(results),
        show_seconds(results),
    ]


def write_sprites(results: Results) -> Iterator[str]:
    """The section of one number of epochs on the sprites."""
    any_result = next(iter(results.values()))[0]
    yield f"## Sprites, {any_result['epochs']:,} epochs"
    yield ""
    yield paragraph(
        f"{any_result['examples']:,} pictures of `lowerbound.data.make_sprites`, with the",
        "recipes' own batch sizes, learning rates and weights of the penalties. The encoder and",
        f"the decoder have {DENSE['layers']} dense layers of {DENSE['hidden']} units each; with",
        "the recipes' usual convolutions, training takes five times as long. The scores are",
        "computed from the means of q(z|x) for",
        f"{any_result['test_examples']:,} other pictures (see `lb.disentanglement`). All are",
        "from 0 to 1, and higher is better.",
    )
    yield ""
    yield from table(
        SPRITES_HEAD, [write_sprites_row(name, cell) for name, cell in results.items()]
    )
    yield ""
    yield from write_targets(list(check_separations(results)))


INTRODUCTION = [
    paragraph(
        "`python reproductions/zoo.py` writes this page from the results next to it. It shows only",
        "what was run. ± is the standard deviation over seeds; the spread of a comparison is the",
        "larger of its two models' deviations. A target is checked when both models were run with",
        "all three seeds. No setting was tuned for this page, except on the sprites: the network,",
        "the number of pictures, and the weight and the learning rates of `factor`, with seed 1.",
    ),
    "",
    item(
        f"*Networks*: the encoder and the decoder have {NETWORK['layers']} tanh layers of",
        f"{NETWORK['hidden']} units each, and there are {NETWORK['latent']} latents. `iwae-2layer`",
        "has 100 latents below 50, with two layers of 100 units between them. `ladder` has five",
        "layers of latents: 100 latents at the bottom, with networks of 200 units, and in each",
        "layer half as many of both as in the one below.",
    ),
    item(
        f"*Training*: Adam with a learning rate of {LEARNING_RATE:g}, batches of {BATCH}, and",
        "images that are binarised anew in every epoch. The last weights are evaluated. `iwae`,",
        f"`iwae-2layer` and `dreg` draw {BOUND_SAMPLES['samples']} samples of z for each image,",
        f"the others one. `vampprior` and `mixture-prior` have {COMPONENTS['components']}",
        "components. The flows have 4 transforms with two layers of 128 units. For `ladder`, the",
        "weight of the rate rises from 0 to 1 in the first fifth of training; for all others it is",
        "always 1. `iwae` and `iwae-2layer` are also compared after 40 epochs: after 20, the",
        "difference between them is not larger than the spread.",
    ),
    item(
        "*pythae* trains with its own trainer, and with the same networks, initial weights, batch",
        f"size and optimiser. Its flow has {FLOW['n_made_blocks']} blocks with",
        f"{FLOW['n_hidden_in_made']} layers of {FLOW['hidden_size']} units. Two differences",
        "between the libraries remain: lowerbound starts the output bias at the mean of the data,",
        "and the pseudo-inputs at training images.",
    ),
    item(
        "*Evaluation*: NLL is the negative log likelihood in nats, by importance sampling, of test",
        "images that were binarised once. It is estimated by the same function for all, since a",
        "trained model of pythae is converted to a model of lowerbound with the same parts. An",
        "image counts as doubtful if too few draws carry the weight (`lb.log_likelihood`); its NLL",
        f"is then probably too high. The rate is KL(q || p), estimated from {RATE_SAMPLES} draws",
        f"where it has no closed form. A unit is active if `Var_x(E_q[z]) > {ACTIVE_VARIANCE:g}`;",
        "there is one number for each seed. The seconds are the processor time of the whole",
        "training, including compilation, on one thread, divided by the number of epochs;",
        "trainings that were interrupted do not count.",
    ),
]


def write_page(folder: Path) -> Path | None:
    """Write the page next to the folder of the results; ``None`` if it has no results."""
    mnist, sprites = read_all(folder, "mnist"), read_all(folder, "sprites")
    if not mnist and not sprites:
        return None
    cells = [cell for results in (*mnist, *sprites) for cell in results.values()]
    lines = ["# The recipes compared with each other", "", *INTRODUCTION, ""]
    for results in mnist:
        lines += write_mnist(results)
    for results in sprites:
        lines += write_sprites(results)
    lines += [describe_machines(result["machine"] for cell in cells for result in cell), ""]
    page = folder.with_suffix(".md")
    page.write_text("\n".join(lines), encoding="utf8")
    return page
