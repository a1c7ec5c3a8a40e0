"""The documentation: its code runs, its commands and links are right, no public name is missing."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import lowerbound as lb
from lowerbound import ascent
from lowerbound.recipes import RECIPES

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "_extensions"))
import sitecheck

from pages import ROOT, blocks, check_options, command_lines, pages, prose, run

ALL = pages("*.md", "docs/**/*.md", "benchmarks/*.md")
# A test of its own compares the output of this page number by number.
APART = "docs/notebook-errors.md"
WITH_CODE = [
    page
    for page in pages("docs/**/*.md")
    if page != APART and any(block.language in ("python", "console") for block in blocks(page))
]
# Trainings that are shortened in the test.
QUICKER = {"docs/index.md": lambda code: code.replace("epochs=10", "epochs=1, progress=False")}
REFERENCE = "\n".join((ROOT / page).read_text(encoding="utf8") for page in pages("docs/api/*.md"))


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys, request):
    if request.config.getoption("--without-training"):
        pytest.skip("trains a model")
    monkeypatch.chdir(tmp_path)
    run(page, QUICKER.get(page, str))  # raises if a block fails or prints something else
    printed = capsys.readouterr()
    # An exception in a thread raises nothing here, but it prints.
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.parametrize("page", ALL)
def test_commands_are_understood(page):
    targets = re.findall(
        r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.MULTILINE
    )
    for _, (program, *arguments) in command_lines(page):
        if program == "make":
            assert set(arguments) <= set(targets), arguments
        else:
            check_options(arguments)


def test_a_command_that_is_wrong_is_seen():
    for arguments in (
        ["train", "aevb-gaussian"],
        ["evaluate", "runs/a", "--sampels", "5"],
        ["draw"],
    ):
        with pytest.raises(Exception, match=r"parameter: data|No such option|not a command"):
            check_options(arguments)


@pytest.mark.parametrize("page", ALL)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s:]+)\)", prose(page)):
        file, _, place = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if place and there.suffix == ".md":
            assert place in _places(there), target


def _places(page: Path) -> set[str]:
    """The names that a link can use in a page: its headings, in small letters with dashes."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", ALL)
def test_names_that_a_page_mentions_exist(page):
    text = (ROOT / page).read_text(encoding="utf8")
    for name in re.findall(r"\blb\.([A-Za-z_]\w*)", text):
        assert hasattr(lb, name), name
    for recipe in re.findall(r"lowerbound train ([a-z][\w-]*)", prose(page)):
        assert recipe in RECIPES, recipe


MODULES = ("data", "errors", "evaluation", "noise", "recipes")


@pytest.mark.parametrize(
    "name",
    [
        *(f"lowerbound.{name}" for name in lb.__all__ if name not in MODULES),
        *(f"lowerbound.ascent.{name}" for name in ascent.__all__),
        *(f"lowerbound.recipes.{recipe.make.__name__}" for recipe in RECIPES.values()),
    ],
)
def test_the_reference_has_every_public_name(name):
    assert re.search(
        rf"^\.\. auto(class|function|exception):: {re.escape(name)}$", REFERENCE, re.MULTILINE
    )


def test_the_reference_has_every_error():
    assert ".. automodule:: lowerbound.errors\n   :members:" in REFERENCE


def test_the_reference_has_the_noise_for_your_own_distributions():
    for name in ("standard_normal", "uniform"):
        assert f".. autofunction:: lowerbound.noise.{name}\n" in REFERENCE


def test_every_page_is_in_the_navigation():
    """Pages that a pattern includes are listed too."""
    listed = set()
    for page in pages("docs/**/*.md"):
        for block in blocks(page):
            if block.language.startswith("{toctree}"):
                entries = [
                    re.sub(r".*<(.*)>", r"\1", line)
                    for line in block.text.splitlines()
                    if line and line[0] != ":"
                ]
                for entry in entries:
                    listed |= set((ROOT / page).parent.resolve().glob(f"{entry}.md"))
                    listed.add(((ROOT / page).parent / f"{entry}.md").resolve())
    assert {(ROOT / page).resolve() for page in pages("docs/**/*.md")} - listed == {
        (ROOT / "docs/index.md").resolve()
    }


def test_the_commit_that_contributing_shows_is_in_the_history():
    (shown,) = (block for block in blocks("CONTRIBUTING.md") if "git show" in block.text)
    command, *expected = shown.text.strip().splitlines()
    git = subprocess.run(
        shlex.split(command.removeprefix("$ ")),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if git.returncode:
        pytest.skip("needs the history of the repository")
    assert git.stdout.splitlines() == expected


def test_shapes_are_written_in_the_symbols_of_the_glossary():
    glossary = (ROOT / "docs/glossary.md").read_text(encoding="utf8")
    rows = re.findall(r"^\| ([A-Z](?:, [A-Z])*) \|", glossary, re.MULTILINE)
    symbols = {symbol for row in rows for symbol in row.split(", ")}
    assert {"K", "B", "J", "D", "N", "L"} <= symbols
    for page in pages("docs/*.md", "docs/how-to/*.md", "docs/tutorial/*.ipynb"):
        text = (ROOT / page).read_text(encoding="utf8")
        for shape in re.findall(r"\[([A-Z](?:, [\w*.]+)*)\]", text):
            used = {size for size in shape.split(", ") if re.fullmatch("[A-Z]", size)}
            assert page == "docs/architecture.md" or used <= symbols, (page, shape)


def test_what_is_wrong_in_a_site_is_found(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "picture.png").touch()
    (tmp_path / "index.html").write_text(
        '<a id="here"></a><a href="#here">1</a><a href="more/">2</a>'
        '<a href="more/index.html#there">3</a><img src="picture.png">'
        '<a href="https://example.org">4</a><img src="data:image/png;base64,">'
    )
    (tmp_path / "more" / "index.html").write_text(
        '<h1 id="there"></h1><a href="../index.html">1</a>'
    )
    assert list(sitecheck.broken(tmp_path)) == []
    (tmp_path / "bad.html").write_text(
        '<a href="gone.html">1</a><a href="index.html#gone">2</a><img src="gone.png">'
        '<script src="https://example.org/a.js"></script>'
    )
    found = list(sitecheck.broken(tmp_path))
    assert [page for page, _ in found] == ["bad.html"] * 4
    assert [fault.split(":")[0] for _, fault in found] == [
        "<a> leads nowhere",
        "<a> names a place that is not there",
        "<img> leads nowhere",
        "<script> would be fetched from elsewhere",
    ]


def test_lines_of_code_that_are_too_long_are_found(tmp_path):
    fits, too_long = "x" * sitecheck.COLUMNS, "x" * (sitecheck.COLUMNS + 1)
    sentence, row = "word " * 40, "1.0   " * 40
    (tmp_path / "index.html").write_text(f"<pre><span>{fits}</span>\n{fits}</pre><p>{too_long}</p>")
    (tmp_path / "notebook.html").write_text(
        '<div class="cell"><div class="cell_output docutils"><div>'
        f"<pre>{sentence}</pre></div></div></div><pre>{fits}</pre>"
    )
    assert list(sitecheck.broken(tmp_path)) == []
    (tmp_path / "index.html").write_text(f"<pre>{fits}\n<b>x</b>{fits}</pre>")
    (tmp_path / "notebook.html").write_text(
        f'<div class="cell_output"><div></div><pre>{row}</pre></div>'
        f"<div><pre>{sentence}</pre></div>"
    )
    found = [page for page, _ in sitecheck.broken(tmp_path)]
    assert found == ["index.html", "notebook.html", "notebook.html"]


def test_a_notebook_that_cannot_be_downloaded_is_found(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1-why.ipynb").touch()
    (tmp_path / "1-why.html").write_text('<a href="files/1-why.ipynb">Download this notebook</a>')
    assert list(sitecheck.broken(tmp_path, {"1-why"})) == []
    (tmp_path / "1-why.html").write_text("<p>no link</p>")
    assert list(sitecheck.broken(tmp_path)) == []
    assert [page for page, _ in sitecheck.broken(tmp_path, {"1-why"})] == ["1-why.html"]
