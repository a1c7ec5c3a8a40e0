"""The type of a column of numbers, truth values or times is inferred from its values."""

from __future__ import annotations

import numpy as np

from lowerbound.data.columns import ColumnType, Floats
from lowerbound.data.raw_values import Content

MOST_ORDINAL = 10
"""Whole numbers from 0 on, none larger than this, are ordered categories."""

LARGEST_COUNT = float(1 << 24)

# Numbers whose upper percentile is this many times the lower one vary by factors.
_POSITIVE_RATIO = 10.0

# A single value of a continuous column with at least this share of the rows is an atom.
_ATOM_SHARE = 0.2
_FEWEST_AT_ATOM = 5

# Zeros of amounts have at least this share of the rows, and are this many times as frequent as any
# other value, which zeros of rounded or continuous numbers are not.
_ZERO_SHARE = 0.02
_ZERO_RATIO = 3.0

# Whole numbers with zeros are amounts if the lower quartile of the others is above this.
_SMALL_AMOUNT = 100.0


def infer_type(seen: Floats, content: Content, rows: int) -> ColumnType:
    """Infer the type of a column of numbers, truth values or times.

    Args:
        seen: its values that are not missing.
        content: what they are.
        rows: the number of rows of the table.
    """
    different = np.unique(seen)
    if len(different) == 1:
        return "constant"
    if content != "numbers":
        return {"truth values": "boolean", "times": "time"}[content]  # type: ignore[return-value]
    if (seen == np.round(seen)).all():
        return _infer_type_of_whole_numbers(seen, different, rows)
    return _infer_type_of_fractions(seen)


def count_of_atom(rows: int) -> float:
    """How often a value must occur in this many rows to be an atom."""
    return max(_FEWEST_AT_ATOM, _ATOM_SHARE * rows)


def _infer_type_of_fractions(seen: Floats) -> ColumnType:
    low, high = seen.min(), seen.max()
    if low >= 0 and high <= 1:
        return "proportion"
    above = seen[seen > 0]
    without_zeros = len(above) == len(seen)
    if low >= 0 and _vary_by_factors(above) and (without_zeros or _has_many_zeros(seen)):
        return "positive"
    return "real"


def _infer_type_of_whole_numbers(seen: Floats, different: Floats, rows: int) -> ColumnType:
    low, high = different[0], different[-1]
    if len(different) == 2 and low == 0 and high == 1:
        return "boolean"
    is_numbering = len(different) == len(seen) == rows and high - low == rows - 1
    if is_numbering and rows > MOST_ORDINAL and (np.abs(np.diff(seen)) == 1).all():
        return "identifier"
    fewest = min((seen == low).sum(), (seen == high).sum())
    are_two = len(different) == 2 and fewest >= _FEWEST_AT_ATOM
    if are_two or (low >= 0 and high <= MOST_ORDINAL):
        return "ordinal"
    is_amount = low == 0 and _has_many_zeros(seen)
    is_amount = is_amount and bool(np.quantile(seen[seen > 0], 0.25) > _SMALL_AMOUNT)
    is_large = low > 0 and high > LARGEST_COUNT and _vary_by_factors(seen)
    if is_amount or is_large:
        return "positive"
    if low >= 0 and high <= LARGEST_COUNT and seen.var() >= seen.mean():
        return "count"
    return "real"


def _vary_by_factors(above: Floats) -> bool:
    """Whether the upper percentile of numbers above 0 is many times the lower one."""
    if len(above) < 2:
        return False
    lower, upper = np.quantile(above, (0.05, 0.95))
    return bool(upper >= _POSITIVE_RATIO * lower)


def _has_many_zeros(seen: Floats) -> bool:
    """Whether 0 has an atom's share of the values, or stands out among them."""
    zeros = (seen == 0).sum()
    _, others = np.unique(seen[seen != 0], return_counts=True)
    least = max(_FEWEST_AT_ATOM, _ZERO_SHARE * len(seen), _ZERO_RATIO * others.max(initial=0))
    return bool(zeros >= min(least, count_of_atom(len(seen))))
