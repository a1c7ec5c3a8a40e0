"""Pictures of a training: its learning curves, and points for the manifold of two latents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.report.part_names import name_part
from lowerbound.runtime.outputs import write_whole


def save_learning_curves(
    history: Sequence[dict[str, Any]], path: str | os.PathLike[str], *, label: str = "bound"
) -> Path:
    """Draw the bound and its two terms against the epoch, for training and validation, as a PNG.

    If the records have the score of independent entries, it is in the legend, and a horizontal line
    unless the curves would be drawn flat to show it.

    Args:
        history: a record for each epoch, as in ``metrics.jsonl``.
        path: the path of the PNG.
        label: the name of the value: ``"score"`` if it is not a bound on log p(x).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [
        ("bound", f"{label} (nats per example)"),
        ("rate", "rate: KL(q(z|x) || p(z))"),
        ("distortion", "distortion: -E log p(x|z)"),
    ]
    for axes, (term, title) in zip(figure.subplots(1, 3), panels, strict=True):
        for part, colour in (("train", "#1f6f8b"), ("validation", "#d1495b")):
            points = [(record["epoch"], record[part][term]) for record in history if part in record]
            if not points:
                continue
            shown = name_part(part, history[-1])
            (line,) = axes.plot(*zip(*points, strict=True), label=shown, color=colour)
            if len(points) < 30:
                line.set_marker(".")
        baseline = history[-1].get("baseline") if term == "bound" else None
        if baseline is not None:
            name = f"independent entries: {baseline:.2f}"
            axes.axhline(baseline, label=name, color="0.5", linestyle="--")
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
            baseline,
        )
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    path = Path(path)
    with write_whole(path) as file:
        figure.savefig(file, dpi=120)
    return path


def _set_limits_to_end(axes: Any, values: list[float], level: float | None) -> None:
    """Set limits that show the end of a curve, however far away its start is.

    They show a level as well if that needs no more than twice the height.
    """
    low, high = np.quantile(values, [0.05, 0.95])
    span = max(high - low, 1e-9, 1e-6 * float(np.abs(values).max()))
    bottom, top = max(min(values), low - 0.5 * span), min(max(values), high + 0.5 * span)
    if level is not None and max(top, level) - min(bottom, level) <= 2 * (top - bottom):
        bottom, top = min(bottom, level), max(top, level)
    margin = 0.08 * span
    axes.set_ylim(bottom - margin, top + margin)


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
