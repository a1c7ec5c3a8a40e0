"""Files of decoded pictures, which later runs read again."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowerbound.errors import DataError
from lowerbound.runtime.outputs import explain_write_errors


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
    folder, size = target.parent, math.prod(shape)
    elsewhere = "give another folder (--cache DIR)"
    remedy = f"{elsewhere} or a smaller image_size (--image-size 64)"
    with explain_write_errors(
        folder,
        "decoded pictures cannot be stored there",
        elsewhere=elsewhere,
        full=f"make room, {remedy}",
        error_class=DataError,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if size > free:
            raise DataError(
                f"{folder}: the decoded pictures take {size / 2**30:,.1f} GiB, but only "
                f"{free / 2**30:,.1f} GiB are free; {remedy}"
            )
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=".npy", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                np.lib.format.write_array_header_2_0(
                    file, {"descr": "|u1", "fortran_order": False, "shape": shape}
                )
                for row in rows:
                    file.write(row.tobytes())
            Path(name).replace(target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
