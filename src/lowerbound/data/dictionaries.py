"""Columns of pyarrow whose categories are in a dictionary, which the parts of a table may share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def is_dictionary(kind: Any) -> bool:
    """Whether a type of pyarrow is that of a dictionary."""
    import pyarrow

    return bool(pyarrow.types.is_dictionary(kind))


def join_orders(*orders: Iterable[Any]) -> list[Any]:
    """The categories of several lists, in an order that agrees with all of them if there is one.

    Where the lists contradict each other, the order is that of an earlier list.

    Example:
        >>> join_orders(["low", "high"], ["low", "middle", "high", "top"])
        ['low', 'middle', 'high', 'top']
    """
    start = object()
    following: dict[Any, Any] = {start: start}  # each category, and the one after it
    for order in orders:
        last: Any = start
        for category in order:
            if category not in following:
                following[last], following[category] = category, following[last]
            last = category
    joined, each = [], following[start]
    while each is not start:
        joined.append(each)
        each = following[each]
    return joined


def list_dictionary(cells: Any) -> list[Any]:
    """The categories of a column whose chunks may have different dictionaries."""
    return join_orders(*(chunk.dictionary.to_pylist() for chunk in cells.chunks))


def decode(cells: Any) -> Any:
    """The cells of a column as values, which a dictionary may have."""
    return cells.cast(cells.type.value_type) if is_dictionary(cells.type) else cells


def encode(cells: Any, categories: Sequence[Any], kind: Any) -> Any:
    """Encode cells by a dictionary of the given categories, all chunks by the same.

    Args:
        cells: the values, or the cells with another dictionary.
        categories: the categories, in their order.
        kind: the type of the dictionary. If it cannot number so many, its indices become wider.
    """
    import pyarrow
    from pyarrow import compute

    dictionary, index = pyarrow.array(categories, kind.value_type), kind.index_type
    if len(categories) > np.iinfo(index.to_pandas_dtype()).max:
        index = pyarrow.int32()
    encoded = [
        pyarrow.DictionaryArray.from_arrays(
            compute.index_in(chunk, value_set=dictionary).cast(index),
            dictionary,
            ordered=kind.ordered,
        )
        for chunk in decode(cells).chunks
    ]
    return pyarrow.chunked_array(
        encoded, pyarrow.dictionary(index, kind.value_type, ordered=kind.ordered)
    )


def find_dictionaries(tables: Iterable[Any]) -> dict[str, list[Any]]:
    """The categories of the columns with a dictionary, over all parts of a table."""
    found: dict[str, list[Any]] = {}
    for table in tables:
        for name, cells in zip(table.column_names, table.columns, strict=True):
            if is_dictionary(cells.type):
                found[name] = join_orders(found.get(name, []), list_dictionary(cells))
    return found


def share_dictionaries(table: Any, categories: Mapping[str, Sequence[Any]]) -> Any:
    """Encode columns of a part of a table by the categories that the whole table has."""
    for place, name in enumerate(table.column_names):
        if name in categories:
            cells = table.column(place)
            shared = encode(cells, categories[name], cells.type)
            table = table.set_column(
                place, table.schema.field(place).with_type(shared.type), shared
            )
    return table
