"""Dates and times written as text are pointed out, with the way to convert them."""

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


def find_text_times(
    table: RawTable, placeholders: Sequence[Any] = (), types: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Find columns of text whose values are all ISO dates or times, such as ``2024-01-03``.

    A column of a CSV file with such cells becomes one of times, but in a frame the type of the
    column is what the user has chosen, so it is not converted.

    Args:
        table: the table.
        placeholders: the values that the user has declared as missing.
        types: the types that the user gave to some columns, which are not suspected.

    Returns:
        How to convert each of these columns, by its name.
    """
    return {
        name: suggest_conversion(column)
        for name, column in table.columns.items()
        if name not in (types or {}) and _has_text_times(column, placeholders)
    }


def _has_text_times(column: RawColumn, placeholders: Sequence[Any]) -> bool:
    texts = {each for each in list_texts(column, placeholders) if each is not None}
    return len(texts) > 1 and all(map(_is_time, texts))


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


def suggest_conversion(column: RawColumn) -> str:
    """How to convert a column of text to times, in the library of its frame."""
    library = "pandas"
    if isinstance(column, FrameColumn):
        library = str(column.series.implementation.value)
    name = column.name if column.label is None else column.label
    return _CONVERSIONS.get(library, _CONVERSIONS["pandas"]).format(name=name)
