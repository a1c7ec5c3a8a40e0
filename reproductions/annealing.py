"""Annealed importance sampling compared with importance sampling, an upper bound and quadrature.

    python reproductions/annealing.py [importance] [annealed-25 annealed-100 annealed-400]
    [simulated] [digits]

Wu, Burda, Salakhutdinov & Grosse 2017 on a decoder of MNIST, which is trained first. A training
that was stopped resumes from its state in runs/annealing/decoder. A measured part is in
docs/results/annealing/NAME.json and is not measured again. At the end, docs/results/annealing.md
and its figure are written from all measured parts.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from choices import choose_parts
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from page_text import describe_machine, describe_machines, paragraph, read_results, table, verdict
from torch import Tensor

import lowerbound as lb
from lowerbound.evaluation.annealing import annealed_log_likelihood, bidirectional

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "annealing"
RUNS = ROOT / "runs" / "annealing"

EPOCHS = 20
IMAGES = 100
# The last numbers of samples (importance bound) and of distributions (annealing) are compared.
SAMPLES = (1, 10, 100, 1000, 5000)
DISTRIBUTIONS = (25, 100, 400)
CHAINS, LEAPFROG_STEPS = 16, 10

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

Results = dict[str, Any]


def decoder() -> tuple[lb.LatentModel, lb.Examples]:
    """The trained model of MNIST, and test images.

    The images are binarised once, so that all estimators see the same pixels.
    """
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
        start=False,
        directory=directory,
        resume=(directory / "config.yaml").exists(),
        pictures_every=0,
        progress=False,
    )
    return trained.model, data.test.spread(IMAGES).prepare("binarize-once", seed=1)


def timed(estimate: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the seconds that it takes."""
    start = time.perf_counter()
    return estimate(), time.perf_counter() - start


def summary(estimate: lb.Estimate, seconds: float) -> Results:
    return {
        "mean": estimate.mean,
        "standard_error": estimate.standard_error,
        "seconds": seconds,
        "per_example": estimate.per_example.tolist(),
    }


def importance() -> Results:
    """The importance bound of the test images, for several numbers of samples."""
    model, images = decoder()
    points = []
    for samples in SAMPLES:
        estimate, seconds = timed(
            lambda samples=samples: lb.log_likelihood(model, images, samples=samples)
        )
        effective = float(estimate.effective_sample_sizes.median())
        points.append({"samples": samples, "effective": effective, **summary(estimate, seconds)})
    return {"points": points}


def annealed(distributions: int) -> Results:
    """The annealed log likelihood of the test images."""
    model, images = decoder()
    estimate, seconds = timed(
        lambda: annealed_log_likelihood(model, images, **settings(distributions))
    )
    return {**estimate.settings, **chains_of(estimate), **summary(estimate, seconds)}


def simulated() -> Results:
    """The lower and the upper bound, for images that the model simulates."""
    model, _ = decoder()
    interval, seconds = timed(lambda: bidirectional(model, IMAGES, **settings(DISTRIBUTIONS[-1])))
    sides = {name: summary(getattr(interval, name), seconds) for name in ("lower", "upper", "gap")}
    return {**interval.lower.settings, **chains_of(interval.lower), **sides, "seconds": seconds}


def settings(distributions: int) -> dict[str, int]:
    return {"distributions": distributions, "chains": CHAINS, "leapfrog_steps": LEAPFROG_STEPS}


def chains_of(estimate: Any) -> Results:
    return {
        "acceptance": float(estimate.acceptance.mean()),
        "effective": float(estimate.effective_sample_sizes.median()),
    }


def digits() -> Results:
    """Two latents on scikit-learn's digits: both estimators beside quadrature."""
    data = lb.load_data("digits", pixels="binarize")
    torch.manual_seed(0)
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(data.shape, 64, 4, activation="tanh")),
        lb.Bernoulli(lb.mlp(2, 64, data.shape, activation="tanh")),
    )
    lb.fit(model, lb.ELBO(), data.train, epochs=DIGITS_EPOCHS, start=False, progress=False)
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


def parts() -> dict[str, Callable[[], Results]]:
    by_distributions = {
        f"annealed-{count}": lambda count=count: annealed(count) for count in DISTRIBUTIONS
    }
    return {"importance": importance, **by_distributions, "simulated": simulated, "digits": digits}


def run(name: str) -> None:
    """Measure one part, unless it was measured before."""
    target = RESULTS / f"{name}.json"
    if target.exists():
        print(f"{name}: {target} exists already", file=sys.stderr)
        return
    result = {
        **parts()[name](),
        "epochs": EPOCHS,
        "threads": torch.get_num_threads(),
        "machine": describe_machine(),
    }
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")


LAST = f"annealed-{DISTRIBUTIONS[-1]}"


def checks(done: dict[str, Results]) -> list[list[str]]:
    """A row for each check of what was measured: what was found, what was wanted, the verdict."""
    rows = []
    if {"importance", LAST} <= done.keys():
        rows.append(check_test_images(done))
    if "simulated" in done:
        rows.append(check_gap(done["simulated"]["gap"]))
    if "digits" in done:
        for name, method in (("importance", "importance sampling"), ("annealed", "annealing")):
            rows.append(check_quadrature(done["digits"], name, method))
    if {"importance", LAST, "simulated"} <= done.keys():
        rows.append(check_time(done))
    return rows


def check_test_images(done: dict[str, Results]) -> list[str]:
    bound = done["importance"]["points"][-1]
    difference = lb.Estimate(
        torch.tensor(done[LAST]["per_example"]) - torch.tensor(bound["per_example"])
    )
    above = int((difference.per_example > 0).sum())
    return [
        f"test images: annealing with {DISTRIBUTIONS[-1]} distributions minus the bound of "
        f"{bound['samples']:,} samples",
        f"{difference.mean:.3f} ± {difference.standard_error:.3f}, above for {above} of "
        f"{len(difference.per_example)}",
        "above 0 by two standard errors",
        verdict(difference.mean > 2 * difference.standard_error),
    ]


def check_gap(gap: Results) -> list[str]:
    return [
        f"simulated images: upper minus lower, {DISTRIBUTIONS[-1]} distributions",
        f"{gap['mean']:.3f} ± {gap['standard_error']:.3f}, largest {max(gap['per_example']):.2f}",
        f"below {WANTED_GAP:g} by two standard errors",
        verdict(gap["mean"] + 2 * gap["standard_error"] < WANTED_GAP),
    ]


def check_quadrature(part: Results, name: str, method: str) -> list[str]:
    truth = torch.tensor(part["quadrature"])
    error = (torch.tensor(part[name]["per_example"]) - truth).abs()
    return [
        f"two latents: {method} minus quadrature, largest of {len(truth)} digits",
        f"{float(error.max()):.4f}, {float(error.mean()):.4f} on average",
        f"within {WANTED_ERROR:g}",
        verdict(bool(error.max() < WANTED_ERROR)),
    ]


def check_time(done: dict[str, Results]) -> list[str]:
    timed_parts = (done["importance"]["points"][-1], done[LAST], done["simulated"])
    minutes = sum(part["seconds"] for part in timed_parts) / 60
    return [
        "time of the first two",
        f"{minutes:.1f} min",
        f"below {WANTED_MINUTES} min",
        verdict(minutes < WANTED_MINUTES),
    ]


def estimates(done: dict[str, Results]) -> list[list[str]]:
    """A row for each estimate of the test images and the simulated images."""
    rows = []
    for point in done.get("importance", {}).get("points", []):
        name = f"importance bound, {point['samples']:,} samples"
        rows.append(estimate_row("test", name, point, f"{point['effective']:.1f}"))
    for count in DISTRIBUTIONS:
        if result := done.get(f"annealed-{count}"):
            name = f"annealing, {count} distributions"
            weights = (f"{result['effective']:.1f}", f"{result['acceptance']:.2f}")
            rows.append(estimate_row("test", name, result, *weights))
    if result := done.get("simulated"):
        for side in ("lower", "upper"):
            rows.append(estimate_row("simulated", f"annealing, {side} side", result[side]))
    return rows


def estimate_row(
    images: str, name: str, result: Results, effective: str = "", acceptance: str = ""
) -> list[str]:
    return [
        images,
        name,
        f"{result['mean']:.3f} ± {result['standard_error']:.2f}",
        effective,
        acceptance,
        f"{result['seconds']:.1f} s",
    ]


def draw_figure(done: dict[str, Results]) -> None:
    """Draw both estimates of the test images against their cost."""
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


ESTIMATES_HEAD = (
    "images | estimate | log p(x) | median effective sample size | acceptance | time of the call"
)


def introduction() -> str:
    return paragraph(
        "Wu, Burda, Salakhutdinov & Grosse, *On the Quantitative Analysis of Decoder-Based",
        "Generative Models*, 2017 (arXiv:1611.04273).",
        "`python reproductions/annealing.py` writes this page. The model has 50 latents and a",
        "Bernoulli likelihood; encoder and decoder have two tanh layers of 200 units each, and",
        f"were trained for {EPOCHS} epochs of MNIST, binarised anew at each. {IMAGES} test images",
        "were binarised once, so that all estimates are for the same pixels. Annealing uses",
        f"{CHAINS} chains and {LEAPFROG_STEPS} leapfrog steps per transition. All values are in",
        "nats per image, and ± is the standard error over images. Both estimates for the test",
        "images are lower bounds in expectation, so the higher one is the better one. An upper",
        "bound for test images would need exact posterior draws, which are unknown. The gap on",
        "simulated images says something about test images only to the extent that the two",
        "resemble each other. For a decoder trained as an IWAE, Wu et al. report -86.902 with",
        "10,000 importance samples and -85.679 by annealing with 1,000 distributions.",
    )


def two_latents(part: Results) -> str:
    sampled, found = part["importance"], part["annealed"]
    return paragraph(
        "The model with two latents has a tanh layer of 64 in encoder and decoder, and was trained",
        f"for {DIGITS_EPOCHS} epochs of scikit-learn's digits, binarised. Quadrature is the",
        f"midpoint rule on {SIDE} x {SIDE} points of [{-REACH:g}, {REACH:g}]^2 in float64; a grid",
        f"twice as fine changes it by {part['finer_grid']:.1g} nat at most. Importance sampling",
        f"with {sampled['samples']:,} samples took {sampled['seconds']:.1f} s, and annealing with",
        f"{found['chains']} chains and {found['distributions']} distributions",
        f"{found['seconds']:.1f} s.",
    )


def write_page() -> None:
    """Write docs/results/annealing.md and its figure from all measured parts."""
    done = read_results(RESULTS, parts())
    lines = [
        "# Annealed importance sampling of decoders",
        "",
        introduction(),
        "",
        *table("check | found | wanted | verdict", checks(done)),
        "",
        *table(ESTIMATES_HEAD, estimates(done)),
        "",
        paragraph(
            "Both sides of the simulated images come from one call, so both rows have its time.",
            "Times include the pilot run.",
        ),
        "",
    ]
    if {"importance", *(f"annealed-{count}" for count in DISTRIBUTIONS)} <= done.keys():
        draw_figure(done)
        lines += [
            "![both estimates against their cost](annealing/bounds.png)",
            "",
            paragraph(
                "The figure does not count the pilot run. In annealing, a pass through the decoder",
                "includes its gradient, and costs two to three times as much.",
            ),
            "",
        ]
    if "digits" in done:
        lines += [two_latents(done["digits"]), ""]
    machines = (f"{part['machine']}, {part['threads']} thread(s)" for part in done.values())
    lines += [describe_machines(machines), ""]
    (RESULTS.parent / "annealing.md").write_text("\n".join(lines), encoding="utf8")


if __name__ == "__main__":
    names = choose_parts(__name__, parts())
    RESULTS.mkdir(parents=True, exist_ok=True)
    for chosen in names:
        run(chosen)
    write_page()
