"""Tables are written to files, one part after the other."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lowerbound.data.csv_text import find_delimiter, format_names, format_rows
from lowerbound.data.table_files import BINARY, TEXT, import_pyarrow
from lowerbound.errors import DataError, SettingsError, StorageError
from lowerbound.runtime.outputs import explain_write_errors


def check_target(path: Path, source: Path | None = None) -> None:
    """Check that a table can be written to a file, before the work whose result it will be.

    Args:
        path: the file.
        source: the file that the result comes from, which must not be lost.

    Raises:
        SettingsError: for a file of another format.
        StorageError: if its folder does not exist or cannot be written, or it is the source.
    """
    if path.suffix.lower() not in (*TEXT, *BINARY):
        raise SettingsError(
            f"{path}: a table is written to a file that ends in {', '.join((*BINARY, *TEXT))}"
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
    if source is not None:
        refuse_source(path, source)
    if not os.access(folder, os.W_OK):
        raise StorageError(
            f"{path}: the folder {folder} cannot be written (permission denied); get permission "
            "to write there (chmod, chown) or give another place"
        )


def refuse_source(path: Path, source: Path) -> None:
    """Raise ``StorageError`` if a result would be written over the file that it comes from."""
    if path.is_file() and source.exists() and path.samefile(source):
        raise StorageError(
            f"{path}: this is the file that is read, and it would be lost; give another name"
        )


class TableWriter:
    """Writes tables of pyarrow one after the other to one file, which is complete or not there.

    Args:
        path: the file: ``.csv``, ``.tsv``, ``.parquet``, ``.feather`` or ``.arrow``.
        delimiter: what separates the cells of a text file; by default a comma, and a tab in a
            ``.tsv`` file.

    Raises:
        SettingsError: for a file of another format.
        StorageError: if the file cannot be written.
    """

    def __init__(self, path: Path, delimiter: str | None = None) -> None:
        check_target(path)
        self.path = path
        self._delimiter = delimiter or find_delimiter(path.suffix.lower())
        self._pyarrow = import_pyarrow(path)
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
                if suffix in TEXT:
                    names = table.column_names
                    self._file.write(format_names(self._pyarrow, names, self._delimiter))
                elif suffix == ".parquet":
                    self._writer = self._pyarrow.parquet.ParquetWriter(self._file, self._schema)
                else:
                    self._writer = self._pyarrow.ipc.new_file(self._file, self._schema)
            if suffix in TEXT:
                self._file.write(format_rows(self._pyarrow, table, self._delimiter))
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
