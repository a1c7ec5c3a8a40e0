"""Annealed importance sampling against the importance bound, against itself from above, and against
quadrature.

    python reproductions/annealing.py [importance] [annealed-25 annealed-100 annealed-400]
    [simulated] [digits]

Wu, Burda, Salakhutdinov & Grosse 2017 on a decoder of MNIST, which is trained first, or goes on
where it stopped (state in runs/annealing/decoder). Each part ends as
docs/results/annealing/NAME.json; a part that is there is not measured again. In the end
docs/results/annealing.md and its figure are written from all that are there.
"""

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.evaluation.annealing import annealed_log_likelihood, bidirectional

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "annealing"
RUNS = ROOT / "runs" / "annealing"

EPOCHS = 20
IMAGES = 100
# Samples of the importance bound, and distributions of the annealing: the last of each are
# compared.
SAMPLES = (1, 10, 100, 1000, 5000)
DISTRIBUTIONS = (25, 100, 400)
CHAINS = 16
LEAPFROG_STEPS = 10

DIGITS_EPOCHS = 50
DIGITS = 20
DIGITS_SAMPLES = 20_000
DIGITS_CHAINS = 500
DIGITS_DISTRIBUTIONS = 200
SIDE = 200
REACH = 6.0

WANTED_GAP = 1.0
WANTED_ERROR = 0.05
WANTED_MINUTES = 15

Figures = dict[str, Any]


def decoder() -> tuple[lb.LatentModel, lb.Examples]:
    """The model of MNIST, trained, and test images whose pixels are drawn once, so that all
    estimators see the same."""
    data = lb.load_data("mnist", pixels="binarize")
    torch.manual_seed(0)
    model = lb.LatentModel(
        lb.StandardNormal(50),
        lb.Gaussian(lb.mlp(data.shape, 200, 200, 100, activation="tanh")),
        lb.Bernoulli(lb.mlp(50, 200, 200, data.shape, activation="tanh")),
    )
    directory = RUNS / "decoder"
    trained = lb.fit(
        model,
        lb.ELBO(),
        data.train,
        epochs=EPOCHS,
        directory=directory,
        resume=(directory / "config.yaml").exists(),
        pictures_every=0,
        progress=False,
    )
    return trained.model, data.test.spread(IMAGES).prepare("binarize-once", seed=1)


def timed(estimate: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    start = time.perf_counter()
    return estimate(), time.perf_counter() - start


def summary(estimate: lb.Estimate, seconds: float) -> Figures:
    return {
        "mean": estimate.mean,
        "standard_error": estimate.standard_error,
        "seconds": seconds,
        "per_example": estimate.per_example.tolist(),
    }


def importance() -> Figures:
    """The importance bound of the test images, for growing numbers of samples."""
    model, images = decoder()
    points = []
    for samples in SAMPLES:
        estimate, seconds = timed(
            lambda samples=samples: lb.log_likelihood(model, images, samples=samples)
        )
        effective = float(estimate.effective_sample_sizes.median())
        points.append({"samples": samples, "effective": effective, **summary(estimate, seconds)})
    return {"points": points}


def annealed(distributions: int) -> Figures:
    """The annealed figure of the test images."""
    model, images = decoder()
    estimate, seconds = timed(
        lambda: annealed_log_likelihood(model, images, **settings(distributions))
    )
    return {**estimate.settings, **chains_of(estimate), **summary(estimate, seconds)}


def simulated() -> Figures:
    """Both sides, for images that the model simulates."""
    model, _ = decoder()
    interval, seconds = timed(lambda: bidirectional(model, IMAGES, **settings(DISTRIBUTIONS[-1])))
    sides = {name: summary(getattr(interval, name), seconds) for name in ("lower", "upper", "gap")}
    return {**interval.lower.settings, **chains_of(interval.lower), **sides, "seconds": seconds}


def settings(distributions: int) -> dict[str, int]:
    return {"distributions": distributions, "chains": CHAINS, "leapfrog_steps": LEAPFROG_STEPS}


def chains_of(estimate: Any) -> Figures:
    return {
        "acceptance": float(estimate.acceptance.mean()),
        "effective": float(estimate.effective_sample_sizes.median()),
    }


def digits() -> Figures:
    """Two latents on scikit-learn's digits: both estimators against quadrature."""
    data = lb.load_data("digits", pixels="binarize")
    torch.manual_seed(0)
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(data.shape, 64, 4, activation="tanh")),
        lb.Bernoulli(lb.mlp(2, 64, data.shape, activation="tanh")),
    )
    lb.fit(model, lb.ELBO(), data.train, epochs=DIGITS_EPOCHS, progress=False)
    model.double()
    images = data.test.spread(DIGITS).prepare("binarize-once", seed=1)
    truth = quadrature(model, images, SIDE)
    sampled, sampling_seconds = timed(
        lambda: lb.log_likelihood(model, images, samples=DIGITS_SAMPLES)
    )
    found, annealing_seconds = timed(
        lambda: annealed_log_likelihood(
            model, images, distributions=DIGITS_DISTRIBUTIONS, chains=DIGITS_CHAINS
        )
    )
    return {
        "quadrature": truth.tolist(),
        "finer_grid": float((quadrature(model, images, 2 * SIDE) - truth).abs().max()),
        "importance": {"samples": DIGITS_SAMPLES, **summary(sampled, sampling_seconds)},
        "annealed": {**found.settings, **chains_of(found), **summary(found, annealing_seconds)},
    }


@torch.no_grad()
def quadrature(model: lb.LatentModel, images: lb.Examples, side: int) -> Tensor:
    """log p(x) by the midpoint rule on a grid over two latents, ``[N]``."""
    edges = torch.linspace(-REACH, REACH, side + 1, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    x = images.batch(torch.arange(len(images)), torch.float64)
    rows = []
    for row in middles:
        z = torch.stack([row.expand(side), middles], -1)[:, None].expand(-1, len(images), -1)
        rows.append((model.prior().log_prob(z) + model.likelihood(z).log_prob(x)).logsumexp(0))
    return torch.stack(rows).logsumexp(0) + 2 * math.log(2 * REACH / side)


def parts() -> dict[str, Callable[[], Figures]]:
    by_distributions = {
        f"annealed-{count}": lambda count=count: annealed(count) for count in DISTRIBUTIONS
    }
    return {"importance": importance, **by_distributions, "simulated": simulated, "digits": digits}


def run(name: str) -> None:
    """Measure one part, unless its figures are there."""
    target = RESULTS / f"{name}.json"
    if target.exists():
        print(f"{name}: {target} is there already", file=sys.stderr)
        return
    versions = f"torch {torch.__version__}, lowerbound {lb.__version__}"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {versions}"
    figures = {
        **parts()[name](),
        "epochs": EPOCHS,
        "threads": torch.get_num_threads(),
        "machine": machine,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf8")


def verdicts(done: dict[str, Figures]) -> list[str]:
    """A row for each check whose figures are there: what was found, what was wanted, and whether it
    holds."""
    rows = []

    def check(name: str, found: str, wanted: str, holds: bool) -> None:
        rows.append(
            f"| {name} | {found} | {wanted} | {'holds' if holds else '**does not hold**'} |"
        )

    last = f"annealed-{DISTRIBUTIONS[-1]}"
    if {"importance", last} <= done.keys():
        bound = done["importance"]["points"][-1]
        difference = lb.Estimate(
            torch.tensor(done[last]["per_example"]) - torch.tensor(bound["per_example"])
        )
        above = int((difference.per_example > 0).sum())
        check(
            f"test images: annealing with {DISTRIBUTIONS[-1]} distributions minus the bound of "
            f"{bound['samples']:,} samples",
            f"{difference.mean:.3f} ± {difference.standard_error:.3f}, above for {above} of "
            f"{len(difference.per_example)}",
            "above 0 by two standard errors",
            difference.mean > 2 * difference.standard_error,
        )
    if "simulated" in done:
        gap = done["simulated"]["gap"]
        check(
            f"simulated images: upper minus lower, {DISTRIBUTIONS[-1]} distributions",
            f"{gap['mean']:.3f} ± {gap['standard_error']:.3f}, largest "
            f"{max(gap['per_example']):.2f}",
            f"below {WANTED_GAP:g} by two standard errors",
            gap["mean"] + 2 * gap["standard_error"] < WANTED_GAP,
        )
    if "digits" in done:
        truth = torch.tensor(done["digits"]["quadrature"])
        for name, how in (("importance", "importance sampling"), ("annealed", "annealing")):
            error = (torch.tensor(done["digits"][name]["per_example"]) - truth).abs()
            check(
                f"two latents: {how} minus quadrature, largest of {len(truth)} digits",
                f"{float(error.max()):.4f}, {float(error.mean()):.4f} on average",
                f"within {WANTED_ERROR:g}",
                bool(error.max() < WANTED_ERROR),
            )
    if {"importance", last, "simulated"} <= done.keys():
        seconds = [
            done["importance"]["points"][-1]["seconds"],
            done[last]["seconds"],
            done["simulated"]["seconds"],
        ]
        minutes = sum(seconds) / 60
        check(
            "time of the first two",
            f"{minutes:.1f} min",
            f"below {WANTED_MINUTES} min",
            minutes < WANTED_MINUTES,
        )
    return rows


def estimates(done: dict[str, Figures]) -> list[str]:
    """A row for each estimate of the test and simulated images."""
    rows = []
    for point in done.get("importance", {}).get("points", []):
        rows.append(
            (
                "test",
                f"importance bound, {point['samples']:,} samples",
                point,
                point["effective"],
                "",
            )
        )
    for count in DISTRIBUTIONS:
        if figures := done.get(f"annealed-{count}"):
            rows.append(
                (
                    "test",
                    f"annealing, {count} distributions",
                    figures,
                    figures["effective"],
                    figures["acceptance"],
                )
            )
    if figures := done.get("simulated"):
        rows += [
            ("simulated", f"annealing, {side} side", figures[side], "", "")
            for side in ("lower", "upper")
        ]
    return [
        f"| {images} | {name} | {figures['mean']:.3f} ± {figures['standard_error']:.2f} | "
        f"{effective if effective == '' else f'{effective:.1f}'} | "
        f"{acceptance if acceptance == '' else f'{acceptance:.2f}'} | "
        f"{figures['seconds']:.1f} s |"
        for images, name, figures, effective, acceptance in rows
    ]


def draw_figure(done: dict[str, Figures]) -> None:
    """Both estimates of the test images against what they cost."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    sampled = [(point["samples"], point["mean"]) for point in done["importance"]["points"]]
    found = [done[f"annealed-{count}"] for count in DISTRIBUTIONS]
    costs = [
        (part["distributions"] * part["chains"] * part["leapfrog_steps"], part["mean"])
        for part in found
    ]
    for points, label, colour in (
        (sampled, "importance bound", "#d1495b"),
        (costs, "annealing", "#1f6f8b"),
    ):
        axes.plot(*zip(*points, strict=True), label=label, color=colour, marker="o")
    axes.set(
        xscale="log",
        xlabel="passes through the decoder for each image",
        ylabel="log p(x), nats per image",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(RESULTS / "bounds.png", dpi=120)


def write_page() -> None:
    """docs/results/annealing.md and its figure, from the figures that are there."""
    names = [name for name in parts() if (RESULTS / f"{name}.json").exists()]
    done = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in names}
    lines = [
        "# Annealed importance sampling of decoders",
        "",
        "Wu, Burda, Salakhutdinov & Grosse, *On the Quantitative Analysis of Decoder-Based "
        "Generative Models*, 2017 "
        "(arXiv:1611.04273). Written by `python reproductions/annealing.py`. A Bernoulli decoder "
        "of 50 latents (tanh 200-200 both "
        f"ways, {EPOCHS} passes over MNIST, binarised afresh at each) and {IMAGES} test images, "
        "binarised once, so that all "
        f"estimates are of the same pixels; {CHAINS} chains, {LEAPFROG_STEPS} leapfrog steps. All "
        "figures are in nats per image, ± is "
        "the standard error over images, and both estimates of the test images are lower bounds in "
        "expectation: the higher, the "
        "better. On test images there is no upper bound, for want of exact posterior draws; the "
        "gap on simulated images tells of "
        "test images only as far as the two resemble each other. Wu et al. report, for a decoder "
        "trained as an IWAE, "
        "-86.902 by 10,000 importance samples and -85.679 by annealing with 1,000 distributions.",
        "",
        "| check | found | wanted | verdict |",
        "|---|---|---|---|",
        *verdicts(done),
        "",
        "| images | estimate | log p(x) | median effective sample size | acceptance | time of the "
        "call |",
        "|---|---|---|---|---|---|",
        *estimates(done),
        "",
        "Both sides of the simulated images come from one call, and its time stands with each. "
        "Times include the pilot run.",
        "",
    ]
    if {"importance", *(f"annealed-{count}" for count in DISTRIBUTIONS)} <= done.keys():
        draw_figure(done)
        lines += ["![both estimates against their cost](annealing/bounds.png)", ""]
        lines += [
            "The pilot run is not counted. A pass of annealing has a gradient too, and costs two "
            "to three times as much.",
            "",
        ]
    if "digits" in done:
        part = done["digits"]
        lines += [
            f"Two latents: tanh 64 both ways, {DIGITS_EPOCHS} passes over scikit-learn's digits, "
            "binarised. Quadrature is the "
            f"midpoint rule on {SIDE} x {SIDE} points of [{-REACH:g}, {REACH:g}]^2 in float64; "
            "twice as fine a grid changes it by "
            f"{part['finer_grid']:.1g} nat at most. Importance sampling with "
            f"{part['importance']['samples']:,} samples took "
            f"{part['importance']['seconds']:.1f} s, annealing with {part['annealed']['chains']} "
            "chains and "
            f"{part['annealed']['distributions']} distributions {part['annealed']['seconds']:.1f} "
            "s.",
            "",
        ]
    machines = sorted({f"{part['machine']}, {part['threads']} thread(s)" for part in done.values()})
    lines += [
        f"Machine: {'; '.join(machines)}, shared with other work, so the times are upper ends.",
        "",
    ]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    (RESULTS.parent / "annealing.md").write_text("\n".join(lines), encoding="utf8")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or parts():
        run(chosen)
    write_page()
