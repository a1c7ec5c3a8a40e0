"""Times the matrix products of each task's step one by one, beside the rate of a large product.

python products.py
"""

from __future__ import annotations

import json
from typing import Any

import torch
from arguments import read_arguments
from tasks import TASKS
from turns import multiply_by_onednn, product_rate, typical_seconds

FIRST, ROUNDS = 5, 20


def time_layer(rows: int, inputs: int, outputs: int) -> dict[str, Any]:
    """Time the products of a layer: its output, the gradients of its input and of its weights."""
    x, weight, bias, gradient = (
        torch.randn(shape)
        for shape in ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    )
    rate = product_rate()
    works = (
        lambda: torch.addmm(bias, x, weight.T),
        lambda: gradient @ weight,
        lambda: gradient.T @ x,
    )
    works_of_onednn = (
        lambda: multiply_by_onednn(x, weight.T, bias),
        lambda: multiply_by_onednn(gradient, weight),
        lambda: multiply_by_onednn(gradient.T, x),
    )
    return {
        "layer": [rows, inputs, outputs],
        "milliseconds": [1e3 * typical_seconds(work, FIRST, ROUNDS) for work in works],
        "onednn_milliseconds": [
            1e3 * typical_seconds(work, FIRST, ROUNDS) for work in works_of_onednn
        ],
        "floor": 2e3 * rows * inputs * outputs / rate,
    }


if __name__ == "__main__":
    read_arguments(__name__)
    print(
        json.dumps(
            {
                "tasks": {
                    name: [time_layer(*layer) for layer in task.layers]
                    for name, task in TASKS.items()
                }
            }
        )
    )
