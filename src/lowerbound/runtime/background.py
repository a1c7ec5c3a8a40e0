"""Work in a copy of this process, while this process goes on."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import torch

from lowerbound.runtime.compiler import forget_compiler_threads
from lowerbound.runtime.interrupts import STOP_SIGNALS

# The copy has a lower priority, so that it takes idle cores and little of those in use.
_PRIORITY = 5

# The time that a copy has to end by itself, so that the C++ compiler removes unfinished files.
_ENDING_SECONDS = 5.0

# A copy that takes longer is ended. It may wait forever for a lock: one that was held, when the
# copy was made, by a thread that the copy does not have.
_MOST_SECONDS = 600.0

# The Linux request by which the system ends a process when its parent ends.
_PR_SET_PDEATHSIG = 1


def can_copy_process(device: torch.device) -> bool:
    """Whether work on a device can be done in a copy of this process.

    Only on Linux can a process that has used several threads be copied safely. A copy cannot use
    the GPU, and a process that must not have children cannot be copied.
    """
    return (
        sys.platform == "linux"
        and device.type == "cpu"
        and not torch.cuda.is_initialized()
        and not multiprocessing.current_process().daemon
    )


class BackgroundWork:
    """Does some work in a copy of this process, with the values that it has now.

    Only files that the work writes remain, such as the compiler's cache; the work must not change
    memory that processes share. The copy computes with one thread, because it does not have the
    threads of this process. It prints nothing, keeps no file open that this process had opened,
    such as a lock, and does not react to the signals that this process handles. It ends with this
    process.

    Args:
        work: returns ``None``, or why it failed.

    Example:
        >>> import time
        >>> background = BackgroundWork(lambda: "no compiler")
        >>> while not background.ended:
        ...     time.sleep(0.01)
        >>> background.failure
        'no compiler'
    """

    def __init__(self, work: Callable[[], str | None]) -> None:
        context = multiprocessing.get_context("fork")
        self._answer, answer = context.Pipe(duplex=False)
        given = work, answer, os.getpid()
        self.process = context.Process(target=_run_in_copy, args=given, daemon=True)
        with warnings.catch_warnings():
            # Python warns of copying a process with threads, which is done here with care.
            warnings.simplefilter("ignore", DeprecationWarning)
            # In the copy, signals wait until their handlers are reset.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                self.process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        answer.close()
        self._ended = False
        self.began = time.monotonic()
        self.failure: str | None = None
        """Why the work failed; ``None`` if it did not, or has not ended."""

    @property
    def ended(self) -> bool:
        """Whether the work has ended."""
        if self._ended:
            return True
        if not self.process.is_alive():
            self.failure = self._read_failure()
        elif time.monotonic() - self.began >= _MOST_SECONDS:
            self.stop()
            self.failure = f"its process took more than {_MOST_SECONDS:.0f} s"
        else:
            return False
        self._ended = True
        return True

    def stop(self) -> None:
        """End the work, with all that it has started."""
        number = self.process.pid
        if number is not None and self.process.is_alive():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(number, signal.SIGTERM)
            self.process.terminate()  # in case it has no group of its own yet
            self.process.join(_ENDING_SECONDS)
            self.process.kill()
        self.process.join()

    def _read_failure(self) -> str | None:
        with suppress(EOFError, OSError):
            if self._answer.poll():
                failure: str | None = self._answer.recv()
                return failure
        return f"its process ended with exit code {self.process.exitcode}"


def _run_in_copy(work: Callable[[], str | None], answer: Connection, parent: int) -> None:
    code = 1
    try:
        _separate(answer.fileno(), parent)
        torch.set_num_threads(1)
        forget_compiler_threads()
        answer.send(_describe_failure(work))
        code = 0
    finally:
        os._exit(code)  # without what the original process does when it ends


def _describe_failure(work: Callable[[], str | None]) -> str | None:
    try:
        return work()
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        return f"{type(error).__name__} in a copy of the process: {reason}"


def _separate(kept: int, parent: int) -> None:
    """Separate the copy from what it shares with the process."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # which ended before that request
        os._exit(1)
    os.nice(_PRIORITY)
    nothing = os.open(os.devnull, os.O_RDWR)
    # Files become the null device. They are not closed, because a new file could then get the
    # number of one that an object still uses.
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (kept, nothing):
            with suppress(OSError):
                os.dup2(nothing, int(name))
