"""The most memory that a process has while it estimates a log likelihood with K = 100,000: ``python memory.py``."""

from __future__ import annotations

import json
import resource

import torch
from contenders.lowerbound_ import make
from tasks import TASKS

import lowerbound as lb

if __name__ == "__main__":
    model, _ = make(TASKS["mnist"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lb.log_likelihood(model, (torch.rand(4, 784) < 0.5).float(), 100_000)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"samples": 100_000, "peak_gib": after, "before_gib": before}))
