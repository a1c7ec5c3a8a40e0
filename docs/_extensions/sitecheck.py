"""A crawl over the built pages: links that lead nowhere, and whatever would be fetched from elsewhere, are warnings."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# Attributes that name something which the browser fetches when it shows the page; a link is only fetched when it is followed.
FETCHED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "source": "src",
    "iframe": "src",
    "video": "src",
    "audio": "src",
}


class Page(HTMLParser):
    """What a page refers to, and the places in it that others can refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.references: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where the tag leads, and its names."""
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        target = values.get("href") if tag == "a" else values.get(FETCHED.get(tag, ""))
        if target is not None:
            self.references.append((tag, target))


def broken(folder: Path) -> Iterator[tuple[str, str]]:
    """Pages with a reference that does not hold, and what is wrong with it.

    Args:
        folder: of the built pages.
    """
    pages = {
        path.resolve(): Page(path.read_text(encoding="utf8"))
        for path in sorted(folder.rglob("*.html"))
    }
    for path, page in pages.items():
        for tag, target in page.references:
            fault = _fault(path, tag, target, pages)
            if fault:
                yield str(path.relative_to(folder.resolve())), fault


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
        for page, fault in broken(Path(app.outdir)):
            logger.warning("%s: %s", page, fault, type="sitecheck")


def setup(app: Sphinx) -> dict[str, Any]:
    """Check when everything is written."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
