"""Limits on the size of data in memory."""

from __future__ import annotations

import os
from pathlib import Path

from lowerbound.data.options import KeepIn
from lowerbound.errors import DataError

# These files contain the memory limit of this process and its siblings, for the two versions of
# control groups.
_LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

# A data set may take a quarter of the memory, because splitting it makes a copy.
_DATA_SETS_IN_MEMORY = 4


def find_memory_bytes() -> int | None:
    """Find how much memory this process can use, or ``None`` if the system does not say."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return min([machine, *filter(None, map(_read_limit, _LIMIT_FILES))])


def _read_limit(file: str) -> int | None:
    try:
        return int(Path(file).read_text())
    except (OSError, ValueError):  # "max" means that memory is not limited
        return None


def stays_in_file(keep_in: KeepIn, size: int) -> bool:
    """Whether values of ``size`` bytes stay in their file.

    They do with ``"file"``, and with ``"auto"`` if they would take too much of the memory.
    """
    memory = find_memory_bytes()
    return keep_in == "file" or (
        keep_in == "auto" and memory is not None and size > memory // _DATA_SETS_IN_MEMORY
    )


def refuse_too_large(size: int, claim: str, remedy: str) -> None:
    """Raise ``DataError("<claim>, ... <remedy>")`` if ``size`` bytes exceed the memory."""
    memory = find_memory_bytes()
    if memory is not None and size > memory:
        raise DataError(
            f"{claim}, {size / 2**30:,.1f} GiB, but the machine has {memory / 2**30:,.1f} GiB; "
            f"{remedy}"
        )
