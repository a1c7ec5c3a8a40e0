"""The results of mutations: one line each, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mutation import Mutation
from record import ROOT

PUBLISHED = ROOT / "docs" / "results" / "mutations.json"


class Results:
    """What saw each mutation, by task: ``"tests"`` or ``"selftest"``.

    Args:
        scratch: the folder of the lines.
    """

    def __init__(self, scratch: Path) -> None:
        self.path = scratch / "results.jsonl"
        self.found: dict[str, dict[str, str | None]] = {"tests": {}, "selftest": {}}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                entry = json.loads(line)
                found = self.found[entry["task"]]
                found[entry["mutation"]] = entry["seen_by"]
                if entry.get("forgotten"):
                    del found[entry["mutation"]]
        unusable = scratch / "unusable.txt"
        self.unusable: set[str] = set()
        if unusable.exists():
            self.unusable = set(unusable.read_text().splitlines())
        self.published: dict[str, dict[str, Any]] = {}
        if PUBLISHED.exists():
            entries = json.loads(PUBLISHED.read_text())["mutations"]
            self.published = {f"{entry['file']}: {entry['wrong']}": entry for entry in entries}

    def add(self, task: str, mutation: Mutation, seen_by: str | None) -> None:
        """Add a result."""
        self.found[task][mutation.key] = seen_by
        entry = {"task": task, "mutation": mutation.key, "seen_by": seen_by}
        with self.path.open("a") as lines:
            lines.write(json.dumps(entry) + "\n")

    def distrust(self, test: str) -> None:
        """Forget what a test has seen, because it fails without a mutation, too."""
        self.unusable.add(test)
        (self.path.parent / "unusable.txt").write_text("\n".join(sorted(self.unusable)))
        found = self.found["tests"]
        for key in [key for key, seen_by in found.items() if seen_by == test]:
            del found[key]
            line = {"task": "tests", "mutation": key, "seen_by": None, "forgotten": True}
            with self.path.open("a") as lines:
                lines.write(json.dumps(line) + "\n")

    def select(
        self, task: str, mutations: Iterable[Mutation], again: str | None
    ) -> Iterator[Mutation]:
        """Select the mutations that are still to be tried."""
        for mutation in mutations:
            known = mutation.key in self.found[task]
            survived = known and self.found[task][mutation.key] is None
            if not known or again == "all" or (again == "survivors" and survived):
                yield mutation

    def find_earlier(self, mutation: Mutation) -> str | None:
        """Find a test that saw the mutation in an earlier run."""
        found = self.find_seen_by("tests", mutation)
        if found is None or "::" not in found:
            return None
        return found

    def find_seen_by(self, task: str, mutation: Mutation) -> str | None:
        """Find what saw the mutation, here or else in the published results."""
        if mutation.key in self.found[task]:
            return self.found[task][mutation.key]
        published: str | None = self.published.get(mutation.key, {}).get(task)
        if published in self.unusable:
            return None
        return published
