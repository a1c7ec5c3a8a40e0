"""A limit to what is read into memory."""

from __future__ import annotations

import os

from lowerbound.errors import DataError


def physical_memory() -> int | None:
    """The machine's memory in bytes, or ``None`` where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def refuse_absurd(size: int, claim: str, remedy: str) -> None:
    """Raises ``DataError("<claim>, ... <remedy>")`` if ``size`` bytes are more than the machine has."""
    memory = physical_memory()
    if memory is not None and size > memory:
        raise DataError(f"{claim}, {size / 2**30:,.1f} GiB where the machine has {memory / 2**30:,.1f} GiB; {remedy}")
