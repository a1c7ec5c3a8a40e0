"""Pyro: stochastic variational inference with ``TraceMeanField_ELBO``, the KL in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from tasks import LEARNING_RATE, Task, load
from torch import nn

from contenders.lowerbound_ import make


def run(task: Task, folder: Path, conversation: Any) -> None:
    """Train until no more requests come."""
    train, test = (torch.from_numpy(values).flatten(1) for values in load(task, folder))
    ours, _ = make(task)
    encoder, decoder = ours.posterior.network, ours.likelihood.network
    pyro.set_rng_seed(1)

    def model(x: torch.Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("examples", len(x)):
            prior = dist.Normal(x.new_zeros(len(x), task.latent), 1.0).to_event(1)
            logits = decoder(pyro.sample("z", prior))
            pyro.sample("x", dist.Bernoulli(logits=logits, validate_args=False).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("examples", len(x)):
            loc, log_variance = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), TraceMeanField_ELBO())
    assert isinstance(encoder, nn.Module)

    def bound() -> float:
        return -float(svi.evaluate_loss(test.float())) / len(test)

    for _ in conversation(bound).rounds(task):
        for index in torch.randperm(len(train)).split(task.batch):
            svi.step(train[index].float())
