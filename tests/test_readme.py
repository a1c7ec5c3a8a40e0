"""The README's example and its facts."""

import re
import sys
from pathlib import Path

import lowerbound as lb
from lowerbound.recipes import RECIPES

sys.path.insert(0, str(Path(__file__).parent))
from pages import ROOT, blocks, run

README = ROOT / "README.md"
EXAMPLES = [block.text for block in blocks("README.md") if block.language == "python"]


def _quick(code: str) -> str:
    return code.replace("epochs=20", "epochs=2, progress=False")


def test_the_example_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = EXAMPLES
    assert _quick(code) != code
    assert len(code.strip().splitlines()) <= 12
    names = run("README.md", _quick)
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert re.match(r"Estimate\(bound=-?[\d.]+, standard_error=", line)
    assert names["pictures"].shape == (64, 1, 8, 8)
    assert names["embedding"].shape == (180, 10)


def test_the_first_page_is_short():
    assert len(README.read_text(encoding="utf8").split()) < 554


def test_every_recipe_is_counted_and_in_one_row_of_the_table():
    names = [name for name, entry in RECIPES.items() if entry.make.__module__.startswith("lower")]
    assert f"[{len(names)} recipes]" in README.read_text(encoding="utf8")
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf8")
    table = page.partition("## Which recipe?")[2].partition("## ")[0]
    assert sorted(re.findall(r"`([\w-]+)`", table)) == sorted(names)


def test_the_parts_that_compose_exist():
    text = (ROOT / "docs" / "parts.md").read_text(encoding="utf8")
    names = set(re.findall(r"`([A-Za-z_]+)[(`]", text)) & {*lb.__all__}
    assert len(names) >= 20
    for name in ("StandardNormal", "Gaussian", "mlp", "ELBO", "IWAE", "Renyi", "log_likelihood"):
        assert name in names
