"""The direction of the imports, how light the package is, and that it uses no pickles."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lowerbound

sys.path.insert(0, str(Path(__file__).parent))
from source_tree import Tree, cycles, parse, walk

# Each layer may import from itself and from those in lower rows; entries of one row do not know
# each other.
LAYERS = [
    ["cli"],
    ["selftest", "sklearn"],
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
RANK = {name: row for row, names in enumerate(LAYERS) for name in names}
RANK["__main__"] = -1  # ``python -m lowerbound``, which only calls the command
TREE = Tree(Path(lowerbound.__file__).parent)


@pytest.mark.parametrize("path", TREE.files, ids=TREE.name_of)
def test_imports_go_downward_only(path):
    own = TREE.entry_of(path)
    others = {each.module.split(".")[0] for each in TREE.imports(path)} - {own}
    rank = RANK.get(own, -1)  # above all layers is __main__, the command itself
    upward = {name for name in others if RANK[name] <= rank}
    assert not upward, f"{TREE.name_of(path)} imports {', '.join(upward)}"


def test_every_file_belongs_to_a_layer():
    assert set(TREE.entries) == RANK.keys() - {"__main__"}


def test_only_the_top_layers_use_the_public_names():
    """``import lowerbound as lb`` reaches everything; only the top layers may do that."""
    for path in TREE.files:
        statements = [node for node, _ in walk(parse(path), "at import")]
        imports = [node for node in statements if isinstance(node, ast.Import)]
        uses = {alias.asname for node in imports for alias in node.names}
        top = ("recipes", "selftest", "sklearn", "cli")
        assert "lb" not in uses or TREE.entry_of(path) in top, path


def test_files_stay_short():
    lengths = {path: len(path.read_text(encoding="utf8").splitlines()) for path in TREE.files}
    assert {TREE.name_of(path): lengths[path] for path in TREE.files if lengths[path] > 400} == {}


def test_no_modules_import_each_other():
    """Not even within a function or for types: such a pair is one idea in two files."""
    assert cycles(TREE.module_graph("at import", "in a function", "for types")) == []


def test_the_top_level_can_be_taken_in():
    assert len(TREE.entries) <= 19


FILE_FUNCTIONS = ("load", "save", "dump")
PICKLING = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}


@pytest.mark.parametrize("path", TREE.files, ids=TREE.name_of)
def test_no_source_reads_or_writes_pickles(path):
    calls = {"torch.load", "torch.save", "joblib.load", "joblib.dump"}
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & PICKLING
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in PICKLING
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in FILE_FUNCTIONS:
            called = ast.unparse(node.func)
            assert called not in calls
            if called in ("np.load", "numpy.load"):
                assert "allow_pickle=False" in [ast.unparse(word) for word in node.keywords]


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


def test_the_architecture_page_names_files_that_exist():
    package = Path(lowerbound.__file__).parent
    repository = package.parent.parent
    text = (repository / "docs" / "architecture.md").read_text(encoding="utf8")
    for name in re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/|\.pyi?))`", text):
        places = (package / name, repository / name, repository / "docs" / name)
        assert name in {"decoded/"} or any(place.exists() for place in places), name
