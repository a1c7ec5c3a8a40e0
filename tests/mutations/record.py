"""The record of the lines that each test executes: making it, and asking it for tests."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mutation import SOURCE, Mutation

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# Tests of other processes, of the device, of the command's layout or of these tables: they execute
# nothing here that the others do not. The last one integrates for minutes.
LEFT_OUT = (
    "tests/test_tutorial.py",
    "tests/test_programs.py",
    "tests/test_cuda.py",
    "tests/test_interrupts.py",
    "tests/test_lost_runs.py",
    "tests/test_readme.py",
    "tests/test_docs.py",
    "tests/test_layers.py",
    "tests/test_mutations.py",
)

# The test of the statements of selftest: one for each check.
OF_SELFTEST = "tests/test_selftest.py::test_the_statement_holds["
# Tests that break the library themselves say nothing about a mutation.
_BREAKING = "tests/test_selftest.py::test_the_check_sees_the_mutation"


@dataclass(frozen=True)
class Record:
    """What each test executed.

    Args:
        tests: for each test its CPU seconds, and the executed lines by file.
        digests: the digest of each file at the time.
    """

    tests: dict[str, dict]
    digests: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record, or begin an empty one."""
        if not path.exists():
            return cls({}, {})
        stored = json.loads(path.read_text())
        return cls(stored["tests"], stored["digests"])

    def write(self, path: Path) -> None:
        """Store the record."""
        path.write_text(json.dumps({"tests": self.tests, "digests": self.digests}))

    def merged(self, more: dict[str, dict]) -> Record:
        """The record with newer entries of some tests, for the present files."""
        return Record({**self.tests, **more}, compute_digests())

    def seconds(self, test: str) -> float:
        """The CPU seconds of a test; 0 if it is not known."""
        return self.tests.get(test, {}).get("seconds", 0.0)

    def find_tests(self, mutation: Mutation) -> list[str]:
        """Find the tests that execute a mutation, the quickest and most specific first."""
        lines = self._find_lines(mutation)
        found = [
            name
            for name, entry in self.tests.items()
            if not name.startswith(_BREAKING) and not lines.isdisjoint(self._get(entry, mutation))
        ]
        return sorted(found, key=self._estimate_cost)

    def _estimate_cost(self, name: str) -> float:
        """The CPU seconds of a test times the lines that it executes.

        A test that executes little is more likely to look at what is mutated.
        """
        entry = self.tests[name]
        return max(0.01, entry["seconds"]) * sum(map(len, entry["lines"].values()))

    def find_checks(self, mutation: Mutation) -> list[str]:
        """Find the tests of selftest's checks that execute a mutation, in the same order."""
        return [name for name in self.find_tests(mutation) if name.startswith(OF_SELFTEST)]

    @staticmethod
    def _get(entry: dict, mutation: Mutation) -> Sequence[int]:
        found: Sequence[int] = entry["lines"].get(mutation.file, ())
        return found

    def _find_lines(self, mutation: Mutation) -> set[int]:
        """The lines that a test must execute to see a mutation.

        They are those of the mutated statement. What runs once when the module is imported, such as
        a constant, may matter to all of its functions, and if the file has changed since it was
        recorded, the lines have other numbers: then any line within a function counts.
        """
        text = (SOURCE / mutation.file).read_text()
        bodies = _find_bodies(ast.parse(text))
        inside = {line for first, last in bodies for line in range(first, last + 1)}
        first, last = mutation.lines()
        lines = _find_statement_lines(ast.parse(text), first, last)
        if lines <= inside and self.digests.get(mutation.file) == _compute_digest(text):
            return lines
        return inside


def make_record(python: Sequence[str], selected: Iterable[str], scratch: Path) -> dict[str, dict]:
    """Run tests once, and record what each executes."""
    if find_spec("coverage") is None:
        sys.exit("mutations: recording needs a package that is not installed: pip install coverage")
    result = scratch / "executed-now.json"
    command = [*python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "executed_lines"]
    command += [f"--executed={result}", *(f"--deselect={name}" for name in LEFT_OUT), *selected]
    path = os.pathsep.join([str(ROOT / "src"), str(HERE), os.environ.get("PYTHONPATH", "")])
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, check=False)
    if not result.exists():
        sys.exit("mutations: the tests could not be recorded; see the messages above")
    recorded: dict[str, dict] = json.loads(result.read_text())
    return recorded


def compute_digests() -> dict[str, str]:
    """The digest of each file of the library."""
    return {
        str(path.relative_to(SOURCE)): _compute_digest(path.read_text())
        for path in SOURCE.rglob("*.py")
    }


def _compute_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _find_bodies(tree: ast.Module) -> list[tuple[int, int]]:
    """The first and the last line of the body of each function."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    bodies = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda):
            bodies.append((node.body.lineno, node.body.end_lineno or node.body.lineno))
        elif isinstance(node, functions):
            bodies.append((node.body[0].lineno, node.end_lineno or node.lineno))
    return bodies


def _find_statement_lines(tree: ast.Module, first: int, last: int) -> set[int]:
    """All lines of the smallest statements that contain or touch these lines."""
    lines = set(range(first, last + 1))
    simple = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and not hasattr(node, "body") and not hasattr(node, "cases")
    ]
    for node in simple:
        end = node.end_lineno or node.lineno
        if node.lineno <= last and end >= first:
            lines |= set(range(node.lineno, end + 1))
    return lines
