"""``.npz`` files, whose arrays are values, labels and fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lowerbound.data.arrays import as_examples, explain_read_errors
from lowerbound.data.dataset import Parts
from lowerbound.data.examples import Examples
from lowerbound.data.options import ReadOptions
from lowerbound.errors import DataError


@dataclass(frozen=True)
class _Part:
    """The names of the arrays of one part."""

    values: str
    label: str
    suffix: str = ""
    """The suffix of the names of fields."""


# The first layout for which a file contains all arrays of values is read.
_LAYOUTS = (
    (_Part("x_train", "y_train", "_train"), _Part("x_test", "y_test", "_test")),
    (_Part("train", "y_train", "_train"), _Part("test", "y_test", "_test")),
    (_Part("x", "y"),),
    (_Part("data", "labels"),),
)
# The names of the arrays that scipy.sparse.save_npz writes: those of every format, and more.
_SPARSE_KEYS = {"data", "shape", "format"}
_MORE_SPARSE_KEYS = {"indices", "indptr", "row", "col", "coords", "offsets", "_is_array"}


def read_npz(path: Path, options: ReadOptions) -> Parts:
    """Read the examples in a ``.npz`` file.

    Raises:
        DataError: if it is unclear which array contains the values, or if it contains other arrays
            that are not named as fields.
    """
    with (
        explain_read_errors(
            path, "write it again with numpy.savez(path, x=array), without object entries"
        ),
        path.open("rb") as file,  # numpy would not close a damaged file
        np.load(file, allow_pickle=False) as archive,
    ):
        # Names such as X_train and x_train differ only in case, not in meaning.
        keys = {key.lower(): key for key in archive.files}
        _refuse_like_names(path, keys, archive.files)
        if keys.keys() >= _SPARSE_KEYS and archive[keys["format"]].ndim == 0:
            return _read_sparse(path, options, set(keys))
        layout = _find_layout(path, keys, options.fields or ())
        _refuse_others(path, keys, layout, options.fields)
        parts = [_read_part(path, archive, keys, part, options) for part in layout]
    if len(parts) == 1:
        return parts[0]
    return parts[0], parts[1]


def _refuse_like_names(path: Path, keys: Mapping[str, str], names: Sequence[str]) -> None:
    others = [name for name in names if keys[name.lower()] != name]
    if others:
        raise DataError(
            f"{path}: contains {others[0]} and {keys[others[0].lower()]}, whose names differ only "
            "in case; write the file again with other names"
        )


def _find_layout(path: Path, keys: Mapping[str, str], fields: tuple[str, ...]) -> tuple[_Part, ...]:
    for layout in _LAYOUTS:
        if all(part.values in keys for part in layout):
            return layout
    others = keys.keys() - set(map(str.lower, fields))
    if len(others) == 1:
        return (_Part(others.pop(), ""),)
    raise DataError(
        f"{path}: contains {', '.join(sorted(keys.values())) or 'no arrays'}; expected x_train and "
        "x_test (with y_train, y_test), or train and test, or x (with y), or data (with labels), "
        "or exactly one array apart from the named fields"
    )


def _refuse_others(
    path: Path, keys: Mapping[str, str], layout: tuple[_Part, ...], fields: tuple[str, ...] | None
) -> None:
    if fields is not None:
        return
    known = {name for part in layout for name in (part.values, part.label)}
    others = [key for name, key in keys.items() if name not in known]
    if not others:
        return
    field = others[0]
    for part in layout:
        field = field.removesuffix(part.suffix)
    raise DataError(
        f"{path}: also contains {', '.join(others)}; name the arrays that are fields "
        f"(fields=['{field}'], --fields {field}), or ignore them (--fields none)"
    )


def _read_part(
    path: Path, archive: Any, keys: Mapping[str, str], part: _Part, options: ReadOptions
) -> Examples:
    name = f"{path} [{keys[part.values]}]"
    fields = {}
    for field in options.fields or ():
        key = f"{field}{part.suffix}".lower()
        if key not in keys:
            raise DataError(
                f"{path}: has no array {field}{part.suffix} for the field {field!r}; it contains "
                f"{', '.join(sorted(keys.values()))}"
            )
        fields[field] = archive[keys[key]]
    labels = None
    if part.label in keys and not fields.keys() & {"label", part.label}:
        labels = archive[keys[part.label]]
    return as_examples(
        archive[keys[part.values]],
        labels=labels,
        name=name,
        kind=options.kind,
        missing=options.missing,
        fields=fields,
        layout=options.layout,
    )


def _read_sparse(path: Path, options: ReadOptions, keys: set[str]) -> Examples:
    """Read a sparse matrix of any format."""
    others = sorted(keys - _SPARSE_KEYS - _MORE_SPARSE_KEYS)
    if others:
        raise DataError(
            f"{path}: contains a sparse matrix and also {', '.join(others)}, which cannot be used; "
            "load the matrix with scipy.sparse.load_npz, and give "
            "lb.Examples.of(matrix, labels=...)"
        )
    from scipy.sparse import load_npz

    with explain_read_errors(path, "write it again with scipy.sparse.save_npz(path, matrix)"):
        matrix = load_npz(path)
    return Examples.of(matrix, name=str(path), kind=options.kind, missing=options.missing)
