"""Contenders: processes that train the same model, and take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tasks import TASKS, Task

HERE = Path(__file__).parent
WARM, ROUNDS = 2, 5


class Contender:
    """A worker process, whose compiler has an empty cache unless ``cache`` names a folder.

    So the first round includes the whole compilation.
    """

    def __init__(
        self, name: str, task: str, folder: Path, *options: str, cache: Path | None = None
    ) -> None:
        command = [
            sys.executable,
            "-W",
            "ignore",
            str(HERE / "worker.py"),
            name,
            task,
            str(folder),
            *options,
        ]
        own = cache or tempfile.mkdtemp(dir=folder)
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(own)}
        # Messages of the libraries go to a file. A pipe that nobody reads would fill up and block
        # them. It stays open as long as the process.
        self.messages = tempfile.TemporaryFile("w+", dir=folder)  # noqa: SIM115
        pipes: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": self.messages,
        }
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        self._answer()

    def round(self) -> float:
        """Train a round, and return its seconds."""
        self._ask("go")
        return float(self._answer()["seconds"])

    def bound(self) -> float:
        """The bound of the test data, with one draw for each example."""
        self._ask("bound")
        return float(self._answer()["bound"])

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.messages.close()

    def _ask(self, request: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.messages.seek(0)
            raise SystemExit(f"a contender ended: {self.messages.read()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def contenders(
    task: str, folder: Path, asked: dict[str, tuple[str, ...]], cache: Path | None = None
) -> Iterator[dict[str, Contender]]:
    """Start processes by name, each given as (library, *options), and end them afterwards."""
    with ExitStack() as stack:
        running = {}
        for name, (library, *options) in asked.items():
            running[name] = Contender(library, task, folder, *options, cache=cache)
            stack.callback(running[name].close)
        yield running


def timed(work: Callable[[], object]) -> float:
    """The seconds that some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def typical_seconds(work: Callable[[], object], first: int, rounds: int) -> float:
    """The median seconds of some work, over rounds after the ``first`` ones."""
    return median([timed(work) for _ in range(first + rounds)][first:])


def product_rate(dtype: torch.dtype = torch.float32, size: int = 2048) -> float:
    """Floating-point operations per second, now, of a matrix product by the faster library."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    works = (lambda: a @ b, lambda: multiply_by_onednn(a, b))
    return 2.0 * size**3 / min(typical_seconds(work, 2, 6) for work in works)


def multiply_by_onednn(a: torch.Tensor, b: torch.Tensor, bias: Any = None) -> torch.Tensor:
    """The product by oneDNN; ``a @ b`` uses the library with which torch was built."""
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a, b.T, bias, "none", [], "")
    return product


def throughput(task: str, folder: Path, asked: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """The examples per second of contenders that take turns, and their bounds afterwards."""
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    rates: list[float] = []
    with contenders(task, folder, asked) as running:
        for _ in range(WARM + ROUNDS):
            for name, contender in running.items():
                seconds[name].append(contender.round())
            rates.append(product_rate())
            print(
                task, {name: f"{values[-1]:.2f} s" for name, values in seconds.items()}, flush=True
            )
        bounds = {name: contender.bound() for name, contender in running.items()}
    sizes: Task = TASKS[task]
    count = sizes.steps * sizes.batch
    speeds = {name: count / median(values[WARM:]) for name, values in seconds.items()}
    rate = median(rates[WARM:])
    floor = sizes.operations / rate
    return {
        "examples_per_second": speeds,
        "first_round_seconds": {name: values[0] for name, values in seconds.items()},
        "test_bound": bounds,
        "product_gflops": rate / 1e9,
        "floor_ms": 1e3 * floor,
        "share_of_floor": {name: floor * speed / sizes.batch for name, speed in speeds.items()},
    }
