"""Finds values that usually stand for missing ones, unless the user has declared them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lowerbound.data.columns import LEFT_OUT, Floats
from lowerbound.data.csv_text import MARKS
from lowerbound.data.frames import RawTable, open_table
from lowerbound.data.raw_columns import RawColumn
from lowerbound.data.raw_values import classify, clean_marks, simplify

# Numbers that stand for missing ones, as far as a column has no others like them.
_NINES = tuple(sign * float("9" * digits) for digits in range(1, 7) for sign in (-1, 1))

# Text that stands for missing values, in any case.
_TEXT = {
    *(each.casefold() for each in MARKS),
    *("missing", "?", "-", "."),
    *(str(round(each)) for each in _NINES if each < 0),
}

# A number that occurs once is a value like others.
_SEVERAL = 2

Suspects = dict[str, dict[Any, int]]
"""How often each suspected value occurs, by the name of its column."""


def find_suspects(
    table: RawTable, placeholders: Sequence[Any] = (), types: Mapping[str, Any] | None = None
) -> Suspects:
    """Find values that usually stand for missing ones, and are not declared as such.

    These are text such as ``n/a`` or ``?``, and numbers made of nines, such as -999, that occur
    several times, if they are the only negative numbers of their column, or farther from its other
    numbers than these are from each other.

    Args:
        table: the table.
        placeholders: the values that the user has declared as missing.
        types: the types that the user gave to some columns. Those that are left out are not read.
    """
    left_out = [name for name, kind in (types or {}).items() if kind in LEFT_OUT]
    found = {
        name: _find_in(column, placeholders)
        for name, column in table.columns.items()
        if name not in left_out
    }
    return {name: values for name, values in found.items() if values}


def _find_in(column: RawColumn, placeholders: Sequence[Any]) -> dict[Any, int]:
    missing = column.find_missing(placeholders)
    if missing.all():
        return {}
    content = column.find_content(missing)
    if content == "numbers":
        return _find_numbers(column.read_numbers(content, missing)[~missing])
    if content != "text":
        return {}
    counts = Counter(value for value in column.read_values(missing) if isinstance(value, str))
    marks = _TEXT
    if "+" in counts:  # then "-" is a sign
        marks = _TEXT - {"-"}
    return {text: counts[text] for text in sorted(counts) if text.strip().casefold() in marks}


def is_usual_mark(text: str) -> bool:
    """Whether text usually stands for a missing value."""
    return text.strip().casefold() in _TEXT


def _find_numbers(seen: Floats) -> dict[Any, int]:
    values, counts = np.unique(seen, return_counts=True)
    is_candidate = np.isin(values, _NINES) & (counts >= _SEVERAL)
    others = values[~is_candidate]
    if not is_candidate.any() or not len(others):
        return {}
    low, high = others[0], others[-1]
    found = {}
    for value, count in zip(values[is_candidate], counts[is_candidate], strict=True):
        distance = max(low - value, value - high)
        if distance > high - low or value < 0 <= low:
            found[simplify(value)] = int(count)
    return found


def describe_suspects(values: Mapping[Any, int]) -> str:
    """Describe the suspected values of one column, and how often they occur.

    Example:
        >>> describe_suspects({-999: 12, "n/a": 1})
        "-999 in 12 rows, 'n/a' in 1 row"
    """
    return ", ".join(
        f"{value!r} in {count:,} row{'s' * (count != 1)}" for value, count in values.items()
    )


def suggest_marks(suspects: Suspects, placeholders: Sequence[Any] = ()) -> list[Any]:
    """The values to declare as missing: those that are declared already, and all suspects.

    Example:
        >>> suggest_marks({"income": {-999: 12}, "city": {"n/a": 1}}, ("?", "-9", -9.0))
        ['-9', -999, '?', 'n/a']
    """
    every = [*placeholders, *(value for values in suspects.values() for value in values)]
    plain = [simplify(each) if classify(each) == "numbers" else each for each in every]
    # Text that is a number stands for the number, too.
    ordered = sorted(plain, key=lambda each: isinstance(each, str))
    return list({str(each): each for each in ordered}.values())


def warn_unmatched(tables: Sequence[Any], placeholders: Sequence[Any], name: str) -> None:
    """Warn of values that were declared as missing and that no entry has.

    Args:
        tables: the table in one or several forms, such as text and numbers.
        placeholders: the values that the user has declared as missing.
        name: the name of the data in messages.
    """
    columns = [column for table in tables for column in open_table(table, name).columns.values()]
    unmatched = [
        each
        for each in suggest_marks({}, clean_marks(placeholders))
        if str(each).strip() not in ("", *MARKS)
        and not any(_has_mark(column, each) for column in columns)
    ]
    if unmatched:
        warnings.warn(
            f"{name}: no entry is {' or '.join(map(repr, unmatched))}, although missing_values= "
            "names it; check the spelling",
            UserWarning,
            stacklevel=2,
        )


def _has_mark(column: RawColumn, mark: Any) -> bool:
    return bool((column.find_missing([mark]) & ~column.find_missing()).any())
