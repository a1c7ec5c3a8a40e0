"""Downloads. A file is kept only if it is complete and correct."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from lowerbound.errors import DataError

SILENCE_SECONDS = 30.0
"""Seconds without a byte after which an address is given up."""
DEADLINE_SECONDS = 900.0
"""Seconds after which a file is given up, however steadily it arrives."""
MAX_BYTES = 1 << 28

_log = logging.getLogger("lowerbound")


class DownloadError(DataError):
    """No address sent the file; the message lists the failure of each address."""


def open_url(url: str) -> BinaryIO:
    """The content at an address, as a stream."""
    return cast(BinaryIO, urllib.request.urlopen(url, timeout=SILENCE_SECONDS))


def download(urls: Sequence[str], target: Path, check: Callable[[Path], object]) -> None:
    """Downloads a file from the first address that sends the correct one.

    The content goes to a temporary name in the same folder. After ``check`` has accepted it, it is
    renamed in one step, so ``target`` is always complete, even while other processes download it
    too.

    Args:
        urls: the addresses, tried in order.
        target: the path of the file; its folder is made.
        check: raises a ``DataError`` if the file is not the right one.

    Raises:
        DownloadError: if no address sent it.
        DataError: if the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise DataError(
            f"{target.parent}: cannot keep downloads there ({error.strerror or error}); set "
            "XDG_CACHE_HOME to a folder that can be written"
        ) from error
    os.close(handle)
    part, failures = Path(name), []
    try:
        for url in urls:
            _log.info("downloading %s", url)
            try:
                _copy(url, part)
                check(part)
                part.replace(target)
                return
            except (
                OSError,
                http.client.HTTPException,
                ValueError,
            ) as error:  # DataError is a ValueError
                # The temporary name would not help the reader.
                failures.append(
                    f"{url}: {str(error).replace(str(part), target.name) or type(error).__name__}"
                )
        raise DownloadError("; ".join(failures))
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _copy(url: str, part: Path) -> None:
    start, size = time.monotonic(), 0
    with open_url(url) as source, part.open("wb") as sink:
        while block := source.read(1 << 16):
            size += len(block)
            if size > MAX_BYTES:
                raise DataError(f"sends more than {MAX_BYTES >> 20} MiB")
            if time.monotonic() - start > DEADLINE_SECONDS:
                raise DataError(f"took longer than {DEADLINE_SECONDS:.0f} seconds")
            sink.write(block)
