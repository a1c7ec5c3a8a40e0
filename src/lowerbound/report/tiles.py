"""Pictures, and slices of volumes, as tiles of one sheet."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lowerbound.report.sheets import MAX_SIDE, Limits, Sheet

# Small pictures are enlarged until their longer side has about this many pixels, up to a factor.
_TILE_PIXELS = 192
_MAX_FACTOR = 6
# The distance between tiles, their largest number, and the background's grey value.
_GAP_PIXELS = 2
_MAX_TILES = 1024
_BACKGROUND_GREY = 255
# The largest number of pairs in a row, and the columns between pairs that have gaps within.
_PAIR_COLUMNS, _PAIR_GAP = 4, 6
# The largest number of channels that are shown side by side.
_MAX_CHANNELS = 8


def draw_tiles(versions: Tensor, columns: int | None, limits: Limits) -> Sheet:
    """Draw pictures, or the middle slices of volumes, with their versions side by side.

    Args:
        versions: ``[V, N, C, H, W]`` or ``[V, N, C, D, H, W]``, such as originals and
            reconstructions.
        columns: the number of examples in a row. By default the sheet is about square, or has four
            pairs of plain pictures in a row.
        limits: the values that are drawn black and white; values outside are clipped.
    """
    tiles, columns, notes = _make_tiles(versions, columns, limits)
    factor = max(1, min(_MAX_FACTOR, round(_TILE_PIXELS / max(versions.shape[3:]))))
    return _arrange(tiles, columns, factor, notes)


def find_side_of_tiles(shape: tuple[int, ...]) -> int:
    """Find the side of the largest square of examples of this shape that fits on a sheet."""
    tiles, _, _ = _make_tiles(torch.zeros(1, 1, *shape), None, (0.0, 1.0))
    return min(_count_fitting(tiles.shape[1]), _count_fitting(tiles.shape[2]))


def _make_tiles(
    versions: Tensor, columns: int | None, limits: Limits
) -> tuple[NDArray[np.uint8], int | None, list[str]]:
    """Make a tile ``[H, W, C]`` of each example, and choose the columns of pairs.

    Returns:
        The tiles, the number of columns, and notes for the reader.
    """
    low, high = limits
    notes = []
    if limits != (0.0, 1.0):
        notes.append(f"black is {low:.4g} and white is {high:.4g}")
    channels, is_volume = versions.shape[2], versions.dim() == 6
    most = min(_MAX_TILES, _count_fitting(versions.shape[-2]) * _count_fitting(versions.shape[-1]))
    pictures = versions[:, :most]
    if is_volume:
        notes.append("three slices through the middle of each volume")
        pictures = _cut_slices(pictures, fill=high)
    if channels not in (1, 3):
        several = [pictures[:, :, [channel]] for channel in range(min(channels, _MAX_CHANNELS))]
        pictures = _join(several, fill=high)
        notes.append(f"{channels} channels side by side")
        if channels > _MAX_CHANNELS:
            notes[-1] = f"the first {_MAX_CHANNELS} of {channels} channels side by side"
    is_plain = not is_volume and channels in (1, 3)
    is_pair = len(versions) > 1
    # The versions of a plain picture touch each other, and four pairs are in a row.
    pictures = _join(list(pictures), fill=high, gap=2 * (not is_plain))
    if is_pair and is_plain:
        columns = min(columns or _PAIR_COLUMNS, pictures.shape[0])
    elif is_pair:
        pictures = F.pad(pictures, (0, _PAIR_GAP), value=high)
    shrink = math.ceil(max(pictures.shape[-2:]) / (MAX_SIDE - 2 * _GAP_PIXELS))
    scaled = ((pictures.double() - low) / max(high - low, 1e-30)).clamp(0, 1)
    if shrink > 1:
        scaled = F.avg_pool2d(scaled, shrink, ceil_mode=True)
        notes.append(f"each is reduced by a factor of {shrink}")
    return _convert_to_bytes(scaled), columns, notes


def _cut_slices(volumes: Tensor, fill: float) -> Tensor:
    """Cut the three slices through the middle of volumes, ``[..., C, D, H, W]``."""
    depth, height, width = volumes.shape[-3:]
    slices = (
        volumes[..., depth // 2, :, :],
        volumes[..., :, height // 2, :],
        volumes[..., :, :, width // 2],
    )
    most = max(plane.shape[-2] for plane in slices)
    filled = [F.pad(plane, (0, 0, 0, most - plane.shape[-2]), value=fill) for plane in slices]
    return _join(filled, fill)


def _join(pictures: list[Tensor], fill: float, gap: int = 1) -> Tensor:
    """Join pictures, ``[..., H, W]`` each, with empty columns between two of them."""
    *others, last = pictures
    return torch.cat([*(F.pad(picture, (0, gap), value=fill) for picture in others), last], -1)


def _convert_to_bytes(pictures: Tensor) -> NDArray[np.uint8]:
    """Convert ``[N, C, H, W]`` in [0, 1] to bytes ``[N, H, W, C]``."""
    grey = (pictures * 255).round().to(torch.uint8)
    return grey.permute(0, 2, 3, 1).numpy()


def _arrange(tiles: NDArray[np.uint8], columns: int | None, factor: int, notes: list[str]) -> Sheet:
    """Arrange tiles ``[N, H, W, C]`` row by row, as many and as large as fit."""
    count, height, width, depth = tiles.shape
    if columns is None:
        columns = math.ceil(math.sqrt(count * height / width))
    while factor > 1 and not _fits(count, columns, height * factor, width * factor):
        factor -= 1
    columns = max(1, min(columns, count, _count_fitting(width * factor)))
    count = min(count, columns * _count_fitting(height * factor))
    tiles = tiles[:count].repeat(factor, 1).repeat(factor, 2)
    down, across = height * factor + _GAP_PIXELS, width * factor + _GAP_PIXELS
    rows = -(-count // columns)
    size = (rows * down + _GAP_PIXELS, columns * across + _GAP_PIXELS, depth)
    sheet = np.full(size, _BACKGROUND_GREY, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top = number // columns * down + _GAP_PIXELS
        left = number % columns * across + _GAP_PIXELS
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    if depth == 1:
        sheet = sheet.squeeze(2)
    return Sheet(Image.fromarray(sheet), count, tuple(notes))


def _fits(count: int, columns: int, height: int, width: int) -> bool:
    rows = -(-count // columns)
    return columns <= _count_fitting(width) and rows <= _count_fitting(height)


def _count_fitting(side: int) -> int:
    """Count the tiles of this side that fit beside each other; at least one."""
    return max(1, (MAX_SIDE - _GAP_PIXELS) // (side + _GAP_PIXELS))
