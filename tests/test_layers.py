"""The direction of the imports, and how light the package is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lowerbound

ROOT = Path(lowerbound.__file__).parent

# Each layer may import from itself and from those in lower rows; entries of one row do not know each other.
LAYERS = [
    ["cli"],
    ["selftest"],
    ["recipes"],
    ["training", "ascent"],
    ["evaluation", "runs"],
    ["objectives"],
    ["models"],
    ["conditionals"],
    ["networks", "distributions", "data", "report"],
    ["describe", "settings", "runtime"],
    ["errors"],
]
# The layer of each public name, as the stub has it.
PUBLIC = {
    alias.name: (node.module or alias.name).split(".")[0]
    for node in ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
RANK = {name: row for row, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The layers that a file imports from, wherever in the file it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "lowerbound":
            # A public name such as lowerbound.fit comes from some layer's file, wherever that is.
            names |= {PUBLIC.get(alias.name, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= (
                {node.module.removeprefix("lowerbound.").split(".")[0]}
                if node.module.startswith("lowerbound.")
                else set()
            )
        elif isinstance(node, ast.Import):
            names |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("lowerbound.")
            }
    return names & RANK.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward_only(path):
    own = layer_of(path)
    upward = {name for name in imported(path) if name != own and RANK[name] <= RANK[own]}
    assert not upward, f"{path.relative_to(ROOT)} imports {', '.join(upward)}"


def test_every_file_belongs_to_a_layer():
    assert {layer_of(path) for path in FILES} == RANK.keys()


def test_only_the_top_layers_use_the_public_names():
    """``import lowerbound as lb`` reaches everything, so only recipes, the command and what it proves may do that."""
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf8"))
        uses = {
            alias.asname
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert "lb" not in uses or layer_of(path) in ("recipes", "selftest", "cli"), path


def test_files_stay_short():
    assert all(len(path.read_text(encoding="utf8").splitlines()) <= 420 for path in FILES)


def test_importing_does_no_work():
    heavy = {"torch", "numpy", "zuko", "matplotlib", "sklearn", "PIL", "pydantic", "rich"}
    code = f"import sys, lowerbound; print(sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_public_names_are_there_and_documented():
    for name in lowerbound.__all__:
        value = getattr(lowerbound, name)
        assert value.__doc__, name
        assert name in dir(lowerbound)
    with pytest.raises(AttributeError, match="No lowerbound attribute elbow"):
        _ = lowerbound.elbow
