"""A lock that belongs to a process, and that ends with it however the process ends."""

from __future__ import annotations

import errno
import os
import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lowerbound.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_HELD_BY_ANOTHER = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(eq=False)
class _OpenFile:
    """A file or folder that a lock has opened; its descriptor is ``None`` once it is closed."""

    descriptor: int | None

    def close(self) -> None:
        _OPEN_FILES.discard(self)
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)


_OPEN_FILES: set[_OpenFile] = set()


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Within the block, no other process, thread or call can lock this file.

    The operating system holds the lock and drops it with the process, so a process that was killed
    leaves none, whatever the file contains. Processes that are forked within the block do not keep
    it. Some network file systems and Windows have no such locks; then a warning says so.

    Args:
        path: the file, which is created if it does not exist.

    Raises:
        StorageError: if the file is locked. The message names the process that locked it, if that
            is known.
    """
    _drop_locks_in_children()
    with ExitStack() as stack:
        file = _open(path, os.O_RDWR | os.O_CREAT, stack)
        if _try_to_lock(file, path):
            _write_owner(file, f"process {os.getpid()} on {platform.node()}")
            stack.callback(_write_owner, file, "")
        yield


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Within the block, a folder is locked in addition to a file, if its file system can do that.

    If somebody has removed an earlier file that was locked, and this one is new, the process with
    the earlier file still has the folder's lock.

    Args:
        path: the folder. Do not give one that users may lock themselves, such as the directory of a
            run (``flock runs/faces lowerbound train ...``).

    Raises:
        StorageError: if the folder is locked.
    """
    with ExitStack() as stack:
        if _lock_folder_or_find_error(path, stack) in _HELD_BY_ANOTHER:
            raise _make_error(path)
        yield


def _open(path: Path, flags: int, stack: ExitStack) -> _OpenFile:
    file = _OpenFile(os.open(path, flags, 0o666))
    _OPEN_FILES.add(file)
    stack.callback(file.close)
    return file


@cache
def _drop_locks_in_children() -> None:
    """Make forked children close the files from now on; otherwise they would keep the locks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    for file in list(_OPEN_FILES):
        file.close()


def _try_to_lock(file: _OpenFile, path: Path) -> bool:
    """Lock the file, or return False if the file system has no locks."""
    number = _lock_or_find_error(file)
    if number in _HELD_BY_ANOTHER:
        raise _make_error(path, _read_owner(file))
    if number in _NO_LOCKS:
        warnings.warn(
            f"{path.parent}: this file system has no locks, so a second training in this directory "
            "would not be noticed; start only one",
            stacklevel=2,
        )
        return False
    if number is not None:
        raise OSError(number, os.strerror(number), str(path))
    return True


def _lock_folder_or_find_error(path: Path, stack: ExitStack) -> int | None:
    try:
        folder = _open(path, os.O_RDONLY, stack)
    except OSError:  # a folder that cannot be listed
        return None
    return _lock_or_find_error(folder)


def _lock_or_find_error(file: _OpenFile) -> int | None:
    """Lock a file; if that fails, return the number of the error."""
    if fcntl is None:
        return errno.ENOSYS
    assert file.descriptor is not None
    try:
        fcntl.flock(file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno
    return None


def _make_error(path: Path, owner: str = "") -> StorageError:
    """Make the error for a file or folder that is locked.

    The owner that a file names may have been killed, and something else may have locked it since.
    """
    message = f"{path.parent}: {owner or 'another process'} is training into this directory"
    if not _is_known_to_live(owner):
        message += f", or something else has locked {path}"
    return StorageError(f"{message}; wait until it has ended, stop it, or give another directory")


def _is_known_to_live(owner: str) -> bool:
    found = re.fullmatch(r"process (\d+) on (.*)", owner)
    if found is None or found[2] != platform.node():
        return False
    try:
        # This sends no signal. On Windows it would, but without locks none is found locked there.
        os.kill(int(found[1]), 0)
    except PermissionError:  # a process of another user
        return True
    except (OSError, OverflowError):
        return False
    return True


def _read_owner(file: _OpenFile) -> str:
    assert file.descriptor is not None
    return os.read(file.descriptor, 1000).decode("utf8", "replace").strip()


def _write_owner(file: _OpenFile, owner: str) -> None:
    """Write for other processes who has the lock. The lock does not depend on it."""
    if file.descriptor is None:  # in a forked child
        return
    with suppress(OSError):  # a full disk
        os.ftruncate(file.descriptor, 0)
        os.lseek(file.descriptor, 0, os.SEEK_SET)
        os.write(file.descriptor, owner.encode())
