"""Shows where the time goes: in a training step of each task, and in a log likelihood.

python profiles.py FOLDER
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import torch
import torch._inductor.config
from arguments import read_arguments
from contenders.lowerbound_ import examples, make
from tasks import LEARNING_RATE, TASKS, Task, load

import lowerbound as lb
from lowerbound.training.profiling import format_table, measure_shares


def profile_training(task: Task, folder: Path, compile: str = "always") -> str:
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


def profile_likelihood(
    task: Task, folder: Path, compile: str = "always", images: int = 48, samples: int = 5000
) -> str:
    """The same table for an importance-sampled log likelihood, by image, once it is compiled."""
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

    # Compiled kernels have names in the profile.
    named = torch._inductor.config.patch({"cpp.enable_kernel_profile": True})
    with named:
        lb.log_likelihood(model, some, samples, compile=compile, progress=halt)
    begun, plain, profiled, ended = times
    kinds, operations = measure_shares(
        profile.events(), "self_cpu_time_total", 1e6 * (ended - profiled)
    )
    how = {"always": "compiled", "never": "uncompiled"}[compile]
    return format_table("an image", how, (plain - begun) / images, kinds, operations)


if __name__ == "__main__":
    folder = Path(*read_arguments(__name__, "folder"))
    tables = {
        "mnist": profile_training(TASKS["mnist"], folder),
        "mnist, uncompiled": profile_training(TASKS["mnist"], folder, "never"),
        "faces": profile_training(TASKS["faces"], folder),
        "iwae": profile_training(TASKS["iwae"], folder),
        "likelihood": profile_likelihood(TASKS["mnist"], folder),
        "likelihood, uncompiled": profile_likelihood(TASKS["mnist"], folder, "never"),
    }
    print(json.dumps({"tables": tables}))
