"""Columns of tables as they were given: of DataFrames of any library, and of arrays."""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from lowerbound.data.columns import Backend, Floats, Label, Mask
from lowerbound.data.dictionaries import find_dictionary_cells, list_dictionary
from lowerbound.data.raw_values import (
    Content,
    classify,
    convert_decimal,
    count_seconds,
    find_unit,
    find_zone_of,
    is_missing,
    list_numbers,
    list_times,
    name_category,
    name_zone,
    suggest_marks,
)
from lowerbound.errors import DataError

_MICROSECONDS = 1e6


class RawColumn(ABC):
    """A column of a table as it was given.

    Args:
        name: the name of the column.
        where: the data and the column, as messages name them.
        first_row: the number of the first row in messages, of a part of a table.
        label: the name in the frame, if it is a number or a tuple, and not text.
    """

    def __init__(
        self, name: str, where: str, first_row: int = 0, label: Label | None = None
    ) -> None:
        self.name = name
        self.where = where
        self.first_row = first_row
        self.label = label

    def describe_place(self, row: int, value: Any) -> str:
        """The beginning of a message about a value."""
        return f"{self.where} is {value} in row {row + self.first_row}"

    @property
    @abstractmethod
    def dtype(self) -> str:
        """The name of the type of its values."""

    @property
    def backend(self) -> Backend:
        """The backend in which pandas keeps the values; empty for numpy and other libraries."""
        return ""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def list_values(self) -> list[Any]:
        """The values as objects of Python."""

    @abstractmethod
    def find_declared_content(self) -> Content | None:
        """What the column contains according to its type; ``None`` if the type leaves it open."""

    @abstractmethod
    def convert_to_floats(self, content: Content) -> Floats:
        """Values of a known type as float64, with NaN where they are missing."""

    def list_categories(self) -> tuple[tuple[Any, ...], bool] | None:
        """The categories that its type declares, and whether they are ordered; or ``None``."""
        return None

    def find_zone(self) -> str:
        """The time zone of times; empty for those without a zone.

        Raises:
            DataError: if some of the times have a zone and others have none, naming the row.
        """
        found: str | None = None
        for row, value in enumerate(self.list_values()):
            if is_missing(value) or not isinstance(value, datetime.date):
                continue
            zone = name_zone(getattr(value, "tzinfo", None))
            if found is not None and bool(zone) != bool(found):
                raise DataError(
                    f"{self.describe_place(row, value)}, and some times of the column have a zone "
                    "and others have none; give all of them one, or none"
                )
            found = found or zone
        return found or ""

    def find_content(self, missing: Mask | None = None) -> Content:
        """What the column contains, by its type or else by its values.

        Args:
            missing: which entries are missing, ``[N]``, and do not say what it contains.

        Raises:
            DataError: if it has values of several types, or of any other, naming the row.
        """
        return self.find_declared_content() or self._find_content_of_values(missing)

    def _find_content_of_values(self, missing: Mask | None) -> Content:
        found: Content | None = None
        for row, value in enumerate(self.list_values()):
            if is_missing(value) or (missing is not None and missing[row]):
                continue
            content = classify(value)
            place = self.describe_place(row, repr(value))
            if content is None:
                raise DataError(
                    f"{place}, and values of the type {type(value).__name__} cannot be modelled; "
                    f"convert them to numbers, text, truth values or times, or {self._leave_out()}"
                )
            if found not in (None, content):
                marks = suggest_marks(self.list_values())
                raise DataError(
                    f"{place}, and the rows before have {found}; {marks}give a column values of "
                    f"one type: numbers, text, truth values or times, or {self._leave_out()}"
                )
            found = content
        return found or "text"

    def _leave_out(self) -> str:
        return f"leave the column out of a training: columns={{{self.name!r}: 'identifier'}}"

    def has_only_dates(self) -> bool:
        """Whether the values that are objects are dates without times."""
        values = [value for value in self.list_values() if not is_missing(value)]
        return not any(isinstance(value, datetime.datetime) for value in values)

    def find_missing(self, placeholders: Sequence[Any] = ()) -> Mask:
        """Which values are missing, ``[N]``: null, NaN, empty text, spaces, or a placeholder.

        Args:
            placeholders: further values that stand for missing ones, such as ``"?"`` or -999. Text
                that is a number or a time stands for it too. Spaces around text do not matter.
        """
        declared = self.find_declared_content()
        if declared in (None, "text"):
            return self._find_missing_objects(placeholders)
        floats = self.convert_to_floats(declared or "text")
        missing = np.isnan(floats)
        if declared == "numbers":
            marks = np.array([*list_numbers(placeholders)], dtype=float)
            if self.dtype == "Float32":
                marks = marks.astype(np.float32).astype(float)
            missing |= np.isin(floats, marks)
        if declared == "times":
            marks = np.array([*list_times(placeholders, self.find_zone())], dtype=float)
            missing |= np.isin(floats, marks)
        return missing

    def _find_missing_objects(self, placeholders: Sequence[Any]) -> Mask:
        values = self.list_values()
        marks = {(classify(each), each) for each in placeholders if isinstance(each, str | bool)}
        numbers_of_marks, times_of_marks = set(list_numbers(placeholders)), None
        missing = np.zeros(len(values), dtype=bool)
        for row, value in enumerate(values):
            if is_missing(value):
                missing[row] = True
                continue
            content = classify(value)
            if content == "numbers":
                missing[row] = float(value) in numbers_of_marks
            elif content == "times":
                if times_of_marks is None:
                    times_of_marks = set(list_times(placeholders, self.find_zone()))
                missing[row] = count_seconds(value) in times_of_marks
            elif content == "text":
                missing[row] = not value.strip() or (content, value.strip()) in marks
            else:
                missing[row] = (content, value) in marks if content else False
        return missing

    def read_numbers(self, content: Content, missing: Mask) -> Floats:
        """Numbers, truth values or times as float64, ``[N]``, with NaN where they are missing.

        Times are seconds since 1970: in UTC if they have a zone, and else of the clock.
        """
        if self.find_declared_content() is not None:
            floats = self.convert_to_floats(content)
        else:
            floats = np.full(len(self), np.nan)
            for row, value in enumerate(self.list_values()):
                if not missing[row]:
                    floats[row] = count_seconds(value) if content == "times" else float(value)
        floats[missing] = np.nan
        return floats

    def read_values(self, missing: Mask) -> list[Any]:
        """The values, with ``None`` where they are missing."""
        pairs = zip(self.list_values(), missing.tolist(), strict=True)
        return [None if is_absent else value for value, is_absent in pairs]


class FrameColumn(RawColumn):
    """A column of a DataFrame."""

    def __init__(
        self,
        series: nw.Series[Any],
        name: str,
        where: str,
        first_row: int = 0,
        label: Label | None = None,
    ) -> None:
        super().__init__(name, where, first_row, label)
        self.series = series
        self._missing: dict[tuple[str, ...], Mask] = {}
        """Which entries of text are missing, by the marks: stored, because several steps ask."""

    @property
    def dtype(self) -> str:
        """The name of the type in narwhals, with the unit of times and without categories."""
        if self._is_time and self.series.dtype != nw.Date:
            return f"Datetime[{find_unit(self.series)}]"
        if self._is_category:
            return "Enum" if self._is_ordered else "Categorical"
        return str(self.series.dtype)

    @property
    def backend(self) -> Backend:
        """The backend in which pandas keeps the values; empty for numpy and other libraries."""
        kind = getattr(self.series.to_native(), "dtype", None)
        if hasattr(kind, "pyarrow_dtype"):
            return "pyarrow"
        mark = getattr(kind, "na_value", None)
        return "numpy_nullable" if type(mark).__name__ == "NAType" else ""

    @property
    def _is_time(self) -> bool:
        return self.series.dtype in (nw.Date, nw.Datetime) or bool(find_zone_of(self.series))

    @property
    def _is_category(self) -> bool:
        return self.series.dtype in (nw.Categorical, nw.Enum)

    @property
    def _has_objects(self) -> bool:
        """Whether values are objects of Python, whatever narwhals takes them for."""
        return getattr(self.series.to_native(), "dtype", None) == np.dtype(object)

    @property
    def _is_ordered(self) -> bool:
        if self.series.implementation.is_polars():
            return self.series.dtype == nw.Enum
        native = self.series.to_native()
        cells = find_dictionary_cells(native)
        return bool(native.cat.ordered if cells is None else cells.type.ordered)

    def __len__(self) -> int:
        return len(self.series)

    def list_values(self) -> list[Any]:
        """The values as objects of Python; categories that are neither text nor numbers as text."""
        values = list(map(convert_decimal, self.series.to_list()))
        if not self._is_category:
            return values
        names = {each: None if is_missing(each) else name_category(each) for each in set(values)}
        return [names[each] for each in values]

    def find_declared_content(self) -> Content | None:
        """What the column contains according to its type.

        Raises:
            DataError: for a type that is not modelled, such as lists.
        """
        dtype = self.series.dtype
        if dtype.is_numeric():
            return "numbers"
        if dtype == nw.Boolean:
            return "truth values"
        if self._is_time:
            return "times"
        if dtype in (nw.String, nw.Categorical, nw.Enum):
            return "text"
        # Polars cannot fill in values of a column of objects.
        is_polars = self.series.implementation.is_polars()
        if dtype == nw.Unknown or (dtype == nw.Object and not is_polars):
            return None
        raise DataError(
            f"{self.where} is of type {dtype}, which is neither numbers, times, truth values nor "
            f"text; convert it, or {self._leave_out()}"
        )

    def find_missing(self, placeholders: Sequence[Any] = ()) -> Mask:
        """Which values are missing, see :meth:`RawColumn.find_missing`."""
        series = self.series
        if series.dtype != nw.String or self._has_objects:
            return super().find_missing(placeholders)
        marks = ("", *(each for each in placeholders if isinstance(each, str)))
        if marks not in self._missing:
            missing = series.is_null() | series.is_in(marks) | _trim(series).is_in(marks)
            self._missing[marks] = np.array(missing.fill_null(True).to_numpy(), dtype=bool)
        return self._missing[marks].copy()

    def find_zone(self) -> str:
        """The time zone of times; empty for those without a zone."""
        if self.find_declared_content() is None:
            return super().find_zone()
        return find_zone_of(self.series)

    def convert_to_floats(self, content: Content) -> Floats:
        """The values as float64, with NaN where they are missing."""
        series = self.series
        if content == "times":
            zone = "UTC" if self.find_zone() else None
            series = series.cast(nw.Datetime("us", zone)).dt.timestamp("us")
        elif content == "truth values":
            series = series.cast(nw.Int8)
        is_large = series.dtype in (nw.Int128, nw.UInt128)  # unknown to numpy
        if is_large or not series.dtype.is_integer():  # pyarrow cannot cast integers above 2^53
            series = series.cast(nw.Float64)
        floats: Floats = np.array(series.fill_null(0).to_numpy(), dtype=float)
        floats[np.array(self.series.is_null().to_numpy(), dtype=bool)] = np.nan
        return floats / (_MICROSECONDS if content == "times" else 1.0)

    def list_categories(self) -> tuple[tuple[Any, ...], bool] | None:
        """The categories that its type declares, and whether they are ordered; or ``None``."""
        if not self._is_category:
            return None
        found: Iterable[Any]
        native = self.series.to_native()
        cells = find_dictionary_cells(native)
        if cells is not None and self._is_ordered:
            found = list_dictionary(cells)
        elif cells is None and self.series.implementation.is_pandas_like():
            found = native.cat.categories.tolist()
        elif isinstance(self.series.dtype, nw.Enum):
            found = self.series.dtype.categories
        else:  # in an order that depends on that of the rows
            present = {each for each in self.list_values() if each is not None}
            found = sorted(present, key=lambda each: (str(type(each)), each))
        return tuple(map(name_category, found)), self._is_ordered


def _trim(series: nw.Series[Any]) -> nw.Series[Any]:
    """Text without the spaces around it, including spaces that are not ASCII."""
    if not series.implementation.is_pyarrow():
        return series.str.strip_chars()
    import pyarrow.compute

    trimmed: Any = pyarrow.compute.utf8_trim_whitespace(series.to_native())
    made: nw.Series[Any] = nw.from_native(trimmed, series_only=True)
    return made


class ArrayColumn(RawColumn):
    """A column of an array of numbers, truth values or objects."""

    def __init__(self, values: NDArray[Any], name: str, where: str) -> None:
        super().__init__(name, where)
        self.values = values

    @property
    def dtype(self) -> str:
        """The name of the type, as narwhals would call it."""
        if self.values.dtype.kind == "f":
            return "Float32" if self.values.dtype.itemsize == 4 else "Float64"
        return {"b": "Boolean", "i": "Int64", "u": "UInt64"}.get(self.values.dtype.kind, "Object")

    def __len__(self) -> int:
        return len(self.values)

    def list_values(self) -> list[Any]:
        """The values as objects of Python."""
        return list(map(convert_decimal, self.values.tolist()))

    def find_declared_content(self) -> Content | None:
        """What the column contains according to the type of the array."""
        known: dict[str, Content] = {
            "b": "truth values",
            "i": "numbers",
            "u": "numbers",
            "f": "numbers",
            "U": "text",
        }
        return known.get(self.values.dtype.kind)

    def convert_to_floats(self, content: Content) -> Floats:
        """The values as float64, with NaN where they are missing."""
        return self.values.astype(float)
