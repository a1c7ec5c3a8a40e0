"""Tables are described column by column, so that a user can correct their types."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from lowerbound.data.columns import CODED, Column
from lowerbound.data.frames import RawTable, make_frame, open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.joined_names import join_names
from lowerbound.data.suspects import (
    Suspects,
    describe_suspects,
    find_suspects,
    warn_unmatched,
)
from lowerbound.data.table_files import parse_column_types, parse_missing_values
from lowerbound.data.text_numbers import find_stray_text
from lowerbound.data.text_times import find_text_times

_REASONS = {
    "constant": "left out: a single value, or none",
    "identifier": "left out: almost all values differ",
}


def inspect_table(
    data: Any,
    *,
    columns: Mapping[str, Any] | str | None = None,
    missing_values: Sequence[Any] | str = (),
) -> Any:
    """Show what each column of a table is taken for, before a training.

    Args:
        data: a frame of any library, or an array ``[rows, columns]``.
        columns: types of some columns by name, as for :func:`lowerbound.load_data`.
        missing_values: values that stand for missing ones, in addition to empty cells and NaN, as
            for :func:`lowerbound.load_data`.

    Returns:
        A frame of the same library (pandas for an array), with a row for each column: ``column``,
        ``type``, ``missing`` (the share of missing values) and ``values``: their range; values that
        usually stand for missing ones but are not declared; how to convert dates that are written
        as text; and the text in a column of numbers.

    Raises:
        DataError: for a name or a type that does not exist, or values that a type does not have.

    Example:
        >>> import pandas as pd
        >>> from lowerbound.data import inspect_table
        >>> jobs = ["cook", "clerk", None, "cook"]
        >>> frame = pd.DataFrame({"age": [34, 51, -999, 28], "job": jobs})
        >>> inspect_table(frame, missing_values=[-999])
          column         type missing                       values
        0    age        count   25.0%                     28 to 51
        1    job  categorical   25.0%  2 categories: clerk, cook
    """
    table, placeholders = open_table(data), parse_missing_values(missing_values)
    types = parse_column_types(columns)
    warn_unmatched([data], placeholders, "data")
    lines, _ = describe_columns(table, types=types, placeholders=placeholders)
    library = table.library or "pandas"
    headings = ("column", "type", "missing", "values")
    columns_of_text = map(list, zip(*lines, strict=True))
    return make_frame(dict(zip(headings, columns_of_text, strict=True)), library)


def describe_columns(
    table: RawTable,
    *,
    types: Mapping[str, Any] | None = None,
    placeholders: Sequence[Any] = (),
    name: str = "data",
) -> tuple[list[tuple[str, str, str, str]], Suspects]:
    """Describe each column of a table, and find values that usually stand for missing ones.

    Returns:
        The name, the type, the missing values and the values of each column; and the suspects.
    """
    schema = infer_schema(table, types=types, placeholders=placeholders, name=name)
    suspects = find_suspects(table, placeholders, types)
    conversions = find_text_times(table, placeholders, types)
    strays = find_stray_text(table, placeholders, types)
    lines: list[tuple[str, str, str, str]] = []
    for column in schema.columns:
        values = _describe_values(column)
        if column.name in suspects:
            values += f"; missing? {describe_suspects(suspects[column.name])}"
        if column.name in conversions:
            values += f"; dates? {conversions[column.name]}"
        if column.name in strays:
            values += f"; numbers? text is {strays[column.name]}"
        missing = _count_missing(table, column, placeholders)
        lines.append((column.name, column.type, missing, values))
    return lines, suspects


def _count_missing(table: RawTable, column: Column, placeholders: Sequence[Any]) -> str:
    share = float(table[column.name].find_missing(placeholders).mean())
    if not share:
        return ""
    return f"{share:.1%}"


def _describe_values(column: Column) -> str:
    if column.type in _REASONS:
        return _REASONS[column.type]
    if column.type in CODED:
        return f"{column.levels} categories: {join_names(column.categories, 5)}"
    if column.type == "time":
        first, last = (
            datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=value)
            for value in (column.low, column.high)
        )
        return f"{first:%Y-%m-%d} to {last:%Y-%m-%d}{_describe_cycles(column)}"
    text = f"{column.low:g} to {column.high:g}"
    if column.step:
        text += f", in steps of {column.step:g}"
    if column.atoms:
        text += f"; often exactly {join_names([f'{atom:g}' for atom in column.atoms])}"
    return text


def _describe_cycles(column: Column) -> str:
    cycles = [each for each in (column.season, *column.cycles) if each is not None]
    if not cycles:
        return ""
    *others, last = cycles
    names = f"{', '.join(others)} and {last}" if others else last
    return f", with the cycle{'s' * bool(others)} {names}"
