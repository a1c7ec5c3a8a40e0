"""The options of loading data. This module imports neither numpy nor torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

Pixels = Literal["as-is", "dequantize", "binarize", "binarize-once"]
Color = Literal["keep", "grey", "rgb"]
Resize = Literal["crop", "stretch"]
KeepIn = Literal["auto", "memory", "file"]
Kind = Literal["counts", "codes"]
Missing = Literal["nan"]
Layout = Literal["auto", "signals", "volumes"]
Unknown = Literal["error", "other"]

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class ReadOptions:
    """The settings of :func:`~lowerbound.load_data` that every reader of files receives.

    Args:
        size: the height and width of pictures, or ``None`` to keep their size.
        color: the colour of pictures.
        resize: how pictures are resized to ``size``.
        keep_in: whether the values are read into memory or stay in their file.
        cache: the folder for decoded pictures, or ``None`` to store none.
        kind: the kind of the entries, if they are not pixels or real numbers.
        missing: how entries that were not observed are marked.
        fields: the names of the fields to read, or ``None`` if the user named none.
        layer: the layer of AnnData to read, or ``None`` for X.
        layout: what the dimensions of arrays mean, see :func:`~lowerbound.load_data`.
        columns: the types of some columns of a table, by name.
        missing_values: the values that stand for missing ones in a table.
        unknown: what becomes of categories that a table does not have.
    """

    size: Size | None = None
    color: Color = "keep"
    resize: Resize = "crop"
    keep_in: KeepIn = "memory"
    cache: Path | None = None
    kind: Kind | None = None
    missing: Missing | None = None
    fields: tuple[str, ...] | None = None
    layer: str | None = None
    layout: Layout = "auto"
    columns: Mapping[str, str] | None = None
    missing_values: tuple[Any, ...] = ()
    unknown: Unknown = "error"


def import_when_called(module: str, name: str) -> Callable[..., Any]:
    """Make a function that imports ``module`` and calls its function ``name``."""

    def call(*arguments: Any, **settings: Any) -> Any:
        return getattr(import_module(module), name)(*arguments, **settings)

    return call
