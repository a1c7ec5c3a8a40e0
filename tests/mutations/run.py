"""Breaks the library in small, meaningful ways, and counts which mistakes are seen.

    python tests/mutations/run.py record      which lines each test executes; needs coverage
    python tests/mutations/run.py tests       is each mutation seen by the tests?
    python tests/mutations/run.py selftest    and by ``lowerbound selftest`` alone?
    python tests/mutations/run.py verify      do these tests pass without a mutation?
    python tests/mutations/run.py report      write docs/results/mutations.json and mutations.md

A mutation is tried on the tests that execute its lines, the quickest first, up to the first one
that fails. The others could not see it. Results are written one by one, so an interrupted run goes
on where it ended. Results and record are in a folder outside of the repository. A mutation that was
not tried there keeps its published result, so new mutations can be tried alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tables
from mutation import Mutation
from record import OF_SELFTEST, Record, make_record
from report import write_report
from results import Results
from server import Server, serve


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["record", "tests", "selftest", "verify", "report"])
    parser.add_argument("selected", nargs="*", help="record: only these test files or tests")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/lowerbound-mutations"))
    parser.add_argument("--only", default="", help="only mutations of files that begin like this")
    parser.add_argument(
        "--limit",
        type=float,
        default=1e9,
        help="leave out a mutation for now that no tests of so many CPU seconds see",
    )
    parser.add_argument("--again", choices=["survivors", "all"], help="try these again")
    arguments = parser.parse_args()
    scratch: Path = arguments.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    record, results = Record.read(scratch / "executed.json"), Results(scratch)
    if arguments.task == "record":
        more = make_record([sys.executable], arguments.selected, scratch)
        record.merged(more).write(scratch / "executed.json")
    elif arguments.task == "report":
        write_report(results, record)
    elif arguments.task == "verify":
        serve(lambda server: verify(server, record, results), scratch)
    else:
        files = tuple(arguments.only.split(","))
        chosen = [m for m in tables.MUTATIONS if m.file.startswith(files)]
        pending = list(results.select(arguments.task, chosen, arguments.again))
        tried = Trial(record, results, arguments.limit)
        serve(lambda server: tried.try_each(server, arguments.task, pending), scratch)


def verify(server: Server, record: Record, results: Results) -> None:
    """Check that the tests that saw mutations pass without; what others saw is forgotten."""
    names = sorted({name for name in results.found["tests"].values() if name is not None})
    left = [name for name in names if name not in results.unusable]
    print(f"{len(left)} tests have seen mutations")
    while left:
        failed = server.run_tests(None, left, sum(map(record.seconds, left)))
        if failed is None:
            break
        print(f"fails without a mutation: {failed}")
        results.distrust(failed)
        left = left[left.index(failed) + 1 :]


@dataclass(frozen=True)
class Trial:
    """Tries mutations on tests or checks.

    Args:
        record: the lines that tests execute.
        results: where to add results.
        limit: the CPU seconds of the tests on which each mutation is tried.
    """

    record: Record
    results: Results
    limit: float

    def try_each(self, server: Server, task: str, mutations: Sequence[Mutation]) -> None:
        """Try mutations one by one, and add the results."""
        for number, mutation in enumerate(mutations):
            start = time.perf_counter()
            seen_by, complete = {"tests": self.try_tests, "selftest": self.try_selftest}[task](
                server, mutation
            )
            if seen_by is not None or complete:
                self.results.add(task, mutation, seen_by)
            outcome = seen_by or "NOT SEEN" + " so far" * (not complete)
            seconds = time.perf_counter() - start
            print(f"{number + 1}/{len(mutations)} {outcome} [{seconds:.0f} s]")
            print(f"    {mutation.key}", flush=True)

    def try_tests(self, server: Server, mutation: Mutation) -> tuple[str | None, bool]:
        """Try the tests on a mutation: the test that sees it, and whether all were tried."""
        known = self.results.find_earlier(mutation)
        if known is not None and server.run_tests(mutation, [known], 10.0) is not None:
            return known, False
        unusable = self.results.unusable
        found = [name for name in self.record.find_tests(mutation) if name not in unusable]
        some = self._select(found)
        if not some:
            return None, True
        return server.run_tests(mutation, some, self._sum_seconds(some)), len(some) == len(found)

    def try_selftest(self, server: Server, mutation: Mutation) -> tuple[str | None, bool]:
        """Try the checks of selftest: the one that sees it, and whether all were tried."""
        found = self.record.find_checks(mutation)
        some = self._select(found)
        if not some:
            return None, True
        names = [name[len(OF_SELFTEST) : -1] for name in some]
        return server.run_checks(mutation, names, 60.0), len(some) == len(found)

    def _select(self, names: Sequence[str]) -> list[str]:
        """Select the first ones, as the limit allows."""
        some, spent = [], 0.0
        for name in names:
            spent += self.record.seconds(name)
            if some and spent > self.limit:
                break
            some.append(name)
        return some

    def _sum_seconds(self, names: Sequence[str]) -> float:
        return sum(map(self.record.seconds, names))


if __name__ == "__main__":
    main()
