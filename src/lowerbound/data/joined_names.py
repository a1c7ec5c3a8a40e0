"""Names in messages, many of which are shortened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def join_names(names: Sequence[Any], most: int = 12) -> str:
    """Join at most this many names or categories for a message.

    Those with a comma, or blanks at an end, are quoted.

    Example:
        >>> join_names(["Bern", "Bern ", "Basel, CH", 4], 3)
        "Bern, 'Bern ', 'Basel, CH' and 1 more"
    """
    shown = ", ".join(_quote(str(each)) for each in names[:most])
    if len(names) > most:
        return f"{shown} and {len(names) - most:,} more"
    return shown


def _quote(name: str) -> str:
    if "," in name or name != name.strip():
        return repr(name)
    return name
