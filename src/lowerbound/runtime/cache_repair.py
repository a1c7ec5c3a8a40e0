"""Repair of the compiler's cache, from which incomplete files are removed.

The C++ compiler and the linker write their results in place, and torch takes every file that exists
for a complete one. If they are killed while they write, by a SIGKILL that they cannot answer, an
incomplete file remains. Later programs that compile the same code would all fail because of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from lowerbound.runtime.compiled_before import find_cache

# What g++ and clang++ add to the name of a precompiled header.
_PRECOMPILED = (".gch", ".pch")


class CacheRepair:
    """Removes files from the compiler's cache that could not be used, each of them once.

    torch then makes them again. If that does not help, the fault is another one.
    """

    def __init__(self) -> None:
        self.removed: set[Path] = set()

    def repair(self, error: Exception) -> bool:
        """Remove the files that may have caused an error of the compiler.

        They are a library that could not be loaded, or the precompiled header of C++ code that
        could not be compiled.

        Returns:
            Whether a file was removed, so that it is worth compiling once more.
        """
        found = {file for cause in _list_causes(error) for file in _find_files(cause)}
        fresh = [file for file in found - self.removed if _remove(file)]
        self.removed.update(fresh)
        if fresh:
            _forget_failed_builds()
        return bool(fresh)


def _list_causes(error: BaseException) -> list[BaseException]:
    """List an error and all errors that led to it."""
    causes: list[BaseException] = []
    following: list[Any] = [error]
    while following:
        cause = following.pop()
        if isinstance(cause, BaseException) and cause not in causes:
            causes.append(cause)
            following += [cause.__cause__, cause.__context__]
            following.append(getattr(cause, "inner_exception", None))
    return causes


def _find_files(cause: BaseException) -> Iterator[Path]:
    """Find the files of the cache that one error is about."""
    from torch._inductor.exc import CppCompileError

    if isinstance(cause, ImportError) and cause.path is not None:
        library = Path(cause.path).resolve()
        if library.is_relative_to(find_cache().resolve()):
            yield library
    if isinstance(cause, CppCompileError):
        for word, header in pairwise(cause.cmd):
            if word == "-include":
                yield from (Path(header + ending).resolve() for ending in _PRECOMPILED)


def _remove(file: Path) -> bool:
    with suppress(OSError):
        file.unlink()
        return True
    return False


def _forget_failed_builds() -> None:
    """Let torch build again in this process; it remembers results of its threads that failed."""
    module: Any = sys.modules.get("torch._inductor.codecache")
    for name in ("CppCodeCache", "CppPythonBindingsCodeCache", "CppWrapperCodeCache"):
        cache = getattr(getattr(module, name, None), "cache", None)
        if isinstance(cache, dict):
            cache.clear()
