"""The names of the parts of the data in the history of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def name_part(part: str, record: Mapping[str, Any]) -> str:
    """Name ``"train"`` or ``"validation"`` for displays of the bounds in the record of an epoch.

    If a model hides some entries of training batches, its training bounds are those of the others,
    and cannot be compared with bounds of all entries.
    """
    if part == "train" and record.get("hides_entries"):
        return "train (some entries hidden)"
    return part
