"""The tables of mutations fit the library, and the published results fit the tables."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "docs" / "results" / "mutations.json"


@pytest.fixture(scope="module")
def mutations():
    folder = Path(__file__).parent / "mutations"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        before = set(sys.modules)
        yield importlib.import_module("tables").MUTATIONS
        for name in set(sys.modules) - before:
            if (folder / f"{name}.py").exists():  # other libraries cannot be imported twice
                del sys.modules[name]


def test_each_text_to_replace_occurs_exactly_once(mutations):
    for mutation in mutations:
        first, last = mutation.lines()
        assert 0 < first <= last


def test_there_are_many_and_each_says_what_is_wrong(mutations):
    real = [mutation for mutation in mutations if mutation.equivalent is None]
    assert len(real) >= 150
    assert len({mutation.key for mutation in mutations}) == len(mutations)
    assert all(mutation.wrong.endswith(".") for mutation in mutations)


def test_the_published_results_are_those_of_the_tables(mutations):
    published = json.loads(PUBLISHED.read_text())["mutations"]
    assert [f"{entry['file']}: {entry['wrong']}" for entry in published] == [
        mutation.key for mutation in mutations
    ]


def test_at_most_one_real_mutation_in_twenty_survives_and_each_with_a_reason():
    published = json.loads(PUBLISHED.read_text())["mutations"]
    real = [entry for entry in published if entry["equivalent"] is None]
    survivors = [entry for entry in real if entry["tests"] is None]
    assert len(survivors) <= 0.05 * len(real)
    assert all(entry["survives"] for entry in survivors)
