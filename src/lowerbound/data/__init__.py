"""Arrays, image folders and named data sets, as examples that a model can take.

Names are imported when they are first used: the catalogue of data sets can be read without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowerbound.data.catalogue import CATALOGUE, NamedDataset
    from lowerbound.data.examples import Dataset, Examples
    from lowerbound.data.load import load_data
    from lowerbound.data.options import Pixels

__all__ = ["CATALOGUE", "Dataset", "Examples", "NamedDataset", "Pixels", "load_data"]

_MODULES = {
    "CATALOGUE": "catalogue",
    "NamedDataset": "catalogue",
    "Dataset": "examples",
    "Examples": "examples",
    "Pixels": "options",
    "load_data": "load",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
