"""Files for the user, which are written completely or not at all."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lowerbound.errors import LowerboundError, StorageError

# The remedy for each error of the operating system, by its number. `{elsewhere}` is the advice to
# write to another place, and `{full}` is the advice for a full disk.
_FORBIDDEN = "get permission to write there (chmod, chown) or {elsewhere}"
_NOT_A_FOLDER = "a part of this path is a file and not a folder; {elsewhere}"
_REMEDIES = {
    errno.ENOSPC: "{full}",
    errno.EDQUOT: "{full}",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) or {elsewhere}",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: "{elsewhere}",
    errno.EISDIR: "a folder has this name; give another name",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "create its folder or {elsewhere}",
    errno.ENOTDIR: _NOT_A_FOLDER,
    errno.EEXIST: _NOT_A_FOLDER,
}
_ELSEWHERE = "give another place"


def describe_write_error(
    error: OSError | SafetensorError, elsewhere: str = _ELSEWHERE, full: str | None = None
) -> tuple[str, str]:
    """Describe why something cannot be written, and what the user can do about it.

    Args:
        error: the error that was raised when writing.
        elsewhere: the advice to write to another place.
        full: the advice for a full disk; ``None`` for "make room" and ``elsewhere``.

    Returns:
        The system's reason, and the remedy, which is empty if none is known.
    """
    number, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
    found = re.search(r"\(os error (\d+)\)", str(error))
    if number is None and found:  # safetensors gives the number only in its message
        number, reason = int(found[1]), os.strerror(int(found[1]))
    full = full or f"make room or {elsewhere}"
    remedy = _REMEDIES.get(number or 0, "").format(elsewhere=elsewhere, full=full)
    return reason or str(error) or type(error).__name__, remedy


@contextmanager
def explain_write_errors(
    path: Path,
    what: str = "cannot be written",
    *,
    elsewhere: str = _ELSEWHERE,
    full: str | None = None,
    error_class: type[LowerboundError] = StorageError,
) -> Iterator[None]:
    """Within the block, turn an error of writing into one that the user can mend.

    Args:
        path: the file or folder that the message names.
        what: what the message says about it.
        elsewhere: the advice to write to another place.
        full: the advice for a full disk; ``None`` for "make room" and ``elsewhere``.
        error_class: the class of the error that is raised.

    Raises:
        StorageError: if the system refuses to write. ``error_class`` replaces this class.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, LowerboundError):
            raise
        reason, remedy = describe_write_error(error, elsewhere, full)
        message = f"{path}: {what} ({reason})"
        if remedy:
            message += f"; {remedy}"
        raise error_class(message) from None


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


def write_array(array: Any, path: Path) -> None:
    """Write an array as a ``.npy`` file.

    Raises:
        StorageError: as :func:`write_whole`.
    """
    import numpy as np  # here, because the command must answer at once

    content = io.BytesIO()  # because np.save to a file on a full disk does not say why it fails
    np.save(content, array)
    with write_whole(path) as partial:
        partial.write_bytes(content.getbuffer())
