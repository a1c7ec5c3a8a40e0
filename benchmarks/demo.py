"""Times the training of ``make demo`` at this commit and at an earlier one, in turns.

python demo.py REVISION
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from arguments import read_arguments

ROOT, ROUNDS = Path(__file__).parent.parent, 5
TRAINING = "import sys; from lowerbound.cli import main; sys.argv[0] = 'lowerbound'; main()"
ARGUMENTS = [
    "train",
    "aevb-gaussian",
    "--data",
    "digits",
    "--epochs",
    "40",
    "--pictures-every",
    "10",
    "--out",
]


def time_training(source: Path, run: str) -> float:
    """Seconds that the training takes, from the start of the command."""
    began = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", TRAINING, *ARGUMENTS, run]
    subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(source)}, capture_output=True, check=True
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    (revision,) = read_arguments(__name__, "revision")
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", str(ROOT), "worktree"]
        earlier = Path(folder) / "earlier"
        subprocess.run(
            [*git, "add", "--detach", str(earlier), revision], capture_output=True, check=True
        )
        try:
            sources = {"earlier": earlier / "src", "now": ROOT / "src"}
            times: dict[str, list[float]] = {name: [] for name in sources}
            for number in range(1 + ROUNDS):  # the first fills caches
                for name, source in sources.items():
                    times[name].append(time_training(source, f"{folder}/{name}-{number}"))
        finally:
            subprocess.run(
                [*git, "remove", "--force", str(earlier)], capture_output=True, check=True
            )
    found = {name: median(values[1:]) for name, values in times.items()}
    print(json.dumps({"revision": revision, "seconds": found}))
