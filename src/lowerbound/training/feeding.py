"""The batches of an epoch: numbers of examples that are at hand, or else the examples themselves, read ahead of the steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from lowerbound.data.examples import Examples
from lowerbound.data.mapped import Mapped
from lowerbound.data.rows import Values
from lowerbound.training.labels import DATA, labelled

# Examples in a file are put in order in two steps. Blocks of so many bytes, which a disk gives in one go, are shuffled; then, within
# pools of so many bytes of them, the examples. A pool is read at once, and so many pools ahead.
_BLOCK = 1 << 17
_POOL = 1 << 25
_AHEAD = 2

# The share of a device's free memory that examples may take.
_SHARE = 2


class Feed:
    """Where the steps of a training have their examples from.

    Examples that fit are moved to the device, in their storage type, and a batch is made of their numbers. Of others, which stay
    in a file or in the machine's memory, batches are read and sent to the device ahead of the steps, many at once.

    Args:
        examples: to learn from.
        device: to learn on.
    """

    def __init__(self, examples: Examples, device: torch.device) -> None:
        self.device = device
        self.at_hand = isinstance(examples.values, Tensor) and _fits(examples.values, device)
        self.examples = examples.to(device) if self.at_hand else examples

    def order(self, size: int, generator: torch.Generator) -> Tensor:
        """The numbers of all examples in an order for batches of ``size``: any, but from a file one that can be read quickly."""
        count = len(self.examples)
        if not self.in_blocks(size):
            return torch.randperm(count, generator=generator)
        block = max(1, _BLOCK // _row_size(self.examples.values))
        blocks = torch.randperm(-(-count // block), generator=generator)
        numbers = (blocks[:, None] * block + torch.arange(block)).flatten()
        pools = numbers[numbers < count].split(self._together(size))
        return torch.cat([some[torch.randperm(len(some), generator=generator)] for some in pools])

    def in_blocks(self, size: int) -> bool:
        """Whether examples that lie together in a file stay near each other in the order of batches of ``size``."""
        return isinstance(self.examples.values, Mapped) and len(self.examples) > self._together(
            size
        )

    def _together(self, size: int) -> int:
        """How many examples are read at once: whole batches."""
        return size * max(1, _POOL // (size * _row_size(self.examples.values)))

    def batches(self, order: Tensor, size: int) -> Generator[Tensor]:
        """Batches of ``size`` examples in this order: their numbers ``[B]`` if they are at hand, else what is stored of them."""
        if not len(order):
            return
        if self.at_hand:
            yield from order.to(self.device).split(size)
            return
        readers = ThreadPoolExecutor(_AHEAD, thread_name_prefix="lowerbound-reader")
        ahead: deque[Future[Tensor]] = deque()
        try:
            for numbers in order.split(self._together(size)):
                ahead.append(readers.submit(self._read, numbers))
                if len(ahead) > _AHEAD:
                    yield from self._sent(ahead.popleft()).split(size)
            while ahead:
                yield from self._sent(ahead.popleft()).split(size)
        finally:
            readers.shutdown(cancel_futures=True)

    def numbers(self, batch: Tensor, dtype: torch.dtype) -> Tensor:
        """What a batch stands for, ``[B, *shape]``, on the device; random where the examples' pixels are."""
        with labelled(DATA):
            return (
                self.examples.batch(batch, dtype)
                if self.at_hand
                else self.examples.decode(batch, dtype)
            )

    def _read(self, numbers: Tensor) -> Tensor:
        values = self.examples.values[numbers]
        return values.pin_memory() if self.device.type == "cuda" else values

    def _sent(self, read: Future[Tensor]) -> Tensor:
        with labelled(DATA):
            return read.result().to(self.device, non_blocking=True)


def _row_size(values: Values) -> int:
    return math.prod(values.shape[1:]) * values.dtype.itemsize


def _fits(values: Tensor, device: torch.device) -> bool:
    if device.type != "cuda" or values.device.type == "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return values.numel() * values.element_size() <= free // _SHARE
