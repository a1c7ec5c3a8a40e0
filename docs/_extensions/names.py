"""How docstrings are read, what their short references name, and links to included pages.

The site includes some pages from outside of ``docs/``.
"""

from __future__ import annotations

import re
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext import napoleon

# Pages outside of docs/ that the site includes: the target of a link in the repository, and here.
INCLUDED = {"../benchmarks/RESULTS.md": "/benchmarks.md", "../CONTRIBUTING.md": "/contributing.md"}


def _redirect_links(app: Sphinx, docname: str, source: list[str]) -> None:
    for there, here in INCLUDED.items():
        source[0] = source[0].replace(f"]({there}", f"]({here}")
    folder = Path(app.srcdir, docname).parent

    # The repository shows a folder, and the site has no page for it: its link becomes text.
    for link in re.finditer(r"\[([^\]]*)\]\(([^)\s:#]+)\)", source[0]):
        if (folder / link[2]).is_dir():
            source[0] = source[0].replace(link[0], link[1])


def _by_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """Resolve the short reference ``:class:`Examples``` to ``lowerbound.Examples``.

    There must be one such name only. A name that the library has and the reference has not stays
    text. A name that does not exist is a warning.
    """
    if node.get("refdomain") != "py":
        return None
    domain: Any = env.domains["py"]
    parts = node["reftarget"].split(".")
    for ending in (f".{'.'.join(parts[-2:])}", f".{parts[-1]}"):
        entries = {
            entry.node_id: (name, entry)
            for name, entry in domain.objects.items()
            if name.endswith(ending)
        }
        if len(entries) == 1:
            name, entry = next(iter(entries.values()))
            target = app.builder.get_relative_uri(node.get("refdoc", ""), entry.docname)
            link = nodes.reference(
                "", "", internal=True, refuri=f"{target}#{entry.node_id}", reftitle=name
            )
            link.append(content)
            return link
    context = str(node.get("py:module") or "lowerbound").split(".")
    places = [parts, *([*context[:depth], *parts] for depth in range(len(context), 0, -1))]
    if any(map(_exists, places)):
        return content
    return None


def _exists(parts: list[str]) -> bool:
    """Whether the library has something of that name."""
    if parts[0] != "lowerbound":
        return False
    for depth in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:depth]))
            reduce(_member, parts[depth:], value)
        except (ImportError, AttributeError):
            continue
        return True
    return False


def _member(owner: Any, name: str) -> Any:
    fields = getattr(owner, "__dataclass_fields__", {})
    if name in fields:
        return fields[name]
    return getattr(owner, name)


def _docstring(app: Sphinx, what: str, *more: Any) -> None:
    """Process a docstring by napoleon.

    Napoleon takes the text before the first colon of a property's docstring as its type. Here that
    is text.
    """
    if what in ("attribute", "data", "property"):
        what = "method"
    napoleon._process_docstring(app, what, *more)
    lines = more[-1]
    # A symbol with a full stop does not begin an enumerated list.
    symbol = re.compile(r"^((?:\s*:[^:]+:)?\s*)([A-Za-z]\.)")
    lines[:] = [symbol.sub(r"\1\\\2", line) for line in lines]


def _signature(app: Sphinx, what: str, name: str, *more: Any) -> tuple[str | None, str | None]:
    """Show a default that is made for each instance as ``...``, since it has no expression."""
    _, _, signature, returns = more
    return signature and signature.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect them."""
    app.setup_extension("sphinx.ext.napoleon")
    for listener in list(app.events.listeners["autodoc-process-docstring"]):
        if listener.handler is napoleon._process_docstring:
            app.disconnect(listener.id)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
    app.connect("source-read", _redirect_links)
    app.connect("missing-reference", _by_short_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
