"""Arrays, tensors, sparse matrices and AnnData are read into the contents of examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.anndata import is_anndata, read_anndata
from lowerbound.data.hdf5 import StoredMatrix
from lowerbound.data.joined_names import join_names
from lowerbound.data.kinds import find_levels, refuse_type, widen
from lowerbound.data.mapped import MappedRows
from lowerbound.data.options import Kind
from lowerbound.data.rows import Rows, Values
from lowerbound.data.sparse import SparseRows, is_sparse
from lowerbound.data.tables import is_table, refuse_lossy
from lowerbound.errors import DataError

# Torch or numpy lack operations for these types on some devices.
_STORED = {
    torch.bool: torch.uint8,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}


def read_contents(
    data: Any,
    *,
    name: str,
    kind: Kind | None,
    fields: Mapping[str, Any] | Sequence[str] | None,
    layer: str | None,
) -> dict[str, Any]:
    """Read the arguments of :class:`~lowerbound.Examples` from the source of ``Examples.of``.

    Raises:
        DataError: if the data cannot be read.
    """
    if hasattr(data, "train") and hasattr(type(data), "has_test"):
        raise DataError(f"{name}: the data set has two parts; pass its .train or its .test")
    about: dict[str, Any] = {"kind": kind}
    if is_anndata(data):
        asked = tuple(fields or ())
        names = getattr(data, "var_names", None)
        if names is not None:
            about["columns"] = check_column_names(names, name)
        data, about["fields"], about["categories"] = read_anndata(
            data, layer=layer, fields=asked, name=name
        )
    else:
        refuse_settings({"layer": layer}, f"{name}: only AnnData has layers")
        about["fields"] = _check_by_name(fields, name)
    if is_table(data):
        about["columns"] = check_column_names(data.columns, name)
    if isinstance(data, StoredMatrix):
        refuse_type(data.stored_dtype, name, kind)
        levels = find_levels(data.stored_dtype, kind)
        return {"values": SparseRows(data), "levels": levels, **about}
    if is_sparse(data):
        levels = find_levels(data.dtype, kind)
        return {"values": SparseRows.of(data, name=name, kind=kind), "levels": levels, **about}
    if isinstance(data, np.memmap):
        return {
            "values": convert_values(data, name),
            "levels": find_levels(data.dtype, kind),
            **about,
        }
    tensor = _convert_to_tensor(data, name)
    stored = tensor.to(_STORED.get(tensor.dtype, tensor.dtype))
    return {"values": stored, "levels": find_levels(tensor.dtype, kind), **about}


def convert_values(data: Any, name: str) -> Values:
    """Convert arrays and nested lists to values of examples; keep tensors and rows.

    Raises:
        DataError: if the data cannot be read.
    """
    if isinstance(data, Tensor | Rows):
        return data
    if isinstance(data, np.memmap):
        return MappedRows.of(data, widen)
    if is_sparse(data) or is_anndata(data):
        raise DataError(
            f"{name}: a {type(data).__name__} is read by lb.Examples.of(data, ...); pass it there"
        )
    tensor = _convert_to_tensor(data, name)
    return tensor.to(_STORED.get(tensor.dtype, tensor.dtype))


def check_column_names(names: Iterable[Any], name: str) -> tuple[str, ...]:
    """Check that the names of columns differ.

    Raises:
        DataError: with those that occur more than once.
    """
    columns = tuple(map(str, names))
    twice = [each for each, count in Counter(columns).items() if count > 1]
    if twice:
        raise DataError(
            f"{name}: some columns have the same name ({join_names(twice)}), so a trained model "
            "could not tell them apart; rename them, for AnnData with adata.var_names_make_unique()"
        )
    return columns


def refuse_unnamed(known: Sequence[str], name: str, other: str) -> None:
    """Raise ``DataError`` for data without names of columns where the columns have names.

    Those of a DataFrame without names are 0, 1, ..., and an array has the same columns.

    Args:
        known: the names of the columns.
        name: the name of the data in messages.
        other: the beginning of what messages say of the names.
    """
    if tuple(known) != tuple(map(str, range(len(known)))):
        raise DataError(
            f"{name}: the columns have no names, and {other} the columns {join_names(known)}; "
            "give a DataFrame, AnnData or .h5ad file with these names. If the columns are in this "
            "order, give pandas.DataFrame(array, columns=names), or for a sparse matrix "
            "anndata.AnnData(matrix, var=pandas.DataFrame(index=names))"
        )


def refuse_settings(settings: Mapping[str, Any], reason: str) -> None:
    """Raise ``DataError`` if a setting is given although it has no effect."""
    given = [name for name, value in settings.items() if value is not None]
    if given:
        raise DataError(f"{reason}, so {given[0]}= has no effect; remove it")


def _check_by_name(
    fields: Mapping[str, Any] | Sequence[str] | None, name: str
) -> Mapping[str, Any]:
    if fields is None:
        return {}
    if isinstance(fields, Mapping):
        return fields
    raise DataError(
        f"{name}: fields={fields!r} names columns of AnnData, but this is an array; give the "
        "fields themselves by name, fields={'batch': ...}"
    )


def _convert_to_tensor(data: Any, name: str) -> Tensor:
    refuse_lossy(data, name)
    if isinstance(data, Tensor):
        return data.detach().cpu()
    try:
        return torch.from_numpy(np.array(data))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name}: the values cannot be read as an array of numbers ({error}); give a tensor or "
            "an array [examples, ...]"
        ) from None
