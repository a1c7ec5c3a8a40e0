"""Training on an array of 8 GB that stays in its file, beside the same array in memory: ``python mapped.py FOLDER``.

The file is made in FOLDER and deleted afterwards. Both trainings are one process each, which take turns; the first pass over
the part of the file that is used is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tasks import LEARNING_RATE, TASKS

ROWS, ROUND, WARM, ROUNDS = 8 * 10**9 // 784, 1500, 3, 6


def write(path: Path) -> None:
    """Random binary pixels, a part at a time."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "|u1", "fortran_order": False, "shape": (ROWS, 784)})
        block = (rng.random((100_000, 784)) < 0.13).view(np.uint8)
        for start in range(0, ROWS, len(block)):
            file.write(np.roll(block, start // len(block), axis=1)[: ROWS - start].tobytes())


def resident() -> float:
    """GiB of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30


def train(path: Path, place: str) -> None:
    """Rounds of steps when asked for; answers with the seconds of each and the most memory that was seen."""
    import torch
    from contenders.lowerbound_ import make

    import lowerbound as lb
    from lowerbound.data.mapped import Mapped
    from lowerbound.training.loop import Observer

    model, objective = make(TASKS["mnist"])
    values = np.load(path, mmap_mode="r" if place == "file" else None)
    data = lb.Examples(Mapped.of(values) if place == "file" else torch.from_numpy(values), levels=2)
    most = 0.0

    class Rounds(Observer):
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
            if self.steps == ROUND:
                print(json.dumps({"seconds": time.perf_counter() - self.began, "gib": most}), flush=True)
                self.wait()

    settings: dict[str, Any] = {
        "batch_size": 100,
        "learning_rate": LEARNING_RATE,
        "compile": "always",
        "progress": False,
    }
    lb.fit(model, objective, data, steps=10**6, observers=[Rounds()], **settings)


def main(folder: Path) -> None:
    """Both, in turns."""
    path = folder / "large.npy"
    try:
        write(path)
        places = ("file", "memory")
        running = {
            place: subprocess.Popen(
                [sys.executable, "-W", "ignore", __file__, str(path), place],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for place in places
        }
        seconds: dict[str, list[float]] = {place: [] for place in places}
        memory = dict.fromkeys(places, 0.0)
        for _ in range(WARM + ROUNDS):
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
        path.unlink(missing_ok=True)
    rates = {place: ROUND * 100 / median(values[WARM:]) for place, values in seconds.items()}
    answer = {"gigabytes": ROWS * 784 / 1e9, "examples_per_second": rates, "resident_gib": memory}
    print(json.dumps(answer | {"ratio": rates["file"] / rates["memory"]}))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        train(Path(sys.argv[1]), sys.argv[2])
    else:
        main(Path(sys.argv[1]))
