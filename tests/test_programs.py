"""The programs of reproductions/ and benchmarks/ explain their arguments."""

import runpy
import sys
from pathlib import Path

import pytest

from lowerbound.describe.graph import KINDS

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(
    path
    for folder in ("reproductions", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if 'if __name__ == "__main__"' in path.read_text(encoding="utf8")
)
# These need libraries that only their own environment has, which they name instead.
NEEDS_ENVIRONMENT = {"reference_draws"}


def run(monkeypatch, path: Path, *arguments: str) -> object:
    """Run a program in this process, and return what it exits with."""
    before, known = set(sys.modules), dict(KINDS)
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(path), run_name="__main__")
    KINDS.clear()  # a program may register classes, and is run again
    KINDS.update(known)
    for name in set(sys.modules) - before:  # modules of both folders may have the same name
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(path.parent)):
            del sys.modules[name]
    return exit_.value.code


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_help_explains_a_program(path, monkeypatch, capsys):
    code = run(monkeypatch, path, "--help")
    if path.stem in NEEDS_ENVIRONMENT and code != 0:
        assert "make reference" in str(code)
        return
    assert code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "usage:" in out
    assert path.read_text(encoding="utf8").split('"""')[1].splitlines()[0] in out


@pytest.mark.parametrize("name", ["reproductions/posteriors", "benchmarks/memory"])
def test_unknown_arguments_are_refused(name, monkeypatch, capsys):
    assert run(monkeypatch, ROOT / f"{name}.py", "nothing-of-the-kind") == 2
    assert "usage:" in capsys.readouterr().err
