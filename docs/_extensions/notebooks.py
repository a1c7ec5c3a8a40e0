"""Links at the top of each notebook's page to the notebook, and to the style of its plots.

The site contains a copy of every file that such a link leads to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.application import Sphinx

STYLE = "plain.mplstyle"


def _add_links(app: Sphinx, document: nodes.document) -> None:
    """Add a line with the links below the page's title."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb":
        return
    line = nodes.paragraph("", "", _link(app, path.name, "Download this notebook"))
    if STYLE in path.read_text(encoding="utf8"):
        line += [nodes.Text(" and put "), _link(app, STYLE, STYLE), nodes.Text(" beside it.")]
    title = next(iter(document.findall(nodes.title)))
    title.parent.insert(title.parent.index(title) + 1, line)


def _link(app: Sphinx, file: str, text: str) -> nodes.Element:
    return download_reference("", "", nodes.Text(text), reftarget=file, refdoc=app.env.docname)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the links before Sphinx collects what to copy, which it does with the priority 500."""
    app.connect("doctree-read", _add_links, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
