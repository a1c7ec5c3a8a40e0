"""A lock that belongs to a process, and that ends with it however the process ends."""

from __future__ import annotations

import errno
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lowerbound.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_HELD_BY_ANOTHER = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Within the block, no other process, thread or call can lock this file.

    The operating system holds the lock and drops it with the process, so a process that was killed
    leaves none, whatever the file contains. Processes that are forked within the block do not keep
    it. Some network file systems and Windows have no such locks; then a warning says so.

    Raises:
        StorageError: if the file is locked, naming the process that locked it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    owned = [descriptor]
    try:
        if _try_to_lock(descriptor, path):
            _write_owner(descriptor, f"process {os.getpid()} on {platform.node()}")
        if hasattr(os, "register_at_fork"):
            # A forked child would hold the lock, too, until it has closed the file.
            os.register_at_fork(after_in_child=lambda: _close(owned))
        try:
            yield
        finally:
            if owned:  # they are not in a forked child
                _write_owner(descriptor, "")
    finally:
        _close(owned)


def _close(owned: list[int]) -> None:
    while owned:
        os.close(owned.pop())


def _try_to_lock(descriptor: int, path: Path) -> bool:
    """Lock the file, or return False if the file system has no locks."""
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no locks")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD_BY_ANOTHER:
            raise StorageError(
                f"{path.parent}: {_read_owner(descriptor)} is training into this directory; wait "
                "until it has ended, stop it, or give another directory"
            ) from None
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{path.parent}: this file system has no locks, so a second training in this directory "
            "would not be noticed; start only one",
            stacklevel=2,
        )
        return False
    return True


def _read_owner(descriptor: int) -> str:
    return os.pread(descriptor, 1000, 0).decode("utf8", "replace").strip() or "another process"


def _write_owner(descriptor: int, owner: str) -> None:
    """Write for other processes who has the lock. The lock does not depend on it."""
    with suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)
