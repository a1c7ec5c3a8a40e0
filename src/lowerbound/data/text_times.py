"""Finds dates and times that are written as text, and suggests how to convert them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lowerbound.data.csv_text import MARKS
from lowerbound.data.frames import RawTable
from lowerbound.data.raw_columns import FrameColumn, RawColumn

# The separators matter: 20240103 may be a code.
_BEGINNING = re.compile(r"\d{4}-\d{2}-\d{2}($|[T ])")

_CONVERSIONS = {
    "pandas": "pd.to_datetime(frame[{name!r}], format='ISO8601')",
    "polars": "frame[{name!r}].str.to_datetime()",
    "pyarrow": "table[{name!r}].cast('timestamp[us]')",
}

# Other forms of dates and times. If several fit all values, the first is suggested first.
_OTHER_BEGINNING = re.compile(r"(\d{1,2}[./-]\d{1,2}[./-]\d{4}|\d{4}[./]\d{1,2}[./]\d{1,2})($| )")
_DATES = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d")
_TIMES = ("", "%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p")

_CONVERSIONS_FROM = {
    "pandas": "pd.to_datetime(frame[{name!r}], format={format!r})",
    "polars": "frame[{name!r}].str.to_datetime({format!r})",
    "pyarrow": "pc.strptime(table[{name!r}], format={format!r}, unit='us')",
}


def find_text_times(
    table: RawTable, placeholders: Sequence[Any] = (), types: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Find columns of text whose values are all dates or times, such as ``2024-01-03``.

    A column of a CSV file with ISO dates becomes one of times, but in a frame the type of the
    column is what the user has chosen, so it is not converted. Dates such as ``31.01.2024`` or
    ``1/31/2024`` are found, too. If the order of day and month is ambiguous, both are suggested.

    Args:
        table: the table.
        placeholders: the values that the user has declared as missing.
        types: the types that the user gave to some columns, which are not suspected.

    Returns:
        How to convert each of these columns, by its name.
    """
    found: dict[str, str] = {}
    for name, column in table.columns.items():
        formats = [] if name in (types or {}) else find_formats(column, placeholders)
        if formats:
            found[name] = suggest_conversion(column, formats)
    return found


def find_formats(column: RawColumn, placeholders: Sequence[Any]) -> list[str]:
    """The formats that fit all values of a column of text; empty text stands for ISO 8601."""
    texts = {each for each in list_texts(column, placeholders) if each is not None}
    if len(texts) < 2:
        return []
    if all(map(_is_time, texts)):
        return [""]
    if not all(map(_OTHER_BEGINNING.match, texts)):
        return []
    # Days and times of day are checked apart: there are far fewer of them than of their pairs.
    parts = [text.partition(" ") for text in texts]
    days, times = {day for day, _, _ in parts}, {time for _, _, time in parts}
    time_formats = [each for each in _TIMES if all(_has_format(time, each) for time in times)]
    return [
        f"{each} {time_formats[0]}".rstrip()
        for each in _DATES
        if time_formats and all(_has_format(day, each) for day in days)
    ]


def _has_format(text: str, format: str) -> bool:
    try:
        datetime.datetime.strptime(text, format)
    except ValueError:
        return False
    return True


def list_texts(column: RawColumn, placeholders: Sequence[Any]) -> list[str | None]:
    """The text of each row of a column, with ``None`` where it is missing.

    A column of another type, or with declared categories, has none: its list is empty.
    """
    missing = column.find_missing(placeholders)
    if missing.all() or column.find_content(missing) != "text" or column.list_categories():
        return []
    texts = [each if each is None else each.strip() for each in column.read_values(missing)]
    return [None if text in MARKS else text for text in texts]


def _is_time(text: str) -> bool:
    if not _BEGINNING.match(text):
        return False
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def suggest_conversion(column: RawColumn, formats: Sequence[str]) -> str:
    """How to convert a column of text to times, in the library of its frame.

    Args:
        column: the column.
        formats: those from :func:`find_formats`. If there are none, ISO 8601 is suggested.
    """
    library = "pandas"
    if isinstance(column, FrameColumn):
        library = str(column.series.implementation.value)
    name = column.name if column.label is None else column.label
    first, *others = formats or [""]
    known = _CONVERSIONS_FROM if first else _CONVERSIONS
    code = known.get(library, known["pandas"]).format(name=name, format=first)
    return ", or ".join([code, *(f"format={each!r} if months come first" for each in others)])
