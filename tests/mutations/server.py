"""Runs tests of the mutated library in forks of a process that has collected all tests."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from in_place import list_functions, put_in
from mutation import Mutation
from record import LEFT_OUT, ROOT

# A run may take this many CPU seconds, and so many times the CPU seconds of its tests.
_LEAST_LIMIT, _FACTOR = 60, 10
_ENDLESS = "the run does not end, or ends the process"


class Server:
    """A plugin of pytest that does other work in place of running all tests.

    Args:
        work: what to do with the server once the tests are collected.
        scratch: a folder for files.
    """

    def __init__(self, work: Callable[[Server], None], scratch: Path) -> None:
        self.work, self.scratch = work, scratch
        self.items: dict[str, Any] = {}
        self.functions: list[FunctionType] = []
        self.failed: str | None = None

    def pytest_runtestloop(self, session: Any) -> bool:
        """Do the work."""
        if session.testsfailed:
            sys.exit("mutations: some tests cannot be collected; run pytest to see why")
        self.items = {item.nodeid: item for item in session.items}
        self.functions = list_functions()
        gc.collect()
        gc.freeze()  # so that the forks share the memory of these objects
        self.work(self)
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep the first failure."""
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def run_tests(
        self, mutation: Mutation | None, tests: Sequence[str], seconds: float
    ) -> str | None:
        """Run tests in this order up to the first one that fails, and return its name."""
        items = [self.items[name] for name in tests if name in self.items]

        def run() -> str | None:
            for item, following in zip(items, [*items, None][1:], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self.failed is not None:
                    break
            return self.failed

        return self._run_in_fork(mutation, run, seconds)

    def run_checks(
        self, mutation: Mutation | None, names: Sequence[str], seconds: float
    ) -> str | None:
        """Run checks of selftest up to the first one that does not hold, and return its name."""
        from lowerbound.selftest import CHECKS, run_checks

        def run() -> str | None:
            for name in names:
                if name in CHECKS and not CHECKS[name].thorough:
                    [outcome] = run_checks(only=[name])
                    if not outcome.passed:
                        return name
            return None

        return self._run_in_fork(mutation, run, seconds)

    def _run_in_fork(
        self, mutation: Mutation | None, run: Callable[[], str | None], seconds: float
    ) -> str | None:
        result = self.scratch / "result.json"
        result.unlink(missing_ok=True)
        limit = int(_LEAST_LIMIT + _FACTOR * seconds)
        child = os.fork()
        if child == 0:
            self._work_in_fork(mutation, run, result, limit)
        # Waiting costs no CPU seconds, so a run that only waits is ended by the clock.
        deadline = time.monotonic() + 20 * limit
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
            time.sleep(0.01)
        if not result.exists():
            return _ENDLESS
        found = json.loads(result.read_text())
        if "error" in found:
            raise RuntimeError(found["error"])
        failed: str | None = found["failed"]
        return failed

    def _work_in_fork(
        self, mutation: Mutation | None, run: Callable[[], str | None], result: Path, limit: int
    ) -> None:
        try:
            os.setpgrp()
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            output = os.open(self.scratch / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            if mutation is not None:
                put_in(mutation, self.functions)
            result.write_text(json.dumps({"failed": run()}))
        except Exception:
            result.write_text(json.dumps({"error": traceback.format_exc()}))
        finally:
            os._exit(0)


def serve(work: Callable[[Server], None], scratch: Path) -> None:
    """Collect all tests, and do the work."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)
    import torch

    torch.set_num_threads(1)
    options = ["-q", "-s", "-x", "--tb=line", "-p", "no:cacheprovider"]
    options += [f"--basetemp={scratch / 'temporary'}"]
    options += [f"--ignore={name}" for name in LEFT_OUT]
    pytest.main([*options, "tests", "src"], plugins=[Server(work, scratch)])
