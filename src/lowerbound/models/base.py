"""The base of all models, and what running one takes: batches with their noise, modes, seeds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.data.examples import Examples
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.models.draw import Draw, Gradient

# Numbers held at once by one pass over samples, examples and dimensions outside of training: 2^22 floats are 16 MiB.
_PASS_SIZE = 1 << 22

_WATCHER: ContextVar[Callable[[int, int], None] | None] = ContextVar("lowerbound_watcher", default=None)


class Model(nn.Module, ABC):
    """Anything that can draw its latents for some data.

    To write your own: subclass and implement :meth:`draw`. Every objective, :func:`lowerbound.fit` and
    :func:`lowerbound.evaluate` then work with it.
    """

    @abstractmethod
    def draw(self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise") -> Draw:
        """``samples`` draws of the latents of a batch ``x``, ``[B, *event]``."""

    def draws(self, x: Tensor, sizes: Iterable[int], gradient: Gradient = "pathwise") -> Iterator[Draw]:
        """For each of ``sizes``, so many draws of the latents of one batch.

        Override it where something that does not depend on the draws can be computed once.
        """
        for samples in sizes:
            yield self.draw(x, samples, gradient)

    repeats: bool = False
    """Whether examples are only repetitions, because the model holds its data itself."""

    in_batches: bool = False
    """Whether a batch stands for all data, whose draws it shares, so that only what is linear in log weights may be averaged over batches."""

    @property
    def shares_draws(self) -> bool:
        """Whether one set of latents is that of all data, as a log joint's variables are, and no example has its own."""
        return self.repeats or self.in_batches

    step_size: float = 1e-3
    """The learning rate where none is asked for."""

    def examples(self, data: Any, *, name: str = "data", count: int = 1) -> Examples:
        """The data as examples; ``count`` repetitions where the model holds them itself.

        Raises:
            SettingsError: if there are none.
        """
        if data is None:
            raise SettingsError(f"{name}: a {type(self).__name__} needs data; pass examples, an array or a tensor")
        return Examples.of(data, name=name)

    def given(self, data: Any, *, count: int = 1) -> tuple[Model, Examples]:
        """The model whose figures on some examples are those of this one on the data, and these examples."""
        return self, self.examples(data, count=count)

    def numbers_per_draw(self, examples: Examples) -> int:
        """How many numbers one draw for one example takes, at the least: what passes are cut by, so that memory stays bounded."""
        return math.prod(examples.shape)

    def check_data(self, examples: Examples) -> None:
        """Refuse data that the model cannot take, by name, before any work is done.

        Raises:
            ShapeError, DataError: saying what does not fit, and where.
        """
        few = examples.first(2)
        with evaluating(self), seeded(0, device_of(self)):
            for _, x in batches(few, self, seed=0):
                with fitting(few):
                    self.draw(x)
        self.check_support(examples)

    def check_support(self, examples: Examples) -> None:
        """Refuse data that have no density under the model, without a draw.

        Raises:
            DataError: saying where.
        """


@contextmanager
def fitting(examples: Examples) -> Iterator[None]:
    """Around draws for some examples: shapes that do not fit the model are reported as such.

    Raises:
        ShapeError: naming the data and their shape.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ShapeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ShapeError(
            f"{examples.name}: examples of shape {examples.shape} do not go through the model: {reason}. Check the shapes "
            "that its networks declare; one of your own that takes [N, ...] only needs lowerbound.flatten_leading"
        ) from error


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters live; the CPU for a model that has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def synchronize(device: torch.device) -> None:
    """Wait for a device, so that time can be told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def dtype_of(model: nn.Module) -> torch.dtype:
    """The floating type of a model's data: that of its parameters, but float32 at least."""
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.promote_types(own, torch.float32)


def examples_per_pass(numbers_per_example: int) -> int:
    """How many examples to take at once outside of training, so that memory stays bounded."""
    return max(1, min(1024, _PASS_SIZE // max(1, numbers_per_example)))


def rows_per_pass(numbers: int) -> int:
    """How many pairs of a sample and an example, of so many numbers each, to take at once outside of training."""
    return max(1, min(8192, _PASS_SIZE // max(1, numbers)))


def batches(
    data: Any, model: nn.Module, *, seed: int, samples: int = 1, batch_size: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of row numbers ``[B]`` and examples ``[B, *event]``, in order, with the examples' own noise in force for each.

    Args:
        data: examples, an array or a tensor.
        model: whose device and floating type to use.
        seed: of the noise, see :mod:`lowerbound.noise`.
        samples: how many draws each example will be given; chooses the batch size.
        batch_size: overrides that choice.
    """
    examples = Examples.of(data)
    device, dtype = device_of(model), dtype_of(model)
    numbers = model.numbers_per_draw(examples) if isinstance(model, Model) else math.prod(examples.shape)
    size = batch_size or examples_per_pass(samples * numbers)
    all_rows = torch.arange(len(examples)) if examples.rows is None else examples.rows
    done = _WATCHER.get()
    for index in torch.arange(len(examples)).split(size):
        rows = all_rows[index]
        with noise.per_example(seed, rows):
            yield rows, examples.batch(index, dtype).to(device)
        if done is not None:
            done(int(index[-1]) + 1, len(examples))


def gathered(count: int, parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Figures of all examples, ``[count]`` each on the CPU in float64, from those of batches in order.

    They are written into place as they come: small tensors that outlive a batch would pin the memory of its large ones.
    """
    whole: dict[str, Tensor] = {}
    start = 0
    for part in parts:
        for name, figure in part.items():
            whole.setdefault(name, torch.empty(count, dtype=torch.float64))[start : start + len(figure)] = figure
        start += len(next(iter(part.values())))
    return whole


@contextmanager
def watching(done: Callable[[int, int], None] | None) -> Iterator[None]:
    """Within the block, ``done(so_far, in_all)`` is called after each batch of examples that is evaluated; with ``None`` nothing is."""
    token = _WATCHER.set(done)
    try:
        yield
    finally:
        _WATCHER.reset(token)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode and no gradients are recorded; afterwards it is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Within the block torch draws from ``seed``, and afterwards as if nothing had been; without a seed, no block."""
    if seed is None:
        yield
        return
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        # Not torch.manual_seed, which would also seed devices whose state is not put back.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
