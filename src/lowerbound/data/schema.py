"""Rows of a table become the numbers that a model sees, and the other way round."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data.columns import (
    CODED,
    Column,
    ColumnType,
    Floats,
    Mask,
    Schema,
    join_names,
)
from lowerbound.data.examples import Examples
from lowerbound.data.fields import MISSING, OBSERVED
from lowerbound.data.frames import RawTable, is_frame, open_table
from lowerbound.data.known_columns import read_column
from lowerbound.data.preprocessing import Preprocessing
from lowerbound.data.raw_columns import RawColumn
from lowerbound.data.restoring import (
    fill_series,
    import_library,
    make_series,
    make_series_of_objects,
    restore_type,
)
from lowerbound.data.unused import suggest_names
from lowerbound.errors import DataError


def read_table(
    data: Any,
    schema: Schema,
    *,
    name: str = "data",
    partial: bool = False,
    first_row: int = 0,
) -> tuple[Tensor, Tensor]:
    """Read the rows of a table: the numbers that a model sees, and which are observed.

    Columns are found by their names, whatever their order. A column that the table does not have
    is not observed, and a warning names it. Other columns of the table are ignored.

    Args:
        data: a frame, or an array whose columns are those of the schema, if that is of an array.
        schema: the columns.
        name: the name of the data in messages.
        partial: whether the table has only some of the columns on purpose. Then there is no
            warning, but columns that the schema does not have are refused.
        first_row: the number of the first row in messages, for a part of a table.

    Returns:
        Values, float32, 0 where they are not observed, and the mask, ``[N, D]`` each.

    Raises:
        DataError: for a column of another type than the schema's, or a category that it does not
            have, naming the column and the row.
    """
    table = data if isinstance(data, RawTable) else open_table(data, name, first_row)
    refuse_unnamed(table, schema, name)
    absent = [column.name for column in schema.modelled if column.name not in table]
    if len(absent) == len(schema.modelled):
        raise DataError(
            f"{name}: the table has none of the model's columns, which are {join_names(absent)}; "
            f"it has {join_names(table.names)}"
        )
    known = set(schema.names)
    unknown = [each for each in table.names if each not in known]
    if partial and unknown:
        raise DataError(
            f"{name}: {unknown[0]!r} is not a column of the model's table, whose columns are "
            f"{join_names(schema.names)}"
        )
    if absent and not partial:
        warnings.warn(
            f"{name}: the table has no column {join_names(absent)}; the model takes it as not "
            f"observed{suggest_names(absent, unknown)}",
            UserWarning,
            stacklevel=2,
        )
    size = (len(table), len(schema.entries))
    values, observed = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=bool)
    for column in schema.modelled:
        if column.name in table:
            place = schema.places[column.name]
            raw = read_column(table[column.name], column, schema.missing_values)
            values[:, place], observed[:, place] = column.encode(raw)
    return torch.from_numpy(values), torch.from_numpy(observed)


def refuse_unnamed(table: RawTable, schema: Schema, name: str) -> None:
    """Raise ``DataError`` for an array in place of a table with names, or with other columns."""
    if table.library is None and schema.library is not None:
        raise DataError(
            f"{name}: an array has no names of columns, and the model was trained on a table with "
            f"the columns {join_names(schema.names)}; give a DataFrame with these names"
        )
    if table.library is None and table.names != schema.names:
        raise DataError(
            f"{name}: an array of {len(table.names)} columns, but the model was trained on "
            f"{len(schema.names)}"
        )


def read_known(data: Any, schema: Schema) -> dict[str, tuple[Floats, Mask]]:
    """The values of the modelled columns that a table has, and which of them are missing."""
    table = open_table(data)
    known = {}
    for column in schema.modelled:
        if column.name in table:
            values = read_column(table[column.name], column, schema.missing_values)
            known[column.name] = values, np.isnan(values)
    return known


def read_unchanged(data: Any, schema: Schema) -> dict[str, list[Any]]:
    """The values of a table that could not be restored from what the model knows of them.

    They are the values of columns that are not modelled, and whole numbers that are not categories,
    which float64 would round if they are large. Missing values are ``None``, except those of
    identifiers.
    """
    table = open_table(data)
    unchanged = {}
    for column in schema.columns:
        if column.name not in table:
            continue
        raw = table[column.name]
        if column.type == "identifier":
            unchanged[column.name] = raw.list_values()
        elif column.type == "constant" or _are_whole_numbers(column, raw):
            unchanged[column.name] = raw.read_values(raw.find_missing(schema.missing_values))
    return unchanged


def _are_whole_numbers(column: Column, raw: RawColumn) -> bool:
    types = (column.dtype, raw.dtype)
    return column.type not in CODED and all(each.startswith(("Int", "UInt")) for each in types)


def decode_columns(
    values: Tensor, schema: Schema, observed: Tensor | None = None
) -> dict[str, Floats]:
    """The values of each modelled column, ``[N]``, for the numbers of some rows; codes as codes.

    Args:
        values: the numbers, ``[N, D]``.
        schema: the columns.
        observed: which of them were observed and come back as they were, ``[N, D]``. All others
            are draws, which are kept near the range of the values seen in training.
    """
    numbers: Floats = values.detach().cpu().double().numpy()
    mask = None if observed is None else observed.detach().cpu().bool().numpy()
    return {
        column.name: column.decode(
            numbers[:, schema.places[column.name]],
            None if mask is None else mask[:, schema.places[column.name]],
        )
        for column in schema.modelled
    }


def encode_columns(columns: Mapping[str, Floats], schema: Schema) -> tuple[Tensor, Tensor]:
    """The numbers of rows, float32, and which are observed, for the values of modelled columns.

    It is the inverse of :func:`decode_columns`, ``[N, D]`` each.
    """
    pairs = [column.encode(columns[column.name]) for column in schema.modelled]
    values, observed = (np.concatenate(each, 1) for each in zip(*pairs, strict=True))
    return torch.from_numpy(values.astype(np.float32)), torch.from_numpy(observed)


def make_table(
    columns: Mapping[str, Floats],
    schema: Schema,
    index: Any = None,
    unchanged: Mapping[str, list[Any]] | None = None,
) -> Any:
    """Make a frame of the schema's library from the values of its modelled columns, in its order.

    Constant columns have their value. For a schema of an array, the answer is an array with all of
    its columns; those that are left out and have no known value are NaN.

    Args:
        columns: the values of the modelled columns, ``[N]`` each.
        schema: the columns.
        index: the index of a frame of pandas.
        unchanged: values that replace others, from :func:`read_unchanged`, as far as they are
            known; ``None`` replaces nothing.
    """
    rows = len(next(iter(columns.values())))
    unchanged = unchanged or {}
    everything = [_find_contents(column, columns, rows) for column in schema.columns]
    if schema.library is None:
        unknown = np.full(rows, np.nan)
        values = [
            unknown if each is None else restore_type(each[1], each[0]) for each in everything
        ]
        return _make_array(
            [
                _replace(list(own), unchanged.get(column.name))
                for own, column in zip(values, schema.columns, strict=True)
            ]
        )
    made, chosen = {}, []
    for column, contents in zip(schema.columns, everything, strict=True):
        given = unchanged.get(column.name)
        if contents is not None:
            made[column.name] = make_series(contents[1], contents[0], schema.library)
            if given is not None:
                made[column.name] = _replace_entries(made[column.name], given, schema.library)
        elif given is not None:
            made[column.name] = make_series_of_objects(given, schema.library)
        else:
            continue
        chosen.append(column)
    module = import_library(schema.library)
    if schema.library == "pyarrow":
        return module.table(made)
    frame = module.DataFrame(made)
    if schema.library == "pandas":
        frame.columns = [each.name if each.label is None else each.label for each in chosen]
        if index is not None:
            frame.index = index
    return frame


def _replace(own: Sequence[Any], given: Sequence[Any] | None) -> Sequence[Any]:
    """Replace values by those that are given; ``None`` replaces nothing."""
    if given is None:
        return own
    return [old if new is None else new for old, new in zip(own, given, strict=True)]


def _replace_entries(native: Any, given: Sequence[Any], library: str) -> Any:
    """Replace entries of a series, whose type changes only if its values do."""
    own = nw.from_native(native, series_only=True).to_list()
    new = _replace(own, given)
    return native if new == own else make_series_of_objects(new, library)


def _find_contents(
    column: Column, columns: Mapping[str, Floats], rows: int
) -> tuple[Column, Floats] | None:
    """A column as one that can be restored, and its values; ``None`` if they are not known."""
    if column.name in columns:
        return column, columns[column.name]
    if column.type == "constant" and column.categories:
        return replace(column, type="categorical"), np.zeros(rows)
    if column.type == "constant" and column.atoms:
        known: ColumnType = "time" if column.dtype.startswith("Date") else "real"
        return replace(column, type=known), np.full(rows, column.atoms[0])
    return None


def _make_array(columns: Sequence[Any]) -> NDArray[Any]:
    """Put columns side by side: numbers and truth values as float64, any others as objects."""
    arrays = [np.array(column, dtype=object) for column in columns]
    if not any(isinstance(value, str) for array in arrays for value in array):
        return np.stack([array.astype(float) for array in arrays], 1)
    return np.stack(arrays, 1)


def fill_table(data: Any, columns: Mapping[str, Floats], schema: Schema) -> Any:
    """Fill the missing entries of the modelled columns of a table; all others stay as they are.

    A column whose type does not hold the new values gets one that does, see
    :func:`~lowerbound.data.restoring.fill_series`.

    Args:
        data: the frame, or an array for a schema of an array.
        columns: values for all rows of each column, ``[N]``; codes for categories.
        schema: the columns.
    """
    table = open_table(data)
    everything = [_find_contents(column, columns, len(table)) for column in schema.columns]
    contents = {each[0].name: each for each in everything if each is not None}
    missing = {
        name: table[name].find_missing(schema.missing_values) for name in contents if name in table
    }
    missing = {name: mask for name, mask in missing.items() if mask.any()}
    if not is_frame(data):
        return _fill_array(np.array(data), missing, contents, schema)
    frame = nw.from_native(data, eager_only=True)
    own = {str(name): name for name in frame.columns}
    new = [
        fill_series(frame.get_column(own[name]), mask, contents[name][1], contents[name][0])
        for name, mask in missing.items()
    ]
    filled = frame.with_columns(*new)
    native = filled.to_native()
    if frame.implementation.is_pyarrow() and filled.schema != frame.schema:
        # What pandas wrote about the types is not true any more, and pandas could not read it.
        about = dict(native.schema.metadata or {})
        about.pop(b"pandas", None)
        native = native.replace_schema_metadata(about or None)
    return native


def _fill_array(
    whole: NDArray[Any],
    missing: Mapping[str, Mask],
    contents: Mapping[str, tuple[Column, Floats]],
    schema: Schema,
) -> NDArray[Any]:
    for name, mask in missing.items():
        column, values = contents[name]
        new = np.asarray(restore_type(values[mask], column))
        whole = whole.astype(_find_type_for(whole, new), copy=False)
        whole[mask, schema.names.index(name)] = new
    return whole


def _find_type_for(whole: NDArray[Any], new: NDArray[Any]) -> np.dtype[Any]:
    """The type of an array that also holds new values: longer text, fractions, large numbers."""
    if whole.dtype.kind == "U":
        return np.result_type(whole, new)
    if whole.dtype.kind not in "iu":
        return whole.dtype
    if not (new == np.round(new)).all():
        return np.dtype(float)
    limits = np.iinfo(whole.dtype)
    fits = limits.min <= new.min() and new.max() <= limits.max
    return whole.dtype if fits else np.dtype(np.int64)


def make_table_examples(
    data: Any,
    schema: Schema,
    *,
    name: str = "data",
    partial: bool = False,
    first_row: int = 0,
) -> Examples:
    """Make examples of the rows of a table, see :func:`read_table`.

    The noise of an evaluation belongs to a row, so a table in parts has the noise of the whole. If
    the table does not have all columns, the field ``missing`` says which entries are missing: those
    of its own columns, or none if it has only some columns on purpose.
    """
    table = data if isinstance(data, RawTable) else open_table(data, name, first_row)
    values, observed = read_table(table, schema, name=name, partial=partial)
    fields = {OBSERVED: observed}
    absent = [column.name for column in schema.modelled if column.name not in table]
    if absent or partial:
        fields[MISSING] = ~observed & (not partial)
        for each in absent:
            fields[MISSING][:, schema.places[each]] = False
    rows = None
    if first_row:
        rows = torch.arange(first_row, first_row + len(values))
    return Examples(
        values,
        name=name,
        rows=rows,
        fields=fields,
        columns=tuple(entry.column for entry in schema.entries),
        preprocessing=Preprocessing(tuple(values.shape[1:]), missing="nan", schema=schema),
    )
