"""Changes to files that survive a loss of power.

A process that is killed leaves what it has written so far. A machine that loses power leaves less:
a file's content only if the file was synchronised, and a name only if its folder was. So a file or
folder is written under another name, synchronised, renamed, and then its new name is synchronised.
At every moment either the earlier or the new content is complete.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)  # of folders, on some network file systems


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        _flush(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def _flush(descriptor: int) -> None:
    # On macOS, fsync passes the content to the drive, which may keep it in a cache of its own.
    flush_drive = getattr(fcntl, "F_FULLFSYNC", None)
    if flush_drive is not None:
        try:
            fcntl.fcntl(descriptor, flush_drive)
        except OSError:  # some file systems refuse it
            pass
        else:
            return
    os.fsync(descriptor)


def publish(partial: Path, target: Path) -> None:
    """Give a complete file or folder its name, and wait until the name is on the disk."""
    os.replace(partial, target)
    sync(target.parent)


def name_partial(path: Path) -> Path:
    """Make the name under which a file or folder is written before it is complete."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Within the block, write a file under the name that is given; it is then published.

    If that fails, what was written is removed, and the earlier file remains.
    """
    partial = name_partial(path)
    try:
        yield partial
        sync(partial)
        publish(partial, path)
    finally:
        remove(partial)


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    with replace_file(path) as partial:
        partial.write_text(text, encoding="utf8")


def make_folder(path: Path) -> None:
    """Make a folder with its parents, and wait until their names are on the disk."""
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in [*reversed(missing), path]:
        is_new = not folder.exists()
        folder.mkdir(exist_ok=True)
        if is_new:
            sync(folder.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
