"""Columns of pyarrow whose categories are in a dictionary, which the parts of a table may share."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def is_dictionary(kind: Any) -> bool:
    """Whether a type of pyarrow is that of a dictionary."""
    import pyarrow

    return bool(pyarrow.types.is_dictionary(kind))


def find_dictionary_cells(native: Any) -> Any | None:
    """The cells of a column of pyarrow that has a dictionary, also in a frame of pandas."""
    if not hasattr(native, "dtype"):
        return native if is_dictionary(native.type) else None
    kind = getattr(native.dtype, "pyarrow_dtype", None)
    if kind is None or not is_dictionary(kind):
        return None
    return native.array.__arrow_array__()


def join_orders(*orders: Iterable[Any]) -> list[Any]:
    """The categories of several lists, in an order that agrees with all of them if there is one.

    Where the lists leave an order open, or contradict each other, the category that appears first
    comes first.

    Example:
        >>> join_orders(["low", "high"], ["low", "middle", "high", "top"])
        ['low', 'middle', 'high', 'top']
        >>> join_orders(["low", "high"], ["middle"], ["low", "middle", "high"])
        ['low', 'middle', 'high']
    """
    lists = [list(order) for order in orders]
    categories = list(dict.fromkeys(itertools.chain(*lists)))
    place = {category: number for number, category in enumerate(categories)}
    pairs = {
        (place[one], place[next_]) for each in lists for one, next_ in itertools.pairwise(each)
    }
    following: dict[int, list[int]] = {number: [] for number in place.values()}
    waits_for = dict.fromkeys(place.values(), 0)
    for one, next_ in pairs:
        following[one].append(next_)
        waits_for[next_] += 1
    ready = [number for number, count in waits_for.items() if not count]
    joined: dict[int, None] = {}
    # In each turn of the loop, the next category; the first one left, if all wait for each other.
    left = iter(place.values())
    while len(joined) < len(categories):
        number = (
            heapq.heappop(ready) if ready else next(each for each in left if each not in joined)
        )
        if number in joined:
            continue
        joined[number] = None
        for next_ in following[number]:
            waits_for[next_] -= 1
            if not waits_for[next_]:
                heapq.heappush(ready, next_)
    return [categories[number] for number in joined]


def list_dictionary(cells: Any) -> list[Any]:
    """The categories of a column whose chunks may have different dictionaries."""
    return join_orders(*(chunk.dictionary.to_pylist() for chunk in cells.chunks))


def decode(cells: Any) -> Any:
    """The cells of a column as values, which a dictionary may have."""
    import pyarrow

    if not is_dictionary(cells.type):
        return cells
    kind = _find_value_type(cells.type)
    if kind != cells.type.value_type:
        chunks = [
            pyarrow.DictionaryArray.from_arrays(
                chunk.indices, pyarrow.array(chunk.dictionary.to_pylist(), kind)
            )
            for chunk in cells.chunks
        ]
        cells = pyarrow.chunked_array(chunks, pyarrow.dictionary(cells.type.index_type, kind))
    return cells.cast(kind)


def _find_value_type(kind: Any) -> Any:
    """The type of the values of a dictionary; pyarrow cannot decode text as views."""
    import pyarrow

    is_view = pyarrow.types.is_string_view(kind.value_type)
    return pyarrow.large_string() if is_view else kind.value_type


def encode(cells: Any, categories: Sequence[Any], kind: Any) -> Any:
    """Encode cells by a dictionary of the given categories, all chunks by the same.

    Args:
        cells: the values, or the cells with another dictionary.
        categories: the categories, in their order.
        kind: the type of the dictionary. If it cannot number so many, its indices become wider.
    """
    import pyarrow
    from pyarrow import compute

    values, index = _find_value_type(kind), kind.index_type
    dictionary = pyarrow.array(categories, values)
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
    return pyarrow.chunked_array(encoded, pyarrow.dictionary(index, values, ordered=kind.ordered))


def find_dictionaries(tables: Iterable[Any]) -> dict[str, list[Any]]:
    """The categories of the columns with a dictionary, over all parts of a table."""
    found: dict[str, dict[tuple[Any, ...], None]] = {}
    for table in tables:
        for name, cells in zip(table.column_names, table.columns, strict=True):
            if is_dictionary(cells.type):
                orders = (tuple(chunk.dictionary.to_pylist()) for chunk in cells.chunks)
                found.setdefault(name, {}).update(dict.fromkeys(orders))
    return {name: join_orders(*orders) for name, orders in found.items()}


def share_dictionaries(table: Any, categories: Mapping[str, Sequence[Any]]) -> Any:
    """Encode columns of a part of a table by the categories that the whole table has."""
    pairs = zip(table.column_names, table.columns, strict=True)
    found = {
        place: encode(cells, categories[name], cells.type)
        for place, (name, cells) in enumerate(pairs)
        if name in categories
    }
    return replace_columns(table, found)


def replace_columns(table: Any, found: Mapping[int, Any]) -> Any:
    """Replace columns by their places, all at once, because each table copies the list of all."""
    import pyarrow

    columns, fields = list(table.columns), list(table.schema)
    for place, cells in found.items():
        columns[place], fields[place] = cells, fields[place].with_type(cells.type)
    schema = pyarrow.schema(fields, metadata=table.schema.metadata)
    return pyarrow.Table.from_arrays(columns, schema=schema)
