"""The code blocks of Markdown pages, and how they are run, so that the pages show what happens.

- ``python``: run in order in one namespace. If it is a doctest, its output is compared as well.
- ``console``: each line that begins with ``$`` is run, and the text below it is compared with what
  the line printed.
- ``sh``, and blocks without a language: each line that begins with ``lowerbound`` or ``make`` is
  checked against the command's options, or against the Makefile's targets.
"""

import contextlib
import doctest
import io
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import typer

from lowerbound.cli import main
from lowerbound.cli.application import app
from lowerbound.describe import KINDS
from lowerbound.recipes import RECIPES

ROOT = Path(__file__).parents[1]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
PAGE = "page"  # the name of the module that the code of a page is in
FENCE = re.compile(r"^( *)(`{3,})([^\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block: its language, its text, and the line of the page on which it begins."""

    page: Path
    language: str
    text: str
    line: int


def pages(*patterns: str) -> list[str]:
    """Pages of the repository, as paths from its root."""
    return sorted(
        str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)
    )


def blocks(page: str | Path) -> list[Block]:
    """The code blocks of a page, in order."""
    path = ROOT / page
    text = path.read_text(encoding="utf8")
    return [
        Block(path, match[3].strip(), dedent(match[4]), text[: match.start()].count("\n") + 2)
        for match in FENCE.finditer(text)
    ]


def prose(page: str | Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", (ROOT / page).read_text(encoding="utf8"))


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Forget the classes and recipes that a page registers, after the block."""
    try:
        yield
    finally:
        for kind in [name for name, value in KINDS.items() if value.__module__ == PAGE]:
            del KINDS[kind]
        for name in [name for name, recipe in RECIPES.items() if recipe.make.__module__ == PAGE]:
            del RECIPES[name]


def run(page: str | Path, change: Callable[[str], str] = lambda code: code) -> dict[str, Any]:
    """Run the blocks of a page in the current folder, and return the names that they define.

    Args:
        page: its path from the root.
        change: changes the code of a Python block before it runs, such as to shorten a training.

    Raises:
        AssertionError: if the printed text is not the one that the page shows.
    """
    names: dict[str, Any] = {"__name__": PAGE}
    with registered():
        for block in blocks(page):
            if block.language == "python" and block.text.startswith(">>>"):
                _run_doctest(block, names)
            elif block.language == "python":
                code = "\n" * (block.line - 1) + change(block.text)
                exec(compile(code, str(block.page), "exec"), names)
            elif block.language == "console":
                _run_console(block)
    return names


def _run_doctest(block: Block, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(
        block.text, names, block.page.name, str(block.page), block.line - 1
    )
    report = io.StringIO()
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.write, clear_globs=False)
    names.update(test.globs)
    assert not report.getvalue(), report.getvalue()


def _run_console(block: Block) -> None:
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        line, _, expected = part.replace("\\\n", " ").partition("\n")
        code, printed = _call(line)
        shown = f"{block.page.name}, line {block.line}: {line}\n{printed}"
        is_error = re.search(r"^lowerbound: ", expected, re.MULTILINE) is not None
        assert code == {True: 2, False: 0}[is_error], shown
        if expected.strip():
            same = doctest.OutputChecker().check_output(expected.rstrip() + "\n", printed, FLAGS)
            assert same, shown


def _call(line: str) -> tuple[int, str]:
    """The exit code of a line, and the text that it printed.

    ``lowerbound`` is called within this process, because starting it takes seconds.
    """
    arguments = shlex.split(line, comments=True)
    if arguments[0] != "lowerbound":
        ended = subprocess.run(line, shell=True, text=True, capture_output=True, check=False)
        return ended.returncode, ended.stdout + ended.stderr
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(arguments[1:])
        except SystemExit as ended:
            return int(ended.code or 0), printed.getvalue()
    raise AssertionError(f"{line}: did not end")


def command_lines(page: str | Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of shell blocks that call ``lowerbound`` or ``make``.

    Each is split into words, and comes with its line number.
    """
    for block in blocks(page):
        if block.language not in ("", "sh"):
            continue
        lines = block.text.replace("\\\n", " ").splitlines()
        for number, line in enumerate(lines, start=block.line):
            if line.startswith(("lowerbound ", "make ")):
                yield number, shlex.split(line, comments=True)


def check_options(arguments: list[str]) -> None:
    """Refuse arguments that the command does not take.

    Raises:
        typer.TyperException: which names the argument.
    """
    command = typer.main.get_command(app)
    _remove_callbacks(command)
    command.main(arguments, prog_name="lowerbound", standalone_mode=False)


def _remove_callbacks(command: Any) -> None:
    """Let the command read its arguments and do nothing."""
    command.callback = None
    for part in getattr(command, "commands", {}).values():
        _remove_callbacks(part)
