"""Checks that fast training learns as well: test bounds beside a bare loop of torch's.

    python plain.py FOLDER

Both train the same model for two epochs, from the same first weights, by Adam on batches of 1,000
binary digits. Their noise and the order of their examples differ. Bounds after few epochs vary much
from seed to seed, so the means over several seeds are compared by their standard errors.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import mean, variance

import torch
from arguments import read_arguments
from contenders.lowerbound_ import examples, make
from tasks import LEARNING_RATE, TASKS, load
from torch.nn.functional import binary_cross_entropy_with_logits

import lowerbound as lb

TASK = replace(TASKS["mnist"], batch=1000)
SEEDS, EPOCHS = 8, 2


def train_by_fit(train: lb.Examples, test: lb.Examples, seed: int) -> float:
    """The test bound after training by lb.fit."""
    model, objective = make(TASK)
    settings = {
        "epochs": EPOCHS,
        "batch_size": TASK.batch,
        "learning_rate": LEARNING_RATE,
        "seed": seed,
        "start": False,
    }
    lb.fit(model, objective, train, progress=False, compile="never", **settings)
    return lb.evaluate(model, lb.ELBO(), test).mean


def plain_step(model: lb.LatentModel, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    """A training step as one writes it by hand, with torch alone."""
    encode, decode = model.posterior.network.layers, model.likelihood.network.layers
    loc, log_variance = encode(x).chunk(2, -1)
    logits = decode(loc + (0.5 * log_variance).exp() * torch.randn_like(loc))
    distortion = binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    rate = 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    optimizer.zero_grad()
    (distortion + rate).mean().backward()
    optimizer.step()


def train_by_loop(values: torch.Tensor, test: lb.Examples, seed: int) -> float:
    """The test bound after training by a bare loop."""
    model, _ = make(TASK)
    torch.manual_seed(1000 + seed)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(values)).split(TASK.batch):
            plain_step(model, optimizer, values[rows].float())
    model.eval()
    return lb.evaluate(model, lb.ELBO(), test).mean


if __name__ == "__main__":
    (folder,) = read_arguments(__name__, "folder")
    train, test = load(TASK, Path(folder))
    values = torch.from_numpy(train).reshape(len(train), -1)
    bounds = {
        "lowerbound": [
            train_by_fit(examples(TASK, train), examples(TASK, test), seed) for seed in range(SEEDS)
        ],
        "plain": [train_by_loop(values, examples(TASK, test), seed) for seed in range(SEEDS)],
    }
    error = math.sqrt(sum(variance(found) for found in bounds.values()) / SEEDS)
    difference = mean(bounds["lowerbound"]) - mean(bounds["plain"])
    print(
        json.dumps(
            {"bounds": bounds, "epochs": EPOCHS, "difference": difference, "standard_error": error}
        )
    )
