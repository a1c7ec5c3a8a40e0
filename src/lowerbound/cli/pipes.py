"""A command ends quietly if the program that reads its output, such as ``head``, ends first."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

EXIT_CODE = 141
"""The exit code after a closed pipe: 128 + SIGPIPE, as the shell reports it for other programs."""


class PipeClosedError(KeyboardInterrupt):
    """Nobody reads the output any more.

    It is an interrupt, so that training saves a checkpoint, and not a ``BrokenPipeError``, so that
    no library on the way ends the process with another exit code.
    """


class _Stream:
    """A stream that raises ``PipeClosedError`` if its pipe is closed."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.is_closed_by_reader = False

    def write(self, text: str) -> int:
        """Write text."""
        with self._watch():
            return int(self.stream.write(text))

    def flush(self) -> None:
        """Write what is buffered."""
        with self._watch():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        if self.is_closed_by_reader:
            raise PipeClosedError
        try:
            yield
        except BrokenPipeError:
            self.is_closed_by_reader = True
            self._discard_output()
            raise PipeClosedError from None

    def _discard_output(self) -> None:
        """Send the rest to nowhere, so that Python's own flush at the end does not fail."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def exit_when_closed() -> Iterator[Callable[[], bool]]:
    """Within the block, a closed pipe of an output ends the process with :data:`EXIT_CODE`.

    Yields:
        A function that says whether a pipe was closed.
    """
    out, err = _Stream(sys.stdout), _Stream(sys.stderr)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                yield lambda: out.is_closed_by_reader or err.is_closed_by_reader
            finally:
                out.flush()
                err.flush()
    except BaseException:
        if out.is_closed_by_reader or err.is_closed_by_reader:
            sys.exit(EXIT_CODE)
        raise
