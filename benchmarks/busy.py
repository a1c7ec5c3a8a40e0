"""Trainings beside other programs that use the same processor.

Contenders take turns, and so do the conditions: in each round every contender trains on a quiet
machine, beside one other training with torch, and beside a loop that compresses small files.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from tasks import TASKS
from turns import ROUNDS, WARM, contenders

_COMPRESSION = """
cd "$1" && head -c 100000 /dev/urandom | base64 > small
while :; do gzip -c small > small.gz; done
"""

_TRAINING = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "neighbour.py")]

CONDITIONS = {
    "quiet": None,
    "beside a training": lambda folder: _TRAINING,
    "beside compression": lambda folder: ["sh", "-c", _COMPRESSION, "sh", folder],
}


@contextmanager
def running(condition: str) -> Iterator[None]:
    """Within the block, the condition's program runs."""
    make = CONDITIONS[condition]
    if make is None:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        # A session of its own, so that the programs that it starts end with it.
        program = subprocess.Popen(make(folder), start_new_session=True)
        try:
            yield
        finally:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()


def measure_busy(folder: Path, tasks: tuple[str, ...] = ("mnist", "faces", "iwae")) -> Any:
    """The examples per second of lowerbound and JAX for each task in each condition."""
    found = {}
    asked = {"lowerbound": ("lowerbound",), "JAX": ("jax",)}
    for task in tasks:
        seconds: dict[str, dict[str, list[float]]] = {
            condition: {name: [] for name in asked} for condition in CONDITIONS
        }
        with contenders(task, folder, asked) as workers:
            for _ in range(WARM):
                for worker in workers.values():
                    worker.round()
            for _ in range(ROUNDS):
                for condition, times in seconds.items():
                    with running(condition):
                        for name, worker in workers.items():
                            worker.round()  # until the number of threads suits the condition
                            times[name].append(worker.round())
                    print(task, condition, {n: f"{v[-1]:.2f} s" for n, v in times.items()})
        count = TASKS[task].steps * TASKS[task].batch
        found[task] = {
            condition: {name: count / median(values) for name, values in times.items()}
            for condition, times in seconds.items()
        }
    return {"examples_per_second": found}
