r"""Lossless compression with a model: the proof that a nat of its bound is a nat of a file.

Bits-back coding (Hinton & van Camp 1993; Townsend, Bird & Barber 2019, "Practical lossless
compression with latent variables using bits back coding") needs about ``-bound / log 2`` bits for
an example, with the bound in nats. The coder is a stack of bits. For each example it

1. pops z from the stack, by decoding bits that are already there with q(z given x);
2. pushes x, encoded with p(x given z);
3. pushes z, encoded with p(z).

The bits of the first step are not lost: decompression, which reverses the three steps, puts them
back. The entropy coder is an asymmetric numeral system from the package constriction.

Decompression must compute the same probabilities, bit for bit. So networks compute in float64, and
the parameters are then rounded to steps that are far larger than the differences between machines.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Distribution

from lowerbound.data.examples import Examples
from lowerbound.distributions import (
    DiagonalNormal,
    as_diagonal,
    check_independent_entries,
    entrywise_log_prob,
    is_mass,
)
from lowerbound.errors import SettingsError, StorageError, UnsupportedError
from lowerbound.evaluation.compressed_bytes import (
    digest_weights,
    make_damage_error,
    pack,
    unpack,
)
from lowerbound.evaluation.compressed_levels import choose_levels, make_examples, read_levels
from lowerbound.evaluation.estimate import evaluate
from lowerbound.models import LatentModel, Model
from lowerbound.models.passes import ProgressCallback
from lowerbound.objectives import ELBO

# A latent unit is rounded to multiples of this fraction of its smallest standard deviation under q,
# which costs less than a thousandth of a nat, unless it would have more cells than this.
_STEPS_PER_DEVIATION = 8
_MOST_CELLS = 1 << 20

# The cells of a unit reach so many standard deviations beyond its extreme values.
_MARGIN = 8.0

# Parameters are rounded to multiples of this fraction of a cell, and probabilities to multiples of
# this unit. Results of float64 arithmetic on two machines differ by far less.
_PER_CELL = 1024
_PER_PROBABILITY = 1 << 20

# The first groups of examples are small, because the stack is still nearly empty. The table of
# probabilities of a group has at most this many entries.
_LARGEST_GROUP = 64
_MOST_PROBABILITIES = 1 << 23


@dataclass(frozen=True)
class CompressedSize:
    """The size of compressed data, and the size that the bound predicts.

    Args:
        examples: the number of examples.
        bytes: the compressed size of all examples, with the header.
        bound_bytes: minus the ELBO of the data, in bytes.
        raw_bytes: the size of the data without a model: log2(levels) bits for each entry.
    """

    examples: int
    bytes: int
    bound_bytes: float
    raw_bytes: float

    @property
    def overhead(self) -> float:
        """The share by which the compressed data are larger than the bound predicts."""
        return self.bytes / self.bound_bytes - 1


def compress(
    model: Model, data: Any, *, progress: ProgressCallback | None = None
) -> tuple[bytes, CompressedSize]:
    """Compress data without loss, by bits-back coding with a trained model.

    Args:
        model: a :class:`lowerbound.LatentModel` without fields, whose prior and posterior are
            diagonal Gaussians, and whose likelihood is a probability mass with independent entries.
        data: examples with a known number of levels, such as pixels as they are, binary pixels or
            codes; or raw data that the model takes.
        progress: is called after each group with the number of examples done, and of all examples.

    Returns:
        The compressed data, which only this model can decompress, and their size.

    Raises:
        UnsupportedError: if a part of the model does not allow it, by name.
        DataError: for data without a known number of levels, and for data with missing entries.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits", pixels="binarize-once").test
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(lb.mlp((1, 8, 8), 4)),
        ...     lb.Bernoulli(lb.mlp(2, (1, 8, 8))),
        ... )
        >>> packed, size = compress(vae, digits)
        >>> bool((decompress(vae, packed).values == digits.values).all())
        True
    """
    examples = choose_levels(model.examples(data))
    model.check_data(examples)
    levels = read_levels(examples)
    coder = _Coder(model, examples)
    coder.choose_cells(levels)
    stack = coder.push_all(levels, progress)
    header = {
        "count": len(examples),
        "shape": list(examples.shape),
        "levels": examples.levels,
        "kind": examples.kind,
        "cells": coder.cells,
        "steps": [round(math.log2(step)) for step in coder.steps],
        "model": digest_weights(model),
        "crc": zlib.crc32(levels.tobytes()),
    }
    packed = pack(header, stack)
    return packed, CompressedSize(
        len(examples),
        len(packed),
        -evaluate(model, ELBO(), examples).mean * len(examples) / (8 * math.log(2)),
        levels.size * math.log2(max(2, coder.levels)) / 8,
    )


def decompress(
    model: Model, packed: bytes, *, progress: ProgressCallback | None = None
) -> Examples:
    """Restore data that :func:`compress` compressed, bit for bit.

    Args:
        model: the model with which they were compressed.
        packed: the compressed data.
        progress: as for :func:`compress`.

    Raises:
        StorageError: if the data are damaged, were compressed with another model, or decompress to
            other values than those that were compressed.
    """
    header, stack = unpack(packed)
    if header["model"] != digest_weights(model):
        raise StorageError(
            "the data were compressed with another model, or its weights have changed since; "
            "decompress with the same model"
        )
    coder = _Coder(model, make_examples(header, np.zeros((1, *header["shape"]), np.int32)))
    coder.cells = header["cells"]
    coder.steps = 2.0 ** np.array(header["steps"], np.float64)
    try:
        levels = coder.pop_all(stack, header["count"], progress)
    except ValueError:  # of the coder, which refuses some words
        raise make_damage_error() from None
    if zlib.crc32(levels.tobytes()) != header["crc"]:
        raise StorageError(
            "the decompressed data are not those that were compressed: the file is damaged, or "
            "this machine's arithmetic differs too much from that of the machine that wrote it"
        )
    return make_examples(header, levels)


class _Coder:
    """Pushes groups of examples on a stack of bits, and pops them.

    Latents are standardised by the prior and rounded to cells. All units have the same number of
    cells, and each has its own width of a cell.

    Args:
        model: the model. A copy of it computes in float64.
        like: examples of the same kind.
    """

    cells: int
    steps: NDArray[np.float64]

    def __init__(self, model: Model, like: Examples) -> None:
        self.coders = import_coder()
        self.model = _copy_in_float64(model)
        self.levels = int(like.levels or 0)
        self.shape = like.shape
        # The values of the levels, as the likelihood scores them.
        every = torch.arange(self.levels).reshape(-1, *(1,) * len(like.shape))
        self.values = every.double()
        if like.kind is None:
            self.values /= max(1, self.levels - 1)
        self.prior = _take_diagonal("prior", self.model.prior_given({}))
        self.units = self.prior.event_shape.numel()
        p = self.model.likelihood(self.prior.mean[None, None])
        check_independent_entries(p)
        if not is_mass(p):
            raise UnsupportedError(
                f"compression needs a likelihood that is a probability mass, such as lb.Bernoulli "
                f"or lb.Categorical; a {type(p).__name__} is a density"
            )

    def choose_cells(self, levels: NDArray[np.int32]) -> None:
        """Choose the width of the cells of each unit, a power of two, and their number."""
        mean, deviation = (
            np.concatenate(parts).reshape(-1, self.units)
            for parts in zip(
                *(self._posterior_of(levels[group]) for group in self._groups(len(levels))),
                strict=True,
            )
        )
        reach = np.abs(mean).max(0) + _MARGIN * np.maximum(1.0, deviation.max(0))
        wanted = np.maximum(deviation.min(0) / _STEPS_PER_DEVIATION, reach / _MOST_CELLS)
        self.steps = 2.0 ** np.floor(np.log2(wanted))
        self.cells = int(np.ceil(reach / self.steps).max())
        bits = np.log2(deviation.max(0) / self.steps) + _STEPS_PER_DEVIATION
        self.first_words = 2 + math.ceil(float(bits.sum()) / 32)

    def push_all(
        self, levels: NDArray[np.int32], progress: ProgressCallback | None
    ) -> NDArray[np.uint32]:
        """Push all examples, and return the words of the stack."""
        # Any bits will do: they are what decompression leaves on the stack.
        first = np.random.default_rng(0).integers(1, 1 << 32, self.first_words, dtype=np.uint32)
        stack = self.coders.stream.stack.AnsCoder(first)
        for group in self._groups(len(levels)):
            self._push(stack, levels[group])
            if progress is not None:
                progress(group.stop, len(levels))
        words: NDArray[np.uint32] = stack.get_compressed()
        return words

    def pop_all(
        self, words: NDArray[np.uint32], count: int, progress: ProgressCallback | None
    ) -> NDArray[np.int32]:
        """Pop all examples, the last one first."""
        stack = self.coders.stream.stack.AnsCoder(words)
        levels = np.zeros((count, *self.shape), np.int32)
        for group in reversed(list(self._groups(count))):
            levels[group] = self._pop(stack, group.stop - group.start)
            if progress is not None:
                progress(count - group.start, count)
        return levels

    def _push(self, stack: Any, levels: NDArray[np.int32]) -> None:
        z = stack.decode(self._grid, *self._round(*self._posterior_of(levels)))
        stack.encode_reverse(levels.reshape(-1), self._entries, self._tabulate(z, len(levels)))
        stack.encode_reverse(z, self._grid, *self._round_prior(len(levels)))

    def _pop(self, stack: Any, count: int) -> NDArray[np.int32]:
        z = stack.decode(self._grid, *self._round_prior(count))
        found = stack.decode(self._entries, self._tabulate(z, count))
        levels = np.asarray(found, np.int32).reshape(count, *self.shape)
        stack.encode_reverse(z, self._grid, *self._round(*self._posterior_of(levels)))
        return levels

    @property
    def _grid(self) -> Any:
        """The family of distributions over the cells of a unit."""
        return self.coders.stream.model.QuantizedGaussian(-self.cells, self.cells)

    @property
    def _entries(self) -> Any:
        """The family of distributions over the levels of an entry."""
        return self.coders.stream.model.Categorical(perfect=False)

    def _posterior_of(
        self, levels: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean and the standard deviation of q, ``[B * units]``, standardised by the prior."""
        x = self.values.flatten()[torch.from_numpy(levels).long()]
        q = _take_diagonal("posterior", self.model.posterior_given(x, {}))
        mean = (q.mean - self.prior.mean) / self.prior.stddev
        deviation = q.stddev / self.prior.stddev
        return mean.flatten().numpy(), deviation.expand(mean.shape).flatten().numpy()

    def _round(
        self, mean: NDArray[np.float64], deviation: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A mean and a standard deviation in cells, rounded so that machines agree on them."""
        per_unit = _PER_CELL / np.tile(self.steps, len(mean) // self.units)
        rounded = np.maximum(1.0, np.round(deviation * per_unit))
        return np.round(mean * per_unit) / _PER_CELL, rounded / _PER_CELL

    def _round_prior(self, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self._round(np.zeros(count * self.units), np.ones(count * self.units))

    def _tabulate(self, z: NDArray[np.int32], count: int) -> NDArray[np.float64]:
        """Tabulate the rounded probability of each level of each entry, ``[B * entries, levels]``.

        The unit is ``1 / _PER_PROBABILITY``, and no probability is 0.
        """
        standardised = np.asarray(z, np.float64) * np.tile(self.steps, count)
        u = torch.from_numpy(standardised).reshape(count, *self.prior.event_shape)
        p = self.model.likelihood((self.prior.mean + self.prior.stddev * u)[None])
        values = self.values[:, None].expand(-1, count, *self.shape)
        table = torch.stack([entrywise_log_prob(p, value[None])[0] for value in values], -1).exp()
        rounded = (table.reshape(-1, self.levels) * _PER_PROBABILITY).round() + 1
        return rounded.numpy()

    def _groups(self, count: int) -> Iterator[slice]:
        """Split the examples into groups: of 1, 1, 2, 4, and so on to the largest."""
        table = math.prod(self.shape) * self.levels
        largest = max(1, min(_LARGEST_GROUP, _MOST_PROBABILITIES // table))
        start = 0
        while start < count:
            stop = min(count, start + min(largest, max(1, start)))
            yield slice(start, stop)
            start = stop


def import_coder() -> Any:
    """Import the package of the entropy coder.

    Raises:
        SettingsError: if it is not installed.
    """
    try:
        import constriction
    except ImportError:
        raise SettingsError(
            "compression needs the package constriction; install it: "
            "pip install 'lowerbound[compression]'"
        ) from None
    return constriction


def _copy_in_float64(model: Model) -> LatentModel:
    if not isinstance(model, LatentModel):
        raise UnsupportedError(
            f"compression needs a lb.LatentModel, with one group of latents; this is a "
            f"{type(model).__name__}"
        )
    if model.needs:
        raise UnsupportedError(
            f"compression is for models without fields, and this model needs "
            f"{', '.join(model.needs)}"
        )
    return copy.deepcopy(model).to("cpu", torch.float64).eval().requires_grad_(requires_grad=False)


def _take_diagonal(role: str, distribution: Distribution) -> DiagonalNormal:
    ours = as_diagonal(distribution)
    if ours is None:
        raise UnsupportedError(
            f"compression needs a {role} that is a diagonal Gaussian, such as that of lb.Gaussian "
            f"or lb.StandardNormal, not a {type(distribution).__name__}"
        )
    return ours
