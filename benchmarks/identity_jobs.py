"""The seeded jobs of ``identity.py``. Each returns numbers, and uses public names only.

A job runs in the folder of its tree. The jobs of ``FILES`` leave files there. Those of ``JOBS``
start when both trees have done so, and some read what the earlier tree has left in ``EARLIER``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import shutil
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zuko
from PIL import Image
from torch.distributions import Gamma, Normal, constraints

import lowerbound as lb
from lowerbound.cli import main

Job = Callable[[], Any]

EARLIER = Path("../then")
SHAPE = (1, 8, 8)
GREY = "dequantize"
CLOCKS = ("seconds", "examples_per_second")
GRADIENTS = ("pathwise", "sticking-the-landing", "dreg", "score-function")
OPTIMIZERS = (
    *("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw"),
    *("asgd", "nadam", "radam", "rmsprop", "rprop", "sgd"),
)


@functools.cache
def digits(pixels: str = GREY) -> Any:
    return lb.load_data("digits", pixels=pixels)


def make_vae(pixels: str = GREY) -> lb.LatentModel:
    """A small model for such pixels, from the same weights every time."""
    torch.manual_seed(0)
    encoder = lb.Gaussian(lb.mlp(SHAPE, 16, 6, activation="tanh"))
    decoder: Any = lb.Gaussian(lb.mlp(3, 16, (2, 8, 8), activation="tanh"), min_scale=0.01)
    if pixels.startswith("binarize"):
        decoder = lb.Bernoulli(lb.mlp(3, 16, SHAPE, activation="tanh"))
    return lb.LatentModel(lb.StandardNormal(3), encoder, decoder)


def without_clocks(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    left_out = (*CLOCKS, "baseline")  # earlier versions did not record it
    return [{key: record[key] for key in record if key not in left_out} for record in records]


def read(value: Any, names: str) -> dict[str, Any]:
    """Attributes of a result, by name."""
    return {name: getattr(value, name) for name in names.split()}


def train(model: Any, objective: Any, data: Any, **settings: Any) -> dict[str, Any]:
    """The metrics of a short training, and the weights that it keeps."""
    usual: dict[str, Any] = {"progress": False, "device": "cpu", "pictures_every": 0}
    if data is not None:
        usual["batch_size"] = 256
    if "steps" not in settings:
        usual["epochs"] = 2
    run = lb.fit(model, objective, data, **(usual | settings))
    weights = list(run.model.state_dict().values())
    metrics = {"metrics": without_clocks(run.history), "weights": weights}
    return metrics | read(run, "best_epoch stopped_early settled")


def train_digits(objective: Any = None, pixels: str = GREY, **settings: Any) -> dict[str, Any]:
    return train(make_vae(pixels), objective or lb.ELBO(), digits(pixels).train, **settings)


def train_recipe(recipe: Any, pixels: str, **arguments: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model, objective = recipe(SHAPE, latent=3, hidden=16, **arguments)
    ways = {"validation": 0.2, "ema": 0.9, "schedule": "cosine", "warmup_steps": 3}
    return train(model, objective, digits(pixels).train, **ways)


def train_mapped() -> dict[str, Any]:
    """On values that stay in their file."""
    values = digits("as-is").train.values
    np.save("digits.npy", (values * 15).numpy())  # uint8 of 17 grey levels, as of 256
    data = lb.load_data("digits.npy", keep_in="file", pixels=GREY)
    return train(make_vae(), lb.ELBO(), data.train, validation=data.test)


# Plain variational inference.

X = torch.linspace(-1.0, 1.0, 60)
POINTS = torch.stack([X, 2.0 * X - 0.5 + 0.3 * torch.sin(40.0 * X)], 1)


def line(slope: torch.Tensor, offset: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The log joint of a regression that holds its data."""
    return line_of_batch(POINTS, 1.0, slope, offset, scale)


def line_of_batch(batch: Any, factor: float, slope: Any, offset: Any, scale: Any) -> torch.Tensor:
    mean = slope[:, None] * batch[:, 0] + offset[:, None]
    prior = Normal(0.0, 2.0).log_prob(slope) + Normal(0.0, 2.0).log_prob(offset)
    likelihood = Normal(mean, scale[:, None]).log_prob(batch[:, 1]).sum(-1)
    return prior + Gamma(2.0, 4.0).log_prob(scale) + factor * likelihood


def make_joint(posterior: Any = lb.full_rank, **settings: Any) -> lb.LogJoint:
    torch.manual_seed(0)
    variables = {"slope": (), "offset": (), "scale": lb.Variable((), constraints.positive)}
    log_joint = line_of_batch if "size" in settings else line
    return lb.LogJoint(log_joint, posterior, variables, **settings)


def train_joint(posterior: Any, objective: Any = None) -> dict[str, Any]:
    model = make_joint(posterior)
    found = train(model, objective or lb.ELBO(samples=8), None)
    health = lb.posterior_health(model, samples=500, seed=3)
    names = "verdict elbo elbo_error log_evidence log_evidence_error pareto_k effective_samples"
    draws = model.posterior_sample(20, resample=True, seed=4)
    bound = describe(lb.evaluate(model, lb.ELBO(samples=50), seed=5))
    return {**found, "health": read(health, names), "draws": draws, "bound": bound}


def train_joint_by_batches() -> dict[str, Any]:
    model = make_joint(size=60)
    found = train(model, lb.ELBO(samples=4), POINTS, epochs=20, batch_size=25)
    return {**found, "bound": describe(lb.evaluate(model, lb.ELBO(samples=50), POINTS))}


# Evaluation of one trained model of each kind.


@functools.cache
def trained(pixels: str = GREY) -> lb.LatentModel:
    model, settings = make_vae(pixels), {"epochs": 4, "batch_size": 100, "learning_rate": 0.01}
    train(model, lb.ELBO(), digits(pixels).train, **settings)
    return model


def describe(estimate: Any) -> dict[str, Any]:
    """Everything that an estimate says in numbers."""
    names = "per_example mean standard_error bits_per_dimension"
    more = ("effective_sample_sizes", "pareto_k", "acceptance", "doubtful")
    extra = " ".join(name for name in more if hasattr(estimate, name))
    terms = {name: describe(term) for name, term in estimate.terms.items()}
    return read(estimate, f"{names} {extra}") | {"terms": terms}


def few(pixels: str = GREY, count: int = 20) -> Any:
    return digits(pixels).test.first(count)


def evaluate(objective: Any, pixels: str) -> dict[str, Any]:
    return describe(lb.evaluate(trained(pixels), objective, few(pixels), seed=7))


def anneal() -> dict[str, Any]:
    settings = {"distributions": 20, "chains": 4, "seed": 1}
    return describe(lb.annealed_log_likelihood(trained(), few(count=4), **settings))


def anneal_both_ways() -> dict[str, Any]:
    found = lb.bidirectional(trained(), 4, distributions=20, chains=4, seed=1)
    return {"low": describe(found.lower), "up": describe(found.upper), "x": found.examples}


def measure_gaps() -> dict[str, Any]:
    data = few(count=8)
    gaps = lb.inference_gaps(trained(), data, train=digits().train, samples=50, steps=20, seed=2)
    names = "log_likelihood best_bound amortised_bound train_log_likelihood"
    figures = {name: describe(part) for name, part in read(gaps, names).items()}
    return figures | read(gaps, "last_gain generalisation")


def measure_latents() -> dict[str, Any]:
    health = lb.latent_health(trained(), digits().test, seed=1, objective=lb.ELBO())
    names = "rate rate_per_unit variances mutual_information mutual_information_error own_share"
    return read(health, f"{names} components draws marginal_kl aggregate_kl active collapsed")


def compare() -> dict[str, Any]:
    pair = (lb.evaluate(trained(), lb.ELBO(count), few(), seed=1) for count in (1, 8))
    return read(lb.paired_difference(*pair, resamples=500, seed=2), "per_example low high level")


# Files: trainings that stop and go on, models, and the command.


class Cosine:
    """A schedule that asks the training to stop, as Ctrl-C does, once it has come so far."""

    def __init__(self, stop_at: float = math.inf) -> None:
        self.stop_at = stop_at

    def __call__(self, progress: float) -> float:
        if progress >= self.stop_at:
            self.stop_at = math.inf
            signal.raise_signal(signal.SIGINT)
        return 0.5 * (1.0 + math.cos(math.pi * progress))


def train_into(folder: str, stop_at: float = math.inf, resume: bool = False) -> dict[str, Any]:
    """What the files say of a training in a directory, which may stop in the midst of an epoch."""
    objective = lb.ELBO(2, beta=lb.Ramp(0.0, 1.0, epochs=3))
    ways = {"validation": 0.2, "ema": 0.9, "clip_norm": 50.0, "patience": 3, "epochs": 4, "seed": 5}
    files = {"directory": folder, "resume": resume, "schedule": Cosine(stop_at)}
    with contextlib.suppress(KeyboardInterrupt):
        train_digits(objective, **ways, **files)
    return read_run(folder)


def settle_into(folder: str, **settings: Any) -> dict[str, Any]:
    """The same of a training that stops by itself."""
    ways = {"tolerance": 0.05, "pictures_every": 0, "progress": False, "device": "cpu"}
    lb.fit(make_joint(), lb.ELBO(samples=8), directory=folder, **ways, **settings)
    return read_run(folder, make_joint)


def read_run(folder: str | Path, constructor: Any = None) -> dict[str, Any]:
    """The metrics in a run's directory, and the model in it."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    weights = list(lb.load(folder, constructor).state_dict().values())
    return {"metrics": without_clocks([json.loads(line) for line in lines]), "weights": weights}


def resume_copy(source: Path, folder: str, train: Any = train_into) -> Any:
    shutil.copytree(source, folder)
    return train(folder, resume=True)


def load_model(path: Path) -> dict[str, Any]:
    model, data = lb.load(path), few()
    return {"bound": describe(lb.evaluate(model, lb.ELBO(4), data)), "codes": model.encode(data)}


def call(line: str) -> str:
    """What the command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main(line.split())
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"lowerbound {line} ended with {end.code}") from None
    return printed.getvalue()


def without_words(value: Any) -> Any:
    """The numbers of a JSON value, whose messages may change."""
    if isinstance(value, Mapping):
        parts = {key: without_words(part) for key, part in value.items()}
        return {key: part for key, part in parts.items() if not isinstance(part, str)}
    return value


def call_train(line: str, out: str) -> dict[str, Any]:
    call(f"train {line} --data digits --out {out}")
    pictures = [np.asarray(Image.open(path)) for path in sorted(Path(out).glob("*s/*.png"))]
    return read_run(out) | {"pictures": [torch.from_numpy(picture.copy()) for picture in pictures]}


def call_json(line: str) -> Any:
    return without_words(json.loads(call(f"{line} --json")))


def call_for_file(line: str, file: str) -> str:
    call(f"{line} --out {file}")
    return Path(file).read_text() if file.endswith("csv") else torch.from_numpy(np.load(file))


def call_resume(folder: str, resume: bool) -> dict[str, Any]:
    call(f"train --resume {folder} --epochs 3")
    return read_run(folder)


SMALL = "--epochs 2 --hidden 16 --latent 3 --batch-size 256"
OBJECTIVES: dict[str, Any] = {
    "ELBO in closed form": lb.ELBO(2, "closed-form"),
    "ELBO sampled": lb.ELBO(2, "sampled"),
    "ELBO with capacity": lb.ELBO(beta=4.0, capacity=lb.Ramp(0.0, 5.0, steps=8)),
    "free bits": lb.ELBO(free_bits=0.5, beta=lb.Ramp(0.0, 1.0, epochs=1)),
    "IWAE": lb.IWAE(6),
    "MIWAE": lb.IWAE(6, groups=3),
    "PIWAE": lb.IWAE(6, encoder_groups=2),
    "CIWAE": lb.IWAE(6, elbo_weight=lb.Ramp(0.5, 0.1, epochs=2)),
    "Renyi": lb.Renyi(0.3, 6),
    "Renyi near 1": lb.Renyi(lb.Ramp(2.0, 0.95, epochs=2), 6),
}
FAMILIES: dict[str, Any] = {
    "ELBO": lambda samples, gradient: lb.ELBO(samples, gradient=gradient),
    "IWAE": lb.IWAE,
    "PIWAE": partial(lb.IWAE, encoder_groups=2),
    "Renyi": partial(lb.Renyi, 0.5),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "constant": {"learning_rate": 0.01, "steps": 9},
    "linear": {"schedule": "linear", "weight_decay": 0.01, "optimizer": "adamw"},
    "cosine": {"schedule": "cosine", "warmup_steps": 5},
    "exponential": {"schedule": "exponential", "clip_norm": 1.0},
    "a function": {"schedule": math.sqrt, "optimizer": partial(torch.optim.SGD, momentum=0.9)},
    "early stopping": {"patience": 1, "validation": 0.2, "learning_rate": 0.5, "epochs": 30},
    "moving average": {"ema": 0.8, "validation": 0.1},
    "tolerance": {"tolerance": 50.0, "epochs": 40, "learning_rate": 0.01},
    "bfloat16": {"precision": "bfloat16"},
    "profile": {"profile": True, "steps": 120},
    "compiled": {"compile": "always", "steps": 8},
}
POSTERIORS: dict[str, Any] = {
    "mean field": lb.mean_field,
    "full rank": lb.full_rank,
    "low rank": lb.low_rank(1),
    "by variable": lb.ByVariable({("slope", "scale"): lb.full_rank, "offset": lb.mean_field}),
    "zuko's flow": lambda size: zuko.flows.MAF(size, transforms=2, hidden_features=(8,)),
}

FILES: dict[str, Job] = {
    "never stopped": partial(train_into, "whole"),
    "stopped": partial(train_into, "stopped", stop_at=0.6),
    "stopped by itself": partial(settle_into, "settled"),
    "stopped before that": partial(settle_into, "unsettled", steps=300),
    "saved and loaded": lambda: load_model(lb.save(trained(), "model")),
    "command train": partial(call_train, "aevb-gaussian --epochs 4 --pictures-every 2", "demo"),
    "command train, Bernoulli": partial(call_train, f"aevb-bernoulli {SMALL}", "binary"),
    "command train, Gaussian": partial(call_train, f"aevb-gaussian {SMALL}", "real"),
}

JOBS: dict[str, Job] = {
    "recipe aevb-gaussian": partial(train_recipe, lb.recipes.aevb_gaussian, GREY),
    "recipe aevb-gaussian, shared scale": lambda: train_recipe(
        lb.recipes.aevb_gaussian, "as-is", scale="shared", mean="sigmoid", kl_warmup=1
    ),
    "recipe aevb-gaussian, convolutions": lambda: train_recipe(
        lb.recipes.aevb_gaussian, GREY, network="conv", channels=4, layers=2
    ),
    "recipe aevb-bernoulli": partial(train_recipe, lb.recipes.aevb_bernoulli, "binarize"),
    "recipe iwae": partial(train_recipe, lb.recipes.iwae, "binarize", samples=8),
    "data as they are": partial(train_digits, pixels="as-is"),
    "data binarised once": partial(train_digits, pixels="binarize-once"),
    "data in a file": train_mapped,
    **{f"objective {name}": partial(train_digits, one) for name, one in OBJECTIVES.items()},
    **{
        f"gradient {way} of {name}": partial(train_digits, make(4, way), "binarize")
        for name, make in FAMILIES.items()
        for way in GRADIENTS
    },
    **{f"optimizer {name}": partial(train_digits, optimizer=name, steps=4) for name in OPTIMIZERS},
    **{f"fit {name}": partial(train_digits, **settings) for name, settings in SETTINGS.items()},
    **{f"log joint, {name}": partial(train_joint, q) for name, q in POSTERIORS.items()},
    "log joint by IWAE": partial(train_joint, lb.full_rank, lb.IWAE(8, "dreg")),
    "log joint by batches": train_joint_by_batches,
    "evaluate ELBO": partial(evaluate, lb.ELBO(5), GREY),
    "evaluate IWAE": partial(evaluate, lb.IWAE(20), "binarize"),
    "log_likelihood": lambda: describe(lb.log_likelihood(trained(), few(), 200, seed=1)),
    "annealed_log_likelihood": anneal,
    "bidirectional": anneal_both_ways,
    "inference_gaps": measure_gaps,
    "latent_health": measure_latents,
    "paired_difference": compare,
    "encode": lambda: trained().encode(few()),
    "sample": lambda: trained("binarize").sample(9, seed=1),
    "reconstruct": lambda: trained().reconstruct(few()),
    "resumed": partial(resume_copy, Path("stopped"), "resumed"),
    "command evaluate": partial(call_json, "evaluate demo --log-likelihood 50 --anneal 10"),
    "command encode": partial(call_for_file, "encode demo", "codes.csv"),
    "command sample": partial(call_for_file, "sample binary --count 5", "samples.npy"),
    "command reconstruct": partial(call_for_file, "reconstruct demo", "pairs.npy"),
    "command compare": partial(call_json, "compare demo real --samples 50"),
    "command resume": partial(resume_copy, Path("binary"), "longer", call_resume),
    "earlier run resumed": partial(resume_copy, EARLIER / "stopped", "adopted"),
    "earlier run stops by itself": partial(
        resume_copy, EARLIER / "unsettled", "settled later", settle_into
    ),
    "earlier run resumed by command": partial(
        resume_copy, EARLIER / "binary", "inherited", call_resume
    ),
    "earlier run loaded": partial(read_run, EARLIER / "demo"),
    "earlier model loaded": partial(load_model, EARLIER / "model.safetensors"),
}

# Jobs that have to come to the same numbers as another one of the same tree.
ALIKE = {
    "resumed": "never stopped",
    "earlier run resumed": "never stopped",
    "earlier run stops by itself": "stopped by itself",
    "earlier run resumed by command": "command resume",
    "earlier model loaded": "saved and loaded",
}
