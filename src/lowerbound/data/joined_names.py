"""Names in messages, many of which are shortened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def join_names(names: Sequence[Any], most: int = 12) -> str:
    """Join at most this many names or categories for a message; those with a comma are quoted."""
    shown = ", ".join(repr(each) if "," in str(each) else str(each) for each in names[:most])
    if len(names) > most:
        return f"{shown} and {len(names) - most:,} more"
    return shown
