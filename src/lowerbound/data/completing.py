"""Completed entries are written into a table of pyarrow, in the types or the text of its file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lowerbound.data.columns import CODED, Column, Schema
from lowerbound.data.csv_text import format_cells
from lowerbound.data.dictionaries import (
    decode,
    encode,
    is_dictionary,
    join_orders,
    list_dictionary,
    replace_columns,
)
from lowerbound.data.frames import open_table
from lowerbound.data.restoring import list_labels

# Times of day with seconds, and seconds that are 0 at the end of a time, before its zone.
_SECONDS = r":\d{2}:\d{2}"
_NO_SECONDS = r":00(?:\.0+)?(Z?)$"


def widen_columns(table: Any, schema: Schema) -> Any:
    """The columns with missing entries in types that hold any value which may fill them.

    A column of whole numbers becomes one of numbers, and dates become times, for example.
    """
    found = {}
    for place, column, _ in _find_incomplete(table, schema):
        wide = _choose_wide_type(column)
        found[place] = decode(table.column(place))
        if wide is not None and found[place].type != wide:
            found[place] = found[place].cast(wide, safe=False)
    return replace_columns(table, found)


def keep_types(table: Any, completed: Any, schema: Schema) -> Any:
    """Fill the missing entries of a table, in the types of its columns where these allow it.

    A dictionary also has the categories of the model. So it is the same in all parts of a table,
    whichever entries are missing there.

    Args:
        table: the table with missing entries.
        completed: the table from :func:`widen_columns`, completed.
        schema: the columns.
    """
    found = {}
    for place, column, missing in _find_incomplete(table, schema):
        old, new = decode(table.column(place)), completed.column(column.name)
        cast = _cast_back(new, old.type)
        found[place] = new if cast is None else _choose(missing, cast, old)
    for place, labels in _find_dictionaries(table, schema):
        own = table.column(place)
        cells = found.get(place, own)
        if decode(cells).type == own.type.value_type:
            found[place] = encode(cells, join_orders(list_dictionary(own), labels), own.type)
    return replace_columns(table, found)


def complete_text(text: Any, table: Any, completed: Any, schema: Schema) -> Any:
    """Fill the missing cells of a CSV file; all others stay as they are.

    Args:
        text: the cells as text.
        table: the same rows in the types of the columns.
        completed: the table from :func:`keep_types`.
        schema: the columns.
    """
    found = {}
    for place, _, missing in _find_incomplete(table, schema):
        cells = text.column(place)
        new = format_cells(completed.column(place))
        new = _imitate(new, cells, missing, table.column(place).type)
        found[place] = _choose(missing, new, cells)
    return replace_columns(text, found)


def _find_incomplete(table: Any, schema: Schema) -> Iterator[tuple[int, Column, Any]]:
    """The place of each column with missing entries that are filled, and which these are."""
    import pyarrow

    opened = open_table(table)
    places = {name: place for place, name in enumerate(table.column_names)}
    for column in schema.columns:
        if column.name not in opened or not column.has_values:
            continue
        missing = opened[column.name].find_missing(schema.missing_values)
        if missing.any():
            yield places[column.name], column, pyarrow.array(missing)


def _find_dictionaries(table: Any, schema: Schema) -> Iterator[tuple[int, list[Any]]]:
    """The place of each column with a dictionary, and the categories that the model knows."""
    import pyarrow

    known = {column.name: column for column in schema.columns}
    for place, field in enumerate(table.schema):
        if is_dictionary(field.type) and field.name in known:
            labels = pyarrow.chunked_array([list_labels(known[field.name])])
            labels = _cast_back(labels, field.type.value_type)
            yield place, [] if labels is None else labels.to_pylist()


def _choose_wide_type(column: Column) -> Any | None:
    import pyarrow

    if column.type == "time" or (column.atoms and column.dtype.startswith("Date")):
        return pyarrow.timestamp("us")
    if column.type not in CODED and not column.categories:
        return pyarrow.float64()
    kinds = {type(category) for category in column.categories}
    if kinds == {bool}:
        return pyarrow.bool_()
    if kinds == {str}:
        return pyarrow.string()
    return pyarrow.float64() if kinds <= {int, float, bool} else None


def _cast_back(cells: Any, wanted: Any) -> Any | None:
    """Cells in the type of a file; ``None`` if they do not fit."""
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_null(wanted):
        return None
    try:
        if pyarrow.types.is_integer(wanted) and pyarrow.types.is_floating(cells.type):
            return compute.round(cells).cast(wanted)
        lossy = pyarrow.types.is_temporal(wanted) or pyarrow.types.is_floating(wanted)
        return cells.cast(wanted, safe=not lossy)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        return None


def _choose(missing: Any, new: Any, old: Any) -> Any:
    import pyarrow
    from pyarrow import compute

    return compute.if_else(pyarrow.chunked_array([missing]), new, old)


def _imitate(new: Any, cells: Any, missing: Any, kind: Any) -> Any:
    """Write truth values and times in the way of the cells that the column has."""
    import pyarrow
    from pyarrow import compute

    seen = cells.filter(pyarrow.chunked_array([compute.invert(missing)]))
    example = "" if not len(seen) else seen[0].as_py().strip()
    if pyarrow.types.is_boolean(kind):
        if example.isupper():
            return compute.utf8_upper(new)
        return compute.utf8_capitalize(new) if example.istitle() else new
    if pyarrow.types.is_timestamp(kind):
        if "T" in example:
            new = compute.replace_substring(new, " ", "T")
        has_seconds = compute.any(compute.match_substring_regex(seen, _SECONDS)).as_py()
        if has_seconds is False:  # and not None, which stands for no cells
            new = compute.replace_substring_regex(new, _NO_SECONDS, r"\1")
    return new
