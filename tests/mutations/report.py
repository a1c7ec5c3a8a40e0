"""The published results: one JSON file, and a page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tables
from mutation import Mutation
from record import Record
from results import PUBLISHED, Results

_PAGE = PUBLISHED.with_suffix(".md")

UNTRIED = "not tried"

_HEAD = """# Mutations: would the tests see a mistake?

A test suite that passes proves little if it would also pass for a wrong library. So small,
meaningful mistakes are put into the library on purpose, one at a time, and it is measured whether
something fails. Each mutation was chosen by hand and changes a number that matters: a factor, a
sign, a constant, a threshold, a stop-gradient, the order of axes, a stream of random numbers. They
are in the tables of `tests/mutations/`, each with a sentence that says what is wrong.

    python tests/mutations/run.py record      # which lines each test executes; needs coverage
    python tests/mutations/run.py tests       # is each mutation seen by the tests?
    python tests/mutations/run.py selftest    # and by `lowerbound selftest` alone?
    python tests/mutations/run.py report      # writes this page

A mutation is tried on the tests that execute the mutated lines, up to the first one that fails.
The others cannot see it. The file [mutations.json](mutations.json) names for each mutation the test
and the check of `selftest` that saw it first.

"""


def write_report(results: Results, record: Record) -> None:
    """Write the JSON file and the page from the results so far."""
    areas = {
        name: [_describe(mutation, name, results, record) for mutation in table]
        for name, table in tables.AREAS.items()
    }
    everything = [entry for entries in areas.values() for entry in entries]
    PUBLISHED.write_text(json.dumps({"mutations": everything}, indent=1) + "\n")
    lines = [_HEAD]
    lines.append(_summarise(everything))
    lines.append("| area | real mutations | seen by tests | executed by selftest | seen by it |")
    lines.append("|---|---:|---:|---:|---:|")
    for name, entries in [*areas.items(), ("all", everything)]:
        real = [entry for entry in entries if entry["equivalent"] is None]
        counts = [_count(real, "tests"), _count(real, "executed"), _count(real, "selftest")]
        lines.append(f"| {name} | {len(real)} | {' | '.join(map(str, counts))} |")
    lines += ["", *_list_survivors(everything), *_list_equivalent(everything)]
    _PAGE.write_text("\n".join(lines).rstrip() + "\n")


def _count(entries: Sequence[dict[str, Any]], by: str) -> int | str:
    """The number of mutations that were seen; those that selftest was not tried on are unknown."""
    found = [entry[by] for entry in entries]
    if UNTRIED in found:
        return "?"
    return sum(value not in (None, False) for value in found)


def _describe(mutation: Mutation, area: str, results: Results, record: Record) -> dict[str, Any]:
    return {
        "area": area,
        "file": mutation.file,
        "wrong": mutation.wrong,
        "tests": results.found["tests"].get(mutation.key),
        "selftest": results.found["selftest"].get(mutation.key, UNTRIED),
        "executed": bool(record.find_checks(mutation)),
        "equivalent": mutation.equivalent,
        "survives": mutation.survives,
    }


def _summarise(entries: Sequence[dict[str, Any]]) -> str:
    real = [entry for entry in entries if entry["equivalent"] is None]
    seen = sum(entry["tests"] is not None for entry in real)
    return (
        f"Of {len(entries)} mutations {len(entries) - len(real)} change no result. Of the "
        f"{len(real)} real ones the tests see {seen}, which is {100 * seen / len(real):.1f}%.\n"
    )


def _list_survivors(entries: Sequence[dict[str, Any]]) -> list[str]:
    survivors = [e for e in entries if e["tests"] is None and e["equivalent"] is None]
    if not survivors:
        return ["All real mutations are seen.", ""]
    lines = ["## Real mutations that no test sees", ""]
    for entry in survivors:
        reason = entry["survives"] or "No reason is known."
        lines += [f"- `{entry['file']}`: {entry['wrong']} *{reason}*"]
    return [*lines, ""]


def _list_equivalent(entries: Sequence[dict[str, Any]]) -> list[str]:
    equivalent = [entry for entry in entries if entry["equivalent"] is not None]
    if not equivalent:
        return []
    lines = ["## Mutations that change no result", ""]
    lines += [f"- `{e['file']}`: {e['wrong']} *{e['equivalent']}*" for e in equivalent]
    return lines
