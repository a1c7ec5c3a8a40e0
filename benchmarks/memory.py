"""Measures the most memory that a process takes for a log likelihood with K = 100,000.

python memory.py
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from arguments import read_arguments
from contenders.lowerbound_ import make
from tasks import TASKS

import lowerbound as lb


def peak() -> float:
    """The most memory that this process has had so far, in GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


if __name__ == "__main__":
    read_arguments(__name__)
    model, _ = make(TASKS["mnist"])
    before = peak()
    lb.log_likelihood(model, (torch.rand(4, 784) < 0.5).float(), 100_000)
    print(json.dumps({"samples": 100_000, "peak_gib": peak(), "before_gib": before}))
