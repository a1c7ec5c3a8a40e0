"""Figure 2 of Kingma & Welling 2013: bound against training samples, beside wake-sleep.

    python reproductions/aevb_curves.py [mnist-3 mnist-3-wake-sleep ... frey-2-wake-sleep ...]

A curve that was stopped resumes from its state in runs/aevb-curves/NAME. A finished curve is in
docs/results/aevb-curves/NAME.json and is not trained again. At the end,
docs/results/aevb-curves.md and its figures are written from all finished curves.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from choices import choose_parts
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from page_text import item, paragraph, read_results, table
from torch import Tensor

import lowerbound as lb
from lowerbound.models import Draw
from lowerbound.training.loop import Loop

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "aevb-curves"
RUNS = ROOT / "runs" / "aevb-curves"

BATCH = 100
SAMPLES = 10_000_000
TRIAL_STEPS = 300
RATES = (0.01, 0.02, 0.1)
# Where the curve is measured: eight times per factor of ten.
POINTS = [round(1e5 * 10 ** (i / 8) / BATCH) for i in range(17)]
LATENTS = {"mnist": (3, 5, 10, 20, 200), "frey": (2, 5, 10, 20)}


@lb.describable
class WakeSleepModel(lb.LatentModel):
    """A latent model with the draws that wake-sleep trains on.

    No gradient goes through z, and there is a dream beside each example.
    """

    def draw(self, x: Tensor, samples: int = 1, gradient: Any = "pathwise") -> Draw:
        q, prior = self.posterior(x), self.prior()
        z = q.rsample((samples,)).detach()
        p = self.likelihood(z)
        return Draw(
            z=z,
            likelihood_term=lambda: p.log_prob(x),
            prior_term=lambda: prior.log_prob(z),
            posterior_term=lambda: q.log_prob(z),
            q=q,
            prior=prior,
            p=p,
            extra={"sleep": self._dream(len(x))} if self.training else {},
        )

    def _dream(self, count: int) -> Tensor:
        """log q(z|x) at draws (z, x) from the model, ``[B]``."""
        with torch.no_grad():
            z = self.prior().sample((count,))
            x = self.likelihood(z[None]).sample()[0]
        return self.posterior(x).log_prob(z)


@lb.describable
@dataclass(frozen=True)
class WakeSleep(lb.Objective):
    """The objective of Hinton et al. 1995.

    The decoder maximises log p(x, z) at z from q, and the encoder log q(z|x) in dreams.
    """

    def bound(self, draw: Draw) -> Tensor:
        return draw.log_likelihood.mean(0) - draw.rate

    def surrogate(self, draw: Draw) -> Tensor:
        return (draw.log_likelihood + draw.log_prior).mean(0) + draw.extra["sleep"]

    def __call__(self, draw: Draw) -> Tensor:
        if not draw.extra:
            return self.bound(draw)
        return super().__call__(draw)


# The model's class and the objective of each method.
METHODS: dict[str, tuple[type[lb.LatentModel], lb.Objective]] = {
    "aevb": (lb.LatentModel, lb.ELBO()),
    "wake-sleep": (WakeSleepModel, WakeSleep()),
}


@dataclass
class Curve(lb.Observer):
    """Measures the bound on training and test examples at given steps."""

    path: Path
    parts: dict[str, lb.Examples]
    points: list[dict[str, float]] = field(default_factory=list)

    def on_start(self, loop: Loop) -> None:
        if self.path.exists():
            known = json.loads(self.path.read_text())
            samples = loop.progress.step * BATCH
            self.points = [point for point in known if point["samples"] <= samples]

    def on_step(self, loop: Loop) -> None:
        samples = loop.progress.step * BATCH
        measured = any(point["samples"] == samples for point in self.points)
        if measured or loop.progress.step not in POINTS:
            return
        bounds = {
            part: lb.evaluate(loop.model, lb.ELBO(), examples).mean
            for part, examples in self.parts.items()
        }
        loop.model.train()
        self.points.append({"samples": samples, "seconds": loop.seconds, **bounds})
        self.path.write_text(json.dumps(self.points))


def load(name: str) -> lb.Dataset:
    if name == "mnist":
        return lb.load_data("mnist", pixels="binarize")
    return lb.load_data("frey-faces", seed=0)


def make(
    data: str, shape: tuple[int, ...], latent: int, method: str
) -> tuple[lb.Model, lb.Objective]:
    """The paper's networks, with weights from N(0, 0.01)."""
    torch.manual_seed(0)
    hidden = {"mnist": 500, "frey": 200}[data]
    encoder = lb.mlp(shape, hidden, 2 * latent, activation="tanh")
    if data == "mnist":
        likelihood: Any = lb.Bernoulli(lb.mlp(latent, hidden, shape, activation="tanh"))
    else:
        decoder = lb.mlp(latent, hidden, (2 * shape[0], *shape[1:]), activation="tanh")
        likelihood = lb.Gaussian(decoder, mean="sigmoid", min_scale=0.01)
    kind, objective = METHODS[method]
    model = kind(lb.StandardNormal(latent), lb.Gaussian(encoder), likelihood)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model, objective


def train(
    model: lb.Model, objective: lb.Objective, examples: lb.Examples, rate: float, **settings: Any
) -> lb.Run:
    """Train by Adagrad on batches of 100.

    The prior N(0, I) on all weights is a weight decay of one over the number of examples.
    """
    return lb.fit(
        model,
        objective,
        examples,
        batch_size=BATCH,
        optimizer="adagrad",
        learning_rate=rate,
        weight_decay=1 / len(examples),
        start=False,  # as in the paper
        **settings,
    )


def choose_rate(data: str, examples: lb.Examples, latent: int, method: str) -> float:
    """The step size with the best training bound after a few hundred steps, as in the paper."""
    reached = {}
    for rate in RATES:
        model, objective = make(data, examples.shape, latent, method)
        try:
            train(model, objective, examples, rate, steps=TRIAL_STEPS, progress=False)
            reached[rate] = lb.evaluate(model, lb.ELBO(), examples.spread(2000)).mean
        except lb.errors.NonFiniteError:
            continue
    return max(reached, key=lambda rate: reached[rate])


def run(name: str) -> None:
    """Train one curve, or resume it."""
    target = RESULTS / f"{name}.json"
    if target.exists():
        print(f"{name}: {target} exists already", file=sys.stderr)
        return
    data, latent, method = (*name.split("-", 2), "aevb")[:3]
    examples = load(data)
    directory = RUNS / name
    directory.mkdir(parents=True, exist_ok=True)
    choice = directory / "rate.json"
    if not choice.exists():
        choice.write_text(json.dumps(choose_rate(data, examples.train, int(latent), method)))
    rate = json.loads(choice.read_text())
    model, objective = make(data, examples.shape, int(latent), method)
    curve = Curve(
        directory / "curve.json",
        {"train": examples.train.spread(len(examples.test)), "test": examples.test},
    )
    train(
        model,
        objective,
        examples.train,
        rate,
        steps=SAMPLES // BATCH,
        directory=directory / "run",
        resume=(directory / "run" / "config.yaml").exists(),
        pictures_every=0,
        progress=False,
        observers=[curve],
    )
    result = {
        "data": data,
        "latent": int(latent),
        "method": method,
        "rate": rate,
        "points": curve.points,
        "train_examples": len(examples.train),
        "test_examples": len(examples.test),
        "torch": torch.__version__,
        "lowerbound": lb.__version__,
    }
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{name}: rate {rate}, {curve.points[-1]}", file=sys.stderr)


def names() -> list[str]:
    """All curves, the ones with the fewest latents first."""
    every = [(data, latent) for data, latents in LATENTS.items() for latent in latents]
    return [f"{data}-{latent}{suffix}" for data, latent in every for suffix in ("", "-wake-sleep")]


def plot_curves(axes: Any, data: str, latent: int, done: dict[str, dict[str, Any]]) -> None:
    """One panel: both methods with one number of latents."""
    for suffix, colour, label in (
        ("", "#d1495b", "AEVB"),
        ("-wake-sleep", "#1f6f8b", "wake-sleep"),
    ):
        points = done.get(f"{data}-{latent}{suffix}", {}).get("points", [])
        x = [point["samples"] for point in points]
        for part, line in (("train", "-"), ("test", "--")):
            y = [point[part] for point in points]
            axes.plot(x, y, line, color=colour, label=f"{label} ({part})")
    axes.set(xscale="log", xlim=(8e4, 1.25e7), title=f"{latent} latents", xlabel="training samples")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def draw_figure(data: str, done: dict[str, dict[str, Any]]) -> None:
    """The figure of one data set: a panel for each number of latents, as in the paper."""
    figure = Figure(figsize=(3.1 * len(LATENTS[data]), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(LATENTS[data]), sharey=True)
    for axes, latent in zip(panels, LATENTS[data], strict=True):
        plot_curves(axes, data, latent, done)
    panels[0].set_ylabel("bound (nats per example)")
    panels[0].set_ylim({"mnist": (-175, -95), "frey": (400, 1400)}[data])
    handles = {
        label: line
        for axes in panels
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        frameon=False,
        fontsize=9,
        loc="outside upper center",
        ncols=4,
    )
    figure.savefig(RESULTS / f"{data}.png", dpi=120)


HEAD = (
    "curve | learning rate | bound at 10^5, train | test | at 10^6, train | test | "
    "at 10^7, train | test"
)


def table_row(name: str, result: dict[str, Any]) -> list[str]:
    at = {point["samples"]: point for point in result["points"]}
    return [
        f"[{name}](aevb-curves/{name}.json)",
        f"{result['rate']}",
        *(
            f"{at[samples][part]:,.1f}"
            for samples in (10**5, 10**6, 10**7)
            for part in ("train", "test")
        ),
    ]


def write_page() -> None:
    """Write docs/results/aevb-curves.md and its figures from all finished curves."""
    done = read_results(RESULTS, names())
    lines = [
        "# The bound as training proceeds, compared with wake-sleep",
        "",
        paragraph(
            "Figure 2 of Kingma & Welling, *Auto-Encoding Variational Bayes*, 2013",
            "(arXiv:1312.6114). `python reproductions/aevb_curves.py` writes this page.",
        ),
        "",
        paragraph(
            "On MNIST, encoder and decoder have 500 tanh units, and pixels are binarised anew at",
            "every epoch. On the Frey faces they have 200 units; the likelihood is Gaussian, its",
            "mean goes through a sigmoid, and its scale is at least 0.01. All weights are",
            "initialised from N(0, 0.01) and have the prior N(0, I). Training uses batches of 100,",
            "one draw of z, and Adagrad with the learning rate among 0.01, 0.02 and 0.1 that had",
            f"the best training bound after {TRIAL_STEPS} steps. Wake-sleep (Hinton, Dayan, Frey",
            "& Neal 1995) has the same networks. Each curve ends at 10 million training samples;",
            "the paper's curves end at 100 million. Training bounds are measured on as many",
            "training examples as there are test examples. All bounds are in nats per example.",
        ),
        "",
        *table(HEAD, (table_row(name, result) for name, result in done.items())),
        "",
        *claims(done),
        "",
    ]
    for data in LATENTS:
        draw_figure(data, done)
        lines += [f"![{data}](aevb-curves/{data}.png)", ""]
    missing = [name for name in names() if name not in done]
    if missing:
        lines += [paragraph(f"Not yet trained: {', '.join(missing)}."), ""]
    (RESULTS.parent / "aevb-curves.md").write_text("\n".join(lines), encoding="utf8")


def claims(done: dict[str, dict[str, Any]]) -> list[str]:
    """The paper's claims, each with what the curves say about it."""
    last = {name: result["points"][-1]["test"] for name, result in done.items()}
    rivals = {name: f"{name}-wake-sleep" for name in last if f"{name}-wake-sleep" in last}
    gains = {name: last[name] - last[rival] for name, rival in rivals.items()}
    higher = sum(gain > 0 for gain in gains.values())
    lines = [
        "The paper's claims, and what these curves say about them (test bounds at their ends):",
        "",
        item(
            f"*The bound converges to a higher value than wake-sleep's*: it does in {higher} of",
            f"{len(gains)} pairs",
            f"({', '.join(f'{name} {gain:+,.1f}' for name, gain in gains.items())}).",
        ),
    ]
    for data, latents in LATENTS.items():
        known = {latent: f"{data}-{latent}" for latent in latents if f"{data}-{latent}" in last}
        if len(known) > 1:
            values = ", ".join(f"{latent}: {last[name]:,.1f}" for latent, name in known.items())
            lines.append(
                item(
                    f"*Superfluous latents do not cause overfitting*: {data}, AEVB by number of",
                    f"latents: {values}.",
                )
            )
    return lines


if __name__ == "__main__":
    names_of_curves = choose_parts(__name__, names())
    RESULTS.mkdir(parents=True, exist_ok=True)
    for chosen in names_of_curves:
        run(chosen)
    write_page()
