"""The levels of discrete data, which are what compressed data contain."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.data.examples import Examples
from lowerbound.data.fields import OBSERVED, count_missing
from lowerbound.errors import DataError

# Restored pixels are bytes. Levels that were divided and multiplied again are whole up to rounding.
_MOST_PIXEL_LEVELS = 256
_LARGEST_ROUNDING = 1e-6


def choose_levels(examples: Examples) -> Examples:
    """Return the examples with pixels that are the same at every use.

    Raises:
        DataError: if their levels are not known, or differ from use to use, or entries are missing.
    """
    if examples.pixels == "binarize" and examples.levels == 2:
        examples = examples.prepare("as-is")  # the pixels are binary already
    if examples.pixels == "binarize":
        raise DataError(
            f"{examples.name}: pixels='binarize' draws other pixels at every use; compress "
            "pixels='binarize-once' (--pixels binarize-once), or pixels as they are"
        )
    if examples.pixels == "dequantize" or examples.levels is None:
        raise DataError(
            f"{examples.name}: only data with a known number of levels can be compressed, such as "
            "uint8 pixels as they are, booleans, or kind='codes'"
        )
    observed = examples.all_fields.get(OBSERVED)
    if observed is not None and not observed.all():
        raise DataError(
            f"{examples.name}: {count_missing(observed)} missing, and which ones would be lost; "
            "compress complete data"
        )
    return examples


def read_levels(examples: Examples) -> NDArray[np.int32]:
    """Read the levels of all entries, ``[N, *event]``.

    Raises:
        DataError: if an entry is not a level, naming its row, or if pixels have more levels than a
            byte.
    """
    count = int(examples.levels or 2)
    if examples.kind is None and count > _MOST_PIXEL_LEVELS:
        raise DataError(
            f"{examples.name}: pixels of {count:,} levels cannot be compressed, only those of "
            f"{_MOST_PIXEL_LEVELS}; pass kind='codes' if they are codes"
        )
    x = examples.batch(torch.arange(len(examples)), torch.float64).cpu()
    if examples.kind is None:
        x = x * (count - 1)
    levels = x.round()
    wrong = ((x - levels).abs() > _LARGEST_ROUNDING) | (levels < 0) | (levels >= count)
    if bool(wrong.any()):
        row = int(wrong.flatten(1).any(1).nonzero()[0])
        value = x[row][wrong[row]][0].item()
        raise DataError(
            f"{examples.name}: row {row} has the value {value:g}, which is not one of the levels "
            f"from 0 to {count - 1}, so it would not come back; round the data"
        )
    return np.ascontiguousarray(levels.numpy().astype(np.int32))


def make_examples(header: dict[str, Any], levels: NDArray[np.int32]) -> Examples:
    """Make examples like those that were compressed."""
    values = torch.from_numpy(levels)
    if header["kind"] is None:
        values = values.to(torch.uint8)
    return Examples(values, levels=header["levels"], kind=header["kind"], name="decompressed data")
