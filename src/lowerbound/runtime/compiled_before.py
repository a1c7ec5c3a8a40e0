"""A note beside the compiler's cache: which work was compiled before.

The cache itself can be asked only after the model has been traced. A note says beforehand that the
code of some work is probably there. Then the code is read, which takes only seconds, and nothing is
compiled in the background. If the note is wrong, the work waits for the compiler.
"""

from __future__ import annotations

import getpass
import inspect
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import torch

_FOLDER = "lowerbound"

# The packages whose changes are noticed by their versions, or by the dates of their files.
_KNOWN_PACKAGES = {"lowerbound", "torch", *sys.stdlib_module_names}


def was_compiled(description: str) -> bool:
    """Whether work with this description was compiled before, and the note of it is still there."""
    return _find_note(description).exists()


def read_sources(parts: Iterable[object]) -> list[str]:
    """Read the source of the classes of these parts, except known ones and ones without a file."""
    sources = []
    for kind in dict.fromkeys(kind for part in parts for kind in type(part).__mro__):
        if kind.__module__.partition(".")[0] not in _KNOWN_PACKAGES:
            with suppress(OSError, TypeError):
                sources.append(inspect.getsource(kind))
    return sources


def note_compiled(description: str) -> None:
    """Note that work with this description has been compiled. If that fails, nothing happens."""
    note = _find_note(description)
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _find_note(description: str) -> Path:
    versions = f"{torch.__version__} {platform.python_version()} {_find_last_change()}"
    name = sha256(f"{versions} {description}".encode()).hexdigest()
    return find_cache_folder() / name


def find_cache_folder() -> Path:
    """The folder beside the compiler's cache for what this library keeps."""
    return find_cache() / _FOLDER


def find_cache() -> Path:
    """The folder of the compiler's cache; importing the compiler to ask for it takes seconds."""
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if given is not None:
        return Path(given)
    user = ""
    with suppress(KeyError, OSError, ModuleNotFoundError):
        user = getpass.getuser()
    return Path(tempfile.gettempdir()) / f"torchinductor_{user}"


def _find_last_change() -> float:
    """Find when the source of this library was last changed, in seconds since 1970."""
    files = Path(__file__).parent.parent.rglob("*.py")
    return max(file.stat().st_mtime for file in files)
