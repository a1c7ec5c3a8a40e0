"""Where the time goes: of a training step of each task, and of a log likelihood: ``python
profiles.py FOLDER``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch._inductor.config
from contenders.lowerbound_ import examples, make
from tasks import LEARNING_RATE, TASKS, Task, load

import lowerbound as lb
from lowerbound.models.passes import watching
from lowerbound.training.profiling import format_table, measure_shares


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


def of_likelihood(
    task: Task, folder: Path, compile: str = "always", images: int = 48, samples: int = 5000
) -> str:
    """The same of an importance-sampled log likelihood, an image in the place of a step, once it is
    compiled."""
    model, _ = make(task)
    some = examples(task, load(task, folder)[1]).first(3 * images)
    profile = torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True
    )
    times: list[float] = []

    def halt(so_far: int, in_all: int) -> None:
        if so_far % images == 0:
            times.append(time.perf_counter())
        if so_far == 2 * images:
            profile.start()
            times[-1:] = [times[-1], time.perf_counter()]
        elif so_far == in_all:
            profile.stop()

    named = torch._inductor.config.patch(
        {"cpp.enable_kernel_profile": True}
    )  # what the compiler makes, in the profile
    with watching(halt), named:
        lb.log_likelihood(model, some, samples, compile=compile)
    begun, plain, profiled, ended = times
    kinds, operations = measure_shares(
        profile.events(), "self_cpu_time_total", 1e6 * (ended - profiled)
    )
    how = "compiled" if compile == "always" else "uncompiled"
    return format_table("an image", how, (plain - begun) / images, kinds, operations)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tables = {
        "mnist": of_training(TASKS["mnist"], folder),
        "mnist, uncompiled": of_training(TASKS["mnist"], folder, "never"),
        "faces": of_training(TASKS["faces"], folder),
        "iwae": of_training(TASKS["iwae"], folder),
        "likelihood": of_likelihood(TASKS["mnist"], folder),
        "likelihood, uncompiled": of_likelihood(TASKS["mnist"], folder, "never"),
    }
    print(json.dumps({"tables": tables}))
