"""One loop: optimiser, schedules, checkpoints, run record."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {"Run": "run", "fit": "fitting", "load": "run"}

__all__ = ["Run", "fit", "load"]

if TYPE_CHECKING:
    from lowerbound.training.fitting import fit
    from lowerbound.training.run import Run, load


def __getattr__(name: str) -> Any:
    # The command reads fit's signature for its flags, and must not wait for torch to do so.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
