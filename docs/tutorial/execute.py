"""Executes the notebooks of this folder, each from top to bottom in a fresh kernel.

    python docs/tutorial/execute.py                  # all of them; the outputs are written back
    python docs/tutorial/execute.py 1 2-mean-field   # those whose file names start so
    python docs/tutorial/execute.py --small          # with small settings; nothing is written

A notebook has one code cell with the tag ``parameters``, which assigns its settings. The small
settings are in the notebook's metadata as ``lowerbound.small``: a value for each setting that is
smaller. If a cell fails or writes to standard error, the program fails.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
CELL_SECONDS = 1800  # enough on a busy machine


def code_digest(notebook: Any) -> str:
    """A digest of the code. If the outputs were made by code with another digest, they are stale.

    Args:
        notebook: the notebook, as nbformat or the JSON module reads it.
    """
    cells = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    return hashlib.sha256("\0".join(cells).encode()).hexdigest()[:16]


def set_small(notebook: Any) -> None:
    """Add a cell with the small settings after the cell with the tag ``parameters``."""
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


def read_stderr(notebook: Any) -> str:
    """Everything that the cells wrote to standard error, but for this library's warnings.

    They belong to a lesson where an estimate or a model is bad on purpose, and small settings make
    all of them bad.
    """
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    written = "".join(output.text for output in outputs if output.get("name") == "stderr")
    return re.sub(
        r"^.*(DoubtfulEstimate|Training)Warning: .*\n(  .*\n)?", "", written, flags=re.MULTILINE
    )


def clean(notebook: Any) -> None:
    """Remove all traces of the machine and the time, so that two executions give the same file.

    What is left on standard error are warnings of doubtful estimates, which name a temporary file.
    """
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "tags"}
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.metadata["lowerbound"]["executed"] = code_digest(notebook)


def execute(path: Path, small: bool) -> None:
    """Execute a notebook, and write it back unless the settings are small.

    Raises:
        RuntimeError: if a cell wrote to standard error.
        nbclient.exceptions.CellExecutionError: if a cell failed.
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
        extra_arguments=["--log-level=ERROR"],  # of the kernel, which warns about its connection
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    written = read_stderr(notebook)
    if written:
        raise RuntimeError(f"{path.name}: a cell wrote to standard error:\n{written}")
    if not small:
        clean(notebook)
        nbformat.write(notebook, path)


def find_notebooks(names: Sequence[str]) -> list[Path]:
    """The notebooks whose file names start with one of these names; all of them without names.

    Raises:
        SystemExit: if no notebook starts with one of the names.
    """
    paths = sorted(FOLDER.glob("[0-9]-*.ipynb"))
    for name in names:
        if not any(path.name.startswith(name) for path in paths):
            there = ", ".join(path.name for path in paths)
            raise SystemExit(f"no notebook starts with {name!r}; there are {there}")
    return [path for path in paths if not names or path.name.startswith(tuple(names))]


def main() -> None:
    """Execute the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description="Execute the notebooks of the tutorial.")
    parser.add_argument(
        "names",
        nargs="*",
        help="beginnings of file names, such as 1 or 2-mean-field (default: all notebooks)",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="test the code with small settings, and write nothing",
    )
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Otherwise the kernel's debugger writes to standard error.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    for path in find_notebooks(arguments.names):
        start = time.perf_counter()
        execute(path, arguments.small)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
