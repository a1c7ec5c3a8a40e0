r"""Lossless compression with a model: the proof that a nat of its bound is a nat of a file.

Bits-back coding (Hinton & van Camp 1993; Townsend, Bird & Barber 2019, "Practical lossless
compression with latent variables using bits back coding") needs about ``-bound / log 2`` bits for
an example, with the bound in nats. The coder is a stack of bits. For each example it

1. pops z from the stack, by decoding bits that are already there with q(z|x);
2. pushes x, encoded with p(x|z);
3. pushes z, encoded with p(z).

The bits of the first step are not lost: decompression, which reverses the three steps, puts them
back. Several layers are popped from the top, each with its posterior given the layers above, and
pushed with their priors from z1 on (Townsend, Bird, Kunze & Barber 2020, "HiLLoC"). The entropy
coder is an asymmetric numeral system from the package constriction.

Decompression must compute the same probabilities, bit for bit. So networks compute in float64, and
the parameters are then rounded to steps that are far larger than the differences between machines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lowerbound.data.examples import Examples
from lowerbound.errors import StorageError
from lowerbound.evaluation.bits_back import Coder
from lowerbound.evaluation.compressed_bytes import (
    digest_weights,
    make_damage_error,
    pack,
    unpack,
)
from lowerbound.evaluation.compressed_levels import choose_levels, make_examples, read_levels
from lowerbound.evaluation.estimate import evaluate
from lowerbound.models import Model
from lowerbound.models.passes import ProgressCallback
from lowerbound.objectives import ELBO


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


def check_parts(model: Model) -> None:
    """Refuse a model that cannot compress, before data are read.

    A model that was not trained on data from :func:`lowerbound.load_data` does not know the shape
    of its data, so nothing is checked here.

    Raises:
        UnsupportedError: naming the part of the model that does not allow compression.
    """
    known = model.preprocessing
    if known is not None:
        like = torch.zeros(1, *known.shape, dtype=torch.uint8)
        kind = known.value_kind if known.value_kind == "codes" else None
        Coder(model, Examples(like, levels=known.levels or 2, kind=kind))


def compress(
    model: Model, data: Any, *, progress: ProgressCallback | None = None
) -> tuple[bytes, CompressedSize]:
    """Compress data without loss, by bits-back coding with a trained model.

    Args:
        model: a :class:`lowerbound.LatentModel`, or a :class:`lowerbound.LayeredModel` with
            top-down inference. It has no fields, priors and posteriors are diagonal Gaussians, and
            the likelihood is a probability mass with independent entries.
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
    coder = Coder(model, examples)
    model.check_data(examples)
    levels = read_levels(examples)
    coder.choose_cells(levels)
    stack = coder.push_all(levels, progress)
    header = {
        "count": len(examples),
        "shape": list(examples.shape),
        "levels": examples.levels,
        "kind": examples.kind,
        "cells": coder.cells,
        "steps": [round(math.log2(step)) for step in coder.steps],
        "groups": coder.groups,
        "model": digest_weights(model),
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
        StorageError: if the data are damaged, were compressed with another model, or leave other
            bits on the stack than those with which compression started.
    """
    header, stack = unpack(packed)
    if header["model"] != digest_weights(model):
        raise StorageError(
            "the data were compressed with another model, or its weights have changed since; "
            "decompress with the same model"
        )
    try:
        coder = Coder(model, make_examples(header, np.zeros((1, *header["shape"]), np.int32)))
        coder.restore(header["cells"], header["steps"], header["groups"])
        levels = coder.pop_all(stack, header["count"], progress)
    except (KeyError, ValueError):  # the words or the numbers of groups are impossible
        raise make_damage_error() from None
    return make_examples(header, levels)
