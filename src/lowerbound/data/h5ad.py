"""``.h5ad`` files, which contain AnnData."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from lowerbound.data.examples import Examples
from lowerbound.data.options import ReadOptions
from lowerbound.errors import DataError


def read_h5ad(path: Path, options: ReadOptions) -> Examples:
    """Read the examples in a ``.h5ad`` file.

    Raises:
        DataError: if the package anndata is not installed, or cannot read the file.
    """
    try:
        anndata = import_module("anndata")
    except ImportError:
        raise DataError(
            f"{path}: the package anndata, which reads this file, is not installed; install it "
            "with: pip install anndata"
        ) from None
    try:
        data = anndata.read_h5ad(path)
    except Exception as error:  # anndata raises various errors for a damaged file
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: anndata cannot read it ({reason}); write it again") from error
    return Examples.of(
        data,
        name=str(path),
        kind=options.kind,
        missing=options.missing,
        fields=options.fields or (),
        layer=options.layer,
    )
