"""Fields: values that belong to each example but are not scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from keyword import iskeyword
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.kinds import split_row_numbers
from lowerbound.data.mapped import MappedRows
from lowerbound.data.options import Missing
from lowerbound.data.rows import Rows, Values
from lowerbound.errors import DataError, SettingsError

OBSERVED = "observed"
"""The field that says which entries were observed, ``[N, *shape]``, if some are missing."""

# Names of other arguments of models.
_RESERVED = ("x", "samples", "gradient")

Categories = dict[str, tuple[str, ...]]


def check_shapes(
    values: Values, labels: Tensor | None, fields: Mapping[str, Any], name: str
) -> None:
    """Raises ``DataError`` if there are no values ``[N, ...]``, or not one label for each."""
    if values.dim() < 2 or 0 in values.shape:
        raise DataError(
            f"{name}: expected an array [examples, ...] with at least one example and one "
            f"dimension, got the shape {tuple(values.shape)}"
        )
    if labels is not None and labels.shape != values.shape[:1]:
        raise DataError(
            f"{name}: {len(values)} examples but labels of shape {tuple(labels.shape)}; give one "
            "label for each example, in one dimension"
        )
    if labels is not None and "label" in fields:
        raise DataError(f"{name}: the labels are the field 'label', so give only one of the two")


def check_fields(
    fields: Mapping[str, Any], values: Values, name: str
) -> tuple[dict[str, Tensor], Categories]:
    """Fields as tensors, and the categories of fields that were text.

    Raises:
        DataError: for a name or a type that no model can receive, or entries that do not belong to
            the examples one by one, naming the field.
    """
    tensors: dict[str, Tensor] = {}
    categories: Categories = {}
    for field, value in fields.items():
        _check_name(field, name)
        where = f"{name}: the field {field!r}"
        tensor, found = read_field(value, where)
        if found is not None:
            categories[field] = found
        tensors[field] = _check_tensor(tensor, values, name, field)
    mask = tensors.get(OBSERVED)
    if mask is not None and (mask.dtype != torch.bool or mask.shape != values.shape):
        raise DataError(
            f"{name}: the field {OBSERVED!r} says which entries were observed, so it must be "
            f"boolean and of shape {tuple(values.shape)}; it is {mask.dtype} of shape "
            f"{tuple(mask.shape)}"
        )
    return tensors, categories


def _check_name(field: Any, name: str) -> None:
    if not isinstance(field, str) or not field.isidentifier() or iskeyword(field):
        raise DataError(
            f"{name}: the field {field!r} has a name that a Python argument cannot have; use "
            "letters, digits and underscores"
        )
    if field in _RESERVED:
        raise DataError(
            f"{name}: a field cannot be called {field!r}, because a model has an argument of that "
            "name; choose another name"
        )


def read_field(value: Any, where: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """A field as a tensor, and its categories if it was text.

    Raises:
        DataError: if it is neither text nor numbers; ``where`` is what the message calls it.
    """
    if isinstance(value, Tensor):
        return _convert_to_stored_type(value.detach()), None
    try:
        array = np.array(value)
        if array.dtype.kind in "US":  # numpy has made text of whatever stood beside text
            array = np.array(value, dtype=object)
        if array.dtype.kind == "O":
            return _encode_text(array, where)
        return _convert_to_stored_type(torch.from_numpy(array)), None
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} cannot be read as an array ({error})") from None


def read_labels(
    labels: Any, names: tuple[str, ...] | None, name: str
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels as a tensor of integers, and what they stand for; text becomes integers.

    Tensors are taken as they are. ``names`` are those that the user gave.

    Raises:
        DataError: for labels that are neither integers nor text, or text that has names already.
    """
    if isinstance(labels, Tensor):
        return labels, names
    tensor, found = read_field(labels, f"{name}: the labels")
    if tensor.is_floating_point() or tensor.is_complex():
        raise DataError(
            f"{name}: the labels are {tensor.dtype}, not integers or text; round them with "
            ".astype(int), or give them as a field, lb.Examples(values, fields={'target': ...})"
        )
    if found is not None and names is not None:
        raise DataError(
            f"{name}: labels that are text are their own names; leave out label_names, or give the "
            "labels as integers"
        )
    return tensor.long(), found or names


def convert_floating_fields(fields: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Fields as a model of this floating type receives them: only floating point changes."""
    given = dict(fields)
    for name, field in fields.items():
        if field.is_floating_point():
            given[name] = field.to(dtype)
    return given


def _convert_to_stored_type(value: Tensor) -> Tensor:
    """Integers as int64, and floating point in single precision at least."""
    if value.dtype == torch.bool or value.is_complex():
        return value
    if not value.is_floating_point():
        return value.long()
    if value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value


def _encode_text(array: Any, where: str) -> tuple[Tensor, tuple[str, ...]]:
    for row, entry in enumerate(array.ravel().tolist()):
        if not isinstance(entry, (str, bytes)):
            raise DataError(
                f"{where} has text and also {entry!r} (entry {row}); give text for every example"
            )
    names, codes = np.unique(array.astype(str), return_inverse=True)
    return torch.from_numpy(codes.reshape(array.shape)), tuple(names.tolist())


def _check_tensor(value: Tensor, values: Values, name: str, field: str) -> Tensor:
    if value.shape[:1] != values.shape[:1]:
        raise DataError(
            f"{name}: {len(values)} examples, but the field {field!r} has the shape "
            f"{tuple(value.shape)}; give one entry for each example"
        )
    if value.is_complex():
        raise DataError(f"{name}: the field {field!r} has complex numbers; give real ones")
    bad = ~torch.isfinite(value).reshape(len(value), -1).all(1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise DataError(
            f"{name}: the field {field!r} is not finite in row {row} ({value[row].tolist()}); a "
            "model cannot receive that, so drop such rows or replace such entries"
        )
    return value


def mark_missing(
    values: Values, fields: Mapping[str, Any], missing: str, name: str
) -> tuple[Values, dict[str, Any]]:
    """Values with zeros where NaN was, and the fields with the mask of observed entries.

    Raises:
        SettingsError: if ``missing`` is unknown.
        DataError: if there is such a mask already.
    """
    if missing not in get_args(Missing):
        raise SettingsError(f"missing={missing!r} is unknown; give 'nan', or leave it out")
    if OBSERVED in fields:
        raise DataError(
            f"{name}: the field {OBSERVED!r} and missing={missing!r} both say which entries were "
            "observed; give one of the two"
        )
    values, observed = replace_nan(values, name)
    return values, {**fields, OBSERVED: observed}


def replace_nan(values: Values, name: str) -> tuple[Values, Tensor]:
    """The values with zeros where NaN was, and a mask ``[N, *shape]`` of the entries observed.

    Raises:
        DataError: if nothing was observed, or the values are sparse.
    """
    if isinstance(values, Rows) and not isinstance(values, MappedRows):
        raise DataError(
            f'{name}: missing="nan" cannot be used with a sparse matrix, because the mask would be '
            "dense; give a dense array"
        )
    observed = torch.empty(values.shape, dtype=torch.bool, device=values.device)
    for index in split_row_numbers(values):
        observed[index] = ~torch.isnan(values[index])
    if not observed.any():
        raise DataError(
            f"{name}: every entry is NaN, so nothing was observed; check how it was read"
        )
    if isinstance(values, MappedRows):
        return values.then(_replace_nan_in_rows), observed
    return torch.where(observed, values, torch.zeros_like(values)), observed


def _replace_nan_in_rows(rows: Any) -> Any:
    if rows.dtype.kind != "f":
        return rows
    return np.where(np.isnan(rows), np.zeros((), rows.dtype), rows)


def refuse_ignored_mask(
    fields: Mapping[str, Tensor], needs: Iterable[str], accepts: Iterable[str], name: str
) -> None:
    """Raises ``DataError`` if entries are missing and a model is not told which.

    Such a model would score the zeros that are stored in their place, and its bound would be one on
    the probability of other data.

    Args:
        fields: of all examples.
        needs: the names of the fields that the model needs.
        accepts: the names of the fields that it takes if they exist.
        name: the name of the data in messages.
    """
    mask = fields.get(OBSERVED)
    if mask is None or OBSERVED in (*needs, *accepts) or mask.all():
        return
    raise DataError(
        f"{name}: {count_missing(mask)} missing, and the likelihood does not take the "
        f"field {OBSERVED!r}, so it would score the zeros in their place; wrap it in lb.Masked, or "
        "fill the entries"
    )


def count_missing(*masks: Tensor) -> str:
    """How many entries were not observed, with the verb: ``"7 entries are"``."""
    count = sum(int((~mask).sum()) for mask in masks)
    if count == 1:
        return "1 entry is"
    return f"{count:,} entries are"


def compute_field_digest(field: Tensor) -> str:
    """The SHA-256 digest of a field: of its type, its shape and its entries."""
    digest = hashlib.sha256(f"{field.dtype} {tuple(field.shape)}".encode())
    digest.update(field.cpu().contiguous().numpy().data)
    return digest.hexdigest()
