"""Files of tensors, in the format safetensors with JSON in the header.

A file is written completely or not at all, and nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lowerbound.errors import StorageError
from lowerbound.runs import disk


class DamagedFileError(StorageError):
    """A file that is missing, or whose content is not what was written."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write tensors to a safetensors file, completely or not at all, and wait for the disk.

    A name that the metadata's ``shared`` maps to another name has the same tensor, which is stored
    once.
    """
    with disk.replace_file(path) as partial:
        write_unsynced_tensors(partial, tensors, metadata)


def write_unsynced_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a file as :func:`write_tensors` does, but under its name and without waiting."""
    metadata = metadata or {}
    shared = metadata.get("shared", {})
    parts = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in tensors.items()
        if not _is_stored_as(shared.get(name), name, tensors)
    }
    save_file(parts, path, metadata={key: json.dumps(value) for key, value in metadata.items()})


def _is_stored_as(other: str | None, name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensor of this name is stored under another name.

    All files of a checkpoint have the model's metadata. If the names in a file are not the model's,
    or the tensors differ, each tensor is stored.
    """
    if other is None or other not in tensors:
        return False
    ours, stored = tensors[name], tensors[other]
    return ours.dtype == stored.dtype and torch.equal(ours, stored)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the metadata of a safetensors file.

    A shared tensor is returned under each of its names.

    Raises:
        DamagedFileError: if the file does not exist, or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: _parse_json(value) for key, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise DamagedFileError(f"{path}: the file does not exist") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise DamagedFileError(
            f"{path}: is not a readable safetensors file ({error}); restore it from a copy"
        ) from None
    shared = metadata.get("shared")
    if isinstance(shared, dict):
        again = {name: tensors[other] for name, other in shared.items() if other in tensors}
        tensors = again | tensors
    return tensors, metadata


def _parse_json(text: str) -> Any:
    """Parse JSON, or return the text itself, which another program may have written."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def digest(path: Path) -> str:
    """Compute the SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
