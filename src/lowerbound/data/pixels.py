"""Treatments of pixels: how stored values become the values that a model receives."""

from __future__ import annotations

import torch
from torch import Tensor

from lowerbound.data.options import Pixels
from lowerbound.runtime import noise


def decode_pixels(
    stored: Tensor, dtype: torch.dtype, *, levels: int | None, pixels: Pixels
) -> Tensor:
    """Decode stored pixels ``[B, *shape]``. Real numbers have no levels and are not scaled."""
    x = stored.to(dtype)
    if levels is not None:
        if pixels == "dequantize":
            # Rounding can turn v + u into v + 1, which is in the next bin or outside [0, 1).
            below = torch.nextafter(x + 1, x)
            return torch.minimum(x + _draw_uniform(stored, dtype), below) / levels
        x = x / (levels - 1)
    if pixels == "binarize":
        return (_draw_uniform(stored, dtype) < x).to(dtype)
    return x


def _draw_uniform(stored: Tensor, dtype: torch.dtype) -> Tensor:
    return noise.uniform(tuple(stored.shape), 0, dtype=dtype, device=stored.device)
