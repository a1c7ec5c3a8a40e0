"""Random numbers that belong to examples, so that an evaluation does not depend on how it was batched.

While training, noise comes from torch's own generator. While evaluating, the noise of example ``i`` is a function of
``(seed, i)`` alone: a counter-based generator (Philox, Salmon et al. 2011) is set to the example's own stream. A
dataset's bound is then the same number for every batch size, two models can be compared on common random numbers, and
adding an example changes no other example's figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_PER_EXAMPLE: ContextVar[_ExampleStreams | None] = ContextVar("lowerbound_noise", default=None)


_OF_NUMPY = (torch.float32, torch.float64)


class _ExampleStreams:
    """One stream of random numbers for each of some examples; every request moves all of them on."""

    def __init__(self, seed: int, indices: Tensor) -> None:
        self.seed = seed
        self.indices = indices.tolist()
        self.requests = 0
        # Within in_chunks: the generators of each request of a chunk, which the next chunk's requests go on with.
        self.open: list[list[np.random.Generator]] | None = None
        self.turn = 0

    def fill(
        self,
        shape: tuple[int, ...],
        axis: int,
        draw: Callable[[np.random.Generator, tuple[int, ...]], Any],
        dtype: torch.dtype,
    ) -> Tensor:
        """An array of ``shape`` whose slice ``i`` along ``axis`` comes from example ``i``'s stream."""
        filled = torch.empty(shape, dtype=dtype if dtype in _OF_NUMPY else torch.float64)
        rows = np.moveaxis(filled.numpy(), axis, 0)
        for row, generator in enumerate(self._generators()):
            rows[row] = draw(generator, rows.shape[1:])
        return filled

    def _generators(self) -> Iterable[np.random.Generator]:
        """A generator for each example, at the beginning of this request's part of its stream, or where the last chunk left it."""
        if self.open is None:
            self.requests += 1
            return self._reset_in_turn(self.requests - 1)
        self.turn += 1
        if self.turn > len(self.open):
            self.open.append([self._generator(self.requests, index) for index in self.indices])
            self.requests += 1
        return self.open[self.turn - 1]

    def _generator(self, request: int, index: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(key=self.seed, counter=_counter(request, index))
        )

    def _reset_in_turn(self, request: int) -> Iterator[np.random.Generator]:
        """The same generators, made by moving one from stream to stream, which is much quicker."""
        bits = np.random.Philox(key=self.seed)
        generator, state = np.random.Generator(bits), bits.state
        for index in self.indices:
            state["state"]["counter"][:] = _counter(request, index)
            bits.state = state
            yield generator


def _counter(request: int, index: int) -> tuple[int, int, int, int]:
    return (0, 0, request, index)


@contextmanager
def in_chunks() -> Iterator[Callable[[], None]]:
    """Within the block, draws made chunk by chunk are those that one request for all of them would have given.

    Yields:
        What to call before each chunk; every chunk must make the same requests, in the same order.

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
    """A seed for one purpose, unrelated to those for others: weights, order and noise must not share their numbers.

    Example:
        >>> derived_seed(0, "order", 1) == derived_seed(0, "order", 1), derived_seed(0, "order", 1) == derived_seed(0, "noise")
        (True, False)
    """
    words = [entry if isinstance(entry, int) else crc32(entry.encode()) for entry in purpose]
    return int(
        np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's random state on the CPU, and on the device where it has its own."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put back what :func:`random_state` took."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


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
    return (
        streams
        if streams is not None and axis >= 0 and shape[axis] == len(streams.indices)
        else None
    )


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
    return streams.fill(shape, axis, lambda g, s: g.standard_normal(s), dtype).to(device, dtype)


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
    return streams.fill(
        shape, axis, lambda g, s: g.integers(1 << 24, size=s) / (1 << 24), dtype
    ).to(device, dtype)


class _Foreign(TorchFunctionMode):
    """Answers requests for torch's normal and Bernoulli noise of a certain leading shape from the examples' own streams."""

    def __init__(self, leading: tuple[int, int]) -> None:
        super().__init__()
        self.leading = leading

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            func is Tensor.normal_
            and tuple(args[0].shape[:2]) == self.leading
            and not args[1:]
            and not kwargs
        ):
            with torch.DisableTorchFunction():
                like = args[0]
                return like.copy_(
                    standard_normal(tuple(like.shape), 1, dtype=like.dtype, device=like.device)
                )
        if (
            func is torch.bernoulli
            and tuple(args[0].shape[:2]) == self.leading
            and not args[1:]
            and not kwargs
        ):
            with torch.DisableTorchFunction():
                chances = args[0]
                threshold = uniform(
                    tuple(chances.shape), 1, dtype=chances.dtype, device=chances.device
                )
                return (threshold < chances).to(chances.dtype)
        return func(*args, **kwargs)


@contextmanager
def for_foreign(samples: int, examples: int) -> Iterator[None]:
    """Within the block, distributions that draw ``[samples, examples, ...]`` by torch's own means get the examples' noise.

    This covers ``torch.distributions.Normal``, and with it the flows of zuko, and ``torch.distributions.Bernoulli``. It changes nothing where no example's
    streams are in force, as in training.
    """
    if torch.compiler.is_compiling() or _PER_EXAMPLE.get() is None:
        yield
        return
    with _Foreign((samples, examples)):
        yield
