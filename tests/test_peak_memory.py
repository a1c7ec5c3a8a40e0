"""The measure of memory that other tests use."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from peak_memory import measure_peak_memory


def make_tensor():
    return torch.zeros(1 << 18)


def test_the_peak_is_what_exists_at_one_time():
    assert measure_peak_memory(lambda: [make_tensor() for _ in range(3)]) == 3
    assert measure_peak_memory(lambda: [len(make_tensor()) for _ in range(3)]) == 1


def test_freeing_what_existed_before_does_not_lower_the_peak():
    kept = []
    assert measure_peak_memory(lambda: kept.append(make_tensor())) == 1
    assert measure_peak_memory(lambda: (kept.clear(), make_tensor())) == 1
