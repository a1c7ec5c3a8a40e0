"""A limit on the data that are read into memory."""

from __future__ import annotations

import os
from pathlib import Path

from lowerbound.data.options import KeepIn
from lowerbound.errors import DataError

# These files say how much memory this process and its siblings may use together, under either
# version of control groups.
_LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

# One data set may take a quarter of the memory, because it is copied once when it is split.
_DATA_SETS_IN_MEMORY = 4


def find_memory_bytes() -> int | None:
    """The memory for this process in bytes, or ``None`` if the system does not say."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return min([machine, *filter(None, map(_read_limit, _LIMIT_FILES))])


def _read_limit(file: str) -> int | None:
    try:
        return int(Path(file).read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def stays_in_file(keep_in: KeepIn, size: int) -> bool:
    """Whether values of ``size`` bytes stay in their file.

    They do if the user chose that, and for ``"auto"`` if they take too large a share of the memory.
    """
    memory = find_memory_bytes()
    return keep_in == "file" or (
        keep_in == "auto" and memory is not None and size > memory // _DATA_SETS_IN_MEMORY
    )


def refuse_too_large(size: int, claim: str, remedy: str) -> None:
    """Raises ``DataError("<claim>, ... <remedy>")`` if ``size`` bytes exceed the memory."""
    memory = find_memory_bytes()
    if memory is not None and size > memory:
        raise DataError(
            f"{claim}, {size / 2**30:,.1f} GiB where the machine has {memory / 2**30:,.1f} GiB; "
            f"{remedy}"
        )
