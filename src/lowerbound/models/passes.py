"""Passes over data outside of training: batches with their examples' own noise, and figures gathered from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.data.examples import Examples
from lowerbound.errors import ShapeError
from lowerbound.models.base import Model
from lowerbound.runtime import noise
from lowerbound.runtime.devices import device_of, dtype_of
from lowerbound.runtime.memory import examples_per_pass

_WATCHER: ContextVar[Callable[[int, int], None] | None] = ContextVar(
    "lowerbound_watcher", default=None
)


def batches(
    data: Any, model: nn.Module, *, seed: int, samples: int = 1, batch_size: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of row numbers ``[B]`` and examples ``[B, *event]``, in order, with the examples' own noise in force for each.

    Args:
        data: examples, an array or a tensor.
        model: whose device and floating type to use.
        seed: of the noise, see :mod:`lowerbound.runtime.noise`.
        samples: how many draws each example will be given; chooses the batch size.
        batch_size: overrides that choice.
    """
    examples = Examples.of(data)
    device, dtype = device_of(model), dtype_of(model)
    numbers = (
        model.numbers_per_draw(examples) if isinstance(model, Model) else math.prod(examples.shape)
    )
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
            whole.setdefault(name, torch.empty(count, dtype=torch.float64))[
                start : start + len(figure)
            ] = figure
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
