"""A plugin of pytest that records which lines each test executes, and how long the test takes.

    pytest -p executed_lines --executed=FILE

FILE becomes a JSON object: for each test its CPU seconds, and for each source file the lines that
the test executed. What fixtures of a class, a module or a session execute counts for each test that
uses the fixture. The record shows nothing of what tests execute in other processes.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "lowerbound"


class Recorder:
    """Collects the executed lines by test."""

    def __init__(self, result: str) -> None:
        from coverage import Coverage  # installed for this purpose only

        self.result = Path(result)
        self.coverage = Coverage(data_file=None, config_file=False, source=[str(SOURCE)])
        self.seconds: dict[str, float] = {}
        self.fixtures: dict[str, list[str]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        """Begin a context with the name of the test, and measure its CPU time."""
        self.coverage.switch_context(item.nodeid)
        definitions = getattr(item, "_fixtureinfo", None)
        if definitions is not None:
            self.fixtures[item.nodeid] = [
                _name_fixture(definition)
                for several in definitions.name2fixturedefs.values()
                for definition in several
            ]
        start = time.process_time()
        result = yield
        self.seconds[item.nodeid] = time.process_time() - start
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest):
        """A fixture that several tests share has a context of its own."""
        if fixturedef.scope == "function":
            return (yield)
        self.coverage.switch_context(_name_fixture(fixturedef))
        try:
            return (yield)
        finally:
            self.coverage.switch_context(request._pyfuncitem.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the record."""
        self.coverage.stop()
        lines = self._collect_lines()
        record = {
            name: {"seconds": round(seconds, 4), "lines": self._merge(name, lines)}
            for name, seconds in self.seconds.items()
        }
        self.result.write_text(json.dumps(record))

    def _collect_lines(self) -> dict[str, dict[str, set[int]]]:
        executed: dict[str, dict[str, set[int]]] = defaultdict(dict)
        data = self.coverage.get_data()
        for path in data.measured_files():
            file = str(Path(path).relative_to(SOURCE))
            for line, contexts in data.contexts_by_lineno(path).items():
                for context in contexts:
                    executed[context].setdefault(file, set()).add(line)
        return executed

    def _merge(self, name: str, lines: dict[str, dict[str, set[int]]]) -> dict[str, list[int]]:
        merged: dict[str, set[int]] = defaultdict(set)
        for context in (name, *self.fixtures.get(name, ())):
            for file, numbers in lines.get(context, {}).items():
                merged[file] |= numbers
        return {file: sorted(numbers) for file, numbers in merged.items()}


def _name_fixture(definition: pytest.FixtureDef) -> str:
    return f"fixture {definition.argname} {definition.baseid}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the record's file."""
    parser.addoption("--executed", help="write the lines that each test executes to this file")


def pytest_configure(config: pytest.Config) -> None:
    """Start recording."""
    result = config.getoption("--executed")
    if result is None:
        return
    recorder = Recorder(result)
    recorder.coverage.start()
    config.pluginmanager.register(recorder, "lines that tests execute")
