"""Warnings about what a user has probably overlooked in a table."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lowerbound.data.columns import Schema
from lowerbound.data.frames import RawTable
from lowerbound.data.hints import giving_once
from lowerbound.data.joined_names import join_names
from lowerbound.data.suspects import Suspects, describe_suspects, find_suspects, suggest_marks
from lowerbound.data.text_numbers import find_stray_text, join_strays
from lowerbound.data.text_times import find_text_times


def warn_of_oversights(
    table: RawTable, placeholders: Sequence[Any], types: Mapping[str, Any] | None, name: str
) -> set[str]:
    """Warn of undeclared marks of missing values, and of times and numbers as text.

    Each of these is pointed out once in a session.

    Args:
        table: the table, whose columns can be read.
        placeholders: the values that the user has declared as missing.
        types: the types that the user gave to some columns.
        name: the name of the data in messages.

    Returns:
        The columns whose text looks like numbers, dates or times.
    """
    marks = (
        (name, column, value, count)
        for column, values in find_suspects(table, placeholders, types).items()
        for value, count in values.items()
    )
    with giving_once(marks) as new_marks:
        suspects: Suspects = {}
        for _, column, value, count in new_marks:
            suspects.setdefault(column, {})[value] = count
        if suspects:
            _warn(name, _write_of_marks(suspects, placeholders))
    named = set[str]()
    for find, write in ((find_text_times, _write_of_times), (find_stray_text, _write_of_text)):
        found = find(table, placeholders, types)
        named |= found.keys()
        with giving_once((name, len(table), *each) for each in found.items()) as new:
            if new:
                _warn(name, write({column: text for *_, column, text in new}))
    return named


def warn_of_identifiers(schema: Schema, known: Collection[str], rows: int, name: str) -> None:
    """Warn, once in a session, of columns that are left out as identifiers.

    Args:
        schema: the columns of the table.
        known: columns that need no warning, because the user knows of them.
        rows: the number of rows of the table.
        name: the name of the data in messages.
    """
    columns = [each.name for each in schema.columns if each.type == "identifier"]
    with giving_once((name, rows, each) for each in columns if each not in known) as new:
        names = [column for *_, column in new]
        if names:
            _warn(
                name,
                f"left out as identifiers: {join_names(names)}. Most values of such a column are "
                "different, or it has too many categories. If the model should use it, convert "
                "text to numbers or to fewer categories, or name its type in columns=; otherwise "
                f"confirm that it is an identifier by columns={{{names[0]!r}: 'identifier'}}",
            )


def _warn(name: str, message: str) -> None:
    warnings.warn(f"{name}: {message}", UserWarning, stacklevel=3)


def _write_of_marks(suspects: Suspects, placeholders: Sequence[Any]) -> str:
    found = "; ".join(
        f"the column {column!r} is {describe_suspects(values)}"
        for column, values in suspects.items()
    )
    return (
        f"{found}. The model takes them as values like all others; if they stand for missing ones, "
        f"declare them by missing_values={suggest_marks(suspects, placeholders)!r}"
    )


def _write_of_times(conversions: Mapping[str, str]) -> str:
    first, conversion = next(iter(conversions.items()))
    return (
        f"the values of {join_names(list(map(repr, conversions)))} are text that looks like dates "
        "or times, which the model takes for categories or leaves out. Convert them: "
        f"{conversion}; in a file, write them as 2024-01-31; or name the type, for example "
        f"columns={{{first!r}: 'categorical'}}"
    )


def _write_of_text(strays: Mapping[str, str]) -> str:
    first = next(iter(strays))
    return (
        "the values of some columns look like numbers, but some are text, so the model takes all "
        f"of them for categories or leaves the column out: {join_strays(strays)}. Write numbers "
        "with a decimal point and without other marks, declare text that stands for missing values "
        f"by missing_values=, or name the type, for example columns={{{first!r}: 'categorical'}}"
    )
