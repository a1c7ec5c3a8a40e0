"""The code blocks of Markdown pages, and how they are run: what the README and the documentation show is what happens.

- ``python``: run, in order, in one namespace; in the form of a doctest its output is compared as well.
- ``console``: each line that begins with ``$`` is run, and what follows it is compared with what it printed.
- ``sh``, and blocks without a language: each line that begins with ``lowerbound`` or ``make`` is checked against the command's options,
  or the Makefile's targets.
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

from lowerbound.cli import app, main
from lowerbound.describe import KINDS
from lowerbound.recipes import RECIPES

ROOT = Path(__file__).parents[1]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
PAGE = "page"  # the module that the code of a page believes to be in
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
    """Classes and recipes that a page has registered are forgotten after the block."""
    try:
        yield
    finally:
        for kind in [name for name, value in KINDS.items() if value.__module__ == PAGE]:
            del KINDS[kind]
        for name in [name for name, recipe in RECIPES.items() if recipe.make.__module__ == PAGE]:
            del RECIPES[name]


def run(page: str | Path, change: Callable[[str], str] = lambda code: code) -> dict[str, Any]:
    """Run the blocks of a page in the current folder, and return the names that they leave.

    Args:
        page: as a path from the root.
        change: of a Python block before it is run, such as to shorten a training.

    Raises:
        AssertionError: where something printed is not what the page shows.
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
        code, printed = _called(line)
        shown = f"{block.page.name}, line {block.line}: {line}\n{printed}"
        assert code == (2 if re.search(r"^lowerbound: ", expected, re.MULTILINE) else 0), shown
        if expected.strip():
            assert doctest.OutputChecker().check_output(expected.rstrip() + "\n", printed, FLAGS), (
                shown
            )


def _called(line: str) -> tuple[int, str]:
    """The exit code of a line, and what it printed; ``lowerbound`` is called within this process, for it takes seconds to start."""
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
    """Lines of shell blocks that call ``lowerbound`` or ``make``, with their line numbers, split into words."""
    for block in blocks(page):
        if block.language not in ("", "sh"):
            continue
        for number, line in enumerate(
            block.text.replace("\\\n", " ").splitlines(), start=block.line
        ):
            if line.startswith(("lowerbound ", "make ")):
                yield number, shlex.split(line, comments=True)


def check_options(arguments: list[str]) -> None:
    """Refuse arguments that the command does not take.

    Raises:
        typer.TyperException: saying which.
    """
    command = typer.main.get_command(app)
    _disarm(command)
    command.main(arguments, prog_name="lowerbound", standalone_mode=False)


def _disarm(command: Any) -> None:
    """Nothing is done when the command is called, beyond reading its arguments."""
    command.callback = None
    for part in getattr(command, "commands", {}).values():
        _disarm(part)
