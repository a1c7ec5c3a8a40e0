"""The results of mutations: one line each, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

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
                self.found[entry["task"]][entry["mutation"]] = entry["seen_by"]
        unusable = scratch / "unusable.txt"
        self.unusable: set[str] = set()
        if unusable.exists():
            self.unusable = set(unusable.read_text().splitlines())
        self.published: dict[str, str | None] = {}
        if PUBLISHED.exists():
            entries = json.loads(PUBLISHED.read_text())["mutations"]
            self.published = {
                f"{entry['file']}: {entry['wrong']}": entry["tests"] for entry in entries
            }

    def add(self, task: str, mutation: Mutation, seen_by: str | None) -> None:
        """Add a result."""
        self.found[task][mutation.key] = seen_by
        entry = {"task": task, "mutation": mutation.key, "seen_by": seen_by}
        with self.path.open("a") as lines:
            lines.write(json.dumps(entry) + "\n")

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
        found = self.found["tests"].get(mutation.key) or self.published.get(mutation.key)
        if found is None or "::" not in found or found in self.unusable:
            return None
        return found
