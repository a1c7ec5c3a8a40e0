"""Figure 2 of Kingma & Welling 2013: the bound against the number of training samples, beside
wake-sleep.

    python reproductions/aevb_curves.py [mnist-3 mnist-3-wake-sleep ... frey-2 frey-2-wake-sleep
    ...]

Each curve goes on where it stopped (state in runs/aevb-curves/NAME) and ends as
docs/results/aevb-curves/NAME.json; a curve that is there is not trained again. In the end
docs/results/aevb-curves.md and its figures are written from all that are.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import lowerbound as lb
from lowerbound.models import Draw
from lowerbound.training.loop import Loop, Observer

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
    """A latent model whose training draws do what wake-sleep wants: no gradient through z, and a
    dream beside each example."""

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
        """log q(z given x) at draws (z, x) from the model, ``[B]``."""
        with torch.no_grad():
            z = self.prior().sample((count,))
            x = self.likelihood(z[None]).sample()[0]
        return self.posterior(x).log_prob(z)


@lb.describable
@dataclass(frozen=True)
class WakeSleep(lb.Objective):
    """Hinton et al. 1995: the decoder climbs log p(x, z) at z from q, the encoder climbs log q(z
    given x) in dreams."""

    def bound(self, draw: Draw) -> Tensor:
        return draw.log_likelihood.mean(0) - draw.rate

    def surrogate(self, draw: Draw) -> Tensor:
        return (draw.log_likelihood + draw.log_prior).mean(0) + draw.extra["sleep"]

    def __call__(self, draw: Draw) -> Tensor:
        return super().__call__(draw) if draw.extra else self.bound(draw)


@dataclass
class Curve(Observer):
    """Measures the bound on training and test examples at given steps."""

    path: Path
    parts: dict[str, lb.Examples]
    points: list[dict[str, float]] = field(default_factory=list)

    def on_start(self, loop: Loop) -> None:
        if self.path.exists():
            known = json.loads(self.path.read_text())
            self.points = [
                point for point in known if point["samples"] <= loop.progress.step * BATCH
            ]

    def on_step(self, loop: Loop) -> None:
        if loop.progress.step in POINTS and not any(
            p["samples"] == loop.progress.step * BATCH for p in self.points
        ):
            bounds = {
                part: lb.evaluate(loop.model, lb.ELBO(), examples).mean
                for part, examples in self.parts.items()
            }
            loop.model.train()
            self.points.append(
                {"samples": loop.progress.step * BATCH, "seconds": loop.seconds, **bounds}
            )
            self.path.write_text(json.dumps(self.points))


def data_of(name: str) -> lb.Dataset:
    return (
        lb.load_data("mnist", pixels="binarize")
        if name == "mnist"
        else lb.load_data("frey-faces", seed=0)
    )


def make(
    data: str, shape: tuple[int, ...], latent: int, method: str
) -> tuple[lb.Model, lb.Objective]:
    """The paper's networks, with weights from N(0, 0.01)."""
    torch.manual_seed(0)
    hidden = 500 if data == "mnist" else 200
    encoder = lb.mlp(shape, hidden, 2 * latent, activation="tanh")
    if data == "mnist":
        likelihood: Any = lb.Bernoulli(lb.mlp(latent, hidden, shape, activation="tanh"))
    else:
        decoder = lb.mlp(latent, hidden, (2 * shape[0], *shape[1:]), activation="tanh")
        likelihood = lb.Gaussian(decoder, mean="sigmoid", min_scale=0.01)
    kind = WakeSleepModel if method == "wake-sleep" else lb.LatentModel
    model = kind(lb.StandardNormal(latent), lb.Gaussian(encoder), likelihood)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model, WakeSleep() if method == "wake-sleep" else lb.ELBO()


def train(
    model: lb.Model, objective: lb.Objective, examples: lb.Examples, rate: float, **settings: Any
) -> lb.Run:
    """Adagrad on minibatches of 100; the prior N(0, I) on all weights is a decay of one over the
    number of examples."""
    return lb.fit(
        model,
        objective,
        examples,
        batch_size=BATCH,
        optimizer="adagrad",
        learning_rate=rate,
        weight_decay=1 / len(examples),
        **settings,
    )


def best_rate(data: str, examples: lb.Examples, latent: int, method: str) -> float:
    """The step size with the best training bound in the first few hundred steps, as the paper chose
    it."""
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
    """Train one curve, or go on with it."""
    target = RESULTS / f"{name}.json"
    if target.exists():
        print(f"{name}: {target} is there already", file=sys.stderr)
        return
    data, latent, *rest = name.split("-", 2)
    method = rest[0] if rest else "aevb"
    examples = data_of(data)
    directory = RUNS / name
    directory.mkdir(parents=True, exist_ok=True)
    choice = directory / "rate.json"
    if not choice.exists():
        choice.write_text(json.dumps(best_rate(data, examples.train, int(latent), method)))
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
    figures = {
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
    target.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"{name}: rate {rate}, {curve.points[-1]}", file=sys.stderr)


def names() -> list[str]:
    """All curves, those of the fewest latents first."""
    every = [(data, latent) for data, latents in LATENTS.items() for latent in latents]
    return [f"{data}-{latent}{suffix}" for data, latent in every for suffix in ("", "-wake-sleep")]


def draw(data: str, done: dict[str, dict[str, Any]]) -> None:
    """The figure of one data set as the paper has it: a panel for each number of latents, samples
    on a logarithmic axis."""
    figure = Figure(figsize=(3.1 * len(LATENTS[data]), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(LATENTS[data]), sharey=True)
    for axes, latent in zip(panels, LATENTS[data], strict=True):
        for suffix, colour, label in (
            ("", "#d1495b", "AEVB"),
            ("-wake-sleep", "#1f6f8b", "wake-sleep"),
        ):
            figures = done.get(f"{data}-{latent}{suffix}")
            for part, line in (("train", "-"), ("test", "--")):
                if figures is not None:
                    x, y = zip(
                        *[(point["samples"], point[part]) for point in figures["points"]],
                        strict=True,
                    )
                    axes.plot(x, y, line, color=colour, label=f"{label} ({part})")
        axes.set(
            xscale="log", xlim=(8e4, 1.25e7), title=f"{latent} latents", xlabel="training samples"
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("bound (nats per example)")
    panels[0].set_ylim((-175, -95) if data == "mnist" else (400, 1400))
    handles = {
        label: line
        for axes in panels
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(
            handles.values(),
            handles.keys(),
            frameon=False,
            fontsize=9,
            loc="outside upper center",
            ncols=4,
        )
    figure.savefig(RESULTS / f"{data}.png", dpi=120)


def write_page() -> None:
    """docs/results/aevb-curves.md and its figures, from the curves that are there."""
    done = {
        name: json.loads(path.read_text())
        for name in names()
        if (path := RESULTS / f"{name}.json").exists()
    }
    lines = [
        "# The bound against training samples, beside wake-sleep",
        "",
        "Figure 2 of Kingma & Welling, *Auto-Encoding Variational Bayes*, 2013 (arXiv:1312.6114). "
        "Written by "
        "`python reproductions/aevb_curves.py`.",
        "",
        "MNIST: 500 tanh units each way, pixels binarised afresh at every pass. Frey faces: 200 "
        "units, Gaussian likelihood "
        "with its mean through a sigmoid and its scale floored at 0.01. All weights drawn from "
        "N(0, 0.01), batches of 100, "
        "one draw of z, Adagrad with the step size of 0.01, 0.02 and 0.1 that had the best "
        "training bound after "
        f"{TRIAL_STEPS} steps, the prior N(0, I) on all weights. Wake-sleep (Hinton, Dayan, Frey & "
        "Neal 1995) has the same "
        "networks. Each curve ends at 10 million training samples, which the paper's exceed (100 "
        "million); training "
        "bounds are of as many training examples as there are test examples. All in nats per "
        "example.",
        "",
        "| curve | step size | bound at 10^5, train | test | at 10^6, train | test | at 10^7, "
        "train | test |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in done.items():
        at = {point["samples"]: point for point in figures["points"]}
        cells = [
            f"{at[samples][part]:,.1f}"
            for samples in (10**5, 10**6, 10**7)
            for part in ("train", "test")
        ]
        lines.append(
            f"| [{name}](aevb-curves/{name}.json) | {figures['rate']} | {' | '.join(cells)} |"
        )
    lines += ["", *claims(done), ""]
    for data in LATENTS:
        draw(data, done)
        lines += [f"![{data}](aevb-curves/{data}.png)", ""]
    missing = [name for name in names() if name not in done]
    if missing:
        lines += [f"Not yet trained: {', '.join(missing)}.", ""]
    (RESULTS.parent / "aevb-curves.md").write_text("\n".join(lines), encoding="utf8")


def claims(done: dict[str, dict[str, Any]]) -> list[str]:
    """The paper's claims, each with what the curves say of it."""
    last = {name: figures["points"][-1]["test"] for name, figures in done.items()}
    lines = ["What the paper claims, and what these curves say (test bounds at their ends):", ""]
    pairs = [(name, f"{name}-wake-sleep") for name in last if f"{name}-wake-sleep" in last]
    higher = [name for name, other in pairs if last[name] > last[other]]
    lines.append(
        f"- *The bound converges higher than wake-sleep's*: so it does in {len(higher)} of "
        f"{len(pairs)} pairs "
        f"({', '.join(f'{name} {last[name] - last[other]:+,.1f}' for name, other in pairs)})."
    )
    for data, latents in LATENTS.items():
        known = [
            (latent, last[f"{data}-{latent}"]) for latent in latents if f"{data}-{latent}" in last
        ]
        if len(known) > 1:
            values = ", ".join(f"{latent}: {value:,.1f}" for latent, value in known)
            lines.append(
                f"- *Superfluous latents do not overfit*: {data}, AEVB by number of latents: "
                f"{values}."
            )
    return lines


if __name__ == "__main__":
    RESULTS.mkdir(parents=True, exist_ok=True)
    for chosen in sys.argv[1:] or names():
        run(chosen)
    write_page()
