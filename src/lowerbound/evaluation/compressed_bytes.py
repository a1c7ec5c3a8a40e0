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


def digest_weights(model: Model) -> str:
    """Compute a digest of a model's weights, by which compressed data recognise their model."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def pack(header: dict[str, Any], stack: NDArray[np.uint32]) -> bytes:
    """Pack the header and the words of the stack into bytes."""
    described = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    return _MAGIC + struct.pack("<I", len(described)) + described + stack.astype("<u4").tobytes()


def unpack(packed: bytes) -> tuple[dict[str, Any], NDArray[np.uint32]]:
    """Unpack the header and the words of the stack from bytes.

    Raises:
        StorageError: if these are not bytes that :func:`pack` returned.
    """
    damaged = StorageError(
        "these are not data that lowerbound compressed, or they are damaged; compress them again"
    )
    if not packed.startswith(_MAGIC):
        raise damaged
    try:
        start = len(_MAGIC) + 4
        (length,) = struct.unpack("<I", packed[start - 4 : start])
        header = json.loads(zlib.decompress(packed[start : start + length]))
        words = np.frombuffer(packed[start + length :], "<u4").astype(np.uint32)
    except (struct.error, zlib.error, ValueError):
        raise damaged from None
    return header, words
