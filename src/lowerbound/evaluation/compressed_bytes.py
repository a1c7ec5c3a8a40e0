"""The format of compressed data: a header, and the words of a stack of bits.

The bytes begin with a line of text that names the format. Then come the header, which is a list of
values in a fixed order, as JSON compressed by zlib, and the words, which are little-endian integers
of 32 bits.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.errors import StorageError
from lowerbound.models import Model

_MAGIC = b"lowerbound 2\n"

_LARGEST_SIZE = 1 << 31  # of what a header counts

_LARGEST_HEADER = 1 << 20  # bytes of its JSON, so that a few forged bytes cannot fill the memory

_Header = dict[str, Any]

# The entries of a header in the order in which they are stored, and the types that they may have.
_ENTRIES: dict[str, tuple[type, ...]] = {
    "count": (int,),
    "shape": (list,),
    "levels": (int,),
    "kind": (str, type(None)),
    "cells": (int,),
    "steps": (list,),
    "groups": (list,),
    "model": (str,),
}


def digest_weights(model: Model) -> str:
    """Compute a digest of a model's weights, by which compressed data recognise their model."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def pack(header: _Header, stack: NDArray[np.uint32]) -> bytes:
    """Pack the header and the words of the stack into bytes."""
    values = [header[name] for name in _ENTRIES]
    described = zlib.compress(json.dumps(values, separators=(",", ":")).encode(), 9)
    return _MAGIC + described + stack.astype("<u4").tobytes()


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
    reader = zlib.decompressobj()
    try:
        values = json.loads(reader.decompress(packed[len(_MAGIC) :], _LARGEST_HEADER))
        words = np.frombuffer(reader.unused_data, "<u4").astype(np.uint32)
    except (zlib.error, ValueError, RecursionError):
        raise make_damage_error() from None
    if not isinstance(values, list) or len(values) != len(_ENTRIES):
        raise make_damage_error()
    header = dict(zip(_ENTRIES, values, strict=True))
    if not _is_header(header):
        raise make_damage_error()
    return header, words


def _is_header(header: _Header) -> bool:
    if not all(isinstance(header[name], allowed) for name, allowed in _ENTRIES.items()):
        return False
    sizes = [header["count"], header["levels"], header["cells"], *header["shape"]]
    whole = [*sizes, *header["steps"], *header["groups"]]
    if not all(type(value) is int for value in whole) or min(sizes) < 1:
        return False
    return header["kind"] in (None, "codes") and max(sizes) < _LARGEST_SIZE
