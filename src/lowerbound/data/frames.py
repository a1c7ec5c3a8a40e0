"""Tables in memory: DataFrames of any library, through narwhals, and arrays."""

from __future__ import annotations

import math
import numbers
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from lowerbound.data.columns import Label, Schema
from lowerbound.data.raw_columns import ArrayColumn, FrameColumn, RawColumn
from lowerbound.data.restoring import LIBRARIES, import_library, list_labels
from lowerbound.data.tables import refuse_lazy
from lowerbound.errors import DataError


class RawTable:
    """A table as it was given: its columns by name.

    Args:
        columns: the columns.
        library: the library of the frames that answer it; ``None`` for an array.
        index: the index of a frame of pandas.
    """

    def __init__(
        self, columns: Sequence[RawColumn], library: str | None = None, index: Any = None
    ) -> None:
        self.columns = {column.name: column for column in columns}
        self.library = library
        self.index = index

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in their order."""
        return tuple(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> RawColumn:
        return self.columns[name]


def is_frame(data: Any) -> bool:
    """Whether data are a DataFrame that narwhals knows, as those of pandas, polars and pyarrow."""
    return isinstance(data, nw.DataFrame) or bool(nw.dependencies.is_into_dataframe(data))


def has_names(frame: Any) -> bool:
    """Whether the names of a frame's columns are all text, and not numbers, for example."""
    return all(isinstance(name, str) for name in _list_names(frame))


def open_table(data: Any, name: str = "data", first_row: int = 0) -> RawTable:
    """Open a frame, or an array ``[N, D]`` whose columns are then called ``x0``, ``x1``, ...

    Args:
        data: the frame or the array.
        name: the name of the data in messages.
        first_row: the number of the first row in messages, for a part of a table.

    Raises:
        DataError: if the data are neither, have no rows, or two columns have the same name.
    """
    if is_frame(data):
        return _open_frame(data, name, first_row)
    refuse_lazy(data, name)
    _refuse_other_objects(data, name)
    array = np.asarray(data)
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(
            f"{name}: expected a table [rows, columns] with at least one of each, got the shape "
            f"{array.shape}"
        )
    if array.dtype.kind not in "biufUO":
        raise DataError(f"{name}: an array of type {array.dtype} is not a table of numbers or text")
    names = [f"x{number}" for number in range(array.shape[1])]
    return RawTable(
        [
            ArrayColumn(values, column, f"{name}: the column {column!r}")
            for column, values in zip(names, array.T, strict=True)
        ]
    )


def _refuse_other_objects(data: Any, name: str) -> None:
    """Refuse paths, dictionaries and single columns, which are not tables, with the remedy."""
    to_frame = "make a frame of it, for example by pandas.DataFrame(data)"
    remedies: dict[str, tuple[bool, str]] = {
        "a path": (
            isinstance(data, str | os.PathLike),
            "read the file, for example by pandas.read_csv(path)",
        ),
        "a dictionary": (isinstance(data, Mapping), to_frame),
        "a list of dictionaries": (
            isinstance(data, list) and any(isinstance(each, Mapping) for each in data),
            to_frame,
        ),
        "a single column": (
            isinstance(data, nw.Series) or bool(nw.dependencies.is_into_series(data)),
            "give a frame that contains it",
        ),
    }
    for what, (is_given, remedy) in remedies.items():
        if is_given:
            raise DataError(f"{name}: expected a table, got {what}; {remedy}")


def _open_frame(data: Any, name: str, first_row: int) -> RawTable:
    names = [str(each) for each in _list_names(data)]
    twice = sorted(each for each, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(
            f"{name}: two columns are called {twice[0]!r}; rename one of them, because columns are "
            "found by their names"
        )
    frame = nw.from_native(data, eager_only=True)
    if 0 in frame.shape:
        raise DataError(
            f"{name}: the table has {len(frame)} rows and {len(names)} columns; give one with at "
            "least one of each"
        )
    library = str(frame.implementation.value)
    if library not in LIBRARIES:
        library = "pyarrow"
    columns = [
        FrameColumn(
            frame.get_column(each),
            str(each),
            f"{name}: the column {str(each)!r}",
            first_row,
            label=_read_label(each),
        )
        for each in frame.columns
    ]
    return RawTable(columns, library, nw.maybe_get_index(frame))


def _read_label(name: Any) -> Label | None:
    """A name that is not text, if a file can hold it: a number, or a tuple of numbers and text."""
    if isinstance(name, tuple):
        parts = tuple(each if isinstance(each, str) else _read_label(each) for each in name)
        return None if None in parts else parts
    if isinstance(name, bool | np.bool_):
        return bool(name)
    if isinstance(name, numbers.Integral):
        return int(name)
    if isinstance(name, float | np.floating) and math.isfinite(name):
        return float(name)
    return None


def _list_names(data: Any) -> Sequence[Any]:
    names = getattr(data, "column_names", None)  # a column of pandas may have this name
    return names if isinstance(names, list) else list(data.columns)


def take_rows(data: Any, rows: NDArray[np.int64]) -> Any:
    """Take some rows of an array or a frame."""
    if not is_frame(data):
        return np.asarray(data)[rows]
    return nw.from_native(data, eager_only=True)[rows.tolist()].to_native()


def make_frame(
    columns: Mapping[str, Sequence[Any] | NDArray[Any]], library: str, index: Any = None
) -> Any:
    """Make a native frame of a library.

    Args:
        columns: the values of each column by name.
        library: ``"pandas"``, ``"polars"`` or ``"pyarrow"``.
        index: the index of a frame of pandas.

    Raises:
        DataError: if the library is not installed.
    """
    import_library(library)
    backend: Any = library
    native = nw.from_dict(dict(columns), backend=backend).to_native()
    if index is not None and library == "pandas":
        native.index = index
    return native


def convert_to_polars(data: Any, schema: Schema) -> Any:
    """Convert a frame to one of polars whose ordered categories keep their order.

    polars itself makes categories without an order of those of pandas and pyarrow.
    """
    made = nw.from_native(data, eager_only=True).to_polars()
    polars = import_library("polars")
    orders = {
        column.name: polars.Enum(list_labels(column))
        for column in schema.columns
        if column.dtype == "Enum" and made.schema.get(column.name) == polars.Categorical
    }
    # A category that is not one of the model's has no place in their order.
    return made.with_columns(
        made[name].cast(polars.String).cast(order)
        for name, order in orders.items()
        if made[name].drop_nulls().cast(polars.String).is_in(order.categories).all()
    )
