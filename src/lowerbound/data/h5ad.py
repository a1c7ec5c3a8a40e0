"""``.h5ad`` files, which contain AnnData."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lowerbound.data.examples import Examples
from lowerbound.data.hdf5 import StoredMatrix
from lowerbound.data.joined_names import join_names
from lowerbound.data.memory import stays_in_file
from lowerbound.data.options import ReadOptions
from lowerbound.errors import DataError


def read_h5ad(path: Path, options: ReadOptions) -> Examples:
    """Read the examples in a ``.h5ad`` file.

    With ``keep_in="file"``, and for large matrices with ``keep_in="auto"``, the values stay in the
    file, and the rows of a batch are read when they are needed.

    Raises:
        DataError: if the package anndata is not installed, or cannot read the file.
    """
    anndata = _import_anndata(path)
    data = _open_stored(path, options)
    if data is None:
        with _explain_errors(path):
            data = anndata.read_h5ad(path)
    return Examples.of(
        data,
        name=str(path),
        kind=options.kind,
        missing=options.missing,
        fields=options.fields or (),
        layer=options.layer,
    )


def _import_anndata(path: Path) -> Any:
    try:
        return import_module("anndata")
    except ImportError:
        raise DataError(
            f"{path}: the package anndata, which reads this file, is not installed; install it "
            "with: pip install 'lowerbound[anndata]'"
        ) from None


def describe_h5ad(path: Path) -> tuple[str, list[tuple[str, str, str]]]:
    """Describe a ``.h5ad`` file, whose matrices are not read.

    Returns:
        Its size with the names of the first columns, and for each matrix and column of obs where
        it is, its name, and its type or categories.

    Raises:
        DataError: if the package anndata is not installed, or cannot read the file.
    """
    _import_anndata(path)
    read, entries = import_module("anndata.io").read_elem, []
    with _explain_errors(path), import_module("h5py").File(path, "r") as file:
        obs, variables = read(file["obs"]), read(file["var"]).index
        layers = {f"layers/{name}": name for name in file.get("layers", ())}
        for key, name in {"X": "", **layers}.items():
            if key in file:
                entries.append((key.split("/")[0], name, _describe_matrix(file[key])))
    for name, column in obs.items():
        about = str(column.dtype)
        if hasattr(column, "cat"):
            names = [*column.cat.categories]
            about = f"{len(names)} categories: {join_names(names, 5)}"
        missing = int(column.isna().sum())
        if missing:
            about += f"; missing in {missing:,} rows"
        entries.append(("obs", str(name), about))
    size = f"{len(obs):,} rows, {len(variables):,} columns: {join_names([*variables], 5)}"
    return size, entries


def _describe_matrix(source: Any) -> str:
    if hasattr(source, "chunks"):
        return f"dense, {source.dtype}"
    stored = source["data"]
    return f"{source.attrs['encoding-type']}, {stored.dtype}, {stored.shape[0]:,} entries"


@dataclass(frozen=True)
class _Stored:
    """AnnData without its other layers and annotations. The matrix stays in its file."""

    X: StoredMatrix | None
    layers: Mapping[str, StoredMatrix]
    obs: Any
    var_names: Any


def _open_stored(path: Path, options: ReadOptions) -> _Stored | None:
    """Open X or the layer; ``None`` if it is to be read into memory.

    With ``keep_in="auto"``, a matrix that is stored by columns is read into memory.
    """
    if options.keep_in == "memory":
        return None
    key = "X"
    if options.layer is not None:
        key = f"layers/{options.layer}"
    with _explain_errors(path):
        file = import_module("h5py").File(path, "r")  # anndata needs this package, too
    if key not in file:
        file.close()
        return None  # the object in memory gives the error
    try:
        matrix = StoredMatrix.of(file[key], f"{path} [{key}]")
    except DataError:
        file.close()
        if options.keep_in == "file":
            raise
        return None
    if not stays_in_file(options.keep_in, matrix.nbytes):
        file.close()
        return None
    with _explain_errors(path):
        read = import_module("anndata.io").read_elem
        obs, variables = read(file["obs"]), read(file["var"]).index
    if options.layer is not None:
        return _Stored(None, {options.layer: matrix}, obs, variables)
    return _Stored(matrix, {}, obs, variables)


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # anndata raises various errors for a damaged file
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: anndata cannot read it ({reason}); write it again") from error
