"""A limit to what is read into memory."""

from __future__ import annotations

import os
from pathlib import Path

from lowerbound.data.options import KeepIn
from lowerbound.errors import DataError

# Files that say how much memory this process and its siblings may use together, under either version of control groups.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

# The share of the memory that one data set may take; it is copied once as it is split.
_SHARE = 4


def physical_memory() -> int | None:
    """The memory that there is for this process, in bytes, or ``None`` where the system does not say."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return min([machine, *filter(None, map(_limit, _LIMITS))])


def _limit(file: str) -> int | None:
    try:
        return int(Path(file).read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def stays_in_file(keep_in: KeepIn, size: int) -> bool:
    """Whether values of so many bytes are left in their file: if that is asked for, or they take too much of the memory."""
    memory = physical_memory()
    return keep_in == "file" or (
        keep_in == "auto" and memory is not None and size > memory // _SHARE
    )


def refuse_absurd(size: int, claim: str, remedy: str) -> None:
    """Raises ``DataError("<claim>, ... <remedy>")`` if ``size`` bytes are more than there is memory."""
    memory = physical_memory()
    if memory is not None and size > memory:
        raise DataError(
            f"{claim}, {size / 2**30:,.1f} GiB where the machine has {memory / 2**30:,.1f} GiB; {remedy}"
        )
