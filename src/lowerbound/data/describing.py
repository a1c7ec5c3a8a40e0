"""Tables are described column by column, so that a user can correct their types."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from lowerbound.data.columns import CODED, Column, join_names
from lowerbound.data.frames import RawTable, make_frame, open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.table_files import parse_column_types, parse_missing_values

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
        ``type``, ``missing`` (the share of missing values) and ``values`` (their range).

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
    lines = describe_columns(
        data,
        types=parse_column_types(columns),
        placeholders=parse_missing_values(missing_values),
    )
    library = open_table(data).library or "pandas"
    headings = ("column", "type", "missing", "values")
    columns_of_text = map(list, zip(*lines, strict=True))
    return make_frame(dict(zip(headings, columns_of_text, strict=True)), library)


def describe_columns(
    data: Any,
    *,
    types: Mapping[str, Any] | None = None,
    placeholders: Sequence[Any] = (),
    name: str = "data",
) -> list[tuple[str, str, str, str]]:
    """Describe each column of a table: its name, its type, its missing values, and its values."""
    table = open_table(data, name)
    schema = infer_schema(table, types=types, placeholders=placeholders, name=name)
    return [
        (
            column.name,
            column.type,
            _count_missing(table, column, placeholders),
            _describe_values(column),
        )
        for column in schema.columns
    ]


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
        return f"{first:%Y-%m-%d} to {last:%Y-%m-%d}{_describe_cycles(column.cycles)}"
    text = f"{column.low:g} to {column.high:g}"
    if column.step:
        text += f", in steps of {column.step:g}"
    if column.atoms:
        text += f"; often exactly {join_names([f'{atom:g}' for atom in column.atoms])}"
    return text


def _describe_cycles(cycles: Sequence[str]) -> str:
    if not cycles:
        return ""
    *others, last = cycles
    names = f"{', '.join(others)} and {last}" if others else last
    return f", with the cycle{'s' * bool(others)} {names}"
