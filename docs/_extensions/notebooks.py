"""A link at the top of each notebook's page to the notebook, which is copied into the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.application import Sphinx


def _add_link(app: Sphinx, document: nodes.document) -> None:
    """Add the link below the page's title. Sphinx copies the files that such links lead to."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb":
        return
    link = download_reference("", "", nodes.Text("Download this notebook"), reftarget=path.name)
    link["refdoc"] = app.env.docname
    title = next(iter(document.findall(nodes.title)))
    title.parent.insert(title.parent.index(title) + 1, nodes.paragraph("", "", link))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the links before Sphinx collects what to copy, which it does with the priority 500."""
    app.connect("doctree-read", _add_link, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
