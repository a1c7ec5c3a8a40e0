"""The types of the columns of a table are inferred from their values."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from lowerbound.data.columns import (
    CODED,
    LEFT_OUT,
    Column,
    ColumnType,
    Floats,
    Mask,
    Schema,
)
from lowerbound.data.cycles import DAY, WEEK, find_cycles, split_times
from lowerbound.data.frames import RawTable
from lowerbound.data.grids import find_mean_and_deviation, find_step
from lowerbound.data.joined_names import join_names
from lowerbound.data.number_types import LARGEST_COUNT, MOST_ORDINAL, count_of_atom, infer_type
from lowerbound.data.options import Unknown
from lowerbound.data.raw_columns import RawColumn
from lowerbound.data.raw_values import Content, clean_marks, simplify
from lowerbound.data.text_numbers import describe_first_text, find_stray_text, join_strays
from lowerbound.data.text_times import find_formats, suggest_conversion
from lowerbound.errors import DataError, SettingsError

# Text with more different values than this share of the rows, or more than this number, is an
# identifier.
_IDENTIFIER_SHARE = 0.5
_MOST_CATEGORIES = 1000

# With unknown="other", a category that occurs less often than this belongs to the others.
_RARE = 2

# The name that pandas gives to its index in a file, if the index has none.
_INDEX = r"__index_level_\d+__"

# Fewer different times than this can be whole weeks apart by chance.
_FEWEST_WEEKS = 5

# The largest rounding of float64, as a share of the magnitude of the values.
_ROUNDING = 1e-13


def infer_schema(
    table: RawTable,
    *,
    types: Mapping[str, ColumnType] | None = None,
    placeholders: Sequence[Any] = (),
    unknown: Unknown = "error",
    name: str = "data",
) -> Schema:
    """Infer what the columns of a table are.

    - Text and categoricals are categories; ordered categoricals are ordinal. Text with more
      different values than half the rows, or than 1,000, is an identifier, which is left out.
    - Whole numbers from 0 to 10 are ordinal. Larger ones from 0 on are counts if they vary as
      counts do, with a variance of at least their mean. If most are large and many are 0, they are
      amounts, which are positive numbers. Other whole numbers are real numbers that are rounded.
      Consecutive numbers, one for each row, are an identifier, and so is the index of pandas in a
      file.
    - Numbers above 0 that vary by factors are positive, and so are such numbers with many zeros:
      a fifth of the values, or 2% if no other value is a third as frequent. Numbers from 0 to 1
      are proportions, and other numbers are real. Values that are frequent become atoms.
    - Times have the cycles year, week and day, as far as their values can show these.
    - A column with a single value is constant, and is left out. 0 and 1 are boolean, and two other
      whole numbers that are frequent are ordinal.

    Args:
        table: the table.
        types: the types that the user gave to some columns, by name.
        placeholders: values that stand for missing ones.
        unknown: what becomes of a category that the table does not have: an error, or a member of
            the category ``other``, to which all categories that occur once belong, even declared
            ones.
        name: the name of the data in messages.

    Raises:
        DataError: if a column cannot be read, or its values do not suit the type that the user
            gave, naming column and row.
        SettingsError: for types of columns that the table does not have, or unknown types.
    """
    asked, placeholders = dict(types or {}), clean_marks(placeholders)
    _check_types(asked, table, name)
    columns = tuple(
        infer_column(column, asked.get(each), placeholders=placeholders, unknown=unknown)
        for each, column in table.columns.items()
    )
    schema = Schema(columns, table.library, tuple(placeholders))
    if not schema.modelled:
        reasons = join_names([f"{each.name} ({each.type})" for each in columns])
        strays = join_strays(find_stray_text(table, placeholders, asked))
        numbers = f", or write numbers with a decimal point: {strays}" if strays else ""
        raise DataError(
            f"{name}: no column can be modelled: {reasons}. Give the types of some, such as "
            f"columns={{{table.names[0]!r}: 'categorical'}}{numbers}"
        )
    return schema


def _check_types(asked: Mapping[str, Any], table: RawTable, name: str) -> None:
    for column, type_ in asked.items():
        if column not in table:
            raise SettingsError(
                f"{name}: columns= names {column!r}, which is not a column; the columns are "
                f"{join_names(table.names)}"
            )
        if type_ not in get_args(ColumnType):
            raise SettingsError(
                f"{name}: columns={{{column!r}: {type_!r}}} is unknown; the types are "
                f"{', '.join(get_args(ColumnType))}"
            )


def infer_column(
    raw: RawColumn,
    asked: ColumnType | None = None,
    *,
    placeholders: Sequence[Any] = (),
    unknown: Unknown = "error",
) -> Column:
    """Infer what one column is, see :func:`infer_schema`."""
    where = raw.where
    base = Column(raw.name, "constant", dtype=raw.dtype, label=raw.label, backend=raw.backend)
    placeholders = clean_marks(placeholders)
    if asked is None and re.fullmatch(_INDEX, raw.name):
        asked = "identifier"
    if asked in ("identifier", "constant"):
        return replace(base, type=asked)
    missing = raw.find_missing(placeholders)
    if missing.all():
        if asked is not None:
            raise DataError(f"{where} has no values, so it cannot be {asked}; leave it out")
        return base
    base = replace(base, has_missing=bool(missing.any()))
    content = raw.find_content(missing)
    if asked is not None and content not in _list_contents(asked):
        remedy = "correct or convert it"
        if asked == "time" and content == "text":
            remedy += f", for example by {suggest_conversion(raw, find_formats(raw, placeholders))}"
        example = describe_first_text(raw, placeholders)
        raise DataError(f"{where} contains {content}{example}, so it cannot be {asked}; {remedy}")
    if content == "times" and raw.find_declared_content() is None and raw.has_only_dates():
        base = replace(base, dtype="Date")
    if content == "times":
        base = replace(base, zone=raw.find_zone())
    if content == "text" or asked in CODED:
        return _infer_categories(
            raw, missing, content, asked, base=base, unknown=unknown, placeholders=placeholders
        )
    values = raw.read_numbers(content, missing)
    refuse_infinite(values, raw)
    seen = values[~missing]
    column_type = asked or infer_type(seen, content, len(values))
    if len(np.unique(seen)) == 1:
        base = _keep_only_value(base, content, float(seen[0]))
    if column_type in LEFT_OUT:
        return replace(base, type=column_type)
    if column_type in CODED:
        return _infer_categories(raw, missing, content, column_type, base=base, unknown=unknown)
    column = replace(base, type=column_type, atoms=(), categories=())
    check_values(values, column, raw)
    has_only_one_end = len(np.unique(seen)) == 1 and bool(_is_end(seen, column).all())
    return base if has_only_one_end else describe_numbers(column, seen)


def _keep_only_value(column: Column, content: Content, value: float) -> Column:
    """A constant column with its value, if that can be written in the type of the frame."""
    if content == "truth values":
        return replace(column, categories=(bool(value),))
    if content == "numbers" or column.dtype.startswith("Date"):
        return replace(column, atoms=(value,))
    return column


def _list_contents(column_type: ColumnType) -> tuple[Content, ...]:
    """What a column of some type can contain."""
    if column_type == "time":
        return ("times",)
    if column_type in CODED:
        return ("numbers", "truth values", "text")
    return ("numbers",)


def refuse_infinite(values: Floats, raw: RawColumn) -> None:
    """Raise ``DataError`` for infinite values, naming the first row."""
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.flatnonzero(infinite)[0])
        raise DataError(f"{raw.describe_place(row, values[row])}; replace infinite values")


_RULES = {
    "positive": "a positive column has numbers from 0 on",
    "proportion": "a proportion is from 0 to 1",
    "count": f"counts are whole numbers from 0 to {LARGEST_COUNT:,.0f}",
}


def check_values(values: Floats, column: Column, raw: RawColumn) -> None:
    """Refuse values that the type does not allow, naming the first row."""
    outside = _is_outside(values, column)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"{raw.describe_place(row, f'{values[row]:g}')}, but {_RULES[column.type]}. If the "
            f"column may have others, train with columns={{{column.name!r}: 'real'}}"
        )


def check_ends(values: Floats, column: Column, raw: RawColumn) -> None:
    """Refuse a 0 or 1 without a logarithm or logit that is not an atom, naming the first row."""
    unseen = _is_unseen_end(values, column)
    if unseen.any():
        row = int(np.flatnonzero(unseen)[0])
        raise DataError(
            f"{raw.describe_place(row, f'{values[row]:g}')}, a value that the {column.type} column "
            "did not have in training; train with rows that have it, or with "
            f"columns={{{column.name!r}: 'real'}}"
        )


def find_nearest(values: Floats, column: Column) -> Floats:
    """The nearest numbers that a column of numbers, or of coded numbers, can have, ``[N]``."""
    if column.type in CODED:
        known = np.sort(np.asarray(column.categories, dtype=float))
        middles = (known[1:] + known[:-1]) / 2
        return np.where(np.isnan(values), np.nan, known[np.searchsorted(middles, values)])
    if column.type == "count":
        return np.clip(np.round(values), 0, LARGEST_COUNT)
    if column.type not in _RULES:
        return values
    lowest = 0.0 if 0.0 in column.atoms else column.low
    nearest = np.where((values <= 0) & (values != lowest), lowest, values)
    if column.type == "proportion":
        highest = 1.0 if 1.0 in column.atoms else column.high
        nearest = np.where((values >= 1) & (values != highest), highest, nearest)
    return nearest


def _is_outside(values: Floats, column: Column) -> Mask:
    if column.type not in _RULES:
        return np.zeros(len(values), dtype=bool)
    outside: Mask = values < 0
    if column.type == "proportion":
        outside |= values > 1
    if column.type == "count":
        outside |= (values != np.round(values)) | (values > LARGEST_COUNT)
    return outside & ~np.isnan(values)


def _is_unseen_end(values: Floats, column: Column) -> Mask:
    unseen: Mask = _is_end(values, column) & ~np.isin(values, column.atoms)
    return unseen


def _is_end(values: Floats, column: Column) -> Mask:
    """Which values of a positive column or a proportion have no logarithm or logit."""
    if column.type not in ("positive", "proportion"):
        return np.zeros(len(values), dtype=bool)
    ends: Mask = (values == 0) | ((values == 1) & (column.type == "proportion"))
    return ends


def describe_numbers(column: Column, seen: Floats) -> Column:
    """Find atoms, step, range, centre and spread of a column of numbers that are all observed."""
    column = replace(column, low=float(seen.min()), high=float(seen.max()))
    if column.type == "count":
        return _measure(column, np.log1p(seen))
    column = replace(column, atoms=_find_atoms(column, seen))
    rest = seen[~np.isin(seen, column.atoms)]
    if not len(rest):  # all values are atoms
        return column
    column = replace(column, step=_find_step(column, seen))
    if column.type == "time":
        season, cycles = find_cycles(seen)
        column = replace(column, season=season, cycles=cycles)
    if column.cycles:
        rest = split_times(rest, column.cycles)[:, 0]
    return _measure(column, column.standardize(rest))


def _measure(column: Column, values: Floats) -> Column:
    """Set a column's centre and spread; the spread of values that only rounding separates is 1."""
    centre, spread = find_mean_and_deviation(values)
    if spread <= _ROUNDING * float(np.abs(values).max()):
        spread = 1.0
    return replace(column, centre=centre, spread=spread)


def _find_atoms(column: Column, seen: Floats) -> tuple[float, ...]:
    """The values with a probability: frequent ones, and those that have no transformed value."""
    if column.type == "time":
        return ()
    different, counts = np.unique(seen, return_counts=True)
    ends = _is_end(different, column)
    frequent = counts >= count_of_atom(len(seen))
    if (frequent | ends).all():  # few values, each of which is frequent
        frequent = ends
    return tuple(float(each) for each in different[frequent | ends])


def _find_step(column: Column, seen: Floats) -> float:
    """The distance between values that are rounded; for times, weeks, days, hours and so on."""
    if column.type == "time":
        distances = np.unique(seen) - seen.min()
        for step in (WEEK, DAY, 3600.0, 60.0, 1.0):
            is_chance = step == WEEK and len(distances) < _FEWEST_WEEKS
            if not is_chance and (distances == np.round(distances / step) * step).all():
                return step
        return 0.0
    limits = np.finfo(np.float32 if column.dtype == "Float32" else np.float64)
    return find_step(seen, float(limits.eps))


def _infer_categories(
    raw: RawColumn,
    missing: Mask,
    content: Content,
    asked: ColumnType | None,
    *,
    base: Column,
    unknown: Unknown,
    placeholders: Sequence[Any] = (),
) -> Column:
    """Infer the categories of a column."""
    where = raw.where
    values = [value for value in raw.read_values(missing) if value is not None]
    counts = Counter(values)
    declared = raw.list_categories()
    column_type: ColumnType = asked or "categorical"
    if declared is not None:
        categories, is_ordered = declared
        marks = ("", *placeholders)
        categories = tuple(
            each
            for each in categories
            if each in counts
            or (is_ordered and each not in marks and str(each).strip() not in marks)
        )
        if asked is None and is_ordered:
            column_type = "ordinal"
    else:
        categories = tuple(sorted(counts))
        if content == "numbers":
            categories = tuple(map(simplify, categories))
    if asked == "ordinal" and content == "text" and not (declared and declared[1]):
        warnings.warn(
            f"{where} is text, so its order is that of the alphabet: {join_names(categories, 5)}. "
            "For another order, give an ordered categorical, or whole numbers",
            UserWarning,
            stacklevel=2,
        )
    if asked is None and content == "text" and declared is None:
        few = len(values) <= MOST_ORDINAL
        if len(counts) > (1.0 if few else _IDENTIFIER_SHARE) * len(values):
            return replace(base, type="identifier")
        if len(counts) > _MOST_CATEGORIES:
            return replace(base, type="identifier")
    if asked == "boolean" and len(categories) != 2:
        raise DataError(
            f"{where} has {len(categories)} values ({join_names(categories, 5)}), and a boolean "
            "column has two; make it categorical"
        )
    if len(categories) > _MOST_CATEGORIES:
        raise DataError(
            f"{where} has {len(categories):,} categories, and at most {_MOST_CATEGORIES:,} are "
            "possible; merge some, or leave the column out by "
            f"columns={{{raw.name!r}: 'identifier'}}"
        )
    if len(categories) < 2 or (asked is None and len(counts) < 2):
        return replace(base, categories=tuple(counts), atoms=())
    other = unknown == "other" and column_type == "categorical"
    if other:
        kept = tuple(each for each in categories if counts[each] >= _RARE)
        categories = kept or categories
    return replace(base, type=column_type, categories=categories, other=other, atoms=())
