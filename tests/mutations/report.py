"""The published results: one JSON file, and a page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tables
from mutation import Mutation
from record import Record
from results import PUBLISHED, Results

_PAGE = PUBLISHED.with_suffix(".md")

_HEAD = """# Mutations: would the tests see a mistake?

A test suite that passes proves little if it would also pass for a wrong library. So small,
meaningful mistakes are put into the library on purpose, one at a time, and it is measured whether
something fails. Each mutation was chosen by hand and changes a number that matters: a factor, a
sign, a constant, a threshold, a stop-gradient, the order of axes, a stream of random numbers. They
are in the tables of `tests/mutations/`, each with a sentence that says what is then wrong.

    python tests/mutations/run.py record      # which lines each test executes; needs coverage
    python tests/mutations/run.py tests       # is each mutation seen by the tests?
    python tests/mutations/run.py selftest    # and by `lowerbound selftest` alone?
    python tests/mutations/run.py verify      # do those tests pass without a mutation?
    python tests/mutations/run.py report      # writes this page

A mutation is tried on the tests that execute the mutated lines, up to the first one that fails.
The others cannot see it. The file [mutations.json](mutations.json) names for each mutation a test
that sees it. That test also passes without the mutation.

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
    lines += _tabulate({**areas, "all": everything})
    lines += ["", *_list_survivors(everything), *_list_equivalent(everything)]
    _PAGE.write_text("\n".join(lines).rstrip() + "\n")


def _tabulate(areas: Mapping[str, Sequence[dict[str, Any]]]) -> list[str]:
    """The counts by area; those of selftest only where all mutations were tried on it."""
    columns = {
        "seen by tests": "tests",
        "executed by selftest": "executed",
        "seen by selftest": "selftest",
    }
    lines = [f"| area | real mutations | {' | '.join(columns)} |"]
    lines.append(f"|---|---:|{'---:|' * len(columns)}")
    for name, entries in areas.items():
        real = [entry for entry in entries if entry["equivalent"] is None]
        counts = [_count(real, key) for key in columns.values()]
        lines.append(f"| {name} | {len(real)} | {' | '.join(counts)} |")
    return lines


def _count(entries: Sequence[dict[str, Any]], key: str) -> str:
    if any(key not in entry for entry in entries):
        return "not tried"
    return str(sum(bool(entry[key]) for entry in entries))


def _describe(mutation: Mutation, area: str, results: Results, record: Record) -> dict[str, Any]:
    described = {
        "area": area,
        "file": mutation.file,
        "wrong": mutation.wrong,
        "tests": results.find_seen_by("tests", mutation),
        "equivalent": mutation.equivalent,
        "survives": mutation.survives,
    }
    published = results.published.get(mutation.key, {})
    if mutation.key in results.found["selftest"]:
        described["selftest"] = results.found["selftest"][mutation.key]
        described["executed"] = bool(record.find_checks(mutation))
    elif "selftest" in published:
        described |= {name: published[name] for name in ("selftest", "executed")}
    return described


def _summarise(entries: Sequence[dict[str, Any]]) -> str:
    real = [entry for entry in entries if entry["equivalent"] is None]
    seen = sum(entry["tests"] is not None for entry in real)
    return (
        f"Of {len(entries)} mutations, {len(entries) - len(real)} change no result. The others are "
        f"called *real*. The tests see {seen} of the {len(real)} real ones, which is "
        f"{100 * seen / len(real):.1f}%.\n"
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
