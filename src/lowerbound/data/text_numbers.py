"""Finds text that turns a column of numbers into a column of text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lowerbound.data.frames import RawTable
from lowerbound.data.raw_columns import RawColumn
from lowerbound.data.suspects import is_usual_mark
from lowerbound.data.text_times import list_texts

# At most this share of the values of a column of numbers is text by mistake.
_STRAY_SHARE = 0.1

# Numbers as people write them: 1,5 or 1,234.50 or €18.855,72 or 16.1% or (1 234,50). Points and
# spaces separate thousands only if there is a decimal comma or a currency sign, because 416.555.123
# may be a code. Brackets must also contain a point, a comma or a currency sign, because (416) may
# be a code, too.
_FORMATTED_NUMBER = re.compile(
    r"""[-+−]? \s? (?P<before>[$€£¥₹])? \s? [-+−]?
    (
        \d* [,.]? \d+
        | [1-9]\d{0,2} (?P<mark>[,'’\xa0\u202f]) \d{3} ((?P=mark)\d{3})* ((?!(?P=mark))[.,]\d+)?
        | [1-9]\d{0,2} (?P<space>[. ]) \d{3} ((?P=space)\d{3})*
          ( ,\d+ | (?=\s?[$€£¥₹]) | (?(before)|(?!)) )
    )
    \s? [$€£¥₹%]?""",
    re.VERBOSE,
)
_BRACKETS = re.compile(r"\((.*[$€£¥₹,.].*)\)")


def find_stray_text(
    table: RawTable, placeholders: Sequence[Any] = (), types: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Find text that turns a column of numbers into text, such as ``thirty`` or ``1,234.50``.

    At least nine tenths of the values of such a column look like numbers, perhaps with a decimal
    comma, thousands separators, a currency sign or a percent sign, and some cannot be read as
    numbers.

    Args:
        table: the table.
        placeholders: the values that the user has declared as missing.
        types: the types that the user gave to some columns, which are not suspected.

    Returns:
        What the text is and in which row it first occurs, by the name of the column.

    Example:
        >>> import pandas as pd
        >>> from lowerbound.data.frames import open_table
        >>> ages = ["34", "thirty", *map(str, range(20, 40))]
        >>> find_stray_text(open_table(pd.DataFrame({"age": ages})))
        {'age': "'thirty' in row 1"}
    """
    found = {
        name: _find_in(column, placeholders)
        for name, column in table.columns.items()
        if name not in (types or {})
    }
    return {name: _describe(rows) for name, rows in found.items() if rows}


def _find_in(column: RawColumn, placeholders: Sequence[Any]) -> dict[str, int]:
    """The first row of each text, in the order of the rows."""
    texts = list_texts(column, placeholders)
    counts = {
        text: count
        for text, count in Counter(texts).items()
        if text is not None and not is_usual_mark(text)
    }
    most, mistakes = _STRAY_SHARE * sum(counts.values()), 0
    strays: set[str] = set()
    for text, count in counts.items():
        if _is_number(text):
            continue
        strays.add(text)
        mistakes += 0 if _is_formatted_number(text) else count
        if mistakes > most:
            return {}
    first: dict[str, int] = {}
    for row, each in enumerate(texts):
        if each is not None and each in strays:
            first.setdefault(each, row)
    return first


def describe_first_text(column: RawColumn, placeholders: Sequence[Any]) -> str:
    """Describe the first text that is not a number, as the end of a phrase; empty without text."""
    rows = enumerate(list_texts(column, placeholders))
    texts = [(row, text) for row, text in rows if text is not None]
    if not texts:
        return ""
    row, text = next((each for each in texts if not _is_number(each[1])), texts[0])
    return f", such as {text!r} in row {row:,}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_formatted_number(text: str) -> bool:
    """Whether text is a number with signs or separators; accountants write -5.00 as (5.00)."""
    inner = _BRACKETS.fullmatch(text)
    return bool(_FORMATTED_NUMBER.fullmatch(inner[1] if inner else text))


def _describe(rows: Mapping[str, int]) -> str:
    (text, row), *others = rows.items()
    more = f" and {len(others):,} other{'s' * (len(others) > 1)}" if others else ""
    return f"{text!r} in row {row:,}{more}"


def join_strays(strays: Mapping[str, str]) -> str:
    """Join what :func:`find_stray_text` has found, for a message."""
    return "; ".join(f"{column!r} (text: {text})" for column, text in strays.items())
