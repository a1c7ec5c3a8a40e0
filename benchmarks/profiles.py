"""Where the time goes: of a training step of each task, and of a log likelihood: ``python profiles.py FOLDER``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from contenders.lowerbound_ import examples, make
from tasks import LEARNING_RATE, TASKS, Task, load

import lowerbound as lb
from lowerbound.training.profiling import shares, table


def of_training(task: Task, folder: Path, compile: str = "always") -> str:
    """The table that ``lb.fit(profile=True)`` writes."""
    model, objective = make(task)
    train, _ = load(task, folder)
    with tempfile.TemporaryDirectory() as run:
        lb.fit(
            model,
            objective,
            examples(task, train),
            steps=300 + len(train) // task.batch,
            batch_size=task.batch,
            learning_rate=LEARNING_RATE,
            compile=compile,
            profile=True,
            progress=False,
            directory=run,
            pictures_every=0,
        )
        return (Path(run) / "profile.md").read_text()


def of_likelihood(task: Task, folder: Path, images: int = 50, samples: int = 5000) -> str:
    """The same of an importance-sampled log likelihood, an image in the place of a step."""
    model, _ = make(task)
    some = examples(task, load(task, folder)[1]).first(images)

    def once() -> float:
        began = time.perf_counter()
        lb.log_likelihood(model, some, samples)
        return time.perf_counter() - began

    once()
    plain = once()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        seconds = once()
    kinds, operations = shares(profile.events(), "self_cpu_time_total", 1e6 * seconds)
    return table("an image", "uncompiled", plain / images, kinds, operations)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tables = {
        "mnist": of_training(TASKS["mnist"], folder),
        "mnist, uncompiled": of_training(TASKS["mnist"], folder, "never"),
        "faces": of_training(TASKS["faces"], folder),
        "likelihood": of_likelihood(TASKS["mnist"], folder),
    }
    print(json.dumps({"tables": tables}))
