"""The statements of ``lowerbound selftest`` hold, and each one fails if its subject is broken.

``selftest_mutations`` has the code that breaks the library.
"""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from lowerbound.cli import main
from lowerbound.errors import SettingsError
from lowerbound.selftest import CHECKS, Check, check, run_checks, run_each
from selftest_mutations import MUTATIONS

THOROUGH = pytest.mark.skipif(
    "LOWERBOUND_THOROUGH" not in os.environ,
    reason="set LOWERBOUND_THOROUGH to run the checks that take minutes",
)


def maybe_thorough(name: str):
    return pytest.param(name, marks=THOROUGH if CHECKS[name].thorough else (), id=name)


@pytest.mark.parametrize("name", [maybe_thorough(name) for name in CHECKS])
def test_the_statement_holds(name):
    """All randomness is seeded; each check says how often another seed would fail."""
    [outcome] = run_checks(only=[name])
    assert outcome.passed, outcome


PAIRS = [(mutation, name) for mutation, (_, names) in MUTATIONS.items() for name in names]


@pytest.mark.parametrize(
    ("mutation", "name"),
    [
        pytest.param(
            mutation,
            name,
            marks=THOROUGH if CHECKS[name].thorough else (),
            id=f"{mutation}: {name}",
        )
        for mutation, name in PAIRS
    ],
)
def test_the_check_sees_the_mutation(mutation, name, monkeypatch):
    MUTATIONS[mutation][0](monkeypatch)
    [outcome] = run_checks(only=[name])
    assert not outcome.passed, outcome
    assert outcome.error is None, outcome  # the measured difference shows it, not an exception


def test_every_check_fails_under_some_mutation():
    assert {name for _, name in PAIRS} == CHECKS.keys()


def test_the_page_lists_each_check_once_and_counts_them():
    page = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
    section = page[page.index("## Are the results right on this machine?") :]
    rows = [line.split("|")[3] for line in section.splitlines() if line.startswith("| ")]
    assert sorted(name for row in rows for name in re.findall("`(.+?)`", row)) == sorted(CHECKS)
    slow = [entry.name for entry in CHECKS.values() if entry.thorough]
    assert f"{len(CHECKS) - len(slow)} statements" in " ".join(section.split())
    assert len(slow) == 3  # as the page says


# Running them


def broken_check(name: str = "broken", **settings) -> Check:
    return Check(name, "this holds", 1.0, **settings)


def test_a_check_leaves_torch_as_it_was(monkeypatch):
    def measure():
        torch.randn(5)
        return float(torch.get_num_threads() != 1 or not torch.is_grad_enabled())

    monkeypatch.setitem(CHECKS, "broken", replace(broken_check(measure=measure), tolerance=0.0))
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    with torch.no_grad():
        [outcome] = run_checks(only=["broken"])
        assert not torch.is_grad_enabled()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert outcome.passed
    assert torch.equal(torch.get_rng_state(), state)


def test_a_check_measures_the_same_whichever_other_checks_run():
    names = ["random-pixels", "layers-rate", "exact-posterior"]
    together = {outcome.name: outcome.measured for outcome in run_checks(only=names)}
    torch.randn(3)
    assert all(run_checks(only=[name])[0].measured == together[name] for name in names)


@pytest.mark.parametrize("measured", [math.nan, math.inf, 1.5])
def test_a_statement_fails_if_the_difference_is_large_or_not_finite(measured, monkeypatch):
    monkeypatch.setitem(CHECKS, "broken", broken_check(measure=lambda: measured))
    assert not run_checks(only=["broken"])[0].passed


def test_an_error_in_a_check_is_a_statement_that_does_not_hold(monkeypatch):
    monkeypatch.setitem(CHECKS, "broken", broken_check(measure=lambda: 1 / 0))
    [outcome] = run_checks(only=["broken"])
    assert not outcome.passed
    assert outcome.error == "ZeroDivisionError: division by zero"
    assert math.isnan(outcome.measured)


def test_thorough_checks_are_left_out_unless_asked_for(monkeypatch):
    kept = {
        "quick": broken_check("quick", measure=float),
        "slow": broken_check("slow", measure=float, thorough=True),
    }
    monkeypatch.setattr("lowerbound.selftest.registry.CHECKS", kept)
    assert [outcome.name for outcome in run_each()] == ["quick"]
    assert [outcome.name for outcome in run_each(thorough=True)] == ["quick", "slow"]
    assert [outcome.name for outcome in run_each(only=["slow"])] == ["slow"]


def test_names_are_unique_and_unknown_ones_are_refused():
    with pytest.raises(ValueError, match="two checks are called 'gaussian-kl'"):
        check("gaussian-kl", "again", tolerance=0)(float)
    with pytest.raises(
        SettingsError, match=r"'gausian-kl' is not a check; did you mean 'gaussian-kl'\?"
    ):
        run_checks(only=["gausian-kl"])


def test_statements_are_unique_and_statistical_checks_say_how_often_they_fail():
    assert len({entry.statement for entry in CHECKS.values()}) == len(CHECKS)
    for entry in CHECKS.values():
        assert entry.measure.__doc__, entry.name
        assert entry.statement[0].isupper() or entry.statement.startswith("log_likelihood"), (
            entry.name
        )
        if "standard errors)" in entry.statement or (
            " draws)" in entry.statement and entry.tolerance > 1
        ):
            assert "by chance it fails for" in entry.measure.__doc__.lower(), entry.name


# The command


def call(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["selftest", *arguments])
    return ended.value.code, *capsys.readouterr()


def test_the_command_prints_each_statement_and_how_many_hold(capsys):
    code, out, err = call(capsys, "--only", "gaussian-kl", "--only", "one-sample")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert len(lines) == 3
    assert lines[0].startswith(
        "✓ The closed-form KL between diagonal Gaussians equals torch's (gaussian-kl): "
    )
    assert "(at most 1e-10), " in lines[0]
    assert lines[-1] == "2 of 2 statements hold"


def test_the_command_names_what_does_not_hold(capsys, monkeypatch):
    monkeypatch.setitem(CHECKS, "broken", broken_check(measure=lambda: 3.0))
    monkeypatch.setitem(CHECKS, "raises", broken_check("raises", measure=lambda: 1 / 0))
    code, out, _ = call(capsys, "--only", "broken", "--only", "raises", "--only", "gaussian-kl")
    assert code == 1
    assert "✗ this holds (broken): 3 (at most 1), 0.0 s" in out
    assert "✗ this holds (raises): ZeroDivisionError: division by zero, 0.0 s" in out
    assert "1 of 3 statements hold" in out
    assert "these do not: broken, raises" in out


def test_the_command_prints_one_object(capsys, monkeypatch):
    code, out, _ = call(capsys, "--json", "--only", "gaussian-kl")
    report = json.loads(out)
    assert (code, report["passed"]) == (0, True)
    [entry] = report["checks"]
    assert entry.keys() == {"name", "statement", "measured", "tolerance", "passed", "seconds"}
    assert entry["passed"]
    assert entry["measured"] <= entry["tolerance"] == 1e-10
    assert report["versions"]["torch"] == torch.__version__
    assert {"lowerbound", "python", "numpy", "scipy", "scikit-learn"} < report["versions"].keys()
    monkeypatch.setitem(CHECKS, "broken", broken_check(measure=lambda: math.nan))
    code, out, _ = call(capsys, "--json", "--only", "broken")
    assert code == 1
    assert json.loads(out)["checks"][0]["measured"] is None


def test_an_unknown_name_is_refused_with_the_nearest(capsys):
    code, out, err = call(capsys, "--only", "vimco-gradiant")
    assert (code, out) == (2, "")
    message = "'vimco-gradiant' is not a check; did you mean 'vimco-gradient'?"
    assert err == f"lowerbound: selftest: {message}\n"


def test_the_help_needs_no_torch():
    code = (
        "import sys\nfrom lowerbound.cli import main\n"
        "try:\n    main(['selftest', '--help'])\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "assert 'torch' not in sys.modules"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "--thorough" in shown
