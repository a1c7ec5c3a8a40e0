"""Measurements of the source tree: ``python tests/source_tree.py [PROJECT]``.

``test_layers.py`` reads the imports from here, so that there is one way to read them.
"""

from __future__ import annotations

import ast
import io
import json
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import median
from typing import Literal

PACKAGE = "lowerbound"
COLUMNS = 100
NO_ENTRIES = ("__pycache__", "__init__.py", "__init__.pyi", "__main__.py", "py.typed")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Graph = Mapping[str, set[str]]
When = Literal["at import", "in a function", "for types"]


@dataclass(frozen=True)
class Import:
    """One module that a file imports.

    Args:
        module: its name within the package, such as ``training.loop``.
        when: ``"for types"`` stands for imports under ``TYPE_CHECKING``.
    """

    module: str
    when: When


class Tree:
    """The Python files of a package, and what they import of each other.

    Args:
        root: the package's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = sorted(path for path in root.rglob("*.py") if path != root / "__init__.py")
        self.modules = {self.name_of(path): path for path in self.files}
        self.entries = sorted({name.split(".")[0] for name in self.modules} - {"__main__"})

    def name_of(self, path: Path) -> str:
        """The module's name within the package; of a package, the folder's."""
        parts = path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def entry_of(self, path: Path) -> str:
        """The file or folder right below the root."""
        return self.name_of(path).split(".")[0]

    @cached_property
    def public(self) -> dict[str, str]:
        """The module of each public name, as the stub or the ``TYPE_CHECKING`` block has it."""
        stub = self.root / "__init__.pyi"
        source = stub if stub.exists() else self.root / "__init__.py"
        nodes = [node for node in ast.walk(parse(source)) if isinstance(node, ast.ImportFrom)]
        homes = {}
        for node in nodes:
            home = (node.module or "").removeprefix(PACKAGE).strip(".")
            homes |= {alias.name: home or alias.name for alias in node.names}
        return homes

    @cache  # noqa: B019 (a tree is read once and lives as long as the program)
    def imports(self, path: Path) -> list[Import]:
        """What a file imports from the package, wherever in the file it does."""
        return [
            Import(module, when)
            for node, when in walk(parse(path), "at import")
            for module in self._targets(node, path)
        ]

    def _targets(self, node: ast.AST, path: Path) -> Iterator[str]:
        if isinstance(node, ast.Import):
            names = (alias.name.split(".", 1) for alias in node.names)
            yield from (name[1] for name in names if name[0] == PACKAGE and len(name) == 2)
        if not isinstance(node, ast.ImportFrom):
            return
        source = (node.module or "").split(".")
        if node.level:
            package = [PACKAGE, *path.relative_to(self.root).parts[:-1]]
            source = package[: len(package) + 1 - node.level] + [part for part in source if part]
        if source[0] != PACKAGE:
            return
        within = ".".join(source[1:])
        for alias in node.names:
            full = f"{within}.{alias.name}" if within else alias.name
            if full in self.modules:
                yield full
            elif within:
                yield within
            elif alias.name in self.public:
                yield self.public[alias.name]

    def module_graph(self, *when: When) -> dict[str, set[str]]:
        """Which modules import which; importing ``a.b`` from elsewhere also imports ``a``."""
        graph = {}
        for name, path in self.modules.items():
            wanted = {found.module for found in self.imports(path) if found.when in when}
            packages = {outer for module in wanted for outer in packages_of(module)}
            packages -= packages_of(name)
            graph[name] = (wanted | packages) & self.modules.keys() - {name}
        return graph

    def entry_graph(self, *when: When) -> dict[str, set[str]]:
        """Which entries import from which others."""
        graph: dict[str, set[str]] = {entry: set() for entry in self.entries}
        for path in self.files:
            own = self.entry_of(path)
            found = {each.module.split(".")[0] for each in self.imports(path) if each.when in when}
            graph.setdefault(own, set()).update(found - {own})
        return graph


def packages_of(module: str) -> set[str]:
    """The packages that a module lies in, below the root."""
    parts = module.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf8"))


def walk(node: ast.AST, when: When) -> Iterator[tuple[ast.AST, When]]:
    """All statements below this node, each with when it is run."""
    types = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) else []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue
        inner: When = "for types" if child in types else when
        if isinstance(child, FUNCTIONS) and inner == "at import":
            inner = "in a function"
        yield child, inner
        yield from walk(child, inner)


def reachable(graph: Graph) -> dict[str, set[str]]:
    """What can be reached from each node in one step or more."""
    found = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [*graph[start]]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += graph.get(node, ())
        found[start] = seen
    return found


def cycles(graph: Graph) -> list[list[str]]:
    """The groups of nodes that can all reach each other."""
    reach = reachable(graph)
    groups = {frozenset(m for m in reach[n] if n in reach[m]) for n in graph if n in reach[n]}
    return sorted(sorted(group) for group in groups)


def longest_chain(graph: Graph) -> list[str]:
    """The longest way along the arrows; a step within a cycle does not count."""
    reach = reachable(graph)
    chains: dict[str, list[str]] = {}

    def chain_from(node: str) -> list[str]:
        if node not in chains:
            onward = [chain_from(other) for other in graph[node] if node not in reach[other]]
            chains[node] = [node, *max(onward, key=len, default=[])]
        return chains[node]

    return max(map(chain_from, sorted(graph)), key=len)


def spread(sizes: Iterable[tuple[int, str]]) -> str:
    """The median and the largest of some sizes."""
    sizes = sorted(sizes)
    return f"median {median(size for size, _ in sizes):g}, longest {sizes[-1][0]} ({sizes[-1][1]})"


def count_long(lines: Iterable[str]) -> int:
    return sum(len(line.rstrip("\n")) > COLUMNS for line in lines)


def lines_of(folder: Path, suffix: str) -> Iterator[str]:
    for path in sorted(folder.rglob(f"*{suffix}")):
        if suffix == ".ipynb":
            cells = json.loads(path.read_text(encoding="utf8"))["cells"]
            yield from (line for cell in cells for line in "".join(cell["source"]).splitlines())
        else:
            yield from path.read_text(encoding="utf8").splitlines()


def measure(project: Path) -> Iterator[tuple[str, str]]:
    """What there is to say of a tree, line by line."""
    tree = Tree(project / "src" / PACKAGE)
    files = [tree.root / "__init__.py", *tree.files]
    sources = {path: path.read_text(encoding="utf8") for path in files}
    nodes = [(path, node) for path in files for node in ast.walk(parse(path))]
    total = sum(len(source.splitlines()) for source in sources.values())
    yield "lines", f"{total} in {len(sources)} files"
    names = sorted(path.name for path in tree.root.iterdir() if path.name not in NO_ENTRIES)
    yield "top-level entries", f"{len(names)}: {', '.join(names)}"

    run, typed = tree.entry_graph("at import", "in a function"), tree.entry_graph("for types")
    arrows = {(own, other) for own in run for other in run[own]}
    more = {(own, other) for own in typed for other in typed[own]} - arrows
    yield "arrows between entries", f"{len(arrows)}, and {len(more)} under TYPE_CHECKING alone"
    chain = longest_chain(run)
    yield "levels", f"{len(chain)}: {' > '.join(chain)}"
    ways: dict[str, tuple[When, ...]] = {
        "at import": ("at import",),
        "with functions": ("at import", "in a function"),
        "with TYPE_CHECKING": ("at import", "in a function", "for types"),
    }
    for way, when in ways.items():
        for what, graph in (
            ("modules", tree.module_graph(*when)),
            ("entries", tree.entry_graph(*when)),
        ):
            found = cycles(graph)
            groups = "; ".join(", ".join(group) for group in found)
            yield f"cycles of {what}, {way}", f"{len(found)} {groups}".strip()

    yield (
        "lines of a file",
        spread(
            (len(source.splitlines()), str(path.relative_to(tree.root)))
            for path, source in sources.items()
        ),
    )
    yield (
        "lines of a function",
        spread(
            (
                (node.end_lineno or 0) - node.lineno + 1,
                f"{path.relative_to(tree.root)}: {node.name}",
            )
            for path, node in nodes
            if isinstance(node, FUNCTIONS)
        ),
    )
    ternaries = sum(isinstance(node, ast.IfExp) for _, node in nodes)
    yield "ternaries", f"{ternaries}, {1000 * ternaries / total:.1f} in a thousand lines"
    docstrings = [ast.get_docstring(node) for _, node in nodes if isinstance(node, DOCUMENTED)]
    written = [text for text in docstrings if text]
    short = sum("\n" not in text for text in written)
    yield "docstrings of one line", f"{short} of {len(written)}, {100 * short / len(written):.0f}%"
    comments = sum(
        token.type == tokenize.COMMENT
        for source in sources.values()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
    )
    yield "comments", f"{comments}, {1000 * comments / total:.1f} in a thousand lines"
    places = {
        "src": ".py",
        "tests": ".py",
        "benchmarks": ".py",
        "reproductions": ".py",
        "docs": ".md",
    }
    for folder, suffix in [*places.items(), ("docs", ".ipynb")]:
        lines = list(lines_of(project / folder, suffix))
        yield f"over {COLUMNS} columns, {folder} {suffix}", f"{count_long(lines)} of {len(lines)}"


if __name__ == "__main__":
    project = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    for name, value in measure(project):
        print(f"{name + ':':<40}{value}")
