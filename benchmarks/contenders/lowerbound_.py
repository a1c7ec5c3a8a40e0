"""lowerbound: ``lb.fit``, as a user would call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tasks import LEARNING_RATE, Task, initial, load

import lowerbound as lb


def make(task: Task, shape: tuple[int, ...] = ()) -> tuple[lb.LatentModel, Any]:
    """The task's model, with the first weights of all contenders, and its objective.

    Args:
        task: the task.
        shape: of an example, if it is a picture and not a vector.
    """
    shape = shape or (task.dimensions,)
    outputs = (task.outputs // task.dimensions * shape[0], *shape[1:])
    kind = {"bernoulli": lb.Bernoulli, "gaussian": lb.Gaussian}[task.likelihood]
    encoder = lb.mlp(shape, *task.hidden, 2 * task.latent, activation="tanh")
    decoder = lb.mlp(task.latent, *reversed(task.hidden), outputs, activation="tanh")
    for network, values in zip((encoder, decoder), initial(task)):
        linear = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
        for layer, (weight, bias) in zip(linear, values):
            layer.weight.data.copy_(torch.from_numpy(weight.T))
            layer.bias.data.copy_(torch.from_numpy(bias))
    model = lb.LatentModel(lb.StandardNormal(task.latent), lb.Gaussian(encoder), kind(decoder))
    if task.iwae:
        return model, lb.IWAE(task.samples)
    return model, lb.ELBO(samples=task.samples)


def examples(task: Task, values: Any) -> lb.Examples:
    """Examples of binary pixels, or of pixels with 256 levels."""
    levels = {"mnist": 2, "faces": 256}[task.data]
    return lb.Examples(torch.from_numpy(values), levels=levels)


def run(
    task: Task,
    folder: Path,
    conversation: Any,
    precision: str = "float32",
    compile: str = "always",
    rounds: str = "100",
) -> None:
    """Train until no more requests come, but at most for ``rounds`` rounds.

    ``compile="auto"`` decides by the length of the whole training, so it is given that limit.
    """
    train, test = (examples(task, values) for values in load(task, folder))
    model, objective = make(task)
    talk = conversation(lambda: lb.evaluate(model, lb.ELBO(), test).mean)

    class Rounds(lb.Observer):
        def on_epoch(self, loop: Any, record: dict[str, Any]) -> None:
            if loop.progress.epoch % task.epochs == 0:
                loop.model.eval()
                talk.round_done()

    talk.ready()
    settings: dict[str, Any] = {
        "batch_size": task.batch,
        "learning_rate": LEARNING_RATE,
        "progress": False,
        "seed": 1,
        "start": False,  # so that all contenders start alike
    }
    settings |= {
        "precision": precision,
        "compile": compile,
        "observers": [Rounds()],
        "epochs": int(rounds) * task.epochs,
    }
    lb.fit(model, objective, train, **settings)
