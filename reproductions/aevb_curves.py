"""Figure 2 of Kingma & Welling 2013: the bound against the number of training samples, beside wake-sleep.

    python reproductions/aevb_curves.py [mnist-3 mnist-3-wake-sleep ... frey-2 frey-2-wake-sleep ...]

Each curve goes on where it stopped (state in runs/aevb-curves/NAME) and ends as docs/results/aevb-curves/NAME.json; a curve
that is there is not trained again. In the end docs/results/aevb-curves.md and its figures are written from all that are.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
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
    """A latent model whose training draws do what wake-sleep wants: no gradient through z, and a dream beside each example."""

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
    """Hinton et al. 1995: the decoder climbs log p(x, z) at z from q, the encoder climbs log q(z given x) in dreams."""

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
            self.points = [point for point in known if point["samples"] <= loop.progress.step * BATCH]

    def on_step(self, loop: Loop) -> None:
        if loop.progress.step in POINTS and not any(p["samples"] == loop.progress.step * BATCH for p in self.points):
            bounds = {part: lb.evaluate(loop.model, lb.ELBO(), examples).mean for part, examples in self.parts.items()}
            loop.model.train()
            self.points.append({"samples": loop.progress.step * BATCH, "seconds": loop.seconds, **bounds})
            self.path.write_text(json.dumps(self.points))


def data_of(name: str) -> lb.Dataset:
    return lb.load_data("mnist", pixels="binarize") if name == "mnist" else lb.load_data("frey-faces", seed=0)


def make(data: str, shape: tuple[int, ...], latent: int, method: str) -> tuple[lb.Model, lb.Objective]:
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


def train(model: lb.Model, objective: lb.Objective, examples: lb.Examples, rate: float, **settings: Any) -> lb.Run:
    """Adagrad on minibatches of 100; the prior N(0, I) on all weights is a decay of one over the number of examples."""
    return lb.fit(
        model, objective, examples,
        batch_size=BATCH, optimizer="adagrad", learning_rate=rate, weight_decay=1 / len(examples), **settings,
    )  # fmt: skip


def best_rate(data: str, examples: lb.Examples, latent: int, method: str) -> float:
    """The step size with the best training bound in the first few hundred steps, as the paper chose it."""
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
    curve = Curve(directory / "curve.json", {"train": examples.train.spread(len(examples.test)), "test": examples.test})
    train(
        model, objective, examples.train, rate,
        steps=SAMPLES // BATCH, directory=directory / "run", resume=(directory / "run" / "config.yaml").exists(),
        pictures_every=0, progress=False, observers=[curve],
    )  # fmt: skip
    figures = {
        "data": data, "latent": int(latent), "method": method, "rate": rate, "points": curve.points,
        "train_examples": len(examples.train), "test_examples": len(examples.test),
        "torch": torch.__version__, "lowerbound": lb.__version__,
    }  # fmt: skip
    target.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"{name}: rate {rate}, {curve.points[-1]}", file=sys.stderr)


def names() -> list[str]:
    """All curves, those of the fewest latents first."""
    every = [(data, latent) for data, latents in LATENTS.items() for latent in latents]
    return [f"{data}-{latent}{suffix}" for data, latent in every for suffix in ("", "-wake-sleep")]


if __name__ == "__main__":
    RESULTS.mkdir(parents=True, exist_ok=True)
    for chosen in sys.argv[1:] or names():
        run(chosen)
