"""Random numbers that belong to examples, so that an evaluation does not depend on its batches.

While training, noise comes from torch's own generator. While evaluating, the noise of example ``i``
is a function of ``(seed, i)`` alone: the example has its own stream of a counter-based generator
(Philox4x64-10, Salmon et al. 2011). A dataset's bound is then the same for every batch size, two
models can be compared on common random numbers, and adding an example changes no other example's
value.

Uniform and normal draws are made by :mod:`lowerbound.runtime.noise.philox`, many of them on the
device where they are needed. Draws that need rejection, such as those of gamma distributions, are
made by numpy on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from lowerbound.errors import DataError
from lowerbound.runtime.noise import philox

_PER_EXAMPLE: ContextVar[ExampleStreams | None] = ContextVar("lowerbound_noise", default=None)

# The floating types that numpy has as well.
_NUMPY_DTYPES = (torch.float32, torch.float64)


@dataclass
class _OpenRequest:
    """A request for noise: its number, and how many draws each example has received."""

    request: int
    drawn: int = 0
    generators: list[np.random.Generator] | None = None


class ExampleStreams:
    """A stream of random numbers for each example of a batch. A request advances all streams."""

    def __init__(self, seed: int, indices: Tensor) -> None:
        self.seed = seed
        self.indices = indices
        self.requests = 0
        # Within in_chunks, this holds the state of each request of a chunk, which the requests of
        # the next chunk continue.
        self.open: list[_OpenRequest] | None = None
        self.turn = 0

    def draw(
        self,
        shape: tuple[int, ...],
        axis: int,
        transform: philox.Transform,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Tensor:
        """Draw a tensor of ``shape``: slice ``i`` along ``axis`` comes from example ``i``'s stream.

        ``transform`` makes the draws from random words, see :mod:`lowerbound.runtime.noise.philox`.
        """
        others = shape[:axis] + shape[axis + 1 :]
        count = math.prod(others)
        opened = self._continue_request()
        start = opened.drawn
        opened.drawn += count
        drawn = philox.draw(
            transform,
            self.seed,
            self.indices,
            request=opened.request,
            start=start,
            count=count,
            dtype=dtype,
            device=device,
        )
        return drawn.reshape(len(self.indices), *others).movedim(0, axis).contiguous()

    def fill(
        self,
        shape: tuple[int, ...],
        axis: int,
        draw: Callable[..., Any],
        dtype: torch.dtype,
        parameters: Sequence[Tensor] = (),
    ) -> Tensor:
        """Fill a tensor of ``shape``: slice ``i`` along ``axis`` comes from example ``i``'s stream.

        ``draw`` receives a generator, the slice of each of ``parameters``, and the shape to draw,
        as the methods of numpy's generators do.
        """
        if dtype not in _NUMPY_DTYPES:
            dtype = torch.float64
        filled = torch.empty(shape, dtype=dtype)
        rows = np.moveaxis(filled.numpy(), axis, 0)
        given = [np.moveaxis(value.detach().cpu().numpy(), axis, 0) for value in parameters]
        for row, generator in enumerate(self._continue_generators()):
            rows[row] = draw(generator, *(value[row] for value in given), rows.shape[1:])
        return filled

    def _continue_generators(self) -> Iterable[np.random.Generator]:
        """Return a generator for each example: a new one, or the one of the last chunk."""
        opened = self._continue_request()
        if self.open is None:
            return philox.iterate_generators(self.seed, self.indices, opened.request)
        if opened.generators is None:  # each needs one of its own, to be continued
            opened.generators = [
                next(philox.iterate_generators(self.seed, index, opened.request))
                for index in self.indices.split(1)
            ]
        return opened.generators

    def _continue_request(self) -> _OpenRequest:
        """Return the next request: a new one, or one of the last chunk, to be continued."""
        if self.open is None:
            self.requests += 1
            return _OpenRequest(self.requests - 1)
        self.turn += 1
        if self.turn > len(self.open):
            self.open.append(_OpenRequest(self.requests))
            self.requests += 1
        return self.open[self.turn - 1]


@contextmanager
def in_chunks() -> Iterator[Callable[[], None]]:
    """Within the block, draws made in chunks are the same as those of one request for all.

    Yields:
        A function to call before each chunk. Every chunk must make the same requests, in the same
        order.

    Example:
        >>> import torch
        >>> with per_example(0, torch.tensor([4])):
        ...     whole = standard_normal((6, 1), axis=1)
        >>> with per_example(0, torch.tensor([4])), in_chunks() as next_chunk:
        ...     parts = []
        ...     for size in (1, 3, 2):
        ...         next_chunk()
        ...         parts.append(standard_normal((size, 1), axis=1))
        >>> torch.equal(torch.cat(parts), whole)
        True
    """
    streams = _PER_EXAMPLE.get()
    if streams is None:
        yield lambda: None
        return

    def next_chunk() -> None:
        streams.turn = 0

    streams.open = []
    try:
        yield next_chunk
    finally:
        streams.open = None


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, unrelated to the seeds for others.

    Weights, the order of examples, and noise must not share random numbers.

    Example:
        >>> derived_seed(0, "order", 1) == derived_seed(0, "order", 1)
        True
        >>> derived_seed(0, "order", 1) == derived_seed(0, "noise")
        False
    """
    sequence = np.random.SeedSequence([seed, *map(_as_whole_number, purpose)])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _as_whole_number(purpose: str | int) -> int:
    if isinstance(purpose, int):
        return purpose
    return crc32(purpose.encode())


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Torch's random state on the CPU, and on the device if that has its own."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restore the state that :func:`random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def per_example(seed: int, indices: Tensor) -> Iterator[None]:
    """Within the block, noise for a batch comes from the streams of its examples.

    Args:
        seed: chooses the family of streams, at least 0.
        indices: the examples' positions in their dataset, ``[B]``, counted from 0.

    Raises:
        DataError: if a position is negative.

    Example:
        >>> import torch
        >>> with per_example(0, torch.tensor([4, 7])):
        ...     both = standard_normal((3, 2, 5), axis=1)
        >>> with per_example(0, torch.tensor([7])):
        ...     alone = standard_normal((3, 1, 5), axis=1)
        >>> torch.equal(both[:, 1], alone[:, 0])
        True
    """
    negative = indices < 0
    if negative.any():
        raise DataError(
            f"the position {int(indices[negative][0])} of an example in its dataset is negative, "
            "so the example has no noise; give positions that are counted from 0"
        )
    token = _PER_EXAMPLE.set(ExampleStreams(seed, indices))
    try:
        yield
    finally:
        _PER_EXAMPLE.reset(token)


def are_per_example() -> bool:
    """Whether noise comes from the streams of examples."""
    return not torch.compiler.is_compiling() and _PER_EXAMPLE.get() is not None


def find_streams(shape: tuple[int, ...], axis: int) -> ExampleStreams | None:
    """Return the active streams if ``axis`` of ``shape`` counts their examples, else ``None``."""
    if torch.compiler.is_compiling():  # a compiled training step draws within its own graph
        return None
    streams = _PER_EXAMPLE.get()
    if streams is None or axis < 0 or shape[axis] != len(streams.indices):
        return None
    return streams


def examples_axis(batch_shape: Sequence[int], sample_shape: Sequence[int]) -> int:
    """The axis of draws ``[*samples, *batch, *event]`` that counts examples: the last of the batch.

    It is -1, for none, if the batch shape is empty.

    Example:
        >>> examples_axis(batch_shape=(5, 7), sample_shape=(3,))
        2
    """
    if not len(batch_shape):
        return -1
    return len(sample_shape) + len(batch_shape) - 1


def standard_normal(
    shape: tuple[int, ...],
    axis: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draws from N(0, 1), for the ``rsample`` of a distribution of your own.

    In training they come from torch's generator, and in an evaluation from the streams of the
    examples.

    Args:
        shape: the shape to draw.
        axis: the axis of ``shape`` that counts examples, see :func:`examples_axis`; negative if
            none does.
        dtype: the floating type of the result.
        device: the device of the result.

    Example:
        >>> import torch
        >>> with per_example(0, torch.tensor([3])):
        ...     standard_normal((2, 1), axis=1)
        tensor([[-0.0209],
                [ 0.0658]])
    """
    streams = find_streams(shape, axis)
    if streams is None:
        return torch.randn(shape, dtype=dtype, device=device)
    return streams.draw(shape, axis, philox.to_normal, dtype, device)


def uniform(
    shape: tuple[int, ...],
    axis: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draws from the uniform distribution on [0, 1), where 1 itself never occurs.

    The arguments are those of :func:`standard_normal`.

    Example:
        >>> import torch
        >>> with per_example(0, torch.tensor([3])):
        ...     uniform((2, 1), axis=1)
        tensor([[0.9976],
                [0.2988]])
    """
    streams = find_streams(shape, axis)
    if streams is None:
        return torch.rand(shape, dtype=dtype, device=device)
    return streams.draw(shape, axis, philox.to_uniform, dtype, device)
