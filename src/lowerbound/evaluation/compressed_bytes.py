"""The format of compressed data: a header, and the words of a stack of bits.

The bytes begin with a line of text that names the format. Then come the length of the header as an
integer of 32 bits, the header, which is JSON compressed by zlib, and the words of 32 bits. All
integers are little-endian.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.errors import StorageError
from lowerbound.models import Model

_MAGIC = b"lowerbound bits back 1\n"

_Header = dict[str, Any]

# The entries of a header, and the types that they may have.
_ENTRIES: dict[str, tuple[type, ...]] = {
    "count": (int,),
    "shape": (list,),
    "levels": (int,),
    "kind": (str, type(None)),
    "cells": (int,),
    "steps": (list,),
    "model": (str,),
    "crc": (int,),
}


def digest_weights(model: Model) -> str:
    """Compute a digest of a model's weights, by which compressed data recognise their model."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def pack(header: _Header, stack: NDArray[np.uint32]) -> bytes:
    """Pack the header and the words of the stack into bytes."""
    described = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    return _MAGIC + struct.pack("<I", len(described)) + described + stack.astype("<u4").tobytes()


def make_damage_error() -> StorageError:
    """Make the error for bytes that cannot be read."""
    return StorageError(
        "these are not data that lowerbound compressed, or they are damaged; compress them again"
    )


def unpack(packed: bytes) -> tuple[_Header, NDArray[np.uint32]]:
    """Unpack the header and the words of the stack from bytes.

    Raises:
        StorageError: if these are not bytes that :func:`pack` returned.
    """
    if not packed.startswith(_MAGIC):
        raise make_damage_error()
    try:
        start = len(_MAGIC) + 4
        (length,) = struct.unpack("<I", packed[start - 4 : start])
        header = json.loads(zlib.decompress(packed[start : start + length]))
        words = np.frombuffer(packed[start + length :], "<u4").astype(np.uint32)
    except (struct.error, zlib.error, ValueError):
        raise make_damage_error() from None
    if not _is_header(header):
        raise make_damage_error()
    return header, words


def _is_header(header: Any) -> bool:
    if not isinstance(header, dict) or header.keys() != _ENTRIES.keys():
        return False
    if not all(isinstance(header[name], allowed) for name, allowed in _ENTRIES.items()):
        return False
    sizes = [header["count"], header["levels"], header["cells"], *header["shape"]]
    whole = [*sizes, *header["steps"]]
    return all(isinstance(value, int) for value in whole) and min(sizes) > 0
