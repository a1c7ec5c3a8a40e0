"""Measures how the time of a step grows with the batch, the number of samples and the width.

    python growth.py FIGURE

The model is the auto-encoder 784-200-20 with Bernoulli pixels, compiled, in float32. One of the
three sizes is changed at a time. FIGURE is drawn on logarithmic axes, and the slope is that of the
line through the three largest sizes.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from arguments import read_arguments
from contenders.lowerbound_ import make
from tasks import LEARNING_RATE, TASKS, Task

import lowerbound as lb

BASE = TASKS["mnist"]
SWEEPS = {
    "batch": {size: replace(BASE, batch=size) for size in (10, 32, 100, 320, 1000, 3200, 10_000)},
    "samples": {size: replace(BASE, samples=size, iwae=True) for size in (1, 3, 10, 30, 100, 300)},
    "width": {size: replace(BASE, hidden=(size,)) for size in (12, 50, 200, 800, 3200, 6400)},
}
TITLES = {
    "batch": "examples in a batch",
    "samples": "samples K of the IWAE",
    "width": "units of a hidden layer",
}


def time_step(task: Task, warm: int = 5, timed: float = 1.5) -> float:
    """The median seconds of a step, over ``timed`` seconds and at least 5 steps."""
    model, objective = make(task)
    data = lb.Examples((torch.rand(10_000, task.dimensions) < 0.13).to(torch.uint8), levels=2)
    times: list[float] = []

    class Clock(lb.Observer):
        def on_step(self, loop: Any) -> None:
            times.append(time.perf_counter())
            if len(times) > warm + 5 and times[-1] - times[warm] > timed:
                raise KeyboardInterrupt

    settings: dict[str, Any] = {
        "batch_size": task.batch,
        "learning_rate": LEARNING_RATE,
        "progress": False,
    }
    with contextlib.suppress(KeyboardInterrupt):
        lb.fit(
            model, objective, data, steps=20_000, compile="always", observers=[Clock()], **settings
        )
    return float(np.median(np.diff(times[warm:])))


def slope(sizes: list[int], seconds: list[float]) -> float:
    """The slope of the line through the three largest sizes, on logarithmic axes."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log(seconds[-3:]), 1)[0])


def draw(sweeps: dict[str, Any], path: str) -> None:
    """Draw the three curves, with their slopes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    for axes, (name, entry) in zip(figure.subplots(1, 3, sharey=True), sweeps.items(), strict=True):
        sizes = [int(size) for size in entry["seconds"]]
        seconds = list(entry["seconds"].values())
        axes.loglog(sizes, [1e3 * value for value in seconds], "o-", label="measured")
        axes.loglog(
            sizes,
            [1e3 * value for value in entry["floor_seconds"].values()],
            "--",
            label="matrix products alone",
        )
        axes.loglog([], [], " ", label=f"slope at the end: {entry['slope']:.2f}")
        axes.set_xlabel(TITLES[name])
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
        if name == "batch":
            axes.set_ylabel("ms a step")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    from turns import product_rate

    (figure,) = read_arguments(__name__, "figure")
    results: dict[str, Any] = {}
    for name, sweep in SWEEPS.items():
        rate = median(product_rate() for _ in range(3))
        seconds = {size: time_step(task) for size, task in sweep.items()}
        floors = {size: task.operations / rate for size, task in sweep.items()}
        results[name] = {
            "seconds": seconds,
            "floor_seconds": floors,
            "slope": slope(list(seconds), list(seconds.values())),
        }
    draw(results, figure)
    print(json.dumps({"sweeps": results}))
