"""Pictures: grids of images, originals with their reconstructions, and learning curves."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lowerbound.errors import ShapeError
from lowerbound.runtime.outputs import write_whole

# The least height of a tile, the distance between tiles, and the background's grey value.
_TILE_PIXELS = 48
_GAP_PIXELS = 2
_BACKGROUND_GREY = 255


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether events of this shape are images: ``(1, H, W)`` or ``(3, H, W)``.

    Example:
        >>> is_image((1, 28, 20)), is_image((784,))
        (True, False)
    """
    return len(shape) == 3 and shape[0] in (1, 3)


def save_grid(images: Tensor, path: str | os.PathLike[str], *, columns: int | None = None) -> Path:
    """Write images as one PNG, row by row.

    Small images are enlarged by an integer factor, without smoothing.

    Args:
        images: ``[N, 1 or 3, H, W]`` in [0, 1]; values outside are clipped.
        path: the path of the PNG.
        columns: the number of images in a row. By default the grid is about square.

    Returns:
        The path.

    Raises:
        ShapeError: if these are not images.
        StorageError: if the file cannot be written.
    """
    if images.dim() != 4 or not is_image(tuple(images.shape[1:])):
        raise ShapeError(f"expected images [N, 1 or 3, H, W], got the shape {tuple(images.shape)}")
    columns = columns or math.ceil(math.sqrt(len(images)))
    tiles = (
        (images.detach().cpu().double().clamp(0, 1) * 255)
        .round()
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .numpy()
    )
    factor = max(1, round(_TILE_PIXELS / tiles.shape[1]))
    tiles = tiles.repeat(factor, 1).repeat(factor, 2)
    height, width, depth = (
        tiles.shape[1] + _GAP_PIXELS,
        tiles.shape[2] + _GAP_PIXELS,
        tiles.shape[3],
    )
    rows = -(-len(tiles) // columns)
    sheet = np.full(
        (rows * height + _GAP_PIXELS, columns * width + _GAP_PIXELS, depth),
        _BACKGROUND_GREY,
        dtype=np.uint8,
    )
    for number, tile in enumerate(tiles):
        top, left = number // columns * height + _GAP_PIXELS, number % columns * width + _GAP_PIXELS
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    if depth == 1:
        sheet = sheet.squeeze(2)
    path = Path(path)
    with write_whole(path) as file:
        Image.fromarray(sheet).save(file)
    return path


def save_pairs(
    originals: Tensor, reconstructions: Tensor, path: str | os.PathLike[str], *, columns: int = 4
) -> Path:
    """Write originals and reconstructions as one PNG of pairs, the original on the left."""
    return save_grid(
        torch.cat([originals.cpu(), reconstructions.cpu()], -1),
        path,
        columns=min(columns, len(originals)),
    )


def save_learning_curves(history: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Draw the bound and its two terms against the epoch, for training and validation, as a PNG.

    Args:
        history: a record for each epoch, as in ``metrics.jsonl``.
        path: the path of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [
        ("bound", "bound (nats per example)"),
        ("rate", "rate: KL(q(z|x) || p(z))"),
        ("distortion", "distortion: -E log p(x|z)"),
    ]
    for axes, (term, title) in zip(figure.subplots(1, 3), panels, strict=True):
        for part, colour in (("train", "#1f6f8b"), ("validation", "#d1495b")):
            points = [(record["epoch"], record[part][term]) for record in history if part in record]
            if not points:
                continue
            (line,) = axes.plot(*zip(*points, strict=True), label=part, color=colour)
            if len(points) < 30:
                line.set_marker(".")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
        _set_limits_to_end(
            axes,
            [
                record[part][term]
                for record in history
                for part in ("train", "validation")
                if part in record
            ],
        )
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    path = Path(path)
    with write_whole(path) as file:
        figure.savefig(file, dpi=120)
    return path


def _set_limits_to_end(axes: Any, values: list[float]) -> None:
    """Set limits that show the end of a curve, however far away its start is."""
    low, high = np.quantile(values, [0.05, 0.95])
    span = max(high - low, 1e-9, 1e-6 * float(np.abs(values).max()))
    margin = 0.08 * span
    axes.set_ylim(
        max(min(values), low - 0.5 * span) - margin, min(max(values), high + 0.5 * span) + margin
    )


def manifold_points(side: int) -> Tensor:
    """Compute a grid over two standard-normal latents, with equal steps of probability.

    Coordinates of the unit square go through the inverse distribution function of the Gaussian
    (Kingma & Welling 2013, figure 4).

    Returns:
        ``[side * side, 2]``, row by row, with the second axis downward.
    """
    quantiles = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side).float()
    vertical, horizontal = torch.meshgrid(-quantiles, quantiles, indexing="ij")
    return torch.stack([horizontal, vertical], -1).flatten(0, 1)
