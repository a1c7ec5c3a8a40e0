"""AnnData, the format of single-cell data. Its objects are recognised by their attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lowerbound.data.fields import Categories
from lowerbound.errors import DataError


def is_anndata(data: Any) -> bool:
    """Whether an object has the attributes of an AnnData object."""
    return all(hasattr(data, name) for name in ("X", "obs", "layers"))


def read_anndata(
    data: Any, *, layer: str | None, fields: Sequence[str], name: str
) -> tuple[Any, dict[str, Any], Categories]:
    """Read the values of an AnnData object, its columns as fields, and the fields' categories.

    Args:
        data: the object.
        layer: the name of a layer, or ``None`` for X.
        fields: the names of columns of ``obs``.
        name: the name of the data in messages.

    Raises:
        DataError: if the layer or a column does not exist, naming those that do.
    """
    values = data.X
    if layer is not None:
        values = _find_entry(data.layers, layer, f"{name}: layer", "layers")
    if values is None:
        raise DataError(f"{name}: X is empty; choose one of the layers: {_join_names(data.layers)}")
    if hasattr(values, "to_memory"):  # X stays in a file if the object is backed by one
        values = values.to_memory()
    columns: dict[str, Any] = {}
    categories: Categories = {}
    for field in fields:
        column = _find_entry(data.obs, field, f"{name}: column", "columns of obs")
        categorical = getattr(column, "cat", None)
        if categorical is None:
            columns[field] = np.asarray(column)
            continue
        codes = np.asarray(categorical.codes, dtype=np.int64)
        if (codes < 0).any():
            row = int(np.flatnonzero(codes < 0)[0])
            raise DataError(
                f"{name}: the column {field!r} has no category in row {row}; drop such rows or "
                "give them a separate category"
            )
        columns[field] = torch.from_numpy(codes)
        categories[field] = tuple(map(str, categorical.categories))
    return values, columns, categories


def _find_entry(mapping: Any, key: str, what: str, others: str) -> Any:
    try:
        return mapping[key]
    except KeyError:
        raise DataError(
            f"{what} {key!r} does not exist; the {others} are: {_join_names(mapping)}"
        ) from None


def _join_names(mapping: Any) -> str:
    return ", ".join(map(str, mapping)) or "none"
