"""Numbers of columns become values of a frame again, with the types that the columns had."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from importlib import import_module
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from lowerbound.data.columns import CODED, Column, Floats, Mask
from lowerbound.data.cycles import DAY
from lowerbound.data.dictionaries import (
    encode,
    find_dictionary_cells,
    join_orders,
    list_dictionary,
)
from lowerbound.data.raw_columns import FrameColumn
from lowerbound.data.raw_values import find_zone_of, imitate_decimals, name_category
from lowerbound.errors import DataError

LIBRARIES = ("pandas", "polars", "pyarrow")
"""Frames of these libraries are answered with frames of the same, others with pyarrow's."""

_MICROSECONDS = 1e6
_DECIMAL = r"Decimal\(precision=(\d+), scale=(\d+)\)"
_CATEGORIES = ("Categorical", "Enum")

# Seconds since 1970 of the years 1 to 9999, and of what 64 bits of nanoseconds can hold.
_FIRST_TIME, _LAST_TIME = -62_135_596_800.0, 253_402_300_799.0
_LARGEST_NANOSECONDS = 9_200_000_000.0


def import_library(library: str) -> Any:
    """Import pandas, polars or pyarrow.

    Raises:
        DataError: if it is not installed.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        raise DataError(
            f"the answer is a frame of {library}, which is not installed: pip install {library}"
        ) from error


def restore_type(raw: Floats, column: Column) -> NDArray[Any] | list[Any]:
    """Values of a column as they are in its table: numbers, categories, times.

    Args:
        raw: numbers or codes, ``[N]``, with NaN where they are missing.
        column: the column.

    Returns:
        A list of categories, with ``None`` where they are missing; an array of times, in UTC if
        they have a zone; or an array of numbers, of whole ones if the table had these and no
        fractions are given.
    """
    missing = np.isnan(raw)
    if column.type in CODED:
        names = [*column.categories, column.other_name]
        return [
            None if is_absent else names[int(code)]
            for code, is_absent in zip(np.nan_to_num(raw), missing, strict=True)
        ]
    if column.type == "time":
        return _restore_times(raw, column)
    is_whole = column.dtype.startswith(("Int", "UInt"))
    if is_whole and not missing.any() and (raw == raw.round()).all():
        return _round_to_range(raw, column.dtype)
    if column.dtype == "Float32":
        return raw.astype(np.float32)
    return raw


def _restore_times(raw: Floats, column: Column) -> NDArray[Any]:
    # The local time of a zone is up to a day before or after.
    margin = DAY if column.zone else 0.0
    low, high = _FIRST_TIME + margin, _LAST_TIME - margin
    if column.dtype == "Datetime[ns]":
        low, high = -_LARGEST_NANOSECONDS, _LARGEST_NANOSECONDS
    times = np.full(len(raw), np.datetime64("NaT"), dtype="datetime64[us]")
    seen = ~np.isnan(raw)
    whole = np.round(np.clip(raw[seen], low, high) * _MICROSECONDS).astype(np.int64)
    times[seen] = whole.astype("datetime64[us]")
    return times


def _round_to_range(raw: Floats, dtype: str) -> NDArray[Any]:
    """Whole numbers that are in the range of a type of integers."""
    kind = np.dtype(dtype.lower() if re.fullmatch(r"U?Int(8|16|32|64)", dtype) else np.int64)
    limits = np.iinfo(kind)
    # The largest number of float64 that 64 bits can hold is not the largest integer.
    top = np.nextafter(float(limits.max), 0) if kind.itemsize == 8 else float(limits.max)
    return np.round(np.clip(raw, float(limits.min), top)).astype(kind)


def make_series(raw: Floats, column: Column, library: str) -> Any:
    """Make a native series of the type that a column has in its table.

    Args:
        raw: numbers or codes, ``[N]``, with NaN where they are missing.
        column: the column.
        library: ``"pandas"``, ``"polars"`` or ``"pyarrow"``.
    """
    module = import_library(library)
    if library == "pandas" and column.backend == "pyarrow":
        cells = make_series(raw, column, "pyarrow")
        return module.Series(cells, dtype=module.ArrowDtype(cells.type))
    values = restore_type(raw, column)
    if column.type == "time":
        return _make_times(np.asarray(values), column, library)
    if column.dtype in _CATEGORIES and column.type in CODED:
        labels = list_labels(column)
        return _make_categories(list(values), labels, library, column.dtype == "Enum")
    if library != "pandas" and column.type not in CODED:
        decimals = _round_to_decimals(raw, column.dtype, column)
        if decimals is not None:
            return _make_decimals(decimals, column.dtype, library)
    if library == "pandas" and column.backend == "numpy_nullable":
        return _make_nullable(values, column.dtype)
    return _make_plain(values, column.dtype, library)


def _round_to_decimals(raw: Floats, dtype: str, column: Column) -> list[Decimal | None] | None:
    """Numbers in a type of decimals, ``None`` for NaN; ``None`` if the type does not hold them.

    A positive number that would be rounded to 0, or a proportion to 0 or 1, does not fit.
    """
    found = re.fullmatch(_DECIMAL, dtype)
    if not found:
        return None
    precision, scale = map(int, found.groups())
    rounded = np.round(raw, scale)
    ends = {"positive": (0.0,), "proportion": (0.0, 1.0)}.get(column.type, ())
    if (np.isin(rounded, ends) & (rounded != raw)).any():
        return None
    if (np.abs(rounded) >= 10.0 ** (precision - scale)).any():
        return None
    return [None if np.isnan(each) else Decimal(f"{each:.{scale}f}") for each in rounded]


def _make_decimals(values: list[Decimal | None], dtype: str, library: str) -> Any:
    module = import_library(library)
    precision, scale = map(int, re.findall(r"\d+", dtype))
    if library == "polars":
        return module.Series(values, dtype=module.Decimal(precision, scale))
    return module.chunked_array([module.array(values, module.decimal128(precision, scale))])


def list_labels(column: Column) -> list[Any]:
    """The categories that the answers for a column may have."""
    if column.other and column.other_name is not None:
        return [*column.categories, column.other_name]
    return [*column.categories]


def _make_plain(values: NDArray[Any] | list[Any], dtype: str, library: str) -> Any:
    """Make a series of numbers, texts or truth values."""
    backend: Any = library
    known: Any = None
    if re.fullmatch(r"U?Int\d+|Float(32|64)|String|Boolean", dtype):
        known = getattr(nw, dtype)()
    has_gaps = isinstance(values, list) and None in values
    if has_gaps and library == "pandas" and dtype.startswith(("Int", "UInt", "Float")):
        values, known = np.array(values, dtype=float), None
    elif has_gaps and library == "pandas":
        known = None
    if isinstance(values, np.ndarray) and dtype.startswith(("Int", "UInt")):
        known = known if values.dtype.kind in "iu" else None  # with gaps
    return nw.new_series("", values, known, backend=backend).to_native()


def _make_nullable(values: NDArray[Any] | list[Any], dtype: str) -> Any:
    """Make a series of pandas in which a mask, and not NaN, says which values are missing."""
    contents: Any = values
    if isinstance(values, np.ndarray):  # fractions in a column of whole numbers make it Float64
        contents = _make_plain(values, dtype, "pandas")
        dtype = str(nw.from_native(contents, series_only=True).dtype)
    kind = dtype.lower() if dtype in ("String", "Boolean") else dtype
    return import_library("pandas").Series(contents, dtype=kind)


def _make_categories(values: list[Any], labels: list[Any], library: str, ordered: bool) -> Any:
    """Make a series of categories, which are declared in an order."""
    module = import_library(library)
    if library == "pandas":
        return module.Series(module.Categorical(values, categories=labels, ordered=ordered))
    if library == "polars":
        series = module.Series(values, dtype=None if values else module.String)
        if not all(isinstance(each, str) for each in labels):
            return series
        kind = module.Enum(labels) if ordered else module.Categorical
        return series.cast(module.String).cast(kind)
    place = {label: code for code, label in enumerate(labels)}
    codes = module.array([place.get(each) for each in values], module.int32())
    return module.chunked_array(
        [module.DictionaryArray.from_arrays(codes, module.array(labels), ordered=ordered)]
    )


def _make_dates(times: NDArray[Any], library: str) -> Any:
    module = import_library(library)
    if library == "pandas":
        return module.Series(times).dt.date.astype(object)
    if library == "polars":
        return module.Series(times).cast(module.Date)
    return module.chunked_array([module.array(times.astype("datetime64[D]"))])


def _make_times(times: NDArray[Any], column: Column, library: str) -> Any:
    """Make a series of times in their zone, or of dates."""
    module = import_library(library)
    unit = column.dtype.removeprefix("Datetime[").removesuffix("]")
    if unit not in ("s", "ms", "us", "ns"):
        unit = "us"
    if column.dtype == "Date":
        return _make_dates(times, library)
    if library == "pandas":
        series = module.Series(times.astype(f"datetime64[{unit}]"))
        return series.dt.tz_localize("UTC").dt.tz_convert(column.zone) if column.zone else series
    if library == "polars":
        series = module.Series(times).cast(module.Datetime(unit if unit != "s" else "ms"))
        if not column.zone:
            return series
        return series.dt.replace_time_zone("UTC").dt.convert_time_zone(column.zone)
    array = module.array(times.astype(f"datetime64[{unit}]"))
    if column.zone:
        array = array.cast(module.timestamp(unit, column.zone))
    return module.chunked_array([array])


def fill_series(
    series: nw.Series[Any],
    missing: Mask,
    column: Column,
    raw: Floats,
    *,
    everything: bool = False,
) -> nw.Series[Any]:
    """Replace the missing entries of a series, in a type that holds the new values and the old.

    - Whole numbers remain such, and become of a wider type if they must. Fractions make them
      float64, unless the column has real numbers, which are rounded. Decimal numbers become float64
      if their type cannot hold the new values.
    - Categories are added to those that the series declares.
    - A series without any entry of its own gets the type of the column.

    Args:
        series: the series.
        missing: which entries are missing, ``[N]``.
        column: what the series is.
        raw: values of all rows, ``[N]``; codes for categories.
        everything: whether all other entries are replaced, too.
    """
    library = str(series.implementation.value)
    if missing.all() and library in LIBRARIES:
        whole = make_series(raw, column, library)
        if library == "pandas":
            whole.index = series.to_native().index
        return _wrap(whole, series)
    if str(getattr(series.to_native(), "dtype", "")).startswith("Sparse"):
        series = _wrap(series.to_native().sparse.to_dense(), series)  # its entries are fixed
    chosen = np.ones_like(missing) if everything else missing
    new = raw[chosen]
    if column.type in CODED:
        values = list(restore_type(new, column))
        places = np.flatnonzero(chosen)[[each is not None for each in values]]
        values = [each for each in values if each is not None]
    else:
        values, places = list(new), np.flatnonzero(chosen)
    if column.type == "time":
        return _fill_times(series, places, new, column)
    if series.dtype in (nw.Categorical, nw.Enum):
        return _fill_categories(series, places, values, column)
    if series.dtype == nw.Boolean and not set(values) <= {0, 1}:
        series = series.cast(nw.Int64)
    if series.dtype == nw.Boolean:
        values = [bool(each) for each in values]
    elif series.dtype.is_numeric():
        series, numbers = _widen(series, np.array(values, dtype=float), column)
        return _scatter(series, places, numbers)
    elif series.dtype in (nw.Object, nw.Unknown):
        values = list(imitate_decimals(values, series.to_list()))
    return _scatter(series, places, values)


def _wrap(native: Any, series: nw.Series[Any]) -> nw.Series[Any]:
    made: nw.Series[Any] = nw.from_native(native, series_only=True)
    return made.alias(series.name)


def _scatter(
    series: nw.Series[Any], places: NDArray[Any], values: Sequence[Any] | nw.Series[Any]
) -> nw.Series[Any]:
    if not len(places):
        return series
    if not series.implementation.is_pandas():
        return series.scatter(places.tolist(), values)
    native = series.to_native().copy()
    if isinstance(native.dtype, np.dtype) and native.dtype.kind in "iu":
        values = list(np.array(values, dtype=native.dtype))  # pandas takes those of int for int64
    native.iloc[places] = values
    return _wrap(native, series)


def _widen(
    series: nw.Series[Any], values: Floats, column: Column
) -> tuple[nw.Series[Any], Sequence[Any]]:
    """A type of numbers that holds a series and further values, and these values in it."""
    dtype = series.dtype
    is_whole = bool((values == np.round(values)).all())
    if dtype.is_integer() and (is_whole or column.type == "real"):
        values = np.round(values)
        largest, smallest = values.max(initial=0), values.min(initial=0)
        for candidate in (dtype, nw.Int64()):
            bits = int(str(candidate).partition("Int")[2])  # also 128, which numpy does not know
            signed = str(candidate).startswith("Int")
            least, end = -(2.0 ** (bits - 1)) * signed, 2.0 ** (bits - signed)
            if least <= smallest and largest < end:
                own = series if candidate == dtype else series.cast(candidate)
                return own, [int(each) for each in values]
    if (decimals := _round_to_decimals(values, str(dtype), column)) is not None:
        return series, decimals
    if dtype not in (nw.Float32, nw.Float64):
        series = series.cast(nw.Float64)
    if dtype == nw.Float32:
        return series, list(values.astype(np.float32))
    return series, values.tolist()


def _fill_times(
    series: nw.Series[Any], places: NDArray[Any], new: Floats, column: Column
) -> nw.Series[Any]:
    """Replace times, in the unit and the zone of the series."""
    own = FrameColumn(series, series.name, series.name)
    column = replace(column, backend=own.backend)
    if own.dtype not in ("Object", "Unknown"):
        column = replace(column, dtype=own.dtype, zone=find_zone_of(series))
    library = str(series.implementation.value)
    made = _wrap(make_series(new, column, library if library in LIBRARIES else "pyarrow"), series)
    return _scatter(series, places, made.to_list() if series.implementation.is_pandas() else made)


def _fill_categories(
    series: nw.Series[Any], places: NDArray[Any], values: list[Any], column: Column
) -> nw.Series[Any]:
    """Replace categories, and declare those that the series does not have."""
    native = series.to_native()
    cells = find_dictionary_cells(native)
    if cells is not None:
        texts = cells.to_pylist()
        for place, value in zip(places, values, strict=True):
            texts[place] = value
        labels = _join_labels(list_dictionary(cells), values, column)
        pyarrow = import_library("pyarrow")
        plain = pyarrow.chunked_array([pyarrow.array(texts, cells.type.value_type)])
        made = encode(plain, labels, cells.type)
        if series.implementation.is_pandas():
            pandas = import_library("pandas")
            made = pandas.Series(made, native.index, dtype=pandas.ArrowDtype(made.type))
        return _wrap(made, series)
    if series.implementation.is_pandas():
        own = {name_category(each): each for each in native.cat.categories}
        labels = _join_labels(list(own), values, column)
        if labels != list(own):
            native = native.cat.set_categories([own.get(each, each) for each in labels])
        return _scatter(_wrap(native, series), places, [own.get(each, each) for each in values])
    kind: Any = series.dtype
    if isinstance(series.dtype, nw.Enum):
        kind = nw.Enum(_join_labels(list(series.dtype.categories), values, column))
    return _scatter(series.cast(nw.String), places, values).cast(kind)


def _join_labels(own: list[Any], values: list[Any], column: Column) -> list[Any]:
    """The categories of a series, and those of the column if new values are none of its own."""
    return own if set(values) <= set(own) else join_orders(own, list_labels(column))
