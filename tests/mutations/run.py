"""Breaks the library in small, meaningful ways, and counts which mistakes are seen.

    python tests/mutations/run.py record         which lines each test executes (once; needs coverage)
    python tests/mutations/run.py tests          is each mutation seen by the tests?
    python tests/mutations/run.py selftest       and by ``lowerbound selftest`` alone?
    python tests/mutations/run.py report         write docs/results/mutations.json and mutations.md

A mutation is tried on the tests that execute its lines, the quickest first, up to the first one
that fails. The others could not see it. Results are written one by one, so an interrupted run goes
on where it ended. Results and record are in a folder outside of the repository.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import tables
from mutation import Mutation
from record import Record, make_record
from report import write_report
from results import Results
from server import Server, serve


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["record", "tests", "selftest", "report"])
    parser.add_argument("selected", nargs="*", help="record: only these test files or tests")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/lowerbound-mutations"))
    parser.add_argument("--only", default="", help="only mutations whose file or text has this")
    parser.add_argument("--again", choices=["survivors", "all"], help="try these again")
    arguments = parser.parse_args()
    scratch: Path = arguments.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    record, results = Record.read(scratch / "executed.json"), Results(scratch)
    if arguments.task == "record":
        more = make_record([sys.executable], arguments.selected, scratch)
        record.merged(more).write(scratch / "executed.json")
    elif arguments.task == "report":
        write_report(results)
    else:
        chosen = [
            m
            for m in tables.MUTATIONS
            if m.key.startswith(arguments.only) or arguments.only in m.wrong
        ]
        pending = list(results.select(arguments.task, chosen, arguments.again))
        serve(lambda server: _try_each(server, arguments.task, pending, record, results), scratch)


def _try_each(
    server: Server, task: str, mutations: list[Mutation], record: Record, results: Results
) -> None:
    for number, mutation in enumerate(mutations):
        start = time.perf_counter()
        outcome = _TASKS[task](server, mutation, record, results)
        results.add(task, mutation, outcome)
        seconds = time.perf_counter() - start
        print(f"{number + 1}/{len(mutations)} {outcome or 'NOT SEEN'} [{seconds:.0f} s]")
        print(f"    {mutation.key}", flush=True)


def try_tests(server: Server, mutation: Mutation, record: Record, results: Results) -> str | None:
    """Try the tests on a mutation, and return the name of one that sees it."""
    found = record.find_tests(mutation)
    for some in _divide(found, results.find_earlier(mutation), results.unusable):
        failed = server.run_tests(mutation, some, sum(map(record.seconds, some)))
        if failed is not None:
            return failed
    return None


def try_selftest(
    server: Server, mutation: Mutation, record: Record, results: Results
) -> str | None:
    """Try the checks of selftest on a mutation, and return the name of one that sees it."""
    checks = record.find_checks(mutation)
    if not checks:
        return None
    return server.run_checks(mutation, checks, 60.0)


_TASKS = {"tests": try_tests, "selftest": try_selftest}


def _divide(found: list[str], known: str | None, unusable: set[str]) -> Iterator[list[str]]:
    """Yield the test that saw the mutation earlier, and then all others."""
    if known is not None:
        yield [known]
    left = [name for name in found if name not in unusable and name != known]
    if left:
        yield left


if __name__ == "__main__":
    main()
