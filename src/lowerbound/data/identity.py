"""Records and digests by which sets of examples and their fields are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lowerbound.data.options import Kind, Pixels
from lowerbound.data.rows import Values, split_row_numbers


def make_identity(
    values: Values,
    pixels: Pixels,
    levels: int | None,
    kind: Kind | None,
    field_digests: Mapping[str, str],
) -> dict[str, Any]:
    """Make the record by which a run recognises its examples."""
    identity: dict[str, Any] = {
        "count": len(values),
        "shape": list(values.shape[1:]),
        "pixels": pixels,
        "levels": levels,
        "sha256": compute_digest(values),
    }
    if kind is not None:
        identity["kind"] = kind
    if field_digests:
        identity["fields"] = dict(field_digests)
    return identity


def compute_digest(values: Values) -> str:
    """Compute the SHA-256 digest of values, in their storage type."""
    digest = hashlib.sha256()
    for index in split_row_numbers(values):
        digest.update(values[index].cpu().contiguous().numpy().data)
    return digest.hexdigest()


def compute_field_digests(fields: Mapping[str, Tensor]) -> dict[str, str]:
    """Compute the SHA-256 digest of each field's type, shape and entries."""
    return {name: _compute_field_digest(field) for name, field in fields.items()}


def _compute_field_digest(field: Tensor) -> str:
    digest = hashlib.sha256(f"{field.dtype} {tuple(field.shape)}".encode())
    digest.update(field.cpu().contiguous().numpy().data)
    return digest.hexdigest()
