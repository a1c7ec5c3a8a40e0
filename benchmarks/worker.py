"""A contender in a process of its own, which trains a round when it is asked to.

python worker.py NAME TASK FOLDER [OPTION]
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from arguments import read_arguments
from tasks import TASKS, Task


class Conversation:
    """Reads requests from standard input, and writes each answer as a line of JSON."""

    def __init__(self, bound: Callable[[], float]) -> None:
        self.bound = bound
        self.began = 0.0

    def rounds(self, task: Task) -> Iterator[int]:
        """The number of each epoch to train, until no more requests come."""
        self.ready()
        for number in count(1):
            yield number
            if number % task.epochs == 0:
                self.round_done()

    def ready(self) -> None:
        """Say that only the first round is missing."""
        self._answer({"ready": True})
        self._wait()

    def round_done(self) -> None:
        """Say that a round is trained, and that the device has finished it."""
        self._answer({"seconds": time.perf_counter() - self.began})
        self._wait()

    def _wait(self) -> None:
        for line in sys.stdin:
            if line.strip() == "go":
                self.began = time.perf_counter()
                return
            if line.strip() == "bound":
                self._answer({"bound": self.bound()})
        raise SystemExit

    @staticmethod
    def _answer(answer: dict[str, object]) -> None:
        print(json.dumps(answer), file=ANSWERS, flush=True)


if __name__ == "__main__":
    name, task, folder, *option = read_arguments(__name__, "name", "task", "folder", more="option")
    ANSWERS, sys.stdout = sys.stdout, sys.stderr  # so that libraries do not print between answers
    importlib.import_module(f"contenders.{name}_").run(
        TASKS[task], Path(folder), Conversation, *option
    )
