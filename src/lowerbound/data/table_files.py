"""Tables with columns of several types, from DataFrames and from files that pyarrow reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lowerbound.data.columns import Schema, join_names
from lowerbound.data.csv_text import (
    convert_to_schema,
    find_delimiter,
    format_names,
    format_rows,
    infer_types,
    read_text_blocks,
)
from lowerbound.data.examples import Examples
from lowerbound.data.frames import is_frame, open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.options import ReadOptions
from lowerbound.data.schema import make_table_examples
from lowerbound.data.suspects import warn_suspects, warn_unmatched
from lowerbound.errors import DataError, LowerboundError, SettingsError, StorageError
from lowerbound.runtime.outputs import explain_write_errors

__all__ = [
    "TableWriter",
    "check_target",
    "is_frame",
    "iterate_parts",
    "iterate_tables",
    "load_table",
    "parse_column_types",
    "parse_missing_values",
    "read_csv",
    "read_feather",
    "read_frame",
    "read_parquet",
    "read_rows",
]

_ARROW = (".feather", ".arrow")
_BINARY = (".parquet", *_ARROW)
_TEXT = (".csv", ".tsv")


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
    """Parse the values that stand for missing ones; text that is a number is both.

    Example:
        >>> parse_missing_values("?,-999"), parse_missing_values(None)
        (('?', '-999', -999.0), ())
    """
    if values is None:
        return ()
    if not isinstance(values, str):
        return tuple(values) if isinstance(values, Iterable) else (values,)
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
    warn_suspects(opened, marks, types, name)
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
        data, name = load_table(Path(data).expanduser(), schema), os.fspath(data)
    if not isinstance(data, Examples):
        return make_table_examples(data, schema, name=name)
    if getattr(data.preprocessing, "schema", None) != schema:
        raise DataError(
            f"{name}: the examples are numbers of other columns than those of the model, which are "
            f"{join_names(schema.names)}; give the table itself, such as a DataFrame"
        )
    return data


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
    pyarrow, suffix = _import_pyarrow(path), _find_suffix(path)
    with _explain_read_errors(pyarrow, path):
        if suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        elif suffix in _ARROW:
            table = pyarrow.feather.read_table(path)
        else:
            blocks = list(read_text_blocks(pyarrow, path, find_delimiter(suffix)))
            table = pyarrow.concat_tables(blocks) if blocks else pyarrow.table({})
    if not table.num_rows:
        raise _make_empty_error(path)
    if schema is None:
        found = table if suffix in _BINARY else infer_types(pyarrow, table, missing_values)
        warn_unmatched([table, found], missing_values, str(path))
        return found
    if suffix in _BINARY:
        return table
    return convert_to_schema(pyarrow, table, schema, name=str(path))


def iterate_tables(path: Path, rows: int, schema: Schema | None = None) -> Iterator[Any]:
    """Read a table in parts of so many rows, as tables of pyarrow; see :func:`iterate_parts`."""
    for table, _ in iterate_parts(path, rows, schema):
        yield table


def iterate_parts(
    path: Path, rows: int, schema: Schema | None = None
) -> Iterator[tuple[Any, Any | None]]:
    """Read a table in parts of so many rows, each with the text of its cells.

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
    pyarrow, suffix = _import_pyarrow(path), _find_suffix(path)
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
            blocks = read_text_blocks(pyarrow, path, find_delimiter(suffix))
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
        for batch in file.iter_batches(batch_size=rows):
            yield pyarrow.Table.from_batches([batch])


def _divide(pyarrow: Any, blocks: Iterable[Any], rows: int) -> Iterator[Any]:
    """Divide a table in blocks of any number of rows into parts of so many."""
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
        if _find_suffix(path) not in _BINARY:
            remedy = (
                "it must be text in UTF-8, with the names of the columns in the first row and the "
                "same number of entries in all rows"
            )
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a table ({reason}); {remedy}") from error


def _make_empty_error(path: Path) -> DataError:
    return DataError(f"{path}: the table has no rows; give one with at least one row")


def check_target(path: Path) -> None:
    """Check that a table can be written to a file, before the work whose result it will be.

    Raises:
        SettingsError: for a file of another format.
        StorageError: if its folder does not exist or cannot be written.
    """
    if path.suffix.lower() not in (*_TEXT, *_BINARY):
        raise SettingsError(
            f"{path}: a table is written to a file that ends in {', '.join((*_BINARY, *_TEXT))}"
        )
    folder = path.parent
    if not folder.exists():
        raise StorageError(
            f"{path}: the folder {folder} does not exist; create it (mkdir -p {folder}) or give "
            "another place"
        )
    if not folder.is_dir():
        raise StorageError(f"{path}: {folder} is a file and not a folder; give another place")
    if path.is_dir():
        raise StorageError(f"{path}: a folder has this name; give another name")
    if not os.access(folder, os.W_OK):
        raise StorageError(
            f"{path}: the folder {folder} cannot be written (permission denied); get permission "
            "to write there (chmod, chown) or give another place"
        )


class TableWriter:
    """Writes tables of pyarrow one after the other to one file, which is complete or not there.

    Args:
        path: the file: ``.csv``, ``.tsv``, ``.parquet``, ``.feather`` or ``.arrow``.

    Raises:
        SettingsError: for a file of another format.
        StorageError: if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        check_target(path)
        self.path = path
        self._pyarrow = _import_pyarrow(path)
        self._target = path.resolve()  # of a link, the file that it names
        self._partial = self._target.with_name(f".{self._target.name}.part")
        self._file: Any = None
        self._writer: Any = None
        self._schema: Any = None

    def write(self, table: Any) -> None:
        """Write the rows of a table after those of the tables before.

        Raises:
            DataError: if a column has another type than before.
            StorageError: if the file cannot be written.
        """
        suffix = self.path.suffix.lower()
        with explain_write_errors(self.path):
            if self._file is None:
                self._file = self._partial.open("wb")
                self._schema = table.schema
                if suffix in _TEXT:
                    delimiter = find_delimiter(suffix)
                    self._file.write(format_names(self._pyarrow, table.column_names, delimiter))
                elif suffix == ".parquet":
                    self._writer = self._pyarrow.parquet.ParquetWriter(self._file, self._schema)
                else:
                    self._writer = self._pyarrow.ipc.new_file(self._file, self._schema)
            if suffix in _TEXT:
                self._file.write(format_rows(self._pyarrow, table, find_delimiter(suffix)))
            else:
                self._writer.write_table(self._adapt(table))

    def _adapt(self, table: Any) -> Any:
        """The table in the types of the first one, which the file has."""
        try:
            return table.cast(self._schema)
        except self._pyarrow.ArrowInvalid as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{self.path}: a column has values of another type than in the rows before "
                f"({reason}); write a .csv file"
            ) from error

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        """End the file, and give it its name; after an error, remove what was written."""
        if self._file is None:
            return
        try:
            if kind is None:
                with explain_write_errors(self.path):
                    self._close()
                    os.replace(self._partial, self._target)
        finally:
            with suppress(OSError, self._pyarrow.ArrowException):
                self._close()
            with suppress(OSError):
                self._partial.unlink()

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        finally:
            self._file.close()


def _find_suffix(path: Path) -> str:
    suffix = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    if suffix not in (*_TEXT, *_BINARY):
        raise DataError(
            f"{path}: a table is read from a file that ends in {', '.join((*_TEXT, *_BINARY))}; "
            "save it as such, a spreadsheet as .csv"
        )
    return suffix


def _import_pyarrow(path: Path) -> Any:
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
