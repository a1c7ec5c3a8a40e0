"""Checks the built pages. It warns about

- links that lead nowhere,
- everything that would be fetched from elsewhere,
- lines of code that are too long for the column of text,
- pages of notebooks that do not link to their notebook.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# Attributes that name something which the browser fetches when it shows the page. A link is fetched
# only when it is followed.
FETCHED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "source": "src",
    "iframe": "src",
    "video": "src",
    "audio": "src",
}

# What fits into the column of text, which _static/lowerbound.css sets, in a window of 1,300 pixels.
COLUMNS = 100


class Page(HTMLParser):
    """What a page refers to, the places in it that others can refer to, and its blocks of code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.references: list[tuple[str, str]] = []
        self.code: list[str] = []
        self.outputs: list[str] = []
        # For each <div> that is open, whether it is an output of a notebook.
        self._divisions: list[bool] = []
        self._block: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where the tag leads, and its names."""
        values = {name: value for name, value in attrs if value is not None}
        if tag == "div":
            self._divisions.append("cell_output" in values.get("class", "").split())
        if tag == "pre":
            self._block = ""
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        target = values.get("href") if tag == "a" else values.get(FETCHED.get(tag, ""))
        if target is not None:
            self.references.append((tag, target))

    def handle_endtag(self, tag: str) -> None:
        """Keep a block of code that ends."""
        if tag == "div" and self._divisions:
            self._divisions.pop()
        if tag == "pre" and self._block is not None:
            (self.outputs if any(self._divisions) else self.code).append(self._block)
            self._block = None

    def handle_data(self, data: str) -> None:
        """Add to the block of code."""
        if self._block is not None:
            self._block += data

    def links_to(self, name: str) -> bool:
        """Whether a link leads to a file of this name."""
        return any(tag == "a" and target.endswith(f"/{name}") for tag, target in self.references)

    def long_lines(self) -> Iterator[str]:
        """Lines that do not fit.

        The style sheet wraps the outputs of notebooks, so a sentence may be long there, but not a
        row of a table, whose columns would be torn apart.
        """
        code = [line for block in self.code for line in block.splitlines()]
        outputs = [line for block in self.outputs for line in block.splitlines()]
        rows = [line for line in outputs if "  " in line.strip()]
        return (line for line in code + rows if len(line) > COLUMNS)


def broken(folder: Path, notebooks: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Pages, each with something that is wrong with it.

    Args:
        folder: of the built pages.
        notebooks: the pages that were notebooks, without the ending: each links to its notebook.
    """
    folder = folder.resolve()
    pages = {path: Page(path.read_text(encoding="utf8")) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(folder)
        for tag, target in page.references:
            fault = _fault(path, tag, target, pages)
            if fault:
                yield str(name), fault
        for line in page.long_lines():
            yield str(name), f"<pre> is {len(line)} columns wide: {line}"
        if name.with_suffix("").as_posix() in notebooks and not page.links_to(f"{name.stem}.ipynb"):
            yield str(name), "<a> is missing: a link to the notebook"


def _fault(path: Path, tag: str, target: str, pages: dict[Path, Page]) -> str | None:
    link = urlsplit(target)
    if link.scheme or link.netloc:
        fetched = tag != "a" and link.scheme != "data"
        return f"<{tag}> would be fetched from elsewhere: {target}" if fetched else None
    file = (path.parent / unquote(link.path)).resolve() if link.path else path
    if file.is_dir():
        file = file / "index.html"
    if not file.is_file():
        return f"<{tag}> leads nowhere: {target}"
    if link.fragment and file in pages and unquote(link.fragment) not in pages[file].anchors:
        return f"<{tag}> names a place that is not there: {target}"
    return None


def _check(app: Sphinx, error: Exception | None) -> None:
    from sphinx.util import logging

    logger = logging.getLogger(__name__)
    if error is None and app.builder.format == "html":
        notebooks = {
            name for name in app.env.found_docs if app.env.doc2path(name).suffix == ".ipynb"
        }
        for page, fault in broken(Path(app.outdir), notebooks):
            logger.warning("%s: %s", page, fault, type="sitecheck")


def setup(app: Sphinx) -> dict[str, Any]:
    """Check when everything is written."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
