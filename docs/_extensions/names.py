"""How docstrings are read, what their short references name, and links out of ``docs/`` to pages that the site includes."""

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

# Pages outside of docs/ that the site includes: where links lead in the repository, and where they lead here.
INCLUDED = {"../benchmarks/RESULTS.md": "/benchmarks.md", "../CONTRIBUTING.md": "/contributing.md"}


def _here(app: Sphinx, docname: str, source: list[str]) -> None:
    for there, here in INCLUDED.items():
        source[0] = source[0].replace(f"]({there}", f"]({here}")
    folder = Path(app.srcdir, docname).parent

    def text_of_folder(
        link: re.Match[str],
    ) -> str:  # which the repository shows, and a site has no page for
        return link[1] if (folder / link[2]).is_dir() else link[0]

    source[0] = re.sub(r"\[([^\]]*)\]\(([^)\s:#]+)\)", text_of_folder, source[0])


def _by_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """A docstring says ``:class:`Examples``` where the page has ``lowerbound.Examples``: right if there is one such name only.

    What exists in the library but has no place in the reference stays text; what does not exist is a warning.
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
    return content if any(_exists(place) for place in places) else None


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
    return fields[name] if name in fields else getattr(owner, name)


def _docstring(app: Sphinx, what: str, *more: Any) -> None:
    """As napoleon, which takes the text before the first colon of a property's docstring for its type; here it is text."""
    kind = "method" if what in ("attribute", "data", "property") else what
    napoleon._process_docstring(app, kind, *more)
    lines = more[-1]
    lines[:] = [
        re.sub(r"^((?:\s*:[^:]+:)?\s*)([A-Za-z]\.)", r"\1\\\2", line) for line in lines
    ]  # a symbol numbers no list


def _signature(app: Sphinx, what: str, name: str, *more: Any) -> tuple[str | None, str | None]:
    """A default that is made anew for each instance, which Python shows as no expression."""
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
    app.connect("source-read", _here)
    app.connect("missing-reference", _by_short_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
