"""The pictures in a folder, and what else is there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowerbound.data.formats import FORMATS, PICTURE_SUFFIXES
from lowerbound.errors import DataError

_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class Listing:
    """The pictures of one part in order, and the class folder of each if classes have folders."""

    files: tuple[Path, ...]
    classes: tuple[str, ...] | None
    unread: tuple[str, ...]
    """The names of files and folders that are not read. Hidden ones do not count."""


def is_picture(path: Path) -> bool:
    """Whether a path has the suffix of a picture that can be read."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def make_natural_key(name: str) -> tuple[object, ...]:
    """Make a key that sorts numbers within names by their value."""
    # Text and numbers alternate, and text comes first, so text is never compared with a number. The
    # name itself resolves ties.
    parts: list[Any] = re.split(r"([0-9]+)", name)
    parts[1::2] = map(int, parts[1::2])
    return tuple(parts), name


def list_entries(folder: Path) -> list[Path]:
    """List a folder in natural order, without hidden files and those that systems leave behind.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        entries = [
            e
            for e in folder.iterdir()
            if not e.name.startswith(".") and e.name.lower() not in _LITTER
        ]
    except OSError as error:
        raise DataError(
            f"{folder}: the folder cannot be read ({error.strerror or error})"
        ) from error
    return sorted(entries, key=lambda entry: make_natural_key(entry.name))


def list_pictures(root: Path) -> Listing:
    """List the pictures in a folder, or in its class folders.

    Raises:
        DataError: if there are none, or if their folders are not one of these two layouts.
    """
    entries = list_entries(root)
    loose = [entry for entry in entries if is_picture(entry) and not entry.is_dir()]
    inside: dict[str, list[Path]] = {}
    unread = [entry.name for entry in entries if not (is_picture(entry) or entry.is_dir())]
    for sub in (entry for entry in entries if entry.is_dir()):
        below = list_entries(sub)
        for deeper in (entry for entry in below if entry.is_dir()):
            if any(is_picture(entry) for entry in list_entries(deeper)):
                raise DataError(
                    f"{deeper}: contains pictures more than one folder below {root}; give {sub} "
                    "instead, or move them up so that each class is one folder"
                )
        pictures = [entry for entry in below if is_picture(entry) and not entry.is_dir()]
        unread += [
            f"{sub.name}/{entry.name}" for entry in below if entry.is_dir() or not is_picture(entry)
        ]
        if pictures:
            inside[sub.name] = pictures
        elif not below:
            unread.append(f"{sub.name}/")
    if loose and inside:
        raise DataError(
            f"{root}: has {len(loose)} pictures (the first is {loose[0].name}) next to class "
            f"folders with pictures ({', '.join(list(inside)[:3])}); move them into a class "
            "folder, or move the class folders elsewhere"
        )
    if not loose and not inside:
        raise DataError(
            f"{root}: contains no pictures ({' '.join(PICTURE_SUFFIXES)}); {_list_kinds(entries)}"
        )
    if loose:
        return Listing(tuple(loose), None, tuple(unread))
    return Listing(
        tuple(file for files in inside.values() for file in files),
        tuple(name for name, files in inside.items() for _ in files),
        tuple(unread),
    )


def _list_kinds(entries: Sequence[Path]) -> str:
    if not entries:
        return "it is empty"
    counts = Counter(map(_name_kind, entries)).most_common(5)
    found = f"found {', '.join(f'{count} {kind}' for kind, count in counts)}"
    names = {entry.name for entry in FORMATS if not entry.is_folder}
    arrays = [entry.name for entry in entries if entry.suffix.lower() in names]
    if not arrays:
        return found
    return f"{found}; to read {arrays[0]}, give the path of that file"


def _name_kind(entry: Path) -> str:
    if entry.is_dir():
        return "folder without pictures"
    return entry.suffix.lower() or "file without suffix"
