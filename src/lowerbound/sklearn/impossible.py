"""Numbers that a fitted model gives no probability, because its training data did not have them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowerbound.data.columns import Column, Floats, Schema
from lowerbound.data.frames import RawTable
from lowerbound.data.inference import find_nearest
from lowerbound.data.joined_names import join_names
from lowerbound.data.raw_columns import ArrayColumn


@dataclass(frozen=True, eq=False)
class Impossible:
    """The impossible numbers of a table.

    Args:
        counts: how many there are in each row, ``[N]``.
        log_tails: the sum of :math:`-2 \\log(1 + d / r)` over those of each row, ``[N]``, for the
            distance d from the nearest possible number and the range r of the training data.
        first: the first of each column by name, and its row.
    """

    counts: Floats
    log_tails: Floats
    first: dict[str, tuple[float, int]]

    def describe(self) -> str:
        """What they are, in sentences."""
        count = int(self.counts.sum())
        some = [f"{value:g} in {name!r} (row {row})" for name, (value, row) in self.first.items()]
        return (
            f"{count:,} value{'s are' if count > 1 else ' is'} impossible according to the "
            f"training data. The first of each column: {join_names(some, 3)}; rows are counted "
            "from 0. The nearest possible numbers take their place. If a column may have such "
            f"numbers, fit with columns={{{next(iter(self.first))!r}: 'real'}}"
        )


def replace_impossible(table: RawTable, schema: Schema) -> tuple[RawTable, Impossible]:
    """Replace impossible numbers by the nearest possible ones.

    They are numbers that an ordinal or boolean column did not have in training, and numbers that
    are not counts, positive, or proportions. Categories are not numbers: whether an unknown one is
    an error is for the user to say.
    """
    columns = dict(table.columns)
    counts, log_tails = np.zeros(len(table)), np.zeros(len(table))
    first: dict[str, tuple[float, int]] = {}
    for column in schema.modelled:
        raw = columns.get(column.name)
        if raw is None or not _has_numbers(column):
            continue
        missing = raw.find_missing(schema.missing_values)
        if missing.all() or raw.find_content(missing) != "numbers":
            continue
        values = raw.read_numbers("numbers", missing)
        nearest = find_nearest(values, column)
        impossible = (nearest != values) & ~np.isnan(values) & ~np.isinf(values)
        if impossible.any():
            row = int(impossible.argmax())
            first[column.name] = float(values[row]), row
            counts += impossible
            distance = np.where(impossible, np.abs(values - nearest), 0)
            log_tails -= 2 * np.log1p(distance / _find_range(column))
            values = np.where(impossible, nearest, values)
            columns[column.name] = ArrayColumn(values, column.name, raw.where)
    found = Impossible(counts, log_tails, first)
    return RawTable(list(columns.values()), table.library, table.index), found


def _has_numbers(column: Column) -> bool:
    are_numbers = all(isinstance(each, int | float) for each in column.categories)
    return column.type not in ("categorical", "time") and are_numbers


def _find_range(column: Column) -> float:
    if column.categories:
        return float(max(column.categories) - min(column.categories))
    return column.high - column.low or 1.0
