"""Signals as curves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lowerbound.report.sheets import Sheet

# The largest numbers of panels, of panels in a row, and of channels.
_MAX_PANELS = 64
MAX_COLUMNS = 4
_MAX_CHANNELS = 8
# The size of a panel, the space around its curves, and the height of the legend, in pixels.
_WIDTH, _HEIGHT, _MARGIN, _LEGEND = 320, 110, 10, 30
_DOTS_PER_INCH = 100
_GREY = "0.75"


def draw_curves(versions: Tensor, columns: int | None) -> Sheet:
    """Draw signals as curves, one panel for each example, with a common scale.

    Of two versions, such as originals and reconstructions, the first is a broad pale line behind
    the second.

    Args:
        versions: ``[V, N, C, T]``.
        columns: the number of panels in a row, at most 4.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    signals = versions[:, :_MAX_PANELS, :_MAX_CHANNELS].numpy()
    count, channels = signals.shape[1:3]
    columns = min(columns or MAX_COLUMNS, MAX_COLUMNS, count)
    rows = math.ceil(count / columns)
    has_legend = len(signals) == 2
    width, height = columns * _WIDTH, rows * _HEIGHT + has_legend * _LEGEND
    # All panels share one pair of axes, in pixels: many axes would take seconds to draw.
    figure = Figure(figsize=(width / _DOTS_PER_INCH, height / _DOTS_PER_INCH), dpi=_DOTS_PER_INCH)
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    low, high = float(signals.min()), float(signals.max())
    scaled = (signals - low) / max(high - low, 1e-30)
    for number in range(count):
        row, column = divmod(number, columns)
        corner = column * _WIDTH, (rows - row - 1) * _HEIGHT
        _draw_panel(axes, scaled[:, number], corner)
    if has_legend:
        lines = axes.lines[2 : 2 + 2 * channels : channels]  # after the frame of the first panel
        axes.legend(lines, ("original", "reconstruction"), loc="upper left", ncols=2, frameon=False)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    notes = [f"every panel spans {low:.4g} to {high:.4g}"]
    if versions.shape[2] > channels:
        notes.append(f"the first {channels} of {versions.shape[2]} channels")
    return Sheet(image, count, tuple(notes))


def _draw_panel(axes: Any, signals: NDArray[np.float64], corner: tuple[int, int]) -> None:
    """Draw the versions and channels of one example, ``[V, C, T]`` in [0, 1], into a panel."""
    left, right = corner[0] + _MARGIN, corner[0] + _WIDTH - _MARGIN
    bottom, top = corner[1] + _MARGIN, corner[1] + _HEIGHT - _MARGIN
    for level in (bottom, top):
        axes.plot((left, right), (level, level), color=_GREY, linewidth=0.5)
    styles = [{"linewidth": 0.9}]
    if len(signals) == 2:
        styles = [{"linewidth": 2.6, "alpha": 0.35}, *styles]
    times = np.linspace(left, right, signals.shape[-1])
    for version, style in zip(signals, styles, strict=True):
        for channel, signal in enumerate(version):
            heights = bottom + signal * (top - bottom)
            axes.plot(times, heights, color=f"C{channel}", **style)
