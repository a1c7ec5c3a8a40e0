"""Trainings beside other programs that use the same processor.

There are three conditions: a quiet machine, one other training with torch, and a loop that
compresses small files. Conditions take turns, and within each the contenders train one after the
other, for a block of time each.
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
from turns import WARM, Contender, contenders

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

# The seconds of a block; the seconds of training before it, in which the number of threads adapts
# to the condition; and the number of blocks in each condition, for a task of ten minutes.
BLOCK_SECONDS, SETTLING_SECONDS = 20.0, 6.0
BLOCKS = {"wide": 2}


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


def measure_busy(task: str, folder: Path) -> Any:
    """The examples per second of lowerbound and JAX in each condition, and those of each block."""
    endless = ("lowerbound", "float32", "always", "100000")  # until it is closed
    asked = {"lowerbound": endless, "JAX": ("jax",)}
    rates: dict[str, dict[str, list[float]]] = {
        condition: {name: [] for name in asked} for condition in CONDITIONS
    }
    with contenders(task, folder, asked) as workers:
        for _ in range(WARM):
            for worker in workers.values():
                worker.round()
        for _ in range(BLOCKS.get(task, 3)):
            for condition, found in rates.items():
                with running(condition):
                    for name, worker in workers.items():
                        found[name].append(_measure_block(task, worker))
                last = {name: f"{values[-1]:,.0f} examples/s" for name, values in found.items()}
                print(task, condition, last, flush=True)
    return {
        "examples_per_second": {
            condition: {name: median(values) for name, values in found.items()}
            for condition, found in rates.items()
        },
        "blocks": rates,
    }


def _measure_block(task: str, worker: Contender) -> float:
    """The examples per second of a block, after training that adapts the number of threads."""
    _train(worker, SETTLING_SECONDS)
    rounds = _train(worker, BLOCK_SECONDS)
    return TASKS[task].steps * TASKS[task].batch * len(rounds) / sum(rounds)


def _train(worker: Contender, seconds: float) -> list[float]:
    """Train rounds for so many seconds or somewhat longer, and return the seconds of each."""
    rounds: list[float] = []
    while sum(rounds) < seconds:
        rounds.append(worker.round())
    return rounds
