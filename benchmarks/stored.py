"""Trains on data that stay in a file, beside the same data in memory.

    python stored.py FOLDER KIND

KIND is "array", 8 GB of binary pixels in a ``.npy`` file, or "pictures", a folder of PNG files that
are decoded once. The data are written to FOLDER and deleted afterwards. The two trainings are
processes that take turns. Rounds of the first epoch of the rows that are used do not count.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from arguments import read_arguments
from tasks import LEARNING_RATE, TASKS


@dataclass(frozen=True)
class Kind:
    """Some data, and the number of steps and rounds.

    Args:
        task: the task whose model is trained.
        rows: the number of examples.
        steps: the number of steps in a round.
        warm: the number of first rounds, which do not count.
        rounds: the number of rounds that count.
    """

    task: str
    rows: int
    steps: int
    warm: int
    rounds: int


KINDS = {
    "array": Kind("mnist", 8 * 10**9 // 784, steps=600, warm=5, rounds=20),
    "pictures": Kind("faces", 20_000, steps=150, warm=6, rounds=8),
}


def write_array(path: Path) -> None:
    """Write random binary pixels, a part at a time."""
    rng, rows = np.random.default_rng(0), KINDS["array"].rows
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (rows, 784)}
        )
        block = (rng.random((100_000, 784)) < 0.13).view(np.uint8)
        for start in range(0, rows, len(block)):
            file.write(np.roll(block, start // len(block), axis=1)[: rows - start].tobytes())


def write_pictures(folder: Path) -> None:
    """Write smooth random pictures of 64 x 64."""
    from PIL import Image

    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(KINDS["pictures"].rows):
        small = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
        small.resize((64, 64), Image.Resampling.BICUBIC).save(
            folder / f"{number:05d}.png", compress_level=1
        )


def resident() -> float:
    """The memory that this process has now, in GiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30


def load(kind: str, path: Path, place: str) -> Any:
    """The examples, in memory or in their file."""
    import torch

    import lowerbound as lb
    from lowerbound.data.mapped import MappedRows

    if kind == "pictures":
        return lb.load_data(
            path, keep_in=place, cache=path.parent / "decoded", test_fraction=0.01
        ).train
    if place == "file":
        return lb.Examples(MappedRows.of(np.load(path, mmap_mode="r")), levels=2)
    return lb.Examples(torch.from_numpy(np.load(path)), levels=2)


def train(kind: str, path: Path, place: str) -> None:
    """Train a round whenever standard input has a line, and print its seconds and the memory."""
    from contenders.lowerbound_ import make

    import lowerbound as lb

    sizes = KINDS[kind]
    data = load(kind, path, place)
    shape = {"pictures": data.shape, "array": ()}[kind]
    model, objective = make(TASKS[sizes.task], shape)
    most = 0.0

    class Rounds(lb.Observer):
        def on_start(self, loop: Any) -> None:
            self.wait()

        def wait(self) -> None:
            if not sys.stdin.readline():
                raise SystemExit
            self.steps, self.began = 0, time.perf_counter()

        def on_step(self, loop: Any) -> None:
            nonlocal most
            self.steps += 1
            if self.steps % 50 == 0:
                most = max(most, resident())
            if self.steps == sizes.steps:
                print(
                    json.dumps({"seconds": time.perf_counter() - self.began, "gib": most}),
                    flush=True,
                )
                self.wait()

    settings: dict[str, Any] = {
        "learning_rate": LEARNING_RATE,
        "compile": "always",
        "progress": False,
    }
    settings |= {"batch_size": TASKS[sizes.task].batch, "steps": 10**6, "observers": [Rounds()]}
    lb.fit(model, objective, data, **settings)


def measure(folder: Path, kind: str) -> dict[str, Any]:
    """Measure both trainings, in turns."""
    path, sizes = folder / f"large-{kind}", KINDS[kind]
    places = ("file", "memory")
    command = [sys.executable, "-W", "ignore", __file__, kind, str(path)]
    try:
        (write_array if kind == "array" else write_pictures)(path)
        running = {
            place: subprocess.Popen(
                [*command, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for place in places
        }
        seconds: dict[str, list[float]] = {place: [] for place in places}
        memory = dict.fromkeys(places, 0.0)
        for _ in range(sizes.warm + sizes.rounds):
            for place, process in running.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("go\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                seconds[place].append(answer["seconds"])
                memory[place] = answer["gib"]
        for process in running.values():
            process.kill()
    finally:
        for leftover in (path, folder / "decoded"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            leftover.unlink(missing_ok=True)
    ratio = median(
        a / b
        for a, b in zip(seconds["memory"][sizes.warm :], seconds["file"][sizes.warm :], strict=True)
    )
    size, batch = TASKS[sizes.task].dimensions * sizes.rows, TASKS[sizes.task].batch
    rates = {
        place: sizes.steps * batch / median(values[sizes.warm :])
        for place, values in seconds.items()
    }
    return {
        "gigabytes": size / 1e9,
        "examples_per_second": rates,
        "resident_gib": memory,
        "ratio": ratio,
    }


if __name__ == "__main__":
    if len(sys.argv) > 3:
        train(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    else:
        folder, kind = read_arguments(__name__, "folder", "kind")
        print(json.dumps(measure(Path(folder), kind)))
