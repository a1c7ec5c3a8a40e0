"""What is trained: sizes, data and settings, the same for all contenders. Imports no library of
theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Task:
    """An auto-encoder with tanh units and its data.

    Args:
        hidden: units of the encoder's layers, which the decoder has in the other order.
        latent: how many latents.
        likelihood: "bernoulli" or "gaussian", the latter with mean and log variance from the
            network.
        batch: examples in a step.
        samples: draws of z for each.
        iwae: whether they make an importance-weighted bound.
        data: "mnist" (binary) or "faces" (pixels in [0, 1]).
        epochs: passes over the data in a round.
        examples: how many are trained on.
    """

    hidden: tuple[int, ...]
    latent: int
    likelihood: str
    batch: int
    samples: int
    data: str
    epochs: int
    examples: int
    iwae: bool = False

    @property
    def dimensions(self) -> int:
        """Of an example."""
        return {"mnist": 784, "faces": 4096}[self.data]

    @property
    def outputs(self) -> int:
        """Of the decoder."""
        return self.dimensions * (2 if self.likelihood == "gaussian" else 1)

    @property
    def steps(self) -> int:
        """In a round."""
        return self.epochs * (self.examples // self.batch)

    @property
    def layers(self) -> list[tuple[int, int, int]]:
        """Rows, inputs and outputs of each linear layer."""
        encoder = [self.dimensions, *self.hidden, 2 * self.latent]
        decoder = [self.latent, *reversed(self.hidden), self.outputs]
        rows = ((encoder, self.batch), (decoder, self.batch * self.samples))
        return [(count, *sizes) for units, count in rows for sizes in zip(units, units[1:])]

    @property
    def operations(self) -> float:
        """Floating-point operations of the matrix products of a step, forward and backward, counted
        by hand."""
        products = [rows * inputs * outputs for rows, inputs, outputs in self.layers]
        # A product forward, one for the weights' gradient, one for the input's, which the data need
        # none of.
        return 2.0 * (3 * sum(products) - products[0])


TASKS = {
    "mnist": Task(
        (200,), 20, "bernoulli", batch=100, samples=1, data="mnist", epochs=1, examples=60_000
    ),
    "faces": Task(
        (200,), 10, "gaussian", batch=32, samples=7, data="faces", epochs=10, examples=384
    ),
    "wide": Task(
        (1000, 1000),
        50,
        "bernoulli",
        batch=1000,
        samples=1,
        data="mnist",
        epochs=1,
        examples=60_000,
    ),
    "iwae": Task(
        (200, 200),
        50,
        "bernoulli",
        batch=100,
        samples=50,
        data="mnist",
        epochs=1,
        examples=12_000,
        iwae=True,
    ),
}


def load(task: Task, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Training and test examples, uint8."""
    return np.load(folder / f"{task.data}-train.npy")[: task.examples], np.load(
        folder / f"{task.data}-test.npy"
    )


def scale(task: Task) -> float:
    """What stored values are multiplied with."""
    return 1.0 if task.data == "mnist" else 1 / 255


def layers(sizes: list[int], seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights ``[in, out]`` and biases as torch draws them: uniform within 1 / sqrt(in)."""
    rng = np.random.default_rng(seed)
    bounds = [(a, b, 1 / math.sqrt(a)) for a, b in zip(sizes, sizes[1:])]
    return [
        (rng.uniform(-r, r, (a, b)).astype(np.float32), rng.uniform(-r, r, b).astype(np.float32))
        for a, b, r in bounds
    ]


def initial(
    task: Task,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[tuple[np.ndarray, np.ndarray]]]:
    """The first weights of encoder and decoder, which all contenders begin with."""
    encoder = [task.dimensions, *task.hidden, 2 * task.latent]
    decoder = [task.latent, *reversed(task.hidden), task.outputs]
    return layers(encoder, 0), layers(decoder, 1)
