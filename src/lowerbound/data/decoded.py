"""Files of decoded pictures, which later runs read again."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowerbound.errors import DataError


def choose_decoded_file(folder: Path, files: Sequence[Path], settings: object, cache: Path) -> Path:
    """Choose the path of the file for the decoded pictures of a folder.

    The path changes if a picture or a setting changes.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        try:
            about = file.stat()
        except OSError:
            continue  # reading it will raise the error
        digest.update(f"{file.relative_to(folder)} {about.st_size} {about.st_mtime_ns}\n".encode())
    return cache / f"{folder.resolve().name}-{digest.hexdigest()[:12]}.npy"


def write_decoded(target: Path, shape: tuple[int, ...], rows: Iterable[NDArray[np.uint8]]) -> None:
    """Write the rows of a uint8 array to a ``.npy`` file one by one.

    The file has a temporary name until it is complete.

    Raises:
        DataError: if the folder cannot be written, or its disk is full.
    """
    remedy = "give another folder (--cache DIR) or a smaller image_size (--image-size 64)"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        size, free = math.prod(shape), shutil.disk_usage(target.parent).free
        if size > free:
            raise DataError(
                f"{target.parent}: the decoded pictures take {size / 2**30:,.1f} GiB, but only "
                f"{free / 2**30:,.1f} GiB are free; {remedy}"
            )
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=".npy", dir=target.parent)
    except OSError as error:
        raise DataError(
            f"{target.parent}: decoded pictures cannot be stored there "
            f"({error.strerror or error}); "
            f"{remedy}"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            np.lib.format.write_array_header_2_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            for row in rows:
                _write(file.write, row, target, remedy)
        Path(name).replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()


def _write(
    write: Callable[[bytes], object], row: NDArray[np.uint8], target: Path, remedy: str
) -> None:
    try:
        write(row.tobytes())
    except OSError as error:
        raise DataError(
            f"{target.parent}: cannot be written ({error.strerror or error}); {remedy}"
        ) from error
