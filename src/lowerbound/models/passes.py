"""Passes over data outside of training: batches with noise of their own, and their results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.conditionals.base import check_fields
from lowerbound.data.examples import Examples
from lowerbound.data.fields import convert_floating_fields, refuse_ignored_mask
from lowerbound.errors import ShapeError
from lowerbound.models.checks import PartsError
from lowerbound.runtime import noise
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.memory import choose_batch_size
from lowerbound.runtime.threads import tuning_threads

ProgressCallback = Callable[[int, int], None]
"""Called after each batch with the number of finished examples, and the number of all examples."""


def read_examples(model: nn.Module, data: Any, *, name: str = "data") -> Examples:
    """Return data as examples; the model's :meth:`~lowerbound.Model.examples` reads raw data."""
    if isinstance(data, Examples):
        return data
    read: Callable[..., Examples] = getattr(model, "examples", Examples.of)
    return read(data, name=name)


def iterate_batches(
    data: Any,
    model: nn.Module,
    *,
    seed: int,
    samples: int = 1,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
    part: nn.Module | None = None,
    is_settled: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
    """Yield batches in order. While one is processed, noise comes from its examples' streams.

    Yields:
        Row numbers ``[B]``, examples ``[B, *event]``, and the fields that the model needs by name,
        ``[B, ...]`` each.

    Args:
        data: examples, or raw data for :meth:`Model.examples <lowerbound.Model.examples>`.
        model: decides the device and the floating type.
        seed: the seed of the noise, see :mod:`lowerbound.runtime.noise`.
        samples: the number of draws for each example; the batch size depends on it.
        batch_size: overrides that choice.
        progress: is called after each batch with the number of finished examples.
        part: a part of the model, if only that is evaluated. It gets only the fields it needs.
        is_settled: whether batches may be timed, to choose the number of threads, because nothing
            else changes how they are computed.

    Raises:
        DataError: if the model needs a field that the examples do not have, or entries are missing
            and the model does not take the field ``observed``.
    """
    examples = read_examples(model, data)
    device, dtype = get_device(model), get_dtype(model)
    measure = getattr(model, "numbers_per_draw", None)
    size = batch_size
    if size is None:
        values = math.prod(examples.shape)
        if measure is not None and part is None:
            values = measure(examples)
        size = choose_batch_size(samples * values)
    needs, accepts = getattr(model, "needs", ()), getattr(model, "accepts", ())
    refuse_ignored_mask(examples.all_fields, needs, accepts, examples.name)
    all_rows = torch.arange(len(examples)) if examples.rows is None else examples.rows
    available = examples.select_fields((), (*needs, *accepts))
    if available:
        check_fields(model, available, all_rows, examples.name)
    if part is not None:
        needs, accepts = getattr(part, "needs", ()), getattr(part, "accepts", ())
    batches = torch.arange(len(examples)).split(size)
    with tuning_threads(device, "batch") as tuner:
        for number, index in enumerate(batches, 1):
            rows = all_rows[index]
            given = convert_floating_fields(examples.given(index, needs, accepts), dtype)
            left = (len(batches) - number) * is_settled()
            with tuner.timing(left), noise.per_example(seed, rows):
                x = examples.batch(index, dtype).to(device)
                yield rows, x, {name: value.to(device) for name, value in given.items()}
            if progress is not None:
                progress(int(index[-1]) + 1, len(examples))


def gather(count: int, parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Gather the values of batches: ``[count]`` each, on the CPU in float64.

    Each batch is copied at once, because a small tensor that outlives its batch may keep the memory
    of a large one.
    """
    whole: dict[str, Tensor] = {}
    start = 0
    for part in parts:
        for name, values in part.items():
            column = whole.setdefault(name, torch.empty(count, dtype=torch.float64))
            column[start : start + len(values)] = values
        start += len(next(iter(part.values())))
    return whole


@contextmanager
def explaining_shapes(examples: Examples) -> Iterator[None]:
    """Within the block, an error from shapes that do not fit the model names the data.

    Raises:
        ShapeError: naming the data and their shape.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except PartsError as error:
        raise ShapeError(str(error)) from None
    except (ShapeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ShapeError(
            f"{examples.name}: examples of shape {examples.shape} do not fit the model: {reason}. "
            "Check the shapes that its networks declare. A network of your own that takes only "
            "[N, ...] needs lowerbound.flatten_leading"
        ) from error
