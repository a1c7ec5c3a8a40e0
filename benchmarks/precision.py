"""Compares test bounds after the same training in float32 and in bfloat16, from several seeds.

    python precision.py FOLDER

On a machine without units for bfloat16 it takes long and gives the same bounds, because products
are summed in float32 either way.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from arguments import read_arguments
from contenders.lowerbound_ import examples, make
from tasks import LEARNING_RATE, TASKS, load

import lowerbound as lb

EPOCHS = {"mnist": 3, "faces": 30, "iwae": 1}
SEEDS, HELD_OUT = (0, 1), {"mnist": 5000, "faces": 80, "iwae": 1000}


def bound(name: str, folder: Path, precision: str, seed: int) -> float:
    """The bound of examples that were not trained on, by the objective that was trained."""
    task, held_out = TASKS[name], HELD_OUT[name]
    train, test = load(task, folder)
    if name == "faces":  # the test faces are too few for a mean without noise
        train, test = train[:-held_out], train[-held_out:]
    model, objective = make(task)
    settings: dict[str, Any] = {
        "batch_size": task.batch,
        "learning_rate": LEARNING_RATE,
        "compile": "never",
        "start": False,
    }
    settings |= {"epochs": EPOCHS[name], "seed": seed, "precision": precision, "progress": False}
    lb.fit(model, objective, examples(task, train), **settings)
    return lb.evaluate(model, objective, examples(task, test).first(held_out), seed=seed).mean


if __name__ == "__main__":
    folder, *names = read_arguments(__name__, "folder", more="task")
    found: dict[str, Any] = {}
    for name in names or EPOCHS:
        found[name] = {
            precision: [bound(name, Path(folder), precision, seed) for seed in SEEDS]
            for precision in ("float32", "bfloat16")
        } | {"epochs": EPOCHS[name]}
        print(name, found[name], file=sys.stderr, flush=True)
    print(json.dumps({"bounds": found}))
