"""A mutation: a small, meaningful mistake that is put into the library on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "lowerbound"


@dataclass(frozen=True)
class Mutation:
    """A mistake in one place of a file.

    Args:
        file: the file, relative to ``src/lowerbound``.
        old: the text to replace, which must occur exactly once.
        new: the text that replaces it.
        wrong: what is then wrong, in one sentence.
        equivalent: why no result changes, if none does; such a mutation need not be seen.
        survives: why no test sees it, if none does although a result changes.
    """

    file: str
    old: str
    new: str
    wrong: str
    equivalent: str | None = None
    survives: str | None = None

    @property
    def key(self) -> str:
        """A text that identifies the mutation, also in later versions of the tables."""
        return f"{self.file}: {self.wrong}"

    def apply(self, source: Path) -> None:
        """Put the mistake into a copy of the library.

        Raises:
            ValueError: unless the old text occurs exactly once.
        """
        path = source / self.file
        text = path.read_text()
        self._check(text)
        path.write_text(text.replace(self.old, self.new))

    def lines(self, source: Path = SOURCE) -> tuple[int, int]:
        """The first and the last line of the text that changes, counted from 1."""
        text = (source / self.file).read_text()
        self._check(text)
        start = text.index(self.old)
        same = 0
        while self.old[same : same + 1] == self.new[same : same + 1] != "":
            same += 1
        first = text[: start + same].count("\n") + 1
        last = text[: start + len(self.old)].count("\n") + 1
        return first, max(first, last)

    def _check(self, text: str) -> None:
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.file}: the text occurs {count} times: {self.old!r}")
        if self.old == self.new:
            raise ValueError(f"{self.file}: nothing changes: {self.old!r}")
