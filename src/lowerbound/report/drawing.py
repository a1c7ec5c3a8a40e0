"""Examples as one picture file, drawn according to their shape."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lowerbound.errors import ShapeError
from lowerbound.report.curves import MAX_COLUMNS, draw_curves
from lowerbound.report.sheets import Limits, Sheet
from lowerbound.report.tiles import draw_tiles, find_side_of_tiles
from lowerbound.runtime.outputs import write_whole

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Drawing:
    """What a picture file shows.

    Args:
        path: the path of the PNG.
        count: the number of examples in it, which may be fewer than were given.
        note: what a reader of the picture should know, such as the number of examples that are left
            out; empty if there is nothing to say. It is also the PNG's text ``Description``.
    """

    path: Path
    count: int
    note: str = ""


def is_signal(shape: Shape) -> bool:
    """Whether events of this shape are signals ``(C, T)``, or pictures of one row or column.

    Example:
        >>> is_signal((2, 500)), is_signal((1, 1, 16889)), is_signal((1, 28, 20))
        (True, True, False)
    """
    return len(shape) == 2 or (len(shape) == 3 and 1 in shape[1:])


def can_draw(shape: Shape) -> bool:
    """Whether examples of this shape can be drawn: signals, pictures and volumes can.

    Example:
        >>> can_draw((2, 500)), can_draw((3, 8, 8)), can_draw((1, 9, 9, 9)), can_draw((784,))
        (True, True, True, False)
    """
    return len(shape) in (2, 3, 4)


def find_grid_side(shape: Shape, most: int) -> int:
    """Find the side of the largest square grid of such examples that one file shows completely.

    Args:
        shape: the shape of an example.
        most: the largest side to use.

    Example:
        >>> find_grid_side((1, 28, 28), 20), find_grid_side((3, 256, 256), 20)
        (20, 15)
    """
    side = MAX_COLUMNS if is_signal(shape) else find_side_of_tiles(shape)
    return min(most, side)


def find_limits(values: Tensor) -> Limits:
    """Find the values that are drawn black and white: 0 and 1 if these contain all values.

    Otherwise they are the least and the greatest value.

    Example:
        >>> find_limits(torch.tensor([0.5, 1.0])), find_limits(torch.tensor([-2.0, 9.0]))
        ((0.0, 1.0), (-2.0, 9.0))
    """
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high


def save_examples(
    values: Tensor,
    path: str | os.PathLike[str],
    *,
    columns: int | None = None,
    limits: Limits = (0.0, 1.0),
) -> Drawing:
    """Draw examples as one PNG, row by row.

    - *Signals* ``[N, C, T]`` are curves, one panel for each example.
    - *Pictures* ``[N, C, H, W]`` are tiles. Small ones are enlarged by a whole factor, without
      smoothing. If they have neither one nor three channels, the channels stand side by side.
    - *Volumes* ``[N, C, D, H, W]`` are the three slices through the middle, side by side.

    No side has more than 4,000 pixels. Examples that do not fit are left out, and the note says how
    many are shown.

    Args:
        values: the examples, ``[N, *event]``.
        path: the path of the PNG.
        columns: the number of examples in a row. By default the sheet is about square.
        limits: the values that are black and white; values outside are clipped. Curves do not use
            them.

    Raises:
        ShapeError: if examples of this shape cannot be drawn.
        StorageError: if the file cannot be written.
    """
    return _save(values[None], path, columns, limits)


def save_pairs(
    originals: Tensor,
    reconstructions: Tensor,
    path: str | os.PathLike[str],
    *,
    columns: int | None = None,
    limits: Limits = (0.0, 1.0),
) -> Drawing:
    """Draw originals and reconstructions as one PNG of pairs.

    The original is on the left, or for signals behind its reconstruction. By default there are at
    most four pairs of pictures in a row. See :func:`save_examples`.
    """
    pairs = torch.stack([originals.cpu(), reconstructions.cpu()])
    return _save(pairs, path, columns, limits)


def _save(
    versions: Tensor, path: str | os.PathLike[str], columns: int | None, limits: Limits
) -> Drawing:
    """Draw versions of the same examples, ``[V, N, *event]``, and write the file."""
    sheet = _draw(versions.detach().cpu().float(), columns, limits)
    notes, given = list(sheet.notes), versions.shape[1]
    if sheet.count < given:
        notes.insert(0, f"{sheet.count:,} of {given:,} are shown")
    note = "; ".join(notes)
    about = PngInfo()
    if note:
        about.add_text("Description", note)
    path = Path(path)
    with write_whole(path) as file:
        sheet.image.save(file, pnginfo=about)
    return Drawing(path, sheet.count, note)


def _draw(versions: Tensor, columns: int | None, limits: Limits) -> Sheet:
    shape = tuple(versions.shape[2:])
    if not can_draw(shape):
        raise ShapeError(
            f"examples of shape {shape} cannot be drawn; signals (C, T), pictures (C, H, W) and "
            "volumes (C, D, H, W) can be"
        )
    if is_signal(shape):
        return draw_curves(versions.flatten(3), columns)
    return draw_tiles(versions, columns, limits)
