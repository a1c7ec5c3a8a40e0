"""Hints about data are given once, however often the same data are loaded in a session."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Hint = TypeVar("Hint", bound=Hashable)

# Python's own filter does this, too, but forgets whenever any library changes the filters.
_GIVEN = set[Hashable]()


@contextmanager
def giving_once(hints: Iterable[Hint]) -> Iterator[list[Hint]]:
    """Choose the hints that were not given before. They count as given unless an error is raised.

    Args:
        hints: what identifies each hint, such as the name of the data and what was found there.

    Example:
        >>> with giving_once([("people.csv", -999)]) as new:
        ...     print(new)
        [('people.csv', -999)]
        >>> with giving_once([("people.csv", -999), ("people.csv", "?")]) as new:
        ...     print(new)
        [('people.csv', '?')]
    """
    new = [hint for hint in hints if hint not in _GIVEN]
    yield new
    _GIVEN.update(new)
