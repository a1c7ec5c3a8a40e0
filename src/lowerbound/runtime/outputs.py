"""Files for the user, which are written completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from lowerbound.errors import StorageError


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Within the block, turn an error of writing into one that the user can mend.

    Raises:
        StorageError: if the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, StorageError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"{path}: cannot be written ({reason}); make room or give another place"
        ) from None


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Within the block, write a file under the name that is given; it then gets its own name.

    If that fails, what was written is removed, and an earlier file of this name remains. Folders
    are made where they are missing. A device, such as ``/dev/stdout``, is written directly.

    Raises:
        StorageError: if the disk is full, or the folder cannot be written.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            yield path
            return
        target = path.resolve()  # of a link, the file that it names
        partial = target.with_name(f".partial-{target.name}")  # with the suffix, a file's format
        try:
            yield partial
            os.replace(partial, target)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
