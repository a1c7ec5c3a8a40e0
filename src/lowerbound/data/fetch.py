"""Downloads. Only complete and correct files are kept."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, cast

from lowerbound.errors import DataError
from lowerbound.runtime.outputs import explain_write_errors

SILENCE_SECONDS = 30.0
"""The seconds without a byte after which an address is abandoned."""
DEADLINE_SECONDS = 900.0
"""The seconds after which a download is abandoned, even if data still arrive."""
MAX_BYTES = 1 << 28

_log = logging.getLogger("lowerbound")


class DownloadError(DataError):
    """A file that no address sent. The message lists the failure of each address."""


class _CannotStoreError(DataError):
    """The folder for downloads cannot be written."""


def open_url(url: str) -> BinaryIO:
    """Open the content at an address as a stream."""
    return cast(BinaryIO, urllib.request.urlopen(url, timeout=SILENCE_SECONDS))


def download(urls: Sequence[str], target: Path, check: Callable[[Path], object]) -> None:
    """Download a file from the first address that sends the correct content.

    The content is written under a temporary name in the same folder. After ``check`` has accepted
    it, the file is renamed in one step. Therefore ``target`` is always complete, even if other
    processes download it at the same time.

    Args:
        urls: the addresses, tried in order.
        target: the path of the file. Its folder is created.
        check: a function that raises ``DataError`` if the file is not correct.

    Raises:
        DownloadError: if no address sent it.
        DataError: if the folder cannot be written.
    """
    with _explain_write_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    part, failures = Path(name), []
    try:
        for url in urls:
            _log.info("downloading %s", url)
            try:
                with _explain_write_errors(target.parent), part.open("wb") as sink:
                    sink.writelines(_receive(url))
                check(part)
            except _CannotStoreError:  # the next address would fail too
                raise
            except (OSError, http.client.HTTPException, ValueError) as error:
                # DataError is a ValueError. The temporary name would not help the reader.
                failures.append(
                    f"{url}: {str(error).replace(str(part), target.name) or type(error).__name__}"
                )
            else:
                with _explain_write_errors(target.parent):
                    part.replace(target)
                return
        raise DownloadError("; ".join(failures))
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _explain_write_errors(folder: Path) -> AbstractContextManager[None]:
    return explain_write_errors(
        folder,
        "downloads cannot be stored there",
        elsewhere="set XDG_CACHE_HOME to another folder",
        error_class=_CannotStoreError,
    )


def _receive(url: str) -> Iterator[bytes]:
    """Yield what an address sends.

    Its errors are raised as ``DataError``, so that they are not taken for errors of writing.
    """
    start, size = time.monotonic(), 0
    try:
        with open_url(url) as source:
            while block := source.read(1 << 16):
                size += len(block)
                if size > MAX_BYTES:
                    raise DataError(f"sends more than {MAX_BYTES >> 20} MiB")
                if time.monotonic() - start > DEADLINE_SECONDS:
                    raise DataError(f"took longer than {DEADLINE_SECONDS:.0f} seconds")
                yield block
    except OSError as error:
        raise DataError(str(error) or type(error).__name__) from error
