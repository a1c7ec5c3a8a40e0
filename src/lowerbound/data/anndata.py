"""AnnData, the format of single-cell data. Its objects are recognised by their attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lowerbound.data.fields import Categories
from lowerbound.data.hdf5 import StoredMatrix
from lowerbound.data.joined_names import join_names
from lowerbound.errors import DataError


def is_anndata(data: Any) -> bool:
    """Whether an object has the attributes of an AnnData object."""
    return all(hasattr(data, name) for name in ("X", "obs", "layers"))


def read_anndata(
    data: Any, *, layer: str | None, fields: Sequence[str], name: str
) -> tuple[Any, dict[str, Any], Categories]:
    """Read the values of an AnnData object, its columns as fields, and the fields' categories.

    An X that stays in a file stays there, unless the object is a view of other AnnData.

    Args:
        data: the object.
        layer: the name of a layer, or ``None`` for X.
        fields: the names of columns of ``obs``.
        name: the name of the data in messages.

    Raises:
        DataError: if the layer or a column does not exist, naming those that do, or if a column has
            missing values, naming the row.
    """
    values = _find_values(data, layer, name)
    columns: dict[str, Any] = {}
    categories: Categories = {}
    for field in fields:
        columns[field], found = _read_column(data.obs, field, name)
        if found is not None:
            categories[field] = found
    return values, columns, categories


def answer_like(data: Any, values: Any) -> Any:
    """Convert what a model computed for AnnData to arrays, which AnnData takes; keep it otherwise.

    Args:
        data: the data for which the values were computed.
        values: a tensor, or tensors by name.
    """
    if not is_anndata(data):
        return values
    if isinstance(values, Mapping):
        return {name: answer_like(data, each) for name, each in values.items()}
    return values.cpu().numpy()


def _find_values(data: Any, layer: str | None, name: str) -> Any:
    if layer is not None:
        return _find_entry(data.layers, layer, f"{name}: layer", "layers")
    if getattr(data, "isbacked", False) and not data.is_view:
        return StoredMatrix.of(data.file["X"], f"{name} [X]")
    values = data.X
    if values is None:
        raise DataError(
            f"{name}: X is empty; choose one of the layers: {join_names([*data.layers]) or 'none'}"
        )
    if hasattr(values, "to_memory"):
        values = values.to_memory()
    return values


def _read_column(obs: Any, field: str, name: str) -> tuple[Any, tuple[str, ...] | None]:
    """Read a column of ``obs`` as a field, with the names of its categories if it has such."""
    column = _find_entry(obs, field, f"{name}: column", "columns of obs")
    if hasattr(column, "columns"):
        raise DataError(
            f"{name}: obs has {column.shape[1]} columns called {field!r}; rename all but one"
        )
    missing = np.flatnonzero(np.asarray(column.isna()))
    if len(missing):
        row = int(missing[0])
        raise DataError(
            f"{name}: the column {field!r} of obs is missing in {len(missing):,} rows, the first "
            f"of which is row {row} ({column.index[row]}); drop such rows, as by "
            f"adata[adata.obs[{field!r}].notna()], or give them a value or a category of their own"
        )
    categorical = getattr(column, "cat", None)
    if categorical is None:
        return column.to_numpy(), None
    codes = torch.from_numpy(np.array(categorical.codes, dtype=np.int64))
    return codes, tuple(map(str, categorical.categories))


def _find_entry(mapping: Mapping[str, Any], key: str, what: str, others: str) -> Any:
    try:
        return mapping[key]
    except KeyError:
        raise DataError(
            f"{what} {key!r} does not exist; the {others} are: {join_names([*mapping]) or 'none'}"
        ) from None
