"""What a command does if its output cannot be written.

If the program that reads the output, such as ``head``, has ended, the command ends quietly. If the
output cannot be written, as on a full disk, the command says so in one sentence. If the output was
closed before the start, it is discarded.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from lowerbound.errors import StorageError

EXIT_CODE = 141
"""The exit code after a closed pipe: 128 + SIGPIPE, as the shell reports it for other programs."""

_UNWRITABLE_EXIT_CODE = 2

_ELSEWHERE = "send it to another place"


class PipeClosedError(KeyboardInterrupt):
    """Nobody reads the output any more.

    It is an interrupt, so that training saves a checkpoint, and not a ``BrokenPipeError``, so that
    no library on the way ends the process with another exit code.
    """


class _Stream:
    """A stream whose errors end the command in a way that the user understands.

    Raises, when it is written:
        PipeClosedError: if its pipe is closed.
        StorageError: if it cannot be written, as on a full disk. What is written afterwards is
            discarded.
    """

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
        except OSError as error:
            self._discard_output()
            raise _make_error(error) from None

    def _discard_output(self) -> None:
        """Send the rest to nowhere, so that Python's own flush at the end does not fail."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def _make_error(error: OSError) -> StorageError:
    from lowerbound.runtime.outputs import describe_write_error

    reason, remedy = describe_write_error(error, _ELSEWHERE)
    return StorageError(f"the output cannot be written ({reason}); {remedy or _ELSEWHERE}")


@contextlib.contextmanager
def exit_when_closed() -> Iterator[Callable[[], bool]]:
    """Within the block, a closed pipe of an output ends the process with :data:`EXIT_CODE`.

    If an output cannot be written, as on a full disk, the exit code is that of a user's mistake.

    Yields:
        A function that says whether a pipe was closed.
    """
    with open(os.devnull, "w", encoding="utf8") as nowhere:
        # Python has no stream if the file was closed before the start, as by ">&-".
        out, err = _Stream(sys.stdout or nowhere), _Stream(sys.stderr or nowhere)
        with _exit_on_errors(out, err):
            yield lambda: out.is_closed_by_reader or err.is_closed_by_reader


@contextlib.contextmanager
def _exit_on_errors(out: _Stream, err: _Stream) -> Iterator[None]:
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                yield
            finally:
                out.flush()
                err.flush()
    except StorageError as error:
        with contextlib.suppress(PipeClosedError, StorageError):
            print(f"lowerbound: {error}", file=err, flush=True)
        sys.exit(_UNWRITABLE_EXIT_CODE)
    except BaseException:
        if out.is_closed_by_reader or err.is_closed_by_reader:
            sys.exit(EXIT_CODE)
        raise
