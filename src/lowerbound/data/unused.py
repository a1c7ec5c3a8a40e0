"""What data contain that is not used is reported, so that nothing is lost in silence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

# The largest number of names that a report lists.
_MOST_NAMES = 5


class UnusedDataWarning(UserWarning):
    """Data contain something that was not used."""


@dataclass
class Unused:
    """Parts of files that are not used, collected by several threads and reported together."""

    found: list[tuple[str, str, str]] = field(default_factory=list)
    """For each file: what is not used, the name of the file, and details of it."""

    def add(self, what: str, file: str, details: str = "") -> None:
        """Add a part of a file.

        Args:
            what: the part, as the end of the sentence "12 pictures have ...".
            file: the name of the file.
            details: more about the part of this file.
        """
        self.found.append((what, file, details))

    def report(self, name: str) -> None:
        """Warn once for each kind of part, with the first file that has it."""
        for what in dict.fromkeys(kind for kind, *_ in self.found):
            # A picture may be read twice, and counts once.
            files = sorted({(file, details) for kind, file, details in self.found if kind == what})
            first, details = files[0]
            count = f"{len(files)} pictures have"
            if len(files) == 1:
                count = "1 picture has"
            warn_unused(f"{name}: {count} {what} ({first}{details})")


def warn_unused(message: str) -> None:
    """Warn that something was not used."""
    warnings.warn(message, UnusedDataWarning, stacklevel=2)


def list_names(names: Sequence[str]) -> str:
    """List the first few names, and count the rest.

    Example:
        >>> list_names(["a", "b"]), list_names(list("abcdefgh"))
        ('a, b', 'a, b, c, d, e and 3 more')
    """
    listed = ", ".join(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        return f"{listed} and {len(names) - _MOST_NAMES} more"
    return listed


def suggest_names(absent: Sequence[str], unused: Sequence[str]) -> str:
    """End a sentence about names that are absent by unused ones that differ from them little.

    Example:
        >>> suggest_names(["income", "age"], ["Income", "x"])
        ". 'Income', which is similar, is not used; rename it to 'income'"
        >>> suggest_names(["age"], ["x"])
        ''
    """
    own = {each.casefold().strip(): each for each in unused}
    pairs = {name: get_close_matches(name.casefold(), own, n=1, cutoff=0.8) for name in absent}
    return "".join(
        f". {own[found[0]]!r}, which is similar, is not used; rename it to {name!r}"
        for name, found in pairs.items()
        if found
    )
