"""Reads the columns of later tables as numbers or codes, as in the training of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lowerbound.data.columns import CODED, Column, Floats, Mask
from lowerbound.data.inference import check_ends, check_values, refuse_infinite
from lowerbound.data.joined_names import join_names
from lowerbound.data.raw_columns import RawColumn
from lowerbound.data.raw_values import Content, classify
from lowerbound.data.text_times import find_formats, suggest_conversion
from lowerbound.errors import DataError


def read_column(raw: RawColumn, column: Column, placeholders: Sequence[Any]) -> Floats:
    """Read a column as numbers, or as codes of its categories, ``[N]``, with NaN where missing.

    Raises:
        DataError: if it does not contain what the column contained in training, such as numbers in
            place of text, or has a value that the column cannot have, naming the row.
    """
    missing = raw.find_missing(placeholders)
    if missing.all():
        return np.full(len(raw), np.nan)
    _check_contents(raw, column, missing)
    if column.type in CODED:
        return _read_codes(raw, column, missing)
    if column.type == "time":
        _check_zone(raw, column)
    content = raw.find_content(missing)
    values = raw.read_numbers(content, missing)
    refuse_infinite(values, raw)
    check_values(values, column, raw)
    check_ends(values, column, raw)
    return values


def _check_contents(raw: RawColumn, column: Column, missing: Mask) -> None:
    known = _list_known_contents(column)
    found = sorted(_find_contents(raw, missing) - _list_accepted(column))
    if found:
        names, example = " or ".join(known), ""
        if column.type == "time" and found[0] == "text":
            example = f", for example by {suggest_conversion(raw, find_formats(raw, ()))}"
        raise DataError(
            f"{raw.where} contains {found[0]}, but the model was trained on {names} "
            f"({column.type}); convert the column to {names}{example}"
        )


def _list_accepted(column: Column) -> set[Content]:
    """What a later column may contain."""
    accepted = set(_list_known_contents(column))
    if column.type in CODED and set(column.categories) <= {0, 1}:
        accepted = {"numbers", "truth values"}
    if column.type not in CODED and column.dtype == "Boolean":  # declared as numbers
        accepted.add("truth values")
    return accepted


def suits(raw: RawColumn, column: Column, missing: Mask) -> bool:
    """Whether a column has no values, or only such as the model accepts."""
    return bool(missing.all()) or _find_contents(raw, missing) <= _list_accepted(column)


def _list_known_contents(column: Column) -> list[Content]:
    """What a column contained in training."""
    if column.type == "time":
        return ["times"]
    if column.type not in CODED:
        return ["numbers"]
    return _classify_all(column.categories)


def _find_contents(raw: RawColumn, missing: Mask) -> set[Content]:
    """What a column contains; for declared categories, what the contents of each value are."""
    if raw.list_categories() is None:
        return {raw.find_content(missing)}
    return set(_classify_all(raw.read_values(missing)))


def _classify_all(values: Sequence[Any]) -> list[Content]:
    return sorted(content for content in set(map(classify, values)) if content is not None)


def _check_zone(raw: RawColumn, column: Column) -> None:
    zone = raw.find_zone()
    if bool(zone) == bool(column.zone):
        return
    found = f"are in the time zone {zone}" if zone else "have no time zone"
    known = f"are in {column.zone}" if column.zone else "have none"
    raise DataError(
        f"{raw.where}: its times {found}, and those on which the model was trained {known}; "
        "convert the column"
    )


def _read_codes(raw: RawColumn, column: Column, missing: Mask) -> Floats:
    place = {category: code for code, category in enumerate(column.categories)}
    codes = np.full(len(raw), np.nan)
    for row, value in enumerate(raw.read_values(missing)):
        if value is None:
            continue
        code = place.get(value)
        if code is None and not column.other:
            raise DataError(
                f"{raw.describe_place(row, repr(value))}, which is not a category that the model "
                f"knows ({join_names(column.categories)}); replace it by one of them or by a "
                f"missing value{_suggest_training(column)}"
            )
        codes[row] = len(column.categories) if code is None else code
    return codes


def _suggest_training(column: Column) -> str:
    """How to train a model that accepts further categories; empty if there can be none."""
    if column.type == "categorical":
        return ", or train with unknown='other'"
    contents = _list_known_contents(column)
    if contents == ["truth values"]:
        return ""
    if contents == ["numbers"]:
        return f", or train with columns={{{column.name!r}: 'real'}}"
    return f", or train with columns={{{column.name!r}: 'categorical'}} and unknown='other'"
