"""Markdown as the scripts of this folder write it: paragraphs of 100 columns, and tables."""

import json
import os
import platform
import re
import textwrap
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

WIDTH = 100
# Stands for a space within `code` while lines are broken, so that none is broken there.
HARD_SPACE = "\0"


def paragraph(*sentences: str, first: str = "", further: str = "") -> str:
    """Join sentences with spaces and break the lines at 100 columns.

    Args:
        sentences: or parts of them.
        first: what the first line starts with.
        further: what every other line starts with.
    """
    text = re.sub("`[^`]*`", lambda code: code[0].replace(" ", HARD_SPACE), " ".join(sentences))
    lines = textwrap.fill(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace(HARD_SPACE, " ")


def item(*sentences: str) -> str:
    """An entry of a list."""
    return paragraph(*sentences, first="- ", further="  ")


def row(cells: Iterable[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def table(head: str, rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table.

    Args:
        head: the names of the columns, with `` | `` between them.
        rows: the cells of each row.
    """
    columns = head.count(" | ") + 1
    return [f"| {head} |", "|" + "---|" * columns, *map(row, rows)]


def describe_machine(device: str = "cpu", packages: Iterable[str] = ()) -> str:
    """The machine that runs this process, or its GPU, and the versions of what ran.

    Args:
        device: a torch device.
        packages: further packages whose versions matter.
    """
    import torch

    import lowerbound

    parts = [f"{os.cpu_count()} cores", platform.machine()]
    if torch.device(device).type == "cuda":
        parts.insert(0, torch.cuda.get_device_name(device))
    parts += [f"torch {torch.__version__}", f"lowerbound {lowerbound.__version__}"]
    return ", ".join(parts + [f"{package} {version(package)}" for package in packages])


def describe_machines(descriptions: Iterable[str]) -> str:
    """The paragraph about the machines that measured."""
    return paragraph(
        f"Machine: {'; '.join(sorted(set(descriptions)))}. It was shared with other work, so the",
        "times are upper limits.",
    )


def read_results(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The results in a folder by name, as far as they are there."""
    paths = {name: folder / f"{name}.json" for name in names}
    return {
        name: json.loads(path.read_text(encoding="utf8"))
        for name, path in paths.items()
        if path.exists()
    }


def verdict(holds: bool) -> str:
    """The last cell of a check."""
    return "holds" if holds else "**does not hold**"
