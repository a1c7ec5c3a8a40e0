"""The tutorial's notebooks run, and the committed outputs are those of their code."""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "tutorial"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]-*.ipynb"))
LARGEST = 1_000_000

# A text must not show paths and addresses of one machine, or remains of a progress bar or terminal.
GARBAGE = {
    "an absolute path": r"(?<![\w.:/])"
    r"(/(home|root|tmp|work|usr|opt|var|mnt|Users|private|srv)/|[A-Z]:\\\\?\w)",
    "an object's address": r"\b0x[0-9a-f]{6,}",
    "an address of a network": r"\b\d{1,3}(\.\d{1,3}){3}\b|\blocalhost\b",
    "a progress bar": r"\r|\x1b\[|[━█▏▎▍▌▋▊▉]|\bit/s\b|\d%\|",
}


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    return notebook


def script() -> Any:
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(output: dict[str, Any]) -> Iterator[str]:
    """The texts of an output, without its pictures."""
    yield "".join(output.get("text", ""))
    for kind, content in output.get("data", {}).items():
        if not kind.startswith("image/"):
            yield "".join(content)


def shows(code: str) -> bool:
    """Whether a cell shows something.

    It does if it prints or shows at its top level, or ends with a value that is not a call.
    """
    body = ast.parse(code).body
    outside = [node for node in body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    calls = [node.func for part in outside for node in ast.walk(part) if isinstance(node, ast.Call)]
    names = {call.id if isinstance(call, ast.Name) else getattr(call, "attr", "") for call in calls}
    last = body[-1] if body else None
    return bool(names & {"print", "display", "show"}) or (
        isinstance(last, ast.Expr) and not isinstance(last.value, ast.Call)
    )


def faults_of_outputs(cell: dict[str, Any]) -> Iterator[str]:
    if shows("".join(cell["source"])) and not cell["outputs"]:
        yield "has no output"
    for output in cell["outputs"]:
        if output["output_type"] == "error" or output.get("name") == "stderr":
            yield "has an error or a warning as output"
        for text in texts(output):
            yield from (
                f"shows {name}" for name, pattern in GARBAGE.items() if re.search(pattern, text)
            )
            if len(platform.node()) > 3 and platform.node() in text:
                yield "shows the name of this machine"


def faults(notebook: dict[str, Any], digest: Callable[[Any], str]) -> Iterator[str]:
    """The faults of a notebook as it is committed."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    parameters = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    if len(parameters) != 1:
        yield f"has {len(parameters)} cells tagged parameters"
    else:
        assigned = [
            node
            for node in ast.parse("".join(parameters[0]["source"])).body
            if isinstance(node, ast.Assign)
        ]
        names = {
            target.id
            for node in assigned
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        odd = notebook["metadata"]["lowerbound"]["small"].keys() - names
        yield from (f"has a small setting {name} that is not a parameter" for name in sorted(odd))
    if notebook["metadata"]["lowerbound"].get("executed") != digest(notebook):
        yield "has outputs of other code: execute it again"
    if [cell["execution_count"] for cell in code] != list(range(1, len(code) + 1)):
        yield "was not executed from top to bottom"
    for number, cell in enumerate(code, 1):
        yield from (f"code cell {number} {fault}" for fault in faults_of_outputs(cell))


def test_each_notebook_has_a_number_of_its_own():
    numbers = [path.name[0] for path in NOTEBOOKS]
    assert numbers[:3] == ["1", "2", "3"]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_outputs_are_whole(path):
    assert list(faults(read(path), script().code_digest)) == []
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    prose = "\n".join(
        "".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown"
    )
    for target in re.findall(r"\]\(([^)#:\s]+)[^)]*\)", prose):
        assert (FOLDER / target).exists(), target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_with_small_settings(path, trains):
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name, reason="install the extra 'tutorial' to execute the notebooks")
    before = path.read_bytes()
    command = [sys.executable, str(FOLDER / "execute.py"), "--small", path.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes() == before


def output(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": [text]}


def whole() -> dict[str, Any]:
    """A small notebook without faults."""
    cells = [
        ("draws = 3\nseed = 0", []),
        ("print(draws)", [output("3\n")]),
        ("def show():\n    print(1)", []),
    ]
    code = [
        {
            "cell_type": "code",
            "execution_count": number,
            "metadata": {},
            "source": source,
            "outputs": outputs,
        }
        for number, (source, outputs) in enumerate(cells, 1)
    ]
    code[0]["metadata"] = {"tags": ["parameters"]}
    notebook = {"cells": code, "metadata": {"lowerbound": {"small": {"draws": 1}}}}
    notebook["metadata"]["lowerbound"]["executed"] = script().code_digest(notebook)
    return notebook


@pytest.mark.parametrize(
    "code",
    ["print(1)", "for x in a:\n    print(x)", "plt.plot(x)\nplt.show()", "x = 1\nx", "f'{x}'"],
)
def test_a_cell_that_shows_something_is_known(code):
    assert shows(code)


@pytest.mark.parametrize(
    "code", ["", "x = 1", "def f():\n    print(1)", "plt.style.use('plain')", "assert x"]
)
def test_a_cell_that_shows_nothing_is_known(code):
    assert not shows(code)


BREAKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no output": lambda notebook: notebook["cells"][1]["outputs"].clear(),
    "other code": lambda notebook: notebook["cells"][1].update(source="print(draws + 0)"),
    "out of order": lambda notebook: notebook["cells"][1].update(execution_count=7),
    "no parameters": lambda notebook: notebook["cells"][0]["metadata"].clear(),
    "an unknown setting": lambda notebook: notebook["metadata"]["lowerbound"]["small"].update(
        drawz=1
    ),
    "a warning": lambda notebook: notebook["cells"][1]["outputs"].append(
        {**output("look"), "name": "stderr"}
    ),
    "a path": lambda notebook: notebook["cells"][1]["outputs"].append(
        output("saved to /home/anna/fit.pt")
    ),
    "a progress bar": lambda notebook: notebook["cells"][1]["outputs"].append(
        output("10%|█   | 1/10\r")
    ),
    "an address": lambda notebook: notebook["cells"][1]["outputs"].append(
        output("<Axes at 0x7f3a1c22d0>")
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_fault_is_seen(name):
    notebook = whole()
    digest = script().code_digest
    assert list(faults(notebook, digest)) == []
    broken = copy.deepcopy(notebook)
    BREAKS[name](broken)
    assert list(faults(broken, digest))
