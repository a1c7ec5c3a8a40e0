"""Cells of a CSV file: read as text, converted to the types of columns, and written as text."""

from __future__ import annotations

import codecs
import csv
import datetime
import gzip
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lowerbound.data.columns import CODED, Column, Schema
from lowerbound.errors import DataError

MARKS = (
    *("NA", "N/A", "NaN", "nan", "null", "NULL", "None", "NaT", "<NA>", "n/a"),
    *("#N/A", "#N/A N/A", "#NA", "-nan", "-NaN"),
)
"""Cells that are missing in a column of numbers, truth values or times; in others they are text."""

_OTHER_DELIMITERS = (";", "\t", "|")
_ROWS_DETECTED = 20

_DATE = r"^\d{4}-\d{2}-\d{2}$"
# Zeros in front, or more digits than float64 holds exactly.
_CODE = r"^[+-]?(0\d+|\d{16,})$"
_NEEDS_QUOTES = '[{delimiter}"\r\n]'
# A row must fit into a block.
_BLOCK_BYTES = 1 << 24
_LARGEST_EXACT = 1 << 53

_EXPECTED = {
    "boolean": "true or false",
    "time": "a date or time such as 2024-02-28 or 2024-02-28T09:30",
}


def find_delimiter(suffix: str) -> str:
    """The delimiter of a file that is written, by the suffix of its name."""
    return "\t" if suffix == ".tsv" else ","


def detect_delimiter(path: Path, suffix: str) -> str:
    """Detect the delimiter of a file that is read from its first rows.

    A delimiter suits a .csv file if it splits all of the first rows into the same number of cells,
    which is at least two. The first suitable one is chosen: comma, semicolon, tab, or vertical bar.
    If none is suitable, it is the comma.
    """
    usual = find_delimiter(suffix)
    candidates = (usual,) if suffix == ".tsv" else (usual, *_OTHER_DELIMITERS)
    for delimiter in candidates:
        if _has_equal_rows(path, delimiter):
            return delimiter
    return usual


def _has_equal_rows(path: Path, delimiter: str) -> bool:
    with _open(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            rows = list(islice(csv.reader(file, delimiter=delimiter), _ROWS_DETECTED))
        except (csv.Error, EOFError):  # such a file is explained where it is read
            return False
    sizes = {len(row) for row in rows if row}
    return len(sizes) == 1 and sizes.pop() > 1


def _open(path: Path, mode: str, **settings: Any) -> Any:
    """Open a file, which may be compressed."""
    read: Any = gzip.open if path.suffix.lower() == ".gz" else open
    return read(path, mode, **settings)


def is_utf16(path: Path) -> bool:
    """Whether a file begins with a byte order mark of UTF-16."""
    try:
        with _open(path, "rb") as file:
            return file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    except (OSError, EOFError):
        return False


def read_text_blocks(pyarrow: Any, path: Path, delimiter: str) -> Iterator[Any]:
    """Read a CSV file in blocks of rows whose columns are all text; empty cells are null."""
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    read = pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES)
    with pyarrow.csv.open_csv(path, read_options=read, parse_options=parse) as file:
        names = file.schema.names
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pyarrow.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    with pyarrow.csv.open_csv(
        path, read_options=read, parse_options=parse, convert_options=convert
    ) as file:
        for batch in file:
            yield pyarrow.Table.from_batches([batch])


def infer_types(pyarrow: Any, text: Any, missing_values: Sequence[Any] = ()) -> Any:
    """Convert each column of text to the type that all of its cells have.

    Args:
        pyarrow: the module.
        text: a table of pyarrow whose columns are all text.
        missing_values: further cells that are missing, as :data:`MARKS` are.
    """
    columns = [_infer_type(pyarrow, each, missing_values) for each in text.columns]
    return pyarrow.Table.from_arrays(columns, names=text.column_names)


def _infer_type(pyarrow: Any, cells: Any, missing_values: Sequence[Any]) -> Any:
    seen = _drop_marks(pyarrow, cells, missing_values)
    if seen.null_count == len(seen):
        return pyarrow.nulls(len(seen))
    for parse in (_parse_numbers, _parse_times, _parse_truth_values):
        found = parse(pyarrow, seen)
        if found is not None:
            return found
    return cells


def convert_to_schema(
    pyarrow: Any, text: Any, schema: Schema, *, name: str, first_row: int = 0
) -> Any:
    """Convert each column of text to the type that the column has in a schema.

    Args:
        pyarrow: the module.
        text: a table of pyarrow whose columns are all text.
        schema: the columns; others stay text.
        name: the name of the data in messages.
        first_row: the number of the first row in messages.

    Raises:
        DataError: for a cell that is not of the type of its column, naming column and row.
    """
    known = {column.name: column for column in schema.columns}
    columns = []
    for each, cells in zip(text.column_names, text.columns, strict=True):
        converted = cells
        if each in known:
            column = known[each]
            seen = _drop_marks(pyarrow, cells, schema.missing_values)
            converted = _convert(pyarrow, cells, seen, column)
            if converted is None:
                _refuse(pyarrow, seen, column, name, first_row)
        columns.append(converted)
    return pyarrow.Table.from_arrays(columns, names=text.column_names)


def _convert(pyarrow: Any, cells: Any, seen: Any, column: Column) -> Any | None:
    """The cells in the type of a column; ``None`` if some are of another."""
    content = _find_content(column)
    if content == "text":
        return cells
    if seen.null_count == len(seen):
        return seen.cast(_find_empty_type(pyarrow, content, column))
    found = None
    if content == "time":
        found = _parse_times(pyarrow, seen)
    if content == "boolean":
        found = _parse_truth_values(pyarrow, seen)
    if found is None and content != "time":
        found = _parse_numbers(
            pyarrow,
            seen,
            as_integers=content == "boolean" or column.dtype.startswith(("Int", "UInt")),
            with_codes=column.is_modelled,
        )
    if found is None and content == "numbers":
        found = _parse_truth_values(pyarrow, seen)
    if found is None and not column.is_modelled:
        return cells
    return found


def _find_content(column: Column) -> str:
    """Which cells a column has: ``"numbers"``, ``"time"``, ``"boolean"`` or ``"text"``."""
    if not column.is_modelled:
        starts = {"Int": "numbers", "UInt": "numbers", "Float": "numbers", "Date": "time"}
        starts["Boolean"] = "boolean"
        return next((each for key, each in starts.items() if column.dtype.startswith(key)), "text")
    if column.type not in CODED:
        return "time" if column.type == "time" else "numbers"
    kinds = {type(category) for category in column.categories}
    if kinds == {bool}:
        return "boolean"
    if kinds and all(issubclass(kind, datetime.date) for kind in kinds):
        return "time"
    return "numbers" if kinds and kinds <= {int, float, bool} else "text"


def _find_empty_type(pyarrow: Any, content: str, column: Column) -> Any:
    if content == "boolean":
        return pyarrow.bool_()
    if content == "time":
        if column.dtype == "Date":
            return pyarrow.date32()
        return pyarrow.timestamp("s" if column.step else "us", column.zone or None)
    return pyarrow.int64() if column.dtype.startswith(("Int", "UInt")) else pyarrow.float64()


def _refuse(pyarrow: Any, seen: Any, column: Column, name: str, first_row: int) -> None:
    for row, cell in enumerate(seen.to_pylist()):
        single = pyarrow.chunked_array([[cell]], pyarrow.string())
        if cell is None or _convert(pyarrow, single, single, column) is not None:
            continue
        raise DataError(
            f"{name}: the column {column.name!r} is {cell!r} in row {row + first_row}, which is "
            f"not {_EXPECTED.get(_find_content(column), 'a number')}, as the model expects "
            f"({column.type}); correct it, or leave it empty if it is missing"
        )
    raise DataError(
        f"{name}: the column {column.name!r} has times with and without a time zone; write all in "
        "the same way"
    )


def _drop_marks(pyarrow: Any, cells: Any, missing_values: Sequence[Any]) -> Any:
    """The cells without spaces around them, and null where they are missing."""
    marks = ["", *MARKS, *(each for each in missing_values if isinstance(each, str))]
    trimmed = pyarrow.compute.utf8_trim_whitespace(cells)
    is_mark = pyarrow.compute.is_in(trimmed, value_set=pyarrow.array(marks))
    return pyarrow.compute.if_else(is_mark, pyarrow.scalar(None, pyarrow.string()), trimmed)


def _parse_numbers(
    pyarrow: Any, seen: Any, *, as_integers: bool = True, with_codes: bool = False
) -> Any | None:
    """Whole numbers, or else numbers; ``None`` for other cells.

    Codes such as 00001 or 1234567890123456 are numbers only ``with_codes``.
    """
    compute = pyarrow.compute
    if not with_codes and compute.any(compute.match_substring_regex(seen, _CODE)).as_py():
        return None
    types = [pyarrow.int64(), pyarrow.float64()] if as_integers else [pyarrow.float64()]
    found = _cast_to_first(pyarrow, seen, types)
    if found is None or found.type != pyarrow.int64():
        return found
    # A model reads numbers as float64.
    is_large = compute.greater(compute.abs(found), _LARGEST_EXACT)
    return found.cast(pyarrow.float64(), safe=False) if compute.any(is_large).as_py() else found


def _parse_times(pyarrow: Any, seen: Any) -> Any | None:
    """Dates, or else times; ``None`` for cells that are neither."""
    compute = pyarrow.compute
    if compute.all(compute.match_substring_regex(seen, _DATE)).as_py():
        return _cast_to_first(pyarrow, seen, [pyarrow.date32()])
    units = ("s", "us", "ns")
    types = [pyarrow.timestamp(unit, zone) for zone in (None, "UTC") for unit in units]
    return _cast_to_first(pyarrow, seen, types)


def _parse_truth_values(pyarrow: Any, seen: Any) -> Any | None:
    compute = pyarrow.compute
    lower = compute.utf8_lower(seen)
    known = compute.is_in(lower, value_set=pyarrow.array(["true", "false"]))
    if not compute.all(compute.or_(known, seen.is_null())).as_py():
        return None
    return compute.equal(lower, "true")


def _cast_to_first(pyarrow: Any, cells: Any, types: Sequence[Any]) -> Any | None:
    for each in types:
        try:
            return pyarrow.compute.cast(cells, each)
        except pyarrow.ArrowInvalid:
            continue
    return None


def format_rows(pyarrow: Any, table: Any, delimiter: str) -> bytes:
    """The lines of a CSV file for the rows of a table; cells have quotes where they need them."""
    if not table.num_rows:
        return b""
    # A line for a row with one cell, and that missing, must not be empty: readers leave it out.
    empty = '""' if table.num_columns == 1 else ""
    columns = [_format_column(pyarrow, each, delimiter, empty) for each in table.columns]
    lines = pyarrow.compute.binary_join_element_wise(*columns, delimiter)
    return "\n".join([*lines.to_pylist(), ""]).encode()


def format_names(pyarrow: Any, names: Sequence[str], delimiter: str) -> bytes:
    """The first line of a CSV file."""
    row = [pyarrow.array([name]) for name in names]
    return format_rows(pyarrow, pyarrow.Table.from_arrays(row, names=list(names)), delimiter)


def format_cells(column: Any) -> Any:
    """The values of a column of pyarrow as text.

    Raises:
        DataError: for values that have no text, such as lists.
    """
    import pyarrow

    try:
        return column.cast(pyarrow.string())
    except pyarrow.ArrowException as error:
        raise DataError(
            f"a column of type {column.type} cannot be written as text; write a .parquet file, or "
            "leave the column out"
        ) from error


def _format_column(pyarrow: Any, column: Any, delimiter: str, empty: str) -> Any:
    compute, types = pyarrow.compute, pyarrow.types
    cells = format_cells(column)
    if not types.is_primitive(column.type):
        pattern = _NEEDS_QUOTES.format(delimiter=delimiter)
        quoted = compute.replace_substring(cells, '"', '""')
        quoted = compute.binary_join_element_wise('"', quoted, '"', "")
        needed = compute.or_(
            compute.match_substring_regex(cells, pattern), compute.equal(cells, "")
        )
        cells = compute.if_else(needed, quoted, cells)
    return compute.fill_null(cells, empty)
