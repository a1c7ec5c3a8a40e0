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

from lowerbound.runtime.interrupts import STOP_SIGNALS

# The copy has a lower priority, so that it takes idle cores and little of those in use.
_PRIORITY = 5

# A copy that takes longer is ended. It may wait for a lock that a thread, which a copy does not
# have, held when the copy was made.
_MOST_SECONDS = 600.0

# The Linux request by which the system ends a process when its parent ends.
_PR_SET_PDEATHSIG = 1


def can_copy_process(device: torch.device) -> bool:
    """Whether work on a device can be done in a copy of this process.

    Only Linux copies a process safely that has used several threads, and a GPU cannot be used from
    a copy. A process that must not have children cannot be copied either.
    """
    return (
        sys.platform == "linux"
        and device.type == "cpu"
        and not torch.cuda.is_initialized()
        and not multiprocessing.current_process().daemon
    )


class BackgroundWork:
    """Does some work in a copy of this process, with the values that it has now.

    Only files that the work writes remain, such as the compiler's cache. The copy computes with one
    thread, because it does not have the threads of this process. It prints nothing, keeps no file
    open that this process had opened, such as a lock, and does not react to the signals that this
    process handles. It ends with this process.

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
        self.process = context.Process(target=_run_in_copy, args=(work, answer), daemon=True)
        with warnings.catch_warnings():
            # Python warns of copying a process with threads, which is done here with care.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        answer.close()
        self.began = time.monotonic()
        self.failure: str | None = None
        """Why the work failed; ``None`` if it did not, or has not ended."""

    @property
    def ended(self) -> bool:
        """Whether the work has ended."""
        if self.process.is_alive():
            if time.monotonic() - self.began < _MOST_SECONDS:
                return False
            self.stop()
            self.failure = f"its process took more than {_MOST_SECONDS:.0f} s"
            return True
        if self.failure is None:
            self.failure = self._read_failure()
        return True

    def stop(self) -> None:
        """End the work, with all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()
        self.process.join()

    def _read_failure(self) -> str | None:
        with suppress(EOFError):
            if self._answer.poll():
                failure: str | None = self._answer.recv()
                return failure
        return f"its process ended with exit code {self.process.exitcode}"


def _run_in_copy(work: Callable[[], str | None], answer: Connection) -> None:
    code = 1
    try:
        _separate(answer.fileno())
        torch.set_num_threads(1)
        answer.send(work())
        code = 0
    finally:
        os._exit(code)  # nothing of what this process does when it ends


def _separate(kept: int) -> None:
    """Separate the copy from what it shares with the process."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_PRIORITY)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            with suppress(OSError):
                os.close(int(name))
