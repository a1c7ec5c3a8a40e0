"""The batches of an epoch: rows of examples on the device, or stored values that are read ahead."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lowerbound.data.examples import Examples
from lowerbound.data.fields import WEIGHT, convert_floating_fields, refuse_ignored_mask
from lowerbound.data.mapped import MappedRows
from lowerbound.data.rows import Values
from lowerbound.errors import DataError
from lowerbound.training.labels import DATA, labelled

# Examples in a file are shuffled on two scales. First the blocks, which a disk reads at once, are
# shuffled; then the examples are shuffled within pools of many blocks. A pool is read at once, and
# some pools are read ahead.
_BLOCK_BYTES = 1 << 17
_POOL_BYTES = 1 << 25
_POOLS_AHEAD = 2

# Examples may take up the free memory of a device divided by this.
_MEMORY_DIVISOR = 2


def count_batches(examples: int, batch_size: int) -> int:
    """Count the batches that hold some examples; the last one may be short."""
    return -(-examples // batch_size)


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of examples, in the form in which a training step receives it.

    Args:
        tensor: the row numbers of examples on the device, ``[B]``; or stored or decoded values,
            ``[B, *shape]``.
        fields: the fields that the model takes, by name: of all examples, ``[N, ...]``, if the
            tensor contains row numbers, otherwise of the batch, ``[B, ...]``.
        examples: the examples to which the rows or stored values belong; ``None`` for decoded
            values.
        on_device: whether the tensor contains row numbers.
    """

    tensor: Tensor
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    examples: Examples | None = None
    on_device: bool = False

    def __len__(self) -> int:
        return len(self.tensor)

    @property
    def changing_tensors(self) -> list[Tensor]:
        """The tensors that differ from batch to batch."""
        if self.on_device:
            return [self.tensor]
        return [self.tensor, *self.fields.values()]

    def decode(self, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        """The values, ``[B, *shape]``, which may be random, and the fields, ``[B, ...]``."""
        if self.examples is None:
            return self.tensor, dict(self.fields)
        with labelled(DATA):
            if self.on_device:
                given = {name: values[self.tensor] for name, values in self.fields.items()}
                return self.examples.batch(self.tensor, dtype), convert_floating_fields(
                    given, dtype
                )
            return self.examples.decode(self.tensor, dtype), convert_floating_fields(
                self.fields, dtype
            )

    def decode_stored(self, dtype: torch.dtype) -> Batch:
        """The same batch, whose stored values, if it has any, are decoded.

        A compiled step receives the result. If it received stored values instead, the compiler
        would decode them again in every kernel that uses them. Row numbers are gathered and decoded
        within the step.
        """
        if self.on_device:
            return self
        return Batch(*self.decode(dtype))


class BatchSource:
    """Makes the batches of training.

    Examples that fit are moved to the device in their storage type, and a batch is made of rows.
    Others stay in their file or in the machine's memory, and their stored values are read and sent
    to the device ahead of the steps, many batches at once.

    Args:
        examples: the training examples.
        device: the device on which the model is trained.
        needs: names of the fields that the model needs.
        accepts: names of the fields that it takes if the examples have them.

    Raises:
        DataError: if a required field is missing, naming it, or entries are missing and the model
            does not take the field ``observed``.
    """

    def __init__(
        self,
        examples: Examples,
        device: torch.device,
        needs: Sequence[str] = (),
        accepts: Sequence[str] = (),
    ) -> None:
        self.device, self.examples = device, examples
        refuse_ignored_mask(examples.all_fields, needs, accepts, examples.name)
        self.fields = examples.select_fields(needs, accepts)
        self.on_device = isinstance(examples.values, Tensor) and _fits(examples.values, device)
        if self.on_device:
            self.examples = examples.to(device)
            self.fields = {name: values.to(device) for name, values in self.fields.items()}

    def shuffle(self, size: int, generator: torch.Generator) -> Tensor:
        """Shuffle all rows. Examples in a file get an order in which they can be read quickly.

        If the examples have the field ``training_weight``, a row occurs as often as its share of
        all weights says, on average: the rows are drawn by systematic resampling, again in every
        epoch.

        Args:
            size: the batch size.
            generator: generates the random order.
        """
        count = len(self.examples)
        weights = self.examples.fields.get(WEIGHT)
        if weights is not None:
            return _resample(weights, generator)[torch.randperm(count, generator=generator)]
        if not self.keeps_blocks(size):
            return torch.randperm(count, generator=generator)
        block = max(1, _BLOCK_BYTES // _count_row_bytes(self.examples.values))
        blocks = torch.randperm(-(-count // block), generator=generator)
        rows = (blocks[:, None] * block + torch.arange(block)).flatten()
        pools = rows[rows < count].split(self._count_pool_rows(size))
        return torch.cat([pool[torch.randperm(len(pool), generator=generator)] for pool in pools])

    def keeps_blocks(self, size: int) -> bool:
        """Whether batches of ``size`` keep neighbours in a file near each other."""
        in_file = isinstance(self.examples.values, MappedRows)
        return in_file and len(self.examples) > self._count_pool_rows(size)

    def _count_pool_rows(self, size: int) -> int:
        """Count the examples that are read at once, in whole batches."""
        return size * max(1, _POOL_BYTES // (size * _count_row_bytes(self.examples.values)))

    def batches(self, rows: Tensor, size: int) -> Generator[Batch]:
        """Yield batches of ``size`` examples, in the order of ``rows``."""
        if not len(rows):
            return
        if self.on_device:
            for some in rows.to(self.device).split(size):
                yield Batch(some, self.fields, self.examples, on_device=True)
            return
        readers = ThreadPoolExecutor(_POOLS_AHEAD, thread_name_prefix="lowerbound-reader")
        ahead: deque[Future[Batch]] = deque()
        try:
            for pool in rows.split(self._count_pool_rows(size)):
                ahead.append(readers.submit(self._read, pool))
                if len(ahead) > _POOLS_AHEAD:
                    yield from self._send(ahead.popleft(), size)
            while ahead:
                yield from self._send(ahead.popleft(), size)
        finally:
            readers.shutdown(cancel_futures=True)

    def _read(self, rows: Tensor) -> Batch:
        values = self.examples.values[rows]
        fields = {name: column[rows] for name, column in self.fields.items()}
        if self.device.type == "cuda":
            values = values.pin_memory()
            fields = {name: some.pin_memory() for name, some in fields.items()}
        return Batch(values, fields, self.examples)

    def _send(self, reading: Future[Batch], size: int) -> Generator[Batch]:
        with labelled(DATA):
            pool = reading.result()
            stored = pool.tensor.to(self.device, non_blocking=True)
            fields = {
                name: some.to(self.device, non_blocking=True) for name, some in pool.fields.items()
            }
        for start in range(0, len(stored), size):
            part = slice(start, start + size)
            own = {name: some[part] for name, some in fields.items()}
            yield Batch(stored[part], own, self.examples)


def _resample(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many rows as there are weights, in proportion to them, by systematic resampling."""
    if not (torch.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise DataError(
            f"the field {WEIGHT!r} says how often each example counts, so its values must be "
            "finite and not negative, and one must be positive"
        )
    shares = weights.double().cpu().cumsum(0)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    points = (torch.arange(len(shares)) + start) / len(shares) * shares[-1]
    return torch.searchsorted(shares, points, right=True).clamp(max=len(shares) - 1)


def _count_row_bytes(values: Values) -> int:
    return math.prod(values.shape[1:]) * values.dtype.itemsize


def _fits(values: Tensor, device: torch.device) -> bool:
    if device.type != "cuda" or values.device.type == "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return values.numel() * values.element_size() <= free // _MEMORY_DIVISOR
