"""Examples from arrays in several layouts, and from NumPy's files."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.data.dataset import Parts
from lowerbound.data.examples import Examples
from lowerbound.data.formats import find_format
from lowerbound.data.kinds import choose_storage_type, find_levels, refuse_type, widen
from lowerbound.data.mapped import MappedRows
from lowerbound.data.memory import stays_in_file
from lowerbound.data.options import KeepIn, Kind, Layout, Missing, ReadOptions
from lowerbound.errors import DataError

Array = NDArray[Any]

# For each layout: the number of axes, and the names of the axes of one channel.
_AXES = {"signals": (3, "time"), "volumes": (5, "depth, height, width")}


def as_examples(
    array: Array,
    *,
    name: str,
    labels: Array | None = None,
    kind: Kind | None = None,
    missing: Missing | None = None,
    fields: Mapping[str, Any] | None = None,
    layout: Layout = "auto",
    columns: tuple[str, ...] | None = None,
) -> Examples:
    """Make examples from an array in one of the usual layouts.

    ``[N, D]`` are vectors, ``[N, H, W]`` are grey pictures, ``[N, C, H, W]`` are pictures, and
    ``[N, H, W, C]`` with ``C`` = 1 or 3 are pictures with their channels last; ``[N, C, D, H, W]``
    are volumes. With ``layout="signals"``, ``[N, T]`` and ``[N, C, T]`` are signals, and with
    ``layout="volumes"`` ``[N, D, H, W]`` are volumes of one channel. uint8 values are pixels of 256
    levels, and booleans are binary pixels.

    Args:
        array: the values. They are copied only if their layout requires it. A memory-mapped array
            stays in its file.
        name: the name of the data in messages.
        labels: integers, ``[N]``.
        kind: ``"counts"`` or ``"codes"`` for integers that are not pixels.
        missing: ``"nan"`` if NaN means that an entry was not observed.
        fields: the fields of the examples, ``[N, ...]`` each.
        layout: what the dimensions mean.
        columns: the names of the entries of vectors, or ``None``.

    Raises:
        DataError: for any other shape or type, naming it and the remedy.

    Example:
        >>> as_examples(np.zeros((5, 28, 28, 3), dtype=np.uint8), name="pictures").shape
        (3, 28, 28)
        >>> as_examples(np.zeros((5, 2, 500)), name="signals", layout="signals").shape
        (2, 500)
    """
    refuse_type(array.dtype, name, kind)
    marks = None
    if labels is not None:
        marks = _convert_labels(labels, name)
    values: MappedRows | torch.Tensor
    if isinstance(array, np.memmap):
        values = _map_array(array, name, layout)
    else:
        stored = array.astype(choose_storage_type(array.dtype), copy=False)
        arranged = np.require(_arrange_axes(stored, name, layout), requirements=["C", "W"])
        values = torch.from_numpy(arranged)
    return Examples(
        values,
        levels=find_levels(array.dtype, kind),
        labels=marks,
        name=name,
        fields=fields or {},
        kind=kind,
        missing=missing,
        columns=columns,
    )


def _map_array(array: np.memmap[Any, Any], name: str, layout: Layout) -> MappedRows:
    if not array.dtype.isnative:
        raise DataError(
            f"{name}: entries of type {array.dtype} cannot stay in their file; read them into "
            'memory (--keep-in memory), or write the file again with .astype("float32")'
        )
    return MappedRows.of(array, partial(_arrange, name=name, layout=layout))


def _arrange(rows: Array, name: str, layout: Layout = "auto") -> Array:
    return widen(_arrange_axes(rows, name, layout))


def _arrange_axes(array: Array, name: str, layout: Layout) -> Array:
    """Arrange an array as ``[N, *event]``, with the channels first."""
    if layout == "auto":
        return _move_channels_first(array, name)
    dims, axes = _AXES[layout]
    if array.ndim not in (dims, dims - 1) or 0 in array.shape:
        raise DataError(
            f"{name}: the shape {array.shape} must be [examples, channels, {axes}] or [examples, "
            f"{axes}] for layout={layout!r}, with at least one of each"
        )
    if array.ndim == dims:
        return array
    return array[:, None]


def _move_channels_first(array: Array, name: str) -> Array:
    shape = array.shape
    if array.ndim not in (2, 3, 4, 5) or 0 in shape:
        hint = {1: "; one value per example has the shape [examples, 1]"}.get(array.ndim, "")
        raise DataError(
            f"{name}: the shape {shape} must be [examples, dimensions], [examples, height, width], "
            "[examples, channels, height, width] or [examples, channels, depth, height, width], "
            "with at least one of each" + hint
        )
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and shape[1] > 4 and shape[2] > 4:
        if shape[3] in (1, 3):
            return np.moveaxis(array, 3, 1)
        if shape[3] in (2, 4) and array.dtype == np.uint8:
            raise DataError(
                f"{name}: the shape {shape} looks like pictures with an alpha channel; remove that "
                f"channel ([..., :{shape[3] - 1}])"
            )
    return array


def _convert_labels(labels: Array, name: str) -> torch.Tensor:
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            f"{name}: labels must be one integer for each example, but these have the shape "
            f"{labels.shape} and the type {labels.dtype}"
        )
    return torch.from_numpy(labels.astype(np.int64))


def read_array_file(
    path: Path,
    keep_in: KeepIn = "memory",
    *,
    kind: Kind | None = None,
    missing: Missing | None = None,
    fields: tuple[str, ...] | None = None,
    layout: Layout = "auto",
) -> Parts:
    """Read the examples in a file of any format in :data:`~lowerbound.data.formats.FORMATS`.

    Args:
        path: the file.
        keep_in: ``"file"`` leaves the values in the file; ``"auto"`` does so if they are large.
        kind: ``"counts"`` or ``"codes"`` for integers that are not pixels.
        missing: ``"nan"`` if NaN means that an entry was not observed.
        fields: the names of arrays of a ``.npz`` that are fields of the examples. If it is not
            given, arrays other than values and labels are refused. ``()`` ignores them.
        layout: what the dimensions of arrays mean.

    Raises:
        DataError: if the file's format is unknown or its content cannot be used, naming the file.
    """
    options = ReadOptions(keep_in=keep_in, kind=kind, missing=missing, fields=fields, layout=layout)
    return find_format(path, keep_in).read(path, options)


def read_npy(path: Path, options: ReadOptions) -> Examples:
    """Read the examples in a ``.npy`` file."""
    readable = explain_read_errors(
        path, "write it again with numpy.save(path, array), without object entries"
    )
    if stays_in_file(options.keep_in, path.stat().st_size):
        with readable:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            _refuse_rest(path, array.offset + array.nbytes)
    else:
        with readable, path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
            _refuse_rest(path, file.tell())
    return as_examples(
        array,
        name=str(path),
        kind=options.kind,
        missing=options.missing,
        layout=options.layout,
    )


def _refuse_rest(path: Path, end: int) -> None:
    """Raise ``DataError`` if a file goes on after its array."""
    more = path.stat().st_size - end
    if more:
        raise DataError(
            f"{path}: has {more:,} more bytes after its array, such as a second array; write one "
            "array, or several with numpy.savez"
        )


@contextmanager
def explain_read_errors(path: Path, remedy: str) -> Iterator[None]:
    """Turn errors of numpy, zip and gzip about a file into one message that names the file."""
    # Numpy warns of headers that Python 2 wrote, although it reads them correctly.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DataError:
            raise
        except MemoryError as error:
            raise DataError(
                f"{path}: claims to be larger than the memory; is it damaged?"
            ) from error
        except (
            ValueError,
            OSError,
            EOFError,
            KeyError,
            SyntaxError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise DataError(
                f"{path}: cannot be read ({' '.join(str(error).split())}); {remedy}"
            ) from error
