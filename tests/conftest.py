"""What all tests share."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch, and for the commands that tests start

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    """Each test draws from its own beginning, and leaves torch's random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where LOWERBOUND_DATA does not name it."""
    if "LOWERBOUND_DATA" not in os.environ:
        pytest.skip("set LOWERBOUND_DATA to the folder of real data sets to run this test")
    return Path(os.environ["LOWERBOUND_DATA"])
