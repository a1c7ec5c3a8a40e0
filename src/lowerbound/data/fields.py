"""Fields: values that belong to each example but are not scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from keyword import iskeyword
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.mapped import MappedRows
from lowerbound.data.options import Missing
from lowerbound.data.rows import Rows, Values, split_row_numbers, sum_rows
from lowerbound.errors import DataError, SettingsError

OBSERVED = "observed"
"""The name of the field that says which entries were observed, ``[N, *shape]``."""

MISSING = "missing"
"""The name of the field that says which entries of a table are known to be missing, ``[N, D]``.

If examples lack it, these are the entries that were not observed. An entry of a column that a table
does not have is neither.
"""

EXPOSURE = "exposure"
"""The name of the field by which the rates of counts are multiplied, ``[N]`` or ``[N, *shape]``."""

WEIGHT = "training_weight"
"""The name of the field that says how often an example counts in training, ``[N]``."""

# The names of other arguments of models, which a field cannot have.
_RESERVED = ("x", "samples", "gradient")

Categories = dict[str, tuple[str, ...]]


def check_shapes(
    values: Values, labels: Tensor | None, fields: Mapping[str, Any], name: str
) -> None:
    """Raise ``DataError`` unless there are values ``[N, ...]`` and one label for each example."""
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
    """Check fields, and convert them to tensors and the categories of fields that were text.

    Raises:
        DataError: if a name or type is one that models cannot receive, or if there is not one entry
            for each example, naming the field.
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
    """Convert a field to a tensor, and to its categories if it was text.

    Raises:
        DataError: if it is neither text nor numbers. ``where`` is its name in the message.
    """
    if isinstance(value, Tensor):
        return _convert_to_stored_type(value.detach()), None
    try:
        array = np.array(value)
        if array.dtype.kind in "US":  # if some entries are text, numpy turns all into text
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
    """Convert labels to a tensor of integers, and find the meanings of the integers.

    Tensors are returned as they are. ``names`` are the meanings that the user gave.

    Raises:
        DataError: if labels are neither integers nor text, or if they are text and ``names`` is
            given too.
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
    """Convert floating-point fields to the floating type of a model; keep all others."""
    given = dict(fields)
    for name, field in fields.items():
        if field.is_floating_point():
            given[name] = field.to(dtype)
    return given


def _convert_to_stored_type(value: Tensor) -> Tensor:
    """Convert integers to int64, and floating point to single precision at least."""
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
                f"{where} has text, but entry {row} is {entry!r}; give text for every example"
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
            f"{name}: the field {field!r} is non-finite in row {row} ({value[row].tolist()}), "
            "which a model cannot use; drop such rows or replace such entries"
        )
    return value


def mark_missing(
    values: Values, fields: Mapping[str, Any], missing: str, name: str
) -> tuple[Values, dict[str, Any]]:
    """Replace NaN by zero, and add the mask of observed entries to the fields.

    Raises:
        SettingsError: if ``missing`` is unknown.
        DataError: if the fields already contain such a mask.
    """
    if missing not in get_args(Missing):
        raise SettingsError(f"missing={missing!r} is unknown; give 'nan', or remove it")
    if OBSERVED in fields:
        raise DataError(
            f"{name}: the field {OBSERVED!r} and missing={missing!r} both say which entries were "
            "observed; give one of the two"
        )
    values, observed = replace_nan(values, name)
    return values, {**fields, OBSERVED: observed}


def replace_nan(values: Values, name: str) -> tuple[Values, Tensor]:
    """Replace NaN by zero, and make a mask ``[N, *shape]`` of the observed entries.

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
            f"{name}: every entry is NaN, so nothing was observed; check how the data were read"
        )
    if isinstance(values, MappedRows):
        return values.then(_replace_nan_in_rows), observed
    return torch.where(observed, values, torch.zeros_like(values)), observed


def _replace_nan_in_rows(rows: Any) -> Any:
    if rows.dtype.kind != "f":
        return rows
    return np.where(np.isnan(rows), np.zeros((), rows.dtype), rows)


def select_requested(
    known: Mapping[str, Tensor], needs: Iterable[str], accepts: Iterable[str], name: str
) -> dict[str, Tensor]:
    """Select the fields that a model needs or accepts from those that examples have.

    Raises:
        DataError: if one that it needs does not exist, naming it.
    """
    for field in needs:
        if field in known:
            continue
        advice = ""
        if field == EXPOSURE:
            advice = "; or pass kind='counts' (--kind counts), which makes it the sum of each row"
        raise DataError(
            f"{name}: the model needs the field {field!r} of each example, but the fields are: "
            f"{', '.join(known) or 'none'}. Pass lb.Examples(values, fields={{{field!r}: ...}})"
            f"{advice}"
        )
    return {field: known[field] for field in (*needs, *accepts) if field in known}


def take_rows(fields: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """Take the rows of each field at ``index``."""
    return {name: field[index.to(field.device)] for name, field in fields.items()}


def sum_counts(values: Values) -> Tensor:
    """Sum the counts of each example, ``[N]``: their exposure if they have no such field."""
    return sum_rows(values).float()


def refuse_ignored_mask(
    fields: Mapping[str, Tensor], needs: Iterable[str], accepts: Iterable[str], name: str
) -> None:
    """Raise ``DataError`` if entries are missing but the model does not receive the mask.

    Such a model would score the zeros that replace missing entries, so its bound would be for
    other data.

    Args:
        fields: the fields of all examples.
        needs: the names of the fields that the model needs.
        accepts: the names of the fields that the model accepts.
        name: the name of the data in messages.
    """
    mask = fields.get(OBSERVED)
    if mask is None or OBSERVED in (*needs, *accepts) or mask.all():
        return
    raise DataError(
        f"{name}: {count_missing(mask)} missing, but the likelihood does not take the "
        f"field {OBSERVED!r}, so it would score zeros in their place; wrap it in lb.Masked, or "
        "fill the entries"
    )


def count_missing(*masks: Tensor) -> str:
    """Count the entries that were not observed, and write it as ``"7 entries are"``."""
    count = sum(int((~mask).sum()) for mask in masks)
    if count == 1:
        return "1 entry is"
    return f"{count:,} entries are"
