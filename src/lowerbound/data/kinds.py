"""Kinds of entries of examples (pixels, counts, codes, real numbers), and their checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data.options import Kind
from lowerbound.data.rows import Rows, Values, find_first, split_row_numbers
from lowerbound.errors import DataError, SettingsError

# Torch has few operations for unsigned integers of more than 8 bits.
_WIDER = {"uint16": "int32", "uint32": "int64", "uint64": "int64"}
_STORED = {"bool": "uint8", "float16": "float32", **_WIDER}
_SIGNED = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}
_NOT_NUMBERS = {
    "O": "Python objects",
    "c": "complex numbers",
    "U": "strings",
    "S": "strings",
    "V": "records",
}


def find_levels(dtype: np.dtype[Any] | torch.dtype, kind: Kind | None = None) -> int | None:
    """Find the number of levels of a type: 2 for booleans, 256 for uint8 pixels.

    It is ``None`` for floating point, counts and codes, whose type does not determine it.
    """
    name = str(dtype).removeprefix("torch.")
    if name == "bool" and kind != "counts":
        return 2
    if name == "uint8" and kind is None:
        return 256
    return None


def make_integer_error(name: str, dtype: object) -> DataError:
    """Make the error for integers of unknown meaning."""
    return DataError(
        f"{name}: integers of type {str(dtype).removeprefix('torch.')} may be pixels, counts or "
        'codes; pass kind="counts" or kind="codes" (--kind counts), or convert pixels from 0 to '
        '255 with .astype("uint8"), and anything else with .astype("float32")'
    )


def refuse_type(dtype: np.dtype[Any], name: str, kind: Kind | None) -> None:
    """Raise ``DataError`` if models cannot take entries of a numpy type."""
    if dtype.kind in "iu" and dtype != np.uint8 and kind is None:
        raise make_integer_error(name, dtype)
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise DataError(
            f'{name}: torch does not have the type {dtype}; convert it with .astype("float64")'
        )
    if dtype.kind not in "biuf":
        raise DataError(
            f"{name}: contains {_NOT_NUMBERS.get(dtype.kind, 'entries')} of type {dtype}; give "
            "uint8 (pixels), booleans or floating point"
        )


def widen(array: NDArray[Any]) -> NDArray[Any]:
    """Convert unsigned integers of more than 8 bits to signed ones; keep other values."""
    return array.astype(_WIDER.get(array.dtype.name, array.dtype), copy=False)


def choose_storage_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Choose the type in which entries are stored in memory, in the machine's byte order."""
    return np.dtype(_STORED.get(dtype.name, dtype)).newbyteorder("=")


def make_signed(values: Values) -> Values:
    """Convert booleans to uint8, and unsigned integers of more than 8 bits to signed ones."""
    if isinstance(values, Rows):
        return values
    return values.to(_SIGNED.get(values.dtype, values.dtype))


def check_entries(
    values: Values,
    kind: Kind | None,
    levels: int | None,
    name: str,
    columns: Sequence[str] | None = None,
) -> int | None:
    """Check entries, and find their number of levels; ``None`` for real numbers and counts.

    Args:
        values: the entries.
        kind: their kind.
        levels: the number of levels, if it is known.
        name: the name of the data in messages.
        columns: the names of the entries of vectors, if they are known.

    Raises:
        DataError: if models cannot take the type, or if an entry is non-finite or not of its kind,
            naming the first.
    """
    if kind is not None and kind not in get_args(Kind):
        raise SettingsError(f"kind={kind!r} is unknown; choose one of {', '.join(get_args(Kind))}")
    if values.is_floating_point():
        _refuse_non_finite(values, name, columns)
    if kind is not None:
        return _check_kind(values, kind, levels, name, columns)
    if values.dtype == torch.uint8 and levels is None:
        raise DataError(
            f"{name}: entries of type {values.dtype}; pass levels=256 if they are pixels, "
            'kind="counts" if they are counts, or kind="codes" if they are categories'
        )
    if values.dtype.is_complex:
        raise DataError(
            f"{name}: contains complex numbers of type {values.dtype}; give real ones, such as the "
            "real and the imaginary parts as two entries"
        )
    if values.dtype != torch.uint8 and not values.is_floating_point():
        raise make_integer_error(name, values.dtype)
    return levels


def check_pixels(
    values: Values, pixels: str, kind: Kind | None, levels: int | None, name: str
) -> None:
    """Raise ``DataError`` if this treatment of pixels does not suit the values."""
    if pixels == "as-is":
        return
    if kind is not None:
        raise DataError(
            f"{name}: pixels={pixels!r} is for pixels, but these entries are {kind}; "
            "use pixels='as-is'"
        )
    if pixels == "dequantize" and levels is None:
        raise DataError(
            f"{name}: only data of known discretisation (uint8 pixels) can be dequantised, but "
            f"these are {values.dtype}; use pixels='as-is'"
        )
    if pixels == "binarize" and levels is None:
        _refuse_outside_unit_interval(values, name)


def _refuse_non_finite(values: Values, name: str, columns: Sequence[str] | None) -> None:
    """Raise ``DataError`` for NaN and infinite entries, naming the first."""

    def explain(value: float) -> str:
        if math.isnan(value):
            return (
                "drop such rows or fill such entries, because most recipes need complete data. If "
                'NaN means that an entry was not observed, pass missing="nan" in Python to a model '
                "whose likelihood is lb.Masked"
            )
        return "drop such rows or replace such entries"

    _refuse(values, (name, columns), "finite", lambda chunk: ~torch.isfinite(chunk), explain)


def _check_kind(
    values: Values, kind: Kind, levels: int | None, name: str, columns: Sequence[str] | None
) -> int | None:
    """Check counts or codes, and find the number of levels; ``None`` for counts.

    Raises:
        DataError: if an entry is not a count or a code, naming the first.
    """
    if kind == "counts":
        remedy = (
            "counts are whole numbers from 0 on; give the counts themselves, neither normalised "
            "nor as logarithms"
        )
        _refuse(values, (name, columns), "counts", _is_fractional_or_negative, lambda value: remedy)
        return None
    if levels is None:
        levels = max(0, _find_maximum(values)) + 1
    highest = levels - 1
    _refuse(
        values,
        (name, columns),
        f"codes up to {highest}",
        lambda chunk: _is_fractional_or_negative(chunk) | (chunk > highest),
        lambda value: f"codes of {levels} levels are whole numbers from 0 to {highest}",
    )
    return levels


def _is_fractional_or_negative(chunk: Tensor) -> Tensor:
    if chunk.is_floating_point():
        return (chunk < 0) | (chunk != chunk.round())
    return chunk < 0


def _find_maximum(values: Values) -> int:
    if isinstance(values, Rows):
        return int(values.find_maximum())
    return int(values.max())


def _refuse_outside_unit_interval(values: Values, name: str) -> None:
    """Raise ``DataError`` unless all entries are in [0, 1]."""
    if _is_known("within [0, 1]", values):
        return
    spans = torch.stack(
        [torch.stack(values[index].aminmax()) for index in split_row_numbers(values)]
    )
    low, high = float(spans[:, 0].min()), float(spans[:, 1].max())
    if low < 0 or high > 1:
        raise DataError(
            f"{name}: only values in [0, 1] can be binarised, but these span [{low:.4g}, "
            f"{high:.4g}]; rescale them first"
        )
    _remember("within [0, 1]", values)


def _refuse(
    values: Values,
    names: tuple[str, Sequence[str] | None],
    what: str,
    is_bad: Callable[[Tensor], Tensor],
    explain: Callable[[float], str],
) -> None:
    """Raise ``DataError`` if an entry is bad, naming and explaining the first.

    Args:
        values: the entries.
        names: the name of the data, and those of the entries of vectors, if they are known.
        what: what the entries are if none is bad.
        is_bad: finds bad entries. Zero is never bad.
        explain: says of a bad entry what is wrong with it.
    """
    if _is_known(what, values):
        return
    found = find_first(values, is_bad)
    if found is None:
        _remember(what, values)
        return
    row, entry, value = found
    name, columns = names
    where = f"entry {entry}"
    if columns is not None:
        where = f"column {columns[entry]!r}"
    raise DataError(f"{name}: row {row}, {where} is {value}; {explain(value)}")


def _is_known(what: str, values: Values) -> bool:
    """Whether the values were checked before. Parts of a file are not read and checked again."""
    return isinstance(values, Rows) and what in values.known


def _remember(what: str, values: Values) -> None:
    if isinstance(values, Rows):
        values.known.add(what)
