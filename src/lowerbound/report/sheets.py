"""Sheets, which drawings of examples return, and the largest size of a picture file."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

MAX_SIDE = 4000
"""The largest number of pixels of each side of a picture file."""

Limits = tuple[float, float]
"""The values that are drawn black and white."""


@dataclass(frozen=True)
class Sheet:
    """A drawing of examples that is not written yet.

    Args:
        image: the pixels.
        count: the number of examples in it.
        notes: what a reader of the picture should know, apart from the count.
    """

    image: Image.Image
    count: int
    notes: tuple[str, ...] = ()
