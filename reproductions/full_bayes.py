"""Full variational Bayes: an auto-encoder whose decoder's weights have a posterior too (Kingma &
Welling 2013, appendix F).

    python reproductions/full_bayes.py [100] [1000]

The unknowns are the latents of each picture and the weights of the decoder, which all pictures
share. Of the first the encoder gives q(z | x); the second have a mean-field Gaussian q(w), of which
lb.LogJoint is the bound, given the pictures in batches:

    log p(X) >= E_q(w) [ N/B sum_b ( E_q(z|x_b) log p(x_b | z, w) - KL(q(z | x_b) || p(z)) ) ] -
    KL(q(w) || p(w))

Beside it stands the same auto-encoder whose weights are a point. Both learn from few binary digits
of scikit-learn, and are judged on others. Each number of pictures ends as
docs/results/full-bayes/NUMBER.json; one that is there is not trained again.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Normal
from torch.func import functional_call

import lowerbound as lb
from lowerbound.training.loop import Loop, Observer

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "full-bayes"

COUNTS = (100, 1000)
LATENTS, HIDDEN = 5, 100
STEPS, BATCH = 12_000, 100
WEIGHT_DRAWS, JUDGED_BY, LATENT_DRAWS = 2, 32, 200
# Of the weights' posterior before training, and of their prior.
START, PRIOR = 0.03, 1.0
RATE, WEIGHTS_RATE = 1e-3, 0.03
EVERY = 500

Weights = dict[str, Tensor]


def encoder() -> nn.Module:
    """q(z | x)."""
    return lb.Gaussian(lb.mlp((1, 8, 8), HIDDEN, 2 * LATENTS, activation="tanh"))


def decoder() -> nn.Module:
    """p(x | z)."""
    return lb.Bernoulli(lb.mlp(LATENTS, HIDDEN, (1, 8, 8), activation="tanh"))


class Pictures(nn.Module):
    """The log joint of pictures and a decoder's weights, with the latents bounded by an encoder of
    its own.

    Args:
        decoder: whose weights are the variables; it is called with others in their place.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder()
        self.names = {name.replace(".", "_"): name for name, _ in decoder.named_parameters()}
        self.held = [decoder]  # in a list, so that its own weights are no parameters of this module

    def weights(self) -> Weights:
        """The decoder's own, by the name of the variable."""
        own = dict(self.held[0].named_parameters())
        return {name: own[path].detach() for name, path in self.names.items()}

    def elbo(self, x: Tensor, weights: Weights, z: Tensor, q: Any) -> Tensor:
        """The bound of each picture, ``[K, B]``, for K draws of the weights and of the latents
        ``[K, B, J]``."""
        by_path = {path: weights[name] for name, path in self.names.items()}
        log_likelihood = torch.vmap(
            lambda own, at: functional_call(self.held[0], own, (at,)).log_prob(x)
        )(by_path, z)
        return log_likelihood + Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z)

    def forward(self, x: Tensor, scale: float, **weights: Tensor) -> Tensor:
        """The log joint's bound, ``[K]``."""
        q = self.encoder(x)
        z = q.rsample((len(next(iter(weights.values()))),))
        prior = sum(
            Normal(0.0, PRIOR).log_prob(value).flatten(1).sum(1) for value in weights.values()
        )
        return scale * self.elbo(x, weights, z, q).sum(-1) + prior


@torch.no_grad()
def judged(pictures: Pictures, weights: Weights, x: Tensor, samples: int) -> dict[str, float]:
    """The bound of pictures, averaged over draws of the weights ``[S, ...]``; and log p(x),
    averaged over them within the logarithm."""
    generator = torch.random.get_rng_state()
    torch.manual_seed(1)
    count, q = len(next(iter(weights.values()))), pictures.encoder(x)
    log_w = torch.stack([pictures.elbo(x, weights, q.sample((count,)), q) for _ in range(samples)])
    torch.random.set_rng_state(generator)
    likelihood = log_w.flatten(0, 1).logsumexp(0) - math.log(count * samples)
    return {"bound": float(log_w.mean()), "log_likelihood": float(likelihood.mean())}


class Course(Observer):
    """The bound of training and test pictures as a training goes on."""

    def __init__(self, pictures: Pictures, draw: Any, parts: dict[str, Tensor]) -> None:
        self.pictures, self.draw, self.parts = pictures, draw, parts
        self.course: list[dict[str, float]] = []

    def on_step(self, loop: Loop) -> None:
        """Every so many steps."""
        if (loop.progress.step + 1) % EVERY == 0:
            bounds = {
                name: judged(self.pictures, self.draw(8), x, 1)["bound"]
                for name, x in self.parts.items()
            }
            self.course.append({"step": loop.progress.step + 1, **bounds})


def full(train: Tensor, test: Tensor) -> dict[str, Any]:
    """The decoder's weights with a posterior."""
    torch.manual_seed(0)
    pictures = Pictures(decoder())
    weights = pictures.weights()
    variables = {name: tuple(value.shape) for name, value in weights.items()}
    model = lb.LogJoint(pictures, lb.mean_field, variables, size=len(train)).start(
        at=weights, spread=START
    )
    groups = [
        {"params": pictures.parameters(), "lr": RATE},
        {"params": model.posterior.parameters(), "lr": WEIGHTS_RATE},
    ]
    course = Course(
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
    lb.fit(model, lb.ELBO(samples=WEIGHT_DRAWS), train, observers=[course], **settings)
    draws = model.posterior_sample(JUDGED_BY, seed=2)
    scales = model.posterior().stddev.detach() * model.spread
    return {
        "course": course.course,
        "test": judged(pictures, draws, test, LATENT_DRAWS // 8),
        "train": judged(pictures, draws, train, LATENT_DRAWS // 8),
        "pruned": float((scales > 0.9 * PRIOR).float().mean()),
    }


def point(train: Tensor, test: Tensor) -> dict[str, Any]:
    """The decoder's weights as a point."""
    torch.manual_seed(0)
    own = decoder()
    pictures = Pictures(own)
    model = lb.LatentModel(lb.StandardNormal(LATENTS), pictures.encoder, own)

    def draw(count: int) -> Weights:
        return {name: value[None] for name, value in pictures.weights().items()}

    course = Course(pictures, draw, {"train": train, "test": test})
    settings = {
        "learning_rate": RATE,
        "steps": STEPS,
        "batch_size": BATCH,
        "schedule": "cosine",
        "progress": False,
    }
    lb.fit(model, lb.ELBO(), train, observers=[course], **settings)
    parts = {"test": test, "train": train}
    samples = LATENT_DRAWS // 8 * JUDGED_BY
    return {"course": course.course} | {
        name: judged(pictures, draw(1), x, samples) for name, x in parts.items()
    }


def measure(count: int) -> dict[str, Any]:
    """Both on so many pictures."""
    digits = lb.load_data("digits").prepare("binarize-once")
    train, test = (
        part.batch(torch.arange(len(part)), torch.float32) for part in (digits.train, digits.test)
    )
    return {
        "pictures": count,
        "full": full(train[:count], test),
        "point": point(train[:count], test),
    }


def write(found: list[dict[str, Any]]) -> None:
    """The page and its figure."""
    lines = [
        "# A posterior over a decoder's weights",
        "",
        "Written by `python reproductions/full_bayes.py`, which says what is compared. Nats per "
        "picture; binary digits of 8 x 8 pixels, "
        f"{LATENTS} latents, {HIDDEN} hidden units, {STEPS:,} steps.",
        "",
        "| pictures | weights | bound, training | bound, test | log p(x), test |",
        "|---|---|---|---|---|",
    ]
    names = {"point": "a point", "full": "a posterior"}
    for result in found:
        for way, name in names.items():
            figures = [
                result[way]["train"]["bound"],
                result[way]["test"]["bound"],
                result[way]["test"]["log_likelihood"],
            ]
            lines.append(
                f"| {result['pictures']:,} | {name} | "
                + " | ".join(f"{figure:.2f}" for figure in figures)
                + " |"
            )
    lines += ["", "![The course of the bounds](full-bayes/course.png)", ""]
    for result in found:
        best = max(entry["test"] for entry in result["point"]["course"])
        lines.append(
            f"With {result['pictures']:,} pictures the point's test bound was best on the way, at "
            f"{best:.2f}, and ended at "
            f"{result['point']['test']['bound']:.2f}; the posterior's ended at "
            f"{result['full']['test']['bound']:.2f}. "
            f"{100 * result['full']['pruned']:.0f}% of the weights kept their prior: the pictures "
            "do not need them.\n"
        )
    behind = [
        result
        for result in found
        if result["full"]["test"]["bound"] < result["point"]["test"]["bound"]
    ]
    if behind:
        counts = " and ".join(f"{result['pictures']:,}" for result in behind)
        lines.append(
            f"A posterior does not overfit; but mean field pays for taking weights as independent "
            f"by giving up those that matter little, and with {counts} "
            "pictures the point is the better model of new ones.\n"
        )
    (RESULTS.parent / "full-bayes.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf8")
    figure = Figure(figsize=(4.2 * len(found), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, result in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for way, colour in (("point", "#d55e00"), ("full", "#0072b2")):
            steps = [entry["step"] for entry in result[way]["course"]]
            for part, style in (("train", ":"), ("test", "-")):
                values = [entry[part] for entry in result[way]["course"]]
                axes.plot(steps, values, style, color=colour, label=f"{names[way]}, {part}")
        axes.set(
            title=f"{result['pictures']:,} pictures",
            xlabel="step",
            ylabel="bound (nats per picture)",
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(RESULTS / "course.png", dpi=110)


def main() -> None:
    """Measure what is asked for and not there, and write the page."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for count in [int(name) for name in sys.argv[1:]] or COUNTS:
        path = RESULTS / f"{count}.json"
        if not path.exists():
            path.write_text(json.dumps(measure(count), indent=1) + "\n", encoding="utf8")
    write(
        [
            json.loads(path.read_text())
            for path in sorted(RESULTS.glob("*.json"), key=lambda path: int(path.stem))
        ]
    )


if __name__ == "__main__":
    main()
