"""The importance-sampled log likelihood with 5,000 samples, beside pythae's: ``python likelihood.py FOLDER``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median

import torch
from contenders.lowerbound_ import examples, make
from contenders.pythae_ import build
from run import product_rate
from tasks import TASKS, load

import lowerbound as lb

SAMPLES, IMAGES, OF_PYTHAE, ROUNDS = 5000, 100, 8, 3

if __name__ == "__main__":
    task = TASKS["mnist"]
    _, test = load(task, Path(sys.argv[1]))
    ours, theirs, images = make(task)[0], build(task).eval(), torch.from_numpy(test).float()
    seconds, theirs_seconds, rates = [], [], []
    for _ in range(1 + ROUNDS):
        began = time.perf_counter()
        lb.log_likelihood(ours, examples(task, test).first(IMAGES), SAMPLES)
        seconds.append((time.perf_counter() - began) / IMAGES)
        began = time.perf_counter()
        with torch.no_grad():
            theirs.get_nll(images[:OF_PYTHAE], n_samples=SAMPLES, batch_size=100)
        theirs_seconds.append((time.perf_counter() - began) / OF_PYTHAE)
        rates.append(product_rate())
    # The decoder's products alone: the encoder sees an image once.
    floor = 2.0 * SAMPLES * (task.latent * task.hidden[0] + task.hidden[0] * task.outputs) / median(rates[1:])
    answer = {
        "images_per_second": {"lowerbound": 1 / median(seconds[1:]), "pythae": 1 / median(theirs_seconds[1:])},
        "product_gflops": median(rates[1:]) / 1e9,
        "share_of_floor": {
            "lowerbound": floor / median(seconds[1:]),
            "pythae": floor / median(theirs_seconds[1:]),
        },
    }
    print(json.dumps(answer))
