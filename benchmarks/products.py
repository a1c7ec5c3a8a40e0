"""The matrix products of each task's step, each by itself, beside the rate of a large one: ``python
products.py``."""

from __future__ import annotations

import json
from typing import Any

import torch
from run import product_rate, typical
from tasks import TASKS

FIRST, ROUNDS = 5, 20


def of(rows: int, inputs: int, outputs: int) -> dict[str, Any]:
    """The three products of a layer: its output, the gradients of its input and of its weights."""
    x, weight, bias, slope = (
        torch.randn(shape)
        for shape in ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    )
    rate = product_rate()
    works = (lambda: torch.addmm(bias, x, weight.T), lambda: slope @ weight, lambda: slope.T @ x)
    return {
        "layer": [rows, inputs, outputs],
        "milliseconds": [1e3 * typical(work, FIRST, ROUNDS) for work in works],
        "floor": 2e3 * rows * inputs * outputs / rate,
    }


if __name__ == "__main__":
    print(
        json.dumps(
            {"tasks": {name: [of(*layer) for layer in task.layers] for name, task in TASKS.items()}}
        )
    )
