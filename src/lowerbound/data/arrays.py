"""NumPy's files, and the layouts of arrays."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.data.examples import Examples, levels_of
from lowerbound.data.formats import path_format
from lowerbound.data.mapped import Mapped
from lowerbound.data.memory import stays_in_file
from lowerbound.data.options import KeepIn, ReadOptions
from lowerbound.errors import DataError

Array = NDArray[Any]
Parts = Examples | tuple[Examples, Examples]
"""What a source holds: one set of examples still to be split, or a training and a test part."""

# Which keys of an .npz are read, the first that fit: training values and labels, test values and labels.
_NPZ_PAIRS = (("x_train", "y_train", "x_test", "y_test"), ("train", "y_train", "test", "y_test"))
_NPZ_SINGLES = (("x", "y"), ("data", "labels"))


def as_examples(array: Array, *, name: str, labels: Array | None = None) -> Examples:
    """Examples from an array in one of the usual layouts.

    ``[N, D]`` are vectors, ``[N, H, W]`` grey images, ``[N, C, H, W]`` images, and ``[N, H, W, C]`` with ``C`` = 1 or 3 is
    taken for images with their channels last. uint8 counts as pixels of 256 levels and booleans as binary pixels.

    Args:
        array: the values; kept, not copied, where its layout allows. A memory-mapped one stays in its file.
        name: what messages call it.
        labels: integers, ``[N]``.

    Raises:
        DataError: for other shapes and types, naming them and how to mend them.

    Example:
        >>> as_examples(np.zeros((5, 28, 28, 3), dtype=np.uint8), name="pictures").shape
        (3, 28, 28)
    """
    if isinstance(array, np.memmap):
        return _mapped_examples(array, name)
    values = _with_usable_type(array, name)
    values = np.require(_channels_first(values, name), requirements=["C", "W"])
    tensor = torch.from_numpy(values.astype(np.uint8) if values.dtype.kind == "b" else values)
    return Examples(
        tensor,
        levels=levels_of(values.dtype),
        labels=None if labels is None else _as_labels(labels, name),
        name=name,
    )


def _mapped_examples(array: np.memmap[Any, Any], name: str) -> Examples:
    _with_usable_type(array[:1], name)
    if not array.dtype.isnative or array.dtype.kind not in "buf" or array.dtype.itemsize > 8:
        raise DataError(
            f"{name}: entries of type {array.dtype} cannot stay in their file; read them into memory (--keep-in memory), "
            'or write the file again with .astype("float32")'
        )
    values = Mapped.of(array, partial(_channels_first, name=name))
    return Examples(values, levels=levels_of(array.dtype), name=name)


def _with_usable_type(array: Array, name: str) -> Array:
    dtype = array.dtype
    if dtype.kind in "iu" and dtype != np.uint8:
        raise DataError(
            f"{name}: integers of type {dtype} may be pixels, counts or codes; give pixels from 0 to 255 as "
            '.astype("uint8"), anything else as .astype("float32") on a scale of your choice'
        )
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise DataError(f'{name}: {dtype} is wider than torch can hold; give .astype("float64")')
    if dtype.kind not in "biuf":
        kinds = {
            "O": "Python objects",
            "c": "complex numbers",
            "U": "strings",
            "S": "strings",
            "V": "records",
        }
        raise DataError(
            f"{name}: holds {kinds.get(dtype.kind, 'entries')} of type {dtype}; give numbers: uint8 (pixels), booleans or "
            "floating point"
        )
    if dtype == np.float16:
        return array.astype(np.float32)
    # torch takes numbers in the machine's own byte order only
    return array.astype(dtype.newbyteorder("="), copy=False)


def _channels_first(array: Array, name: str) -> Array:
    shape = array.shape
    if array.ndim not in (2, 3, 4) or 0 in shape:
        raise DataError(
            f"{name}: the shape {shape} is none of [examples, dimensions], [examples, height, width], "
            "[examples, channels, height, width] with at least one of each"
            + ("; one number per example is [examples, 1]" if array.ndim == 1 else "")
        )
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and shape[1] > 4 and shape[2] > 4:
        if shape[3] in (1, 3):
            return np.moveaxis(array, 3, 1)
        if shape[3] in (2, 4) and array.dtype == np.uint8:
            raise DataError(
                f"{name}: the shape {shape} looks like pictures with an alpha channel; leave it out ([..., :{shape[3] - 1}])"
            )
    return array


def _as_labels(labels: Array, name: str) -> torch.Tensor:
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            f"{name}: labels must be one integer for each example, these have the shape {labels.shape} and the type "
            f"{labels.dtype}"
        )
    return torch.from_numpy(labels.astype(np.int64))


def read_array_file(path: Path, keep_in: KeepIn = "memory") -> Parts:
    """The examples in a file of one of the kinds in :data:`~lowerbound.data.formats.FORMATS`.

    Args:
        path: the file.
        keep_in: ``"file"`` leaves the values there, ``"auto"`` does so if they are large.

    Raises:
        DataError: naming the file, if its kind is unknown or its content cannot be used.
    """
    return path_format(path, keep_in).read(path, ReadOptions(keep_in=keep_in))


def read_npy(path: Path, options: ReadOptions) -> Examples:
    """The examples in a ``.npy`` file."""
    readable = explained(
        path, "write it again with numpy.save(path, array), without object entries"
    )
    if stays_in_file(options.keep_in, path.stat().st_size):
        with readable:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        with readable, path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    return as_examples(array, name=str(path))


def read_npz(path: Path, options: ReadOptions) -> Parts:
    """The examples in a ``.npz`` file."""
    with (
        explained(path, "write it again with numpy.savez(path, x=array), without object entries"),
        path.open("rb") as file,  # numpy would leave it open if it is damaged
        np.load(file, allow_pickle=False) as archive,
    ):
        # The usual spellings differ in case (X_train), never in meaning.
        keys = {key.lower(): key for key in archive.files}

        def read(key: str, labels: str | None = None) -> Examples:
            values = archive[keys[key]]
            marks = archive[keys[labels]] if labels in keys else None
            return as_examples(values, labels=marks, name=f"{path} [{keys[key]}]")

        for train, train_labels, test, test_labels in _NPZ_PAIRS:
            if train in keys and test in keys:
                return read(train, train_labels), read(test, test_labels)
        for values, labels in _NPZ_SINGLES:
            if values in keys:
                return read(values, labels)
        if len(keys) == 1:
            return read(*keys)
        raise DataError(
            f"{path}: holds {', '.join(sorted(keys.values())) or 'no arrays'}; expected x_train "
            "and x_test (with y_train, y_test), or train and test, or x (with y), or data (with "
            "labels), or exactly one array"
        )


@contextmanager
def explained(path: Path, remedy: str) -> Iterator[None]:
    """Turns what numpy, zip and gzip say about a bad file into one message that names the file."""
    # numpy remarks on headers written by Python 2, which read well
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DataError:
            raise
        except MemoryError as error:
            raise DataError(
                f"{path}: says that it holds more than the memory does; is it damaged?"
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
