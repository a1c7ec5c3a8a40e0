"""Tables with columns of several types, from DataFrames and from files that pyarrow reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lowerbound.data.columns import Schema
from lowerbound.data.csv_text import (
    convert_to_schema,
    detect_delimiter,
    infer_types,
    is_utf16,
    read_text_blocks,
)
from lowerbound.data.dictionaries import find_dictionaries, is_dictionary, share_dictionaries
from lowerbound.data.examples import Examples
from lowerbound.data.frames import open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.joined_names import join_names
from lowerbound.data.options import ReadOptions
from lowerbound.data.oversights import warn_of_oversights
from lowerbound.data.raw_values import read_marks
from lowerbound.data.schema import make_table_examples
from lowerbound.data.suspects import warn_unmatched
from lowerbound.errors import DataError, LowerboundError, SettingsError

_ARROW = (".feather", ".arrow")
BINARY = (".parquet", *_ARROW)
TEXT = (".csv", ".tsv")


def parse_column_types(columns: Any) -> dict[str, str] | None:
    """Parse the types of columns from a mapping, or from text such as ``"age=count,job=ordinal"``.

    Raises:
        SettingsError: for text of another form.

    Example:
        >>> parse_column_types("age=count, job=categorical")
        {'age': 'count', 'job': 'categorical'}
    """
    if columns is None:
        return None
    if isinstance(columns, Mapping):
        return {str(name): kind for name, kind in columns.items()}
    found = {}
    for pair in columns.split(","):
        name, equals, kind = pair.rpartition("=")
        if not equals or not name.strip() or not kind.strip():
            raise SettingsError(
                f"columns={columns!r}: {pair!r} is not of the form NAME=TYPE; separate several by "
                "commas, such as age=count,job=categorical"
            )
        found[name.strip()] = kind.strip()
    return found


def parse_missing_values(values: Any) -> tuple[Any, ...]:
    """Parse the values that stand for missing ones; a number and its text are both.

    Example:
        >>> parse_missing_values("?,-999"), parse_missing_values(-999), parse_missing_values(None)
        (('?', '-999', -999.0), (-999, '-999'), ())
    """
    if not isinstance(values, str):
        return read_marks(values)
    found: list[Any] = []
    for text in (part.strip() for part in values.split(",")):
        found.append(text)
        try:
            found.append(float(text))
        except ValueError:
            continue
    return tuple(found)


def read_frame(frame: Any, name: str, options: ReadOptions) -> Examples:
    """Read the rows of a frame; the types of its columns are inferred."""
    opened = open_table(frame, name)
    types: Any = options.columns
    marks = options.missing_values
    schema = infer_schema(
        opened, types=types, placeholders=marks, unknown=options.unknown, name=name
    )
    warn_of_oversights(opened, marks, types, name)
    return make_table_examples(opened, schema, name=name)


def read_rows(data: Any, schema: Schema, *, name: str = "data") -> Examples:
    """Read the rows of a table whose columns are known.

    Args:
        data: a frame, an array, the path of a file with a table, or examples of these columns.
        schema: the columns.
        name: the name of the data in messages.

    Raises:
        DataError: for columns of another type, categories that the schema does not have, or
            examples of other columns.
    """
    if isinstance(data, str | os.PathLike):
        name = os.fspath(data)
    data = load_if_path(data, schema)
    if not isinstance(data, Examples):
        return make_table_examples(data, schema, name=name)
    own = getattr(data.preprocessing, "schema", None)
    if own == schema:
        return data
    found = "of other columns than"
    if own is not None and own.names == schema.names:
        found = "on other scales, inferred from other rows, than"
    raise DataError(
        f"{name}: the examples are numbers {found} those of the model, whose columns are "
        f"{join_names(schema.names)}; give the table itself, such as a DataFrame or its path"
    )


def read_csv(path: Path, options: ReadOptions) -> Examples:
    """Read the rows of a CSV file."""
    table = load_table(path, missing_values=options.missing_values)
    return read_frame(table, str(path), options)


read_parquet = read_feather = read_csv


def load_table(
    path: Path, schema: Schema | None = None, *, missing_values: Sequence[Any] = ()
) -> Any:
    """Load a whole table of any of the formats, as a table of pyarrow.

    Args:
        path: the file.
        schema: the columns, by whose types the cells of a CSV file are read; ``None`` to read
            numbers, times and truth values where all cells of a column are such.
        missing_values: without a schema, further cells of a CSV file that are missing.

    Raises:
        DataError: if it cannot be read, has no rows, or pyarrow is not installed.
    """
    pyarrow, suffix = import_pyarrow(path), _find_suffix(path)
    with _explain_read_errors(pyarrow, path):
        if suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        elif suffix in _ARROW:
            table = pyarrow.feather.read_table(path)
        else:
            blocks = list(read_text_blocks(pyarrow, path, detect_delimiter(path, suffix)))
            table = pyarrow.concat_tables(blocks) if blocks else pyarrow.table({})
    if not table.num_rows:
        raise _make_empty_error(path)
    if suffix in BINARY:
        table = share_dictionaries(table, find_dictionaries([table]))
    if schema is None:
        found = table if suffix in BINARY else infer_types(pyarrow, table, missing_values)
        warn_unmatched([table, found], missing_values, str(path))
        return found
    if suffix in BINARY:
        return table
    return convert_to_schema(pyarrow, table, schema, name=str(path))


def iterate_tables(path: Path, rows: int, schema: Schema | None = None) -> Iterator[Any]:
    """Read a table in parts of ``rows`` rows, as tables of pyarrow; see :func:`iterate_parts`."""
    for table, _ in iterate_parts(path, rows, schema):
        yield table


def load_if_path(data: Any, schema: Schema) -> Any:
    """Load the table of a file, see :func:`load_table`; other data stay as they are."""
    if isinstance(data, str | os.PathLike):
        return load_table(Path(data).expanduser(), schema)
    return data


def find_delimiter_of(source: Path, target: Path) -> str | None:
    """What separates the cells of a text file, if another of the same format is to have it, too.

    Returns:
        ``None`` for files of different formats, or without delimiters.
    """
    suffix = _find_suffix(source)
    if suffix not in TEXT or suffix != target.suffix.lower() or not source.is_file():
        return None
    with _explain_read_errors(import_pyarrow(source), source):
        return detect_delimiter(source, suffix)


def iterate_parts(
    path: Path, rows: int, schema: Schema | None = None
) -> Iterator[tuple[Any, Any | None]]:
    """Read a table in parts of ``rows`` rows, each with the text of its cells.

    A feather file, and a CSV file without a schema, is read into memory as a whole.

    Args:
        path: the file.
        rows: the number of rows of each part but the last.
        schema: the columns, by whose types the cells of a CSV file are read.

    Yields:
        Tables of pyarrow. The second of each pair has the cells of a CSV file as they are in it,
        with null for empty ones; it is ``None`` for other files, and without a schema.

    Raises:
        DataError: if the file cannot be read, has no rows, or pyarrow is not installed.
    """
    pyarrow, suffix = import_pyarrow(path), _find_suffix(path)
    if suffix != ".parquet" and (schema is None or suffix in _ARROW):
        table = load_table(path)
        for start in range(0, table.num_rows, rows):
            yield table.slice(start, rows), None
        return
    row = 0
    with _explain_read_errors(pyarrow, path):
        if suffix == ".parquet":
            blocks = _read_parquet_blocks(pyarrow, path, rows)
        else:
            blocks = read_text_blocks(pyarrow, path, detect_delimiter(path, suffix))
        for part in _divide(pyarrow, blocks, rows):
            if suffix == ".parquet" or schema is None:
                yield part, None
            else:
                converted = convert_to_schema(pyarrow, part, schema, name=str(path), first_row=row)
                yield converted, part
            row += part.num_rows
    if not row:
        raise _make_empty_error(path)


def _read_parquet_blocks(pyarrow: Any, path: Path, rows: int) -> Iterator[Any]:
    with pyarrow.parquet.ParquetFile(path) as file:
        names = [each.name for each in file.schema_arrow if is_dictionary(each.type)]
        groups = range(file.num_row_groups if names else 0)
        dictionaries = find_dictionaries(file.read_row_group(each, names) for each in groups)
        for batch in file.iter_batches(batch_size=rows):
            yield share_dictionaries(pyarrow.Table.from_batches([batch]), dictionaries)


def _divide(pyarrow: Any, blocks: Iterable[Any], rows: int) -> Iterator[Any]:
    """Divide a table in blocks of any number of rows into parts of equal numbers of rows."""
    rest = None
    for block in blocks:
        table = block if rest is None else pyarrow.concat_tables([rest, block])
        whole = table.num_rows - table.num_rows % rows
        for start in range(0, whole, rows):
            yield table.slice(start, rows)
        rest = table.slice(whole)
    if rest is not None and rest.num_rows:
        yield rest


@contextmanager
def _explain_read_errors(pyarrow: Any, path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: the file does not exist; check its path") from None
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, LowerboundError):
            raise
        remedy = "write or copy it again"
        reason = " ".join(str(error).split())
        if _find_suffix(path) not in BINARY:
            remedy = (
                "it must be text in UTF-8, with the names of the columns in the first row and the "
                "same number of entries in all rows"
            )
            if is_utf16(path):
                reason = "it is text in UTF-16"
                remedy = "write it in UTF-8; in spreadsheets, the format is called CSV UTF-8"
        raise DataError(f"{path}: cannot be read as a table ({reason}); {remedy}") from error


def _make_empty_error(path: Path) -> DataError:
    return DataError(f"{path}: the table has no rows; give one with at least one row")


def is_table_file(path: Path) -> bool:
    """Whether this is an existing file with the suffix of a table."""
    return path.is_file() and _get_suffix(path) in (*TEXT, *BINARY)


def _get_suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def _find_suffix(path: Path) -> str:
    suffix = _get_suffix(path)
    if suffix not in (*TEXT, *BINARY):
        raise DataError(
            f"{path}: a table is read from a file that ends in {', '.join((*TEXT, *BINARY))}; "
            "save it in one of these formats, for example a spreadsheet as .csv"
        )
    return suffix


def import_pyarrow(path: Path) -> Any:
    """Import pyarrow with the parts that read and write tables.

    Raises:
        DataError: if it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.feather
        import pyarrow.ipc
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise DataError(
            f"{path}: tables in files are read by pyarrow, which is not installed: "
            "pip install 'lowerbound[tables]'"
        ) from error
    return pyarrow
