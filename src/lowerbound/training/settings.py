"""The settings of training, from which ``fit``'s keywords, config.yaml and flags are made."""

# Imports neither torch nor numpy, so that the command can show its flags at once.
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lowerbound.settings import Settings

if TYPE_CHECKING:
    from lowerbound.training.observing import Observer
else:
    Observer = Any


class TrainingSettings(Settings, use_attribute_docstrings=True):
    """The settings of training, as in the section ``training`` of a run's ``config.yaml``."""

    epochs: Annotated[int | None, Field(ge=1)] = None
    """Number of epochs; 10 if the number of steps is not given.

    With ``tolerance`` the default is as many epochs as make 100,000 steps. If epochs and steps are
    both given, the training ends when the first of the two is reached.
    """

    steps: Annotated[int | None, Field(ge=1)] = None
    """Number of optimiser steps, instead of a number of epochs, or in addition to it."""

    batch_size: Annotated[int, Field(ge=1)] = 100
    """Number of examples in a step. The last batch of an epoch may be smaller.

    A model that stores its own data has no batches, so this cannot be set for it.
    """

    optimizer: str | Any = "adam"
    """Name of an optimiser of torch.optim.

    It may be in any case. In Python it may also be a class, a function of ``(parameters, lr)``, or
    an instance.
    """

    learning_rate: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    """Learning rate of the optimiser; 0.001 if not given.

    For a :class:`lowerbound.LogJoint` the default is 0.05, and for a table of 15,000 training rows
    or more 0.002. An optimiser instance has its own.
    """

    schedule: str | Any = "constant"
    """Schedule of the learning rate: constant, linear, cosine or exponential.

    In Python it may also be a function from progress in [0, 1] to a factor.
    """

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Number of steps over which the learning rate rises linearly from near 0."""

    weight_decay: Annotated[float | None, Field(ge=0)] = None
    """Weight decay, as the optimiser defines it. The reported bound does not contain it."""

    clip_norm: Annotated[float | None, Field(gt=0)] = None
    """Largest total norm of the gradients; larger gradients are scaled down to it."""

    ema: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Decay of an exponential moving average of the weights, which is then validated and kept."""

    patience: Annotated[int | None, Field(ge=1)] = None
    """Stop early after this many epochs without a better validation bound."""

    tolerance: Annotated[float | None, Field(gt=0)] = None
    """Stop automatically, once neither averaging the weights nor halving the learning rate raises
    the bound by this many nats.

    The learning rate stays the same until the average of the weights over a window of steps gains
    no more than this over the best average so far. Then the learning rate is halved, the window is
    doubled, and the training continues from the best average. It stops when three windows in a row
    have gained too little. See :mod:`lowerbound.training.autostop`.
    """

    start: bool = True
    """Start from the data: before the first step, the likelihood's output bias and scale are set to
    the mean and the spread of some examples.

    Up to 1,000 examples are chosen at random. The weights stay as they are if the bound of 100 of
    them would not rise, as for a model that was trained well before, and if they are frozen
    (``requires_grad_(False)``). With a start from the data, the optimiser ``sgd`` may need a
    smaller learning rate, because gradients are large where scales are small.
    """

    standardize: bool = False
    """Let the model see each entry of the data, or each channel, with mean 0 and standard deviation
    1.

    The mean and the standard deviation are those of up to 10,000 training examples, and are stored
    with the model. Its bound, samples and reconstructions stay in the units of the data.
    """

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the order of the examples and of all noise.

    It does not cover the initial weights, because they are drawn when the model is made: pass
    ``seed`` to a recipe as well, or call ``torch.manual_seed`` before you make the model. The
    ``--seed`` of the command covers both.
    """

    device: str = "auto"
    """Device to train on: cpu, cuda, cuda:1 and so on; auto chooses a GPU if there is one.

    A model that stores its own data stays on its device with ``"auto"``.
    """

    compile: Literal["auto", "always", "never"] = "auto"
    """Whether to compile the steps; auto compiles them if the training is long enough to gain.

    With ``"auto"`` the first steps are timed. If the remaining steps would take 20 seconds or more,
    the compiler works in the background, some compiled steps are timed too, and the faster ones are
    kept. If they were compiled in an earlier run, ten seconds are enough. Where the compiler cannot
    work in the background, as on a GPU, steps wait for it, so it is tried only if they would take a
    minute and a half. ``"always"`` compiles from the second step on, without a trial.
    Compiled and uncompiled steps agree to rounding.
    """

    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of the networks' matrix products; auto chooses the faster one, if the machine has
    units for bfloat16.

    ``"bfloat16"`` is several times faster on matrix units (AMX, AVX-512 BF16, tensor cores), and
    rounds the factors to three digits. The weights, the optimiser, the terms of the bound and every
    evaluation stay in float32. ``"auto"`` times some steps in each, if the machine has such units.
    """

    threads: Annotated[int | None, Field(ge=1)] = None
    """Number of processor threads; by default the number with which timed steps are fastest.

    All of torch's threads, half of them, and so on to one are timed if more than five seconds of
    steps remain. Other numbers are tried again every few seconds, because other programs on the
    same cores slow several threads more than one. Each change is reported, and the records count
    the steps of each number. Another number of threads may round differently, so give a number to
    repeat a long run bit by bit; validation uses it too. Before steps are timed, a small fully
    connected model uses one thread, and other models use all.
    """

    profile: bool = False
    """Measure where the time of a step goes, show it, and write it to the run's profile.md.

    The time is divided among matrix products, elementwise operations, the optimiser, the data and
    Python.
    """

    save_every: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """Number of seconds between two checkpoints; 0 for a checkpoint after each step.

    A checkpoint is written between two steps, and also at the end of training and after an
    interrupt. A run that is killed loses at most the time since the last one.
    """

    pictures_every: Annotated[int, Field(ge=0)] = 1
    """Number of epochs between two pictures; 0 for no pictures."""


class FitKeywords(TrainingSettings, use_attribute_docstrings=True):
    """All keywords of :func:`lowerbound.fit`: the settings, and the keywords of one run."""

    validation: Any = None
    """Validation examples, or the fraction of ``data`` to hold out at random."""

    directory: str | os.PathLike[str] | None = None
    """Directory to write the run to: its configuration, metrics, checkpoints and pictures."""

    resume: bool = False
    """Continue the run in ``directory`` from its newest checkpoint, as if it had never stopped."""

    progress: bool = True
    """Show progress on standard error: a live progress bar on a terminal, else a line per epoch."""

    config: Mapping[str, Any] | None = None
    """Entries to add to ``config.yaml``, such as the source of the data."""

    observers: Sequence[Observer] = ()
    """Observers of the training, see :class:`lowerbound.Observer`."""

    @property
    def training(self) -> dict[str, Any]:
        """The settings that ``config.yaml`` records, by name."""
        return {name: getattr(self, name) for name in TrainingSettings.model_fields}
