"""The trainings: sizes, data and settings, the same for all contenders.

None of the contenders' libraries is imported here.
"""

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
        hidden: the units of the encoder's layers; the decoder has them in the opposite order.
        latent: the number of latents.
        likelihood: "bernoulli", or "gaussian" with mean and log variance from the network.
        batch: the number of examples in a step.
        samples: the number of draws of z for each example.
        iwae: whether the bound is importance-weighted.
        data: "mnist" (binary) or "faces" (pixels in [0, 1]).
        epochs: the number of epochs in a round.
        examples: the number of training examples.
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
        """The number of dimensions of an example."""
        return {"mnist": 784, "faces": 4096}[self.data]

    @property
    def outputs(self) -> int:
        """The number of outputs of the decoder."""
        return self.dimensions * {"gaussian": 2, "bernoulli": 1}[self.likelihood]

    @property
    def steps(self) -> int:
        """The number of steps in a round."""
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
        """Floating-point operations of a step's matrix products, forward and backward."""
        products = [rows * inputs * outputs for rows, inputs, outputs in self.layers]
        # A product forward, one for the gradient of the weights, and one for that of the input. The
        # first layer needs no gradient of its input.
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
    """The factor that takes stored values to the range of the data."""
    return {"mnist": 1.0, "faces": 1 / 255}[task.data]


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
    """The first weights of encoder and decoder, the same for all contenders."""
    encoder = [task.dimensions, *task.hidden, 2 * task.latent]
    decoder = [task.latent, *reversed(task.hidden), task.outputs]
    return layers(encoder, 0), layers(decoder, 1)
