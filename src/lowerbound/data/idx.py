"""IDX, the file format of MNIST."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from lowerbound.data.arrays import Array, as_examples, explain_read_errors
from lowerbound.data.examples import Examples
from lowerbound.data.formats import find_idx_files
from lowerbound.data.memory import refuse_too_large
from lowerbound.data.options import ReadOptions
from lowerbound.errors import DataError

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


def read_idx(path: Path) -> Array:
    """Read the array in an IDX file.

    A big-endian header with the type and the sizes precedes the entries.

    Raises:
        DataError: if the file is not IDX, or is shorter or longer than its header says.
    """
    with explain_read_errors(path, "copy or download it again"), path.open("rb") as plain:
        compressed = plain.read(2) == _GZIP
        plain.seek(0)
        file: BinaryIO = plain
        if compressed:
            # GzipFile has all methods of BinaryIO that are used here.
            file = cast(BinaryIO, gzip.GzipFile(fileobj=plain))
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or magic[3] == 0:
            raise DataError(
                f"{path}: is not an IDX file; it begins with the bytes {magic.hex(' ') or '(none)'}"
            )
        sizes = file.read(4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise DataError(f"{path}: ends within its header; copy or download it again")
        shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
        dtype = np.dtype(_TYPES[magic[2]])
        expected = math.prod(shape) * dtype.itemsize
        refuse_too_large(expected, f"{path}: its header claims an array {shape}", "is it damaged?")
        content = file.read(expected + 1)
    claim = f"{path}: its header says {shape} entries of {dtype.itemsize} bytes, but the file is"
    if len(content) < expected:
        raise DataError(f"{claim} cut short; copy or download it again")
    if len(content) > expected:
        raise DataError(f"{claim} longer than that; copy or download it again")
    return np.frombuffer(bytearray(content), dtype).reshape(shape)


def read_idx_file(path: Path, options: ReadOptions) -> Examples:
    """Read the examples in one IDX file."""
    return as_examples(
        read_idx(path),
        name=str(path),
        kind=options.kind,
        missing=options.missing,
        layout=options.layout,
    )


def read_idx_folder(folder: Path) -> tuple[Examples, Examples]:
    """Read the training and the test part in a folder with MNIST's files. Labels are optional.

    Raises:
        DataError: if the training or the test images are missing, or a file is damaged.
    """
    return read_idx_parts(folder, ReadOptions())


def read_idx_parts(folder: Path, options: ReadOptions) -> tuple[Examples, Examples]:
    """Read the examples of :func:`read_idx_folder` with options."""
    files = find_idx_files(folder)
    train, test = (_read_part(folder, files, part) for part in ("train", "t10k"))
    return train, test


def _read_part(folder: Path, files: dict[str, Path], part: str) -> Examples:
    images = files.get(f"{part}-images-idx3-ubyte")
    if images is None:
        present = ", ".join(path.name for path in files.values())
        raise DataError(f"{folder}: contains {present}, but not {part}-images-idx3-ubyte.gz")
    labels = None
    if (file := files.get(f"{part}-labels-idx1-ubyte")) is not None:
        labels = read_idx(file)
    return as_examples(read_idx(images), labels=labels, name=str(images))
