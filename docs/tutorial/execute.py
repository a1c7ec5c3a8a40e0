"""Executes the notebooks of this folder, each from top to bottom in a fresh kernel.

    python docs/tutorial/execute.py                  # all of them; outputs are written back in place
    python docs/tutorial/execute.py 1 2-mean-field   # those whose file names start so
    python docs/tutorial/execute.py --small          # with the small settings of their metadata; nothing is written

A notebook has one code cell with the tag ``parameters``, which holds its settings. The small ones are in its metadata, as
``lowerbound.small``: a value for each setting that is to be smaller. A cell that fails, or writes to standard error, fails the whole.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
CELL_SECONDS = 1800  # on a machine that is busy


def code_digest(notebook: Any) -> str:
    """What tells one code from another: outputs that were made by other code than the notebook's are stale.

    Args:
        notebook: as nbformat or the JSON module reads it.
    """
    cells = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    return hashlib.sha256("\0".join(cells).encode()).hexdigest()[:16]


def set_small(notebook: Any) -> None:
    """Add the small settings in a cell after the one that is tagged ``parameters``."""
    import nbformat

    tagged = [
        place
        for place, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    ]
    (place,) = tagged
    settings = notebook.metadata["lowerbound"]["small"]
    lines = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(lines))


def said_on_stderr(notebook: Any) -> str:
    """All that its cells wrote to standard error."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


def clean(notebook: Any) -> None:
    """Leave nothing of this machine or this hour in a notebook, so that executing it twice gives the same file."""
    for cell in notebook.cells:
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "tags"}
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.metadata["lowerbound"]["executed"] = code_digest(notebook)


def execute(path: Path, small: bool) -> None:
    """Execute a notebook and, unless it is with small settings, write it back.

    Raises:
        RuntimeError: if a cell wrote to standard error.
        nbclient.exceptions.CellExecutionError: if one failed.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    if small:
        set_small(notebook)
    NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=[
            "--log-level=ERROR"
        ],  # of the kernel itself: it warns of how it is spoken to on this machine
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    said = said_on_stderr(notebook)
    if said:
        raise RuntimeError(f"{path.name}: a cell wrote to standard error:\n{said}")
    if not small:
        clean(notebook)
        nbformat.write(notebook, path)


def chosen(names: Sequence[str]) -> list[Path]:
    """The notebooks whose file names start with one of these; all of them where there are none.

    Raises:
        SystemExit: for a name with which no notebook starts.
    """
    paths = sorted(FOLDER.glob("[0-9]-*.ipynb"))
    for name in names:
        if not any(path.name.startswith(name) for path in paths):
            raise SystemExit(
                f"no notebook starts with {name!r}; there are {', '.join(path.name for path in paths)}"
            )
    return [path for path in paths if not names or path.name.startswith(tuple(names))]


def main() -> None:
    """Execute what the command line names."""
    parser = argparse.ArgumentParser(description="Execute the notebooks of the tutorial.")
    parser.add_argument(
        "names",
        nargs="*",
        help="beginnings of file names, such as 1 or 2-mean-field; all if not given",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="small settings, a test of the code; nothing is written",
    )
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault(
        "PYDEVD_DISABLE_FILE_VALIDATION", "1"
    )  # else the kernel's debugger speaks on standard error
    for path in chosen(arguments.names):
        start = time.perf_counter()
        execute(path, arguments.small)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
