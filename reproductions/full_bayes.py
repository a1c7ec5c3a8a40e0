"""Full variational Bayes: the decoder's weights have a posterior too.

    python reproductions/full_bayes.py [100] [1000]

This is appendix F of Kingma & Welling 2013. The unknowns are the latents of each picture, and the
weights of the decoder, which all pictures share. The encoder gives q(z | x). The weights have a
mean-field Gaussian q(w). lb.LogJoint gives the bound, with the pictures in batches:

    log p(X) >= E_q(w) [ N/B sum_b ( E_q(z|x_b) log p(x_b | z, w) - KL(q(z | x_b) || p(z)) ) ] -
    KL(q(w) || p(w))

It is compared with the same auto-encoder whose weights are a point. Both are trained on few binary
digits of scikit-learn and tested on others. The results of each number of pictures are in
docs/results/full-bayes/NUMBER.json; if that file exists, nothing is trained again.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from choices import choose_parts
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from page_text import paragraph, table
from torch import Tensor, nn
from torch.distributions import Normal
from torch.func import functional_call

import lowerbound as lb
from lowerbound.training.loop import Loop

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "full-bayes"

COUNTS = (100, 1000)
LATENTS, HIDDEN = 5, 100
STEPS, BATCH = 12_000, 100
# Draws of the weights in a training step, and draws of weights and latents in the test.
WEIGHT_DRAWS, TEST_WEIGHT_DRAWS, LATENT_DRAWS = 2, 32, 200
# The standard deviations of the weights' posterior before training, and of their prior.
START, PRIOR = 0.03, 1.0
RATE, WEIGHTS_RATE = 1e-3, 0.03
STEPS_BETWEEN_POINTS = 500

Weights = dict[str, Tensor]


def make_encoder() -> nn.Module:
    """q(z | x)."""
    return lb.Gaussian(lb.mlp((1, 8, 8), HIDDEN, 2 * LATENTS, activation="tanh"))


def make_decoder() -> nn.Module:
    """p(x | z)."""
    return lb.Bernoulli(lb.mlp(LATENTS, HIDDEN, (1, 8, 8), activation="tanh"))


class Pictures(nn.Module):
    """A lower bound of the log joint of pictures and a decoder's weights.

    An encoder of this module's own bounds the integral over the latents.

    Args:
        decoder: its weights are the variables, so it is called with draws in their place.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = make_encoder()
        self.names = {name.replace(".", "_"): name for name, _ in decoder.named_parameters()}
        # In a list, so that the decoder's own weights are not parameters of this module.
        self.decoder = [decoder]

    def weights(self) -> Weights:
        """The decoder's own weights, by the name of the variable."""
        own = dict(self.decoder[0].named_parameters())
        return {name: own[path].detach() for name, path in self.names.items()}

    def elbo(self, x: Tensor, weights: Weights, z: Tensor, q: Any) -> Tensor:
        """The bound of each picture, ``[K, B]``.

        Args:
            x: the pictures.
            weights: K draws of each.
            z: K draws of the latents, ``[K, B, J]``.
            q: the distribution that z was drawn from.
        """
        by_path = {path: weights[name] for name, path in self.names.items()}
        log_likelihood = torch.vmap(
            lambda own, at: functional_call(self.decoder[0], own, (at,)).log_prob(x)
        )(by_path, z)
        return log_likelihood + Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z)

    def forward(self, x: Tensor, scale: float, **weights: Tensor) -> Tensor:
        """The bound of the log joint, ``[K]``."""
        q = self.encoder(x)
        z = q.rsample((len(next(iter(weights.values()))),))
        prior = sum(
            Normal(0.0, PRIOR).log_prob(value).flatten(1).sum(1) for value in weights.values()
        )
        return scale * self.elbo(x, weights, z, q).sum(-1) + prior


@torch.no_grad()
def evaluate(pictures: Pictures, weights: Weights, x: Tensor, samples: int) -> dict[str, float]:
    """The bound and log p(x) of pictures, given draws of the weights ``[S, ...]``.

    The bound averages over the draws, and log p(x) averages over them within the logarithm.
    """
    generator = torch.random.get_rng_state()
    torch.manual_seed(1)
    count, q = len(next(iter(weights.values()))), pictures.encoder(x)
    log_w = torch.stack([pictures.elbo(x, weights, q.sample((count,)), q) for _ in range(samples)])
    torch.random.set_rng_state(generator)
    likelihood = log_w.flatten(0, 1).logsumexp(0) - math.log(count * samples)
    return {"bound": float(log_w.mean()), "log_likelihood": float(likelihood.mean())}


class BoundCurve(lb.Observer):
    """Measures the bound of training and test pictures during the training."""

    def __init__(self, pictures: Pictures, draw: Any, parts: dict[str, Tensor]) -> None:
        self.pictures, self.draw, self.parts = pictures, draw, parts
        self.points: list[dict[str, float]] = []

    def on_step(self, loop: Loop) -> None:
        """Add a point to the curve."""
        step = loop.progress.step + 1
        if step % STEPS_BETWEEN_POINTS:
            return
        bounds = {
            name: evaluate(self.pictures, self.draw(8), x, 1)["bound"]
            for name, x in self.parts.items()
        }
        self.points.append({"step": step, **bounds})


def train_posterior(train: Tensor, test: Tensor) -> dict[str, Any]:
    """Train with a posterior over the decoder's weights."""
    torch.manual_seed(0)
    pictures = Pictures(make_decoder())
    weights = pictures.weights()
    variables = {name: tuple(value.shape) for name, value in weights.items()}
    model = lb.LogJoint(pictures, lb.mean_field, variables, size=len(train)).start(
        at=weights, spread=START
    )
    groups = [
        {"params": pictures.parameters(), "lr": RATE},
        {"params": model.posterior.parameters(), "lr": WEIGHTS_RATE},
    ]
    curve = BoundCurve(
        pictures,
        lambda count: model.posterior_sample(count, seed=1),
        {"train": train, "test": test},
    )
    optimizer = torch.optim.Adam(groups)
    settings = {
        "optimizer": optimizer,
        "steps": STEPS,
        "batch_size": BATCH,
        "schedule": "cosine",
        "progress": False,
    }
    lb.fit(model, lb.ELBO(samples=WEIGHT_DRAWS), train, observers=[curve], **settings)
    draws = model.posterior_sample(TEST_WEIGHT_DRAWS, seed=2)
    scales = model.posterior().stddev.detach() * model.spread
    return {
        "curve": curve.points,
        "test": evaluate(pictures, draws, test, LATENT_DRAWS // 8),
        "train": evaluate(pictures, draws, train, LATENT_DRAWS // 8),
        "pruned": float((scales > 0.9 * PRIOR).float().mean()),
    }


def train_point(train: Tensor, test: Tensor) -> dict[str, Any]:
    """Train with a point for the decoder's weights."""
    torch.manual_seed(0)
    own = make_decoder()
    pictures = Pictures(own)
    model = lb.LatentModel(lb.StandardNormal(LATENTS), pictures.encoder, own)

    def draw(count: int) -> Weights:
        return {name: value[None] for name, value in pictures.weights().items()}

    curve = BoundCurve(pictures, draw, {"train": train, "test": test})
    settings = {
        "learning_rate": RATE,
        "steps": STEPS,
        "batch_size": BATCH,
        "schedule": "cosine",
        "progress": False,
    }
    # The decoder starts as that of the training above does.
    lb.fit(model, lb.ELBO(), train, observers=[curve], start=False, **settings)
    parts = {"test": test, "train": train}
    samples = LATENT_DRAWS // 8 * TEST_WEIGHT_DRAWS
    return {"curve": curve.points} | {
        name: evaluate(pictures, draw(1), x, samples) for name, x in parts.items()
    }


def measure(count: int) -> dict[str, Any]:
    """Train both ways on the first ``count`` pictures."""
    digits = lb.load_data("digits").prepare("binarize-once")
    train, test = (
        part.batch(torch.arange(len(part)), torch.float32) for part in (digits.train, digits.test)
    )
    return {
        "pictures": count,
        "full": train_posterior(train[:count], test),
        "point": train_point(train[:count], test),
    }


NAMES = {"point": "a point", "full": "a posterior"}


def table_rows(found: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for result in found:
        for way, name in NAMES.items():
            train, test = result[way]["train"], result[way]["test"]
            values = (train["bound"], test["bound"], test["log_likelihood"])
            rows.append([f"{result['pictures']:,}", name, *(f"{value:.2f}" for value in values)])
    return rows


def compare(result: dict[str, Any]) -> str:
    """What the page says about one number of pictures."""
    point, full = result["point"], result["full"]
    best = max(entry["test"] for entry in point["curve"])
    return paragraph(
        f"With {result['pictures']:,} pictures the test bound of the point was at best {best:.2f}",
        f"during training, and {point['test']['bound']:.2f} at the end; that of the posterior was",
        f"{full['test']['bound']:.2f} at the end. {100 * full['pruned']:.0f}% of the weights kept",
        "their prior: the pictures do not need these weights.",
    )


def conclude(found: list[dict[str, Any]]) -> list[str]:
    """Where the point is the better model, and why."""
    counts = " and ".join(
        f"{result['pictures']:,}"
        for result in found
        if result["full"]["test"]["bound"] < result["point"]["test"]["bound"]
    )
    if not counts:
        return []
    text = paragraph(
        "The posterior does not overfit here. But mean field assumes that the weights are",
        "independent, and so gives up the weights that matter little. With",
        f"{counts} pictures the point is the better model of new pictures.",
    )
    return ["", text]


def draw_figure(found: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(4.2 * len(found), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, result in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for way, colour in (("point", "#d55e00"), ("full", "#0072b2")):
            steps = [entry["step"] for entry in result[way]["curve"]]
            for part, style in (("train", ":"), ("test", "-")):
                values = [entry[part] for entry in result[way]["curve"]]
                axes.plot(steps, values, style, color=colour, label=f"{NAMES[way]}, {part}")
        axes.set(
            title=f"{result['pictures']:,} pictures",
            xlabel="step",
            ylabel="bound (nats per picture)",
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(RESULTS / "curves.png", dpi=110)


def write_page() -> None:
    """Write docs/results/full-bayes.md and its figure from all results."""
    paths = sorted(RESULTS.glob("*.json"), key=lambda path: int(path.stem))
    found = [json.loads(path.read_text()) for path in paths]
    draw_figure(found)
    lines = [
        "# A posterior over a decoder's weights",
        "",
        paragraph(
            "`python reproductions/full_bayes.py` writes this page. It compares two auto-encoders",
            "that differ in the decoder's weights: they are *a point*, as usual, or have *a",
            "posterior*, a mean-field Gaussian, with the prior N(0, I) (Kingma & Welling 2013,",
            "appendix F). Values are in nats per picture. The data are binary digits of 8 x 8",
            f"pixels. There are {LATENTS} latents, {HIDDEN} hidden units and {STEPS:,} steps.",
        ),
        "",
        *table(
            "pictures | weights | bound, training | bound, test | log p(x), test", table_rows(found)
        ),
        "",
        "![The bounds during training](full-bayes/curves.png)",
        "",
        "\n\n".join(map(compare, found)),
        *conclude(found),
        "",
    ]
    (RESULTS.parent / "full-bayes.md").write_text("\n".join(lines), encoding="utf8")


def main() -> None:
    """Measure what was asked for and not measured before, and write the page."""
    counts = [int(name) for name in choose_parts(__name__, map(str, COUNTS))]
    RESULTS.mkdir(parents=True, exist_ok=True)
    for count in counts:
        path = RESULTS / f"{count}.json"
        if not path.exists():
            path.write_text(json.dumps(measure(count), indent=1) + "\n", encoding="utf8")
    write_page()


if __name__ == "__main__":
    main()
