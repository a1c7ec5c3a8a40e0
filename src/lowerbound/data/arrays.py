"""Array files (``.npy``, ``.npz``, IDX) and the layouts of arrays."""

from __future__ import annotations

import gzip
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.data.examples import Examples, levels_of
from lowerbound.data.mapped import Mapped
from lowerbound.data.memory import refuse_absurd, stays_in_file
from lowerbound.data.options import KeepIn
from lowerbound.errors import DataError

Array = NDArray[Any]
Parts = Examples | tuple[Examples, Examples]
"""What a source holds: one set of examples still to be split, or a training and a test part."""

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
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
    """The examples in a ``.npy``, ``.npz`` or IDX file (gzipped or not).

    An ``.npz`` holds ``x_train`` and ``x_test`` (with ``y_train``, ``y_test``), or ``train`` and ``test``, or ``x`` (with
    ``y``), or ``data`` (with ``labels``), or exactly one array under any name.

    Raises:
        DataError: naming the file, for anything else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not start:
        raise DataError(f"{path}: the file is empty; write or copy it again")
    if start.startswith(b"\x93NUMPY"):
        return as_examples(_read_npy(path, keep_in), name=str(path))
    if keep_in == "file":
        raise DataError(
            f"{path}: only a .npy file can be used without reading it into memory; write it as one"
        )
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    if start.startswith((_GZIP, b"\0\0")) and path.suffix.lower() != ".npy":
        return as_examples(read_idx(path), name=str(path))
    raise DataError(
        f"{path}: not a file of a kind that can be read; give a .npy, .npz or IDX file, a folder of pictures, or in Python "
        "an array"
    )


def _read_npy(path: Path, keep_in: KeepIn) -> Array:
    explained = _explained(
        path, "write it again with numpy.save(path, array), without object entries"
    )
    if stays_in_file(keep_in, path.stat().st_size):
        with explained:
            return cast(Array, np.load(path, mmap_mode="r", allow_pickle=False))
    with explained, path.open("rb") as file:
        return cast(Array, np.load(file, allow_pickle=False))


def _read_npz(path: Path) -> Parts:
    with (
        _explained(path, "write it again with numpy.savez(path, x=array), without object entries"),
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
            f"{path}: holds {', '.join(sorted(keys.values())) or 'no arrays'}; expected x_train and x_test (y_train, y_test), "
            "or train and test, or x (y), or data, or exactly one array"
        )


@contextmanager
def _explained(path: Path, remedy: str) -> Iterator[None]:
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


def read_idx(path: Path) -> Array:
    """The array in an IDX file, the format of MNIST: a big-endian header with type and sizes, then the entries.

    Raises:
        DataError: for a file that is not IDX, is cut short, or holds more than its header says.
    """
    with _explained(path, "copy or download it again"), path.open("rb") as plain:
        packed = plain.read(2) == _GZIP
        plain.seek(0)
        # gzip's own class lacks nothing of BinaryIO that is used here
        file = cast(BinaryIO, gzip.GzipFile(fileobj=plain)) if packed else plain
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or magic[3] == 0:
            raise DataError(
                f"{path}: not an IDX file, it begins with the bytes {magic.hex(' ') or '(none)'}"
            )
        sizes = file.read(4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise DataError(f"{path}: cut short within its header; copy or download it again")
        shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
        dtype = np.dtype(_IDX_TYPES[magic[2]])
        expected = math.prod(shape) * dtype.itemsize
        refuse_absurd(expected, f"{path}: its header claims an array {shape}", "is it damaged?")
        content = file.read(expected + 1)
    if len(content) != expected:
        state = "cut short" if len(content) < expected else "longer than that"
        raise DataError(
            f"{path}: its header says {shape} entries of {dtype.itemsize} bytes, but the file is {state}; copy or download it "
            "again"
        )
    return np.frombuffer(bytearray(content), dtype).reshape(shape)


def idx_files(folder: Path) -> dict[str, Path]:
    """Which of the four files of MNIST's layout are in a folder, gzipped or not, by their name without ``.gz``."""
    found = {}
    for stem in _IDX_FILES:
        # torchvision's readers once wrote a dot for the dash
        for name in (
            stem,
            stem + ".gz",
            stem.replace("-idx", ".idx"),
            stem.replace("-idx", ".idx") + ".gz",
        ):
            if (folder / name).is_file():
                found[stem] = folder / name
                break
    return found


def read_idx_folder(folder: Path) -> tuple[Examples, Examples]:
    """The training and test part in a folder that holds MNIST's four files, the labels being optional.

    Raises:
        DataError: if the training or the test images are missing, or a file is bad.
    """
    files, parts = idx_files(folder), []
    for part in ("train", "t10k"):
        images = files.get(f"{part}-images-idx3-ubyte")
        labels = files.get(f"{part}-labels-idx1-ubyte")
        if images is None:
            raise DataError(
                f"{folder}: has no {part}-images-idx3-ubyte.gz beside {', '.join(p.name for p in files.values())}"
            )
        parts.append(
            as_examples(
                read_idx(images),
                labels=None if labels is None else read_idx(labels),
                name=str(images),
            )
        )
    return parts[0], parts[1]
