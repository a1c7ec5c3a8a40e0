"""What numpy would lose of tables, masked arrays and sparse tensors is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.errors import DataError


def is_table(data: Any) -> bool:
    """Whether data are a table with named columns, such as a DataFrame of pandas or polars."""
    return hasattr(data, "columns") and hasattr(data, "dtypes")


def refuse_lossy(data: Any, name: str) -> None:
    """Raise ``DataError`` for data that cannot be read as one array without a loss.

    These are a table whose columns have no common type, a masked array, whose mask would be lost,
    and a tensor that is not dense.
    """
    refuse_lazy(data, name)
    if isinstance(data, Tensor):
        _refuse_layout(data, name)
    elif isinstance(data, np.ma.MaskedArray):
        _refuse_mask(data, name)
    elif is_table(data):
        _refuse_mixed_columns(data, name)


def refuse_lazy(data: Any, name: str) -> None:
    """Raise ``DataError`` for a LazyFrame, whose rows have not been computed."""
    if type(data).__name__ == "LazyFrame":
        raise DataError(f"{name}: a LazyFrame has not been computed; give data.collect()")


def _refuse_layout(data: Tensor, name: str) -> None:
    if data.layout != torch.strided or data.is_nested:
        raise DataError(
            f"{name}: a sparse or nested tensor cannot be used; give a dense one, such as "
            "data.to_dense(), or a sparse matrix of SciPy"
        )


def _refuse_mask(data: Any, name: str) -> None:
    masked = int(np.ma.getmaskarray(data).sum())
    if masked:
        raise DataError(
            f"{name}: {masked:,} entries of the array are masked; mark them "
            'with NaN, data.astype(float).filled(numpy.nan), and pass missing="nan"'
        )


def _refuse_mixed_columns(table: Any, name: str) -> None:
    """Raise ``DataError`` unless all columns are numeric, or all have one type."""
    named = dict(zip(table.columns, table.dtypes, strict=True))
    for column, kind in named.items():
        _refuse_nullable(table, column, kind, name)
    types = {column: np.asarray(table[column]).dtype for column in table.columns}
    if len(set(types.values())) < 2 and not any(kind.kind in "OUSMm" for kind in types.values()):
        return
    for column, kind in types.items():
        if kind.kind not in "iuf":
            remedy = "make it a field, lb.Examples.of(values, fields={...}), or drop it"
            if kind.kind == "b":
                remedy = f"convert it, table.astype({{{column!r}: 'float32'}}), or {remedy}"
            raise DataError(
                f"{name}: the column {column!r} is of type {named[column]}, and not numeric as the "
                f"values of examples are; {remedy}"
            )


def _refuse_nullable(table: Any, column: Any, kind: Any, name: str) -> None:
    """Raise ``DataError`` for a numeric type of pandas' own, such as ``Int64``, with a loss.

    If entries are missing, or columns are of several types, the table may become an array of Python
    objects.
    """
    if isinstance(kind, np.dtype) or getattr(kind, "kind", "O") not in "biuf":
        return
    missing = int(table[column].isna().to_numpy().sum())
    if not missing and np.asarray(table[:1]).dtype != object:
        return
    remedy = f"convert it, table.astype({{{column!r}: 'float64'}})"
    if missing:
        remedy = f'{remedy} and pass missing="nan", because {missing:,} of its entries are missing'
    raise DataError(f"{name}: the column {column!r} is of pandas' type {kind}; {remedy}")
