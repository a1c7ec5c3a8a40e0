"""Times the importance-sampled log likelihood with 5,000 samples, beside pythae's.

    python likelihood.py FOLDER

lowerbound's is one evaluation. It halts after each round, so that the others can take their turns.
The first round includes the compilation.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median

import torch
from arguments import read_arguments
from contenders.lowerbound_ import examples, make
from tasks import TASKS, load
from turns import product_rate, timed

import lowerbound as lb

SAMPLES, IMAGES, ROUNDS = 5000, 80, 7
FEW = 8  # images in a round of pythae, whose rate is as steady


if __name__ == "__main__":
    (folder,) = read_arguments(__name__, "folder")
    from contenders.pythae_ import build

    task = TASKS["mnist"]
    _, test = load(task, Path(folder))
    ours, theirs, images = make(task)[0], build(task).eval(), torch.from_numpy(test).float()
    given = examples(task, test)
    seconds: dict[str, list[float]] = {"lowerbound": [], "lowerbound, uncompiled": [], "pythae": []}
    rates: list[float] = []
    began = [time.perf_counter()]

    def run_uncompiled() -> None:
        lb.log_likelihood(ours, given.first(IMAGES // 2), SAMPLES, compile="never")

    @torch.no_grad()
    def run_pythae() -> None:
        theirs.get_nll(images[:FEW], n_samples=SAMPLES, batch_size=100)

    def halt(so_far: int, in_all: int) -> None:
        if so_far % IMAGES:
            return
        seconds["lowerbound"].append((time.perf_counter() - began[-1]) / IMAGES)
        seconds["lowerbound, uncompiled"].append(timed(run_uncompiled) / (IMAGES // 2))
        seconds["pythae"].append(timed(run_pythae) / FEW)
        rates.append(product_rate())
        began.append(time.perf_counter())

    some = given.first((1 + ROUNDS) * IMAGES)
    estimate = lb.log_likelihood(ours, some, SAMPLES, compile="always", progress=halt)
    # The products of the decoder alone, because the encoder sees an image once.
    floor = (
        2.0
        * SAMPLES
        * (task.latent * task.hidden[0] + task.hidden[0] * task.outputs)
        / median(rates[1:])
    )
    medians = {name: median(values[1:]) for name, values in seconds.items()}
    answer = {
        "images_per_second": {name: 1 / value for name, value in medians.items()},
        "product_gflops": median(rates[1:]) / 1e9,
        "share_of_floor": {name: floor / value for name, value in medians.items()},
        "pace": estimate.pace,
    }
    print(json.dumps(answer))
