"""The batches of an epoch: rows of examples on the device, or stored values that are read ahead."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowerbound.data.examples import Examples
from lowerbound.data.mapped import Mapped
from lowerbound.training.labels import DATA, labelled

# The order of examples in a file is random on two scales, both in bytes. Blocks, which a disk
# reads at once, are shuffled; then the examples are shuffled within pools of many blocks. A pool
# is read at once, and so many pools are read ahead.
_BLOCK = 1 << 17
_POOL = 1 << 25
_AHEAD = 2

# Examples may take a device's free memory divided by this.
_SHARE = 2


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples to learn from, in the form in which they reach a training step.

    Args:
        tensor: the rows of examples that are on the device, ``[B]``, or their stored values or
            their decoded values, ``[B, *shape]``.
        examples: that the rows or stored values belong to; ``None`` for decoded values.
        on_device: whether the tensor holds rows.
    """

    tensor: Tensor
    examples: Examples | None = None
    on_device: bool = False

    def __len__(self) -> int:
        return len(self.tensor)

    def decode(self, dtype: torch.dtype) -> Tensor:
        """The examples' values, ``[B, *shape]``; random if their pixels are."""
        if self.examples is None:
            return self.tensor
        with labelled(DATA):
            if self.on_device:
                return self.examples.batch(self.tensor, dtype)
            return self.examples.numbers(self.tensor, dtype)

    def decode_stored(self, dtype: torch.dtype) -> Batch:
        """The same batch, whose stored values, if it has any, are decoded.

        A compiled step is given the result. If it were given stored values instead, the compiler
        would decode them anew in every kernel that uses them. Rows it gathers and decodes itself.
        """
        if self.on_device:
            return self
        return replace(self, tensor=self.decode(dtype), examples=None)


class BatchSource:
    """Where the steps of a training get their batches from.

    Examples that fit are moved to the device in their storage type, and a batch is made of rows.
    Others stay in their file or in the machine's memory, and their stored values are read and sent
    to the device ahead of the steps, many batches at once.

    Args:
        examples: to learn from.
        device: to learn on.
    """

    def __init__(self, examples: Examples, device: torch.device) -> None:
        self.device, self.examples = device, examples
        self.on_device = isinstance(examples.values, Tensor) and _fits(examples.values, device)
        if self.on_device:
            self.examples = examples.to(device)

    def shuffle(self, size: int, generator: torch.Generator) -> Tensor:
        """All rows in random order, which for examples in a file can be read quickly.

        Args:
            size: of the batches.
            generator: of the order.
        """
        count = len(self.examples)
        if not self.keeps_blocks(size):
            return torch.randperm(count, generator=generator)
        block = max(1, _BLOCK // _row_bytes(self.examples.values))
        blocks = torch.randperm(-(-count // block), generator=generator)
        rows = (blocks[:, None] * block + torch.arange(block)).flatten()
        pools = rows[rows < count].split(self._pool_rows(size))
        return torch.cat([pool[torch.randperm(len(pool), generator=generator)] for pool in pools])

    def keeps_blocks(self, size: int) -> bool:
        """Whether neighbours in a file stay near each other in the order of batches of ``size``."""
        in_file = isinstance(self.examples.values, Mapped)
        return in_file and len(self.examples) > self._pool_rows(size)

    def _pool_rows(self, size: int) -> int:
        """How many examples are read at once: whole batches."""
        return size * max(1, _POOL // (size * _row_bytes(self.examples.values)))

    def batches(self, rows: Tensor, size: int) -> Generator[Batch]:
        """Batches of ``size`` examples, in the order of ``rows``."""
        if not len(rows):
            return
        if self.on_device:
            for some in rows.to(self.device).split(size):
                yield Batch(some, self.examples, on_device=True)
            return
        readers = ThreadPoolExecutor(_AHEAD, thread_name_prefix="lowerbound-reader")
        ahead: deque[Future[Tensor]] = deque()
        try:
            for pool in rows.split(self._pool_rows(size)):
                ahead.append(readers.submit(self._read, pool))
                if len(ahead) > _AHEAD:
                    yield from self._send(ahead.popleft(), size)
            while ahead:
                yield from self._send(ahead.popleft(), size)
        finally:
            readers.shutdown(cancel_futures=True)

    def _read(self, rows: Tensor) -> Tensor:
        values = self.examples.values[rows]
        if self.device.type == "cuda":
            return values.pin_memory()
        return values

    def _send(self, pool: Future[Tensor], size: int) -> Generator[Batch]:
        with labelled(DATA):
            values = pool.result().to(self.device, non_blocking=True)
        for stored in values.split(size):
            yield Batch(stored, self.examples)


def _row_bytes(values: Tensor | Mapped) -> int:
    return math.prod(values.shape[1:]) * values.dtype.itemsize


def _fits(values: Tensor, device: torch.device) -> bool:
    if device.type != "cuda" or values.device.type == "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return values.numel() * values.element_size() <= free // _SHARE
