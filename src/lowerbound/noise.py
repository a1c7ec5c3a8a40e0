"""Random numbers that belong to examples, so that an evaluation does not depend on how it was batched.

While training, noise comes from torch's own generator. While evaluating, the noise of example ``i`` is a function of
``(seed, i)`` alone: a counter-based generator (Philox, Salmon et al. 2011) is set to the example's own stream. A
dataset's bound is then the same number for every batch size, two models can be compared on common random numbers, and
adding an example changes no other example's figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

_PER_EXAMPLE: ContextVar[_ExampleStreams | None] = ContextVar("lowerbound_noise", default=None)


class _ExampleStreams:
    """One stream of random numbers for each of some examples; every request moves all of them on."""

    def __init__(self, seed: int, indices: Tensor) -> None:
        self.seed = seed
        self.indices = indices.tolist()
        self.requests = 0

    def fill(
        self,
        shape: tuple[int, ...],
        axis: int,
        draw: Callable[[np.random.Generator, tuple[int, ...]], Any],
    ) -> Tensor:
        """An array of ``shape`` whose slice ``i`` along ``axis`` comes from example ``i``'s stream."""
        before, after = shape[:axis], shape[axis + 1 :]
        rows = np.empty((len(self.indices), *before, *after))
        bits = np.random.Philox(key=self.seed)
        generator = np.random.Generator(bits)
        state = bits.state
        for row, index in enumerate(self.indices):
            state["state"]["counter"][:] = (0, 0, self.requests, index)
            bits.state = state
            rows[row] = draw(generator, (*before, *after))
        self.requests += 1
        return torch.from_numpy(np.moveaxis(rows, 0, axis))


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, unrelated to those for others: weights, order and noise must not share their numbers.

    Example:
        >>> derived_seed(0, "order", 1) == derived_seed(0, "order", 1), derived_seed(0, "order", 1) == derived_seed(0, "noise")
        (True, False)
    """
    words = [entry if isinstance(entry, int) else crc32(entry.encode()) for entry in purpose]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def per_example(seed: int, indices: Tensor) -> Iterator[None]:
    """Within the block, noise for a batch comes from the streams of its examples.

    Args:
        seed: chooses the family of streams, at least 0.
        indices: the examples' positions in their dataset, ``[B]``.

    Example:
        >>> import torch
        >>> with per_example(0, torch.tensor([4, 7])):
        ...     both = standard_normal((3, 2, 5), axis=1)
        >>> with per_example(0, torch.tensor([7])):
        ...     alone = standard_normal((3, 1, 5), axis=1)
        >>> torch.equal(both[:, 1], alone[:, 0])
        True
    """
    token = _PER_EXAMPLE.set(_ExampleStreams(seed, indices))
    try:
        yield
    finally:
        _PER_EXAMPLE.reset(token)


def _streams(shape: tuple[int, ...], axis: int) -> _ExampleStreams | None:
    """The streams in force, where ``shape`` has the examples along ``axis``."""
    if torch.compiler.is_compiling():  # a compiled training step draws within its own graph
        return None
    streams = _PER_EXAMPLE.get()
    return streams if streams is not None and axis >= 0 and shape[axis] == len(streams.indices) else None


def standard_normal(
    shape: tuple[int, ...],
    axis: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draws from N(0, 1), from the examples' own streams where those are in force.

    Args:
        shape: the shape to draw.
        axis: which axis of ``shape`` counts examples; negative if none does.
        dtype: the floating type of the result.
        device: where the result lives.
    """
    streams = _streams(shape, axis)
    if streams is None:
        return torch.randn(shape, dtype=dtype, device=device)
    return streams.fill(shape, axis, lambda g, s: g.standard_normal(s)).to(device, dtype)


def uniform(
    shape: tuple[int, ...],
    axis: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draws from the uniform distribution on [0, 1), from the examples' own streams where those are in force.

    The arguments are those of :func:`standard_normal`.
    """
    streams = _streams(shape, axis)
    if streams is None:
        return torch.rand(shape, dtype=dtype, device=device)
    # 24 bits survive the rounding to float32, so that 1.0 cannot come out.
    return streams.fill(shape, axis, lambda g, s: g.integers(1 << 24, size=s) / (1 << 24)).to(device, dtype)
