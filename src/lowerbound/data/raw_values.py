"""Single values of tables as they were given: what they are, and which are missing."""

from __future__ import annotations

import datetime
import math
import numbers
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

import narwhals as nw
import numpy as np

Content = Literal["numbers", "times", "truth values", "text"]

# Other text among numbers is rather a category than a marker of missing values.
_MOST_MARKS, _LONGEST_MARK = 2, 20

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def is_missing(value: Any) -> bool:
    """Whether an object stands for a missing value: None, NaN, NaT or pandas' NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return isinstance(value, float | np.floating) and math.isnan(value)


def convert_decimal(value: Any) -> Any:
    """Convert a Decimal to a float; other values stay as they are."""
    if not isinstance(value, Decimal):
        return value
    return math.nan if value.is_nan() else float(value)


def name_category(value: Any) -> Any:
    """A category as text, number or truth value; intervals and times become text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int | float):
        return value
    return str(value)


def imitate_decimals(values: Sequence[Any], own: Iterable[Any]) -> Sequence[Any]:
    """Convert numbers to Decimal if a column of objects has such values; otherwise change nothing.

    Python cannot add a Decimal and a float, so a column must not contain both.

    Args:
        values: the numbers.
        own: the values of the column.
    """
    if not any(isinstance(each, Decimal) for each in own):
        return values
    return [Decimal(str(each)) for each in values]


def find_zone_of(series: nw.Series[Any]) -> str:
    """The time zone that the type of a series has, or empty text."""
    if isinstance(series.dtype, nw.Datetime):
        return str(series.dtype.time_zone or "")
    # narwhals does not know pandas' types with time zones other than UTC.
    zone = getattr(getattr(series.to_native(), "dtype", None), "tz", None)
    return name_zone(zone)


def find_unit(series: nw.Series[Any]) -> str:
    """The unit of the times of a series: ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``."""
    if isinstance(series.dtype, nw.Datetime):
        return str(series.dtype.time_unit)
    return str(getattr(getattr(series.to_native(), "dtype", None), "unit", "us"))


def name_zone(zone: Any) -> str:
    """The name of a time zone, or empty text for none; UTC for one without a common name."""
    if zone is None:
        return ""
    name = str(getattr(zone, "key", None) or zone)
    if re.fullmatch(r"(UTC)?[+-]\d\d:\d\d", name):
        return name
    try:
        return ZoneInfo(name).key
    except (KeyError, ValueError, OSError):
        return "UTC"


def read_marks(values: Any) -> tuple[Any, ...]:
    """Read the values that stand for missing ones; a user may also give a single value or none.

    A number also stands for the same number written as text.

    Example:
        >>> read_marks(-999), read_marks(["?", -0.5]), read_marks(None)
        ((-999, '-999'), ('?', -0.5, '-0.5'), ())
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        values = (values,)
    marks: list[Any] = []
    for each in map(convert_decimal, values):
        if is_missing(each):
            continue
        marks.append(each)
        if classify(each) == "numbers":
            marks.append(str(simplify(each)))
    return tuple(marks)


def clean_marks(placeholders: Iterable[Any]) -> tuple[Any, ...]:
    """Values that stand for missing ones as text, numbers and truth values, without NaN."""
    marks = (each for each in placeholders if not is_missing(each))
    return tuple(
        each.isoformat() if isinstance(each, datetime.date) else name_category(each)
        for each in marks
    )


def list_numbers(placeholders: Sequence[Any]) -> Iterable[float]:
    """The placeholders that are numbers, or text that is one."""
    for each in placeholders:
        if classify(each) not in ("numbers", "text"):
            continue
        try:
            yield float(each)
        except ValueError:
            continue


def list_times(placeholders: Sequence[Any], zone: str) -> Iterable[float]:
    """The placeholders that are times, or text that is one, in seconds since 1970."""
    for each in clean_marks(placeholders):
        if not isinstance(each, str):
            continue
        try:
            time = datetime.datetime.fromisoformat(each)
        except ValueError:
            continue
        if not zone:
            time = time.replace(tzinfo=None)
        elif time.tzinfo is None:
            time = time.replace(tzinfo=_open_zone(zone))
        yield count_seconds(time)


def _open_zone(zone: str) -> datetime.tzinfo:
    try:
        return ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        return datetime.UTC


def classify(value: Any) -> Content | None:
    """What a value is, or ``None`` for an object of any other type."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "truth values"
    if isinstance(value, numbers.Real):
        return "numbers"
    if isinstance(value, datetime.date):
        return "times"
    return None


def count_seconds(value: Any) -> float:
    """Seconds since 1970, in UTC for a time with a zone, and else of the clock."""
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return float((value - _EPOCH).total_seconds())


def simplify(value: Any) -> Any:
    """A whole number as an integer, so that 1 and 1.0 are the same category in a description."""
    number = float(value)
    if math.isfinite(number) and number == round(number):
        return int(number)
    return number


def suggest_marks(values: Iterable[Any]) -> str:
    """How to say that the few texts among other values stand for missing ones; else empty.

    Example:
        >>> suggest_marks([2.5, "?", 1, "?"])
        "if '?' stands for missing values, name it: missing_values=['?']. Otherwise "
    """
    found = (each.strip() for each in values if isinstance(each, str))
    texts = [text for text in dict.fromkeys(found) if text]
    if not 0 < len(texts) <= _MOST_MARKS or any(map(_could_be_a_value, texts)):
        return ""
    named = " and ".join(map(repr, texts))
    stand, them = ("stands", "it") if len(texts) == 1 else ("stand", "them")
    return f"if {named} {stand} for missing values, name {them}: missing_values={texts}. Otherwise "


def _could_be_a_value(text: str) -> bool:
    """Whether text contains a digit, as numbers and dates do, or is too long for a marker."""
    return len(text) > _LONGEST_MARK or any(each.isdigit() for each in text)
