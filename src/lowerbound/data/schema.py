"""Rows of a table become the numbers that a model sees, and the other way round."""

from __future__ import annotations

import warnings
from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data.columns import (
    Column,
    ColumnType,
    Floats,
    Mask,
    Schema,
)
from lowerbound.data.examples import Examples
from lowerbound.data.fields import MISSING, OBSERVED
from lowerbound.data.frames import RawTable, is_frame, open_table
from lowerbound.data.joined_names import join_names
from lowerbound.data.known_columns import read_column, suits
from lowerbound.data.preprocessing import Preprocessing
from lowerbound.data.raw_values import imitate_decimals
from lowerbound.data.restoring import (
    fill_series,
    import_library,
    make_series,
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


def decode_columns(
    values: Tensor, schema: Schema, observed: Tensor | None = None
) -> dict[str, Floats]:
    """The values of each modelled column, ``[N]``, for the numbers of some rows; codes as codes.

    Counts are rounded if the table has them as integers: the numbers may be means.

    Args:
        values: the numbers, ``[N, D]``.
        schema: the columns.
        observed: which of them were observed and come back as they were, ``[N, D]``. All others
            are draws, which are kept near the range of the values seen in training.
    """
    numbers: Floats = values.detach().cpu().double().numpy()
    mask = None if observed is None else observed.detach().cpu().bool().numpy()
    found = {}
    for column in schema.modelled:
        place = schema.places[column.name]
        raw = column.decode(numbers[:, place], None if mask is None else mask[:, place])
        is_whole = column.type == "count" and column.dtype.startswith(("Int", "UInt"))
        found[column.name] = np.asarray(np.round(raw), dtype=float) if is_whole else raw
    return found


def encode_columns(columns: Mapping[str, Floats], schema: Schema) -> tuple[Tensor, Tensor]:
    """The numbers of rows, float32, and which are observed, for the values of modelled columns.

    It is the inverse of :func:`decode_columns`, ``[N, D]`` each.
    """
    pairs = [column.encode(columns[column.name]) for column in schema.modelled]
    values, observed = (np.concatenate(each, 1) for each in zip(*pairs, strict=True))
    return torch.from_numpy(values.astype(np.float32)), torch.from_numpy(observed)


def make_table(columns: Mapping[str, Floats], schema: Schema) -> Any:
    """Make a frame of the schema's library from the values of its modelled columns, in its order.

    Constant columns have their value. For a schema of an array, the answer is an array with all of
    its columns; those that are left out and have no known value are NaN.

    Args:
        columns: the values of the modelled columns, ``[N]`` each.
        schema: the columns.
    """
    rows = len(next(iter(columns.values())))
    everything = [_find_contents(column, columns, rows) for column in schema.columns]
    if schema.library is None:
        unknown = np.full(rows, np.nan)
        return _make_array(
            [unknown if each is None else restore_type(each[1], each[0]) for each in everything]
        )
    known = [each for each in everything if each is not None]
    made = {column.name: make_series(raw, column, schema.library) for column, raw in known}
    module = import_library(schema.library)
    if schema.library == "pyarrow":
        return module.table(made)
    frame = module.DataFrame(made)
    if schema.library == "pandas":
        labels = [each.name if each.label is None else each.label for each, _ in known]
        lengths = {len(each) if isinstance(each, tuple) else 0 for each in labels}
        frame.columns = module.Index(labels, tupleize_cols=len(lengths) == 1)
    return frame


def _find_label(column: Column, others: Sequence[Any]) -> Any:
    """The name of a column beside others, which may be numbers or tuples in a frame of pandas."""
    if isinstance(others[0], str):
        return column.name
    if column.label is not None:
        return column.label
    try:
        label = literal_eval(column.name)
        hash(label)
    except (ValueError, SyntaxError, TypeError):  # the last for lists, also within a tuple
        return column.name
    is_label = isinstance(label, int | float | tuple) and str(label) == column.name
    return label if is_label else column.name


def make_table_like(
    data: Any, columns: Mapping[str, Floats], schema: Schema, *, keeps_entries: bool
) -> Any:
    """Make a table of the same rows as another, with the names and types of its columns.

    The columns are in the order of the schema. Those that the other table does not have are of the
    types of the schema. Frames of other libraries than pandas and polars give one of pyarrow.

    Args:
        data: the frame, or an array for a schema of an array.
        columns: values for all rows of each modelled column, ``[N]``; codes for categories.
        schema: the columns.
        keeps_entries: whether the entries of ``data`` are kept, also in columns that are not
            modelled, so that only missing ones are filled. Otherwise all are replaced.
    """
    opened = open_table(data)
    if opened.library is None:
        return fill_table(data, columns, schema, everything=not keeps_entries)
    frame = nw.from_native(data, eager_only=True)
    if opened.library != str(frame.implementation.value):
        frame = nw.from_native(frame.to_arrow(), eager_only=True)
    filled = fill_table(frame.to_native(), columns, schema, everything=not keeps_entries)
    names = {str(name): name for name in frame.columns}
    chosen, added = list[Any](), list[nw.Series[Any]]()
    for column in schema.columns:
        contents = _find_contents(column, columns, len(frame))
        if column.name in names and (keeps_entries or contents is not None):
            chosen.append(names[column.name])
        elif contents is not None:
            native = make_series(contents[1], contents[0], opened.library)
            if opened.index is not None:
                native.index = opened.index
            chosen.append(_find_label(column, frame.columns))
            series: nw.Series[Any] = nw.from_native(native, series_only=True)
            added.append(series.alias(chosen[-1]))
    whole = nw.from_native(filled, eager_only=True).with_columns(*added).to_native()
    if opened.library != "pandas":
        return whole.select(chosen)
    places = {str(name): place for place, name in enumerate(whole.columns)}
    made = whole.iloc[:, [places[str(name)] for name in chosen]]  # a list of truth values is a mask
    made.columns.names = frame.to_native().columns.names
    return made


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


def fill_table(
    data: Any, columns: Mapping[str, Floats], schema: Schema, *, everything: bool = False
) -> Any:
    """Fill the missing entries of the modelled columns of a table; all others stay as they are.

    A column whose type does not hold the new values gets one that does, see
    :func:`~lowerbound.data.restoring.fill_series`.

    Args:
        data: the frame, or an array for a schema of an array.
        columns: values for all rows of each column, ``[N]``; codes for categories.
        schema: the columns.
        everything: whether all other entries of these columns are replaced, too.
    """
    table = open_table(data)
    known = [_find_contents(column, columns, len(table)) for column in schema.columns]
    contents = {each[0].name: each for each in known if each is not None}
    missing = {
        name: table[name].find_missing(schema.missing_values) for name in contents if name in table
    }
    missing = {
        name: mask
        for name, mask in missing.items()
        if (everything or mask.any()) and suits(table[name], contents[name][0], mask)
    }
    if not is_frame(data):
        return _fill_array(np.array(data), missing, contents, schema)
    frame = nw.from_native(data, eager_only=True)
    own = {str(name): name for name in frame.columns}
    filled = frame.with_columns(
        *(
            fill_series(frame.get_column(own[name]), mask, *contents[name], everything=everything)
            for name, mask in missing.items()
        )
    )
    native = filled.to_native()
    if frame.implementation.is_pandas():
        native.columns = frame.to_native().columns  # also with the names of several levels
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
        if whole.dtype == object:
            new = np.array(
                imitate_decimals(new.tolist(), whole[:, schema.names.index(name)]), object
            )
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
