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
from pathlib import Path
from types import FrameType

import torch

from lowerbound.runtime.compiler import forget_compiler_threads
from lowerbound.runtime.interrupts import STOP_SIGNALS

# The copy has a lower priority, so that it takes idle cores and little of those in use.
_PRIORITY = 5

# The time that a copy has to end by itself, so that the C++ compiler removes unfinished files.
_ENDING_SECONDS = 5.0

# A copy that takes longer is ended. It may wait forever for a lock that another thread of the
# original process held when it was copied, because the copy does not have that thread.
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
    such as a lock, and simply ends at a signal that asks a process to end. When this process ends,
    the copy ends too, together with all processes that it has started, such as the C++ compiler. If
    memory runs out, the system ends the copy first.

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
        self.began = time.monotonic()
        self.failure: str | None = None
        """Why the work failed; ``None`` if it did not, or has not ended."""

    @property
    def ended(self) -> bool:
        """Whether the work has ended."""
        if self._answer.closed:
            return True
        if self._answer.poll():  # there is an answer, or the copy has ended
            self.failure = self._read_failure()
        elif time.monotonic() - self.began >= _MOST_SECONDS:
            self.stop()
            self.failure = f"its process took more than {_MOST_SECONDS:.0f} s"
        else:
            return False
        self._answer.close()
        return True

    def stop(self) -> None:
        """End the work, with all that it has started."""
        self.process.terminate()
        if self.process.pid and not self._answer.poll(_ENDING_SECONDS):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()  # in case it has no group of its own yet
        self.process.join()

    def _read_failure(self) -> str | None:
        failure: str | None = ""
        with suppress(EOFError, OSError):
            failure = self._answer.recv()
        self.process.join()
        if failure == "":
            return f"its process ended with exit code {self.process.exitcode}"
        return failure


def _run_in_copy(work: Callable[[], str | None], answer: Connection, parent: int) -> None:
    try:
        _separate(answer.fileno(), parent)
        torch.set_num_threads(1)
        forget_compiler_threads()
        try:
            failure = work()
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "")
            failure = f"{type(error).__name__} in a copy of the process: {reason}"
        answer.send(failure)
        os._exit(0)  # without what the original process does when it ends
    finally:
        os._exit(1)


def _separate(kept: int, parent: int) -> None:
    """Separate the copy from what it shares with the process."""
    for number in STOP_SIGNALS:
        signal.signal(number, _end_group)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(round(2 * _MOST_SECONDS))  # if it waits for a lock, without a parent
    signal.set_wakeup_fd(-1)
    # Not a new session: Linux may give each session the same share of the processor, whatever the
    # priorities of its processes are.
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent has ended before that request
        os._exit(1)
    os.nice(_PRIORITY)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    nothing = os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stderr = os.fdopen(nothing, "w", closefd=False)
    # Files become the null device. They are not closed, because a new file could then get the
    # number of one that an object still uses.
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (kept, nothing):
            with suppress(OSError):
                os.dup2(nothing, int(name))


def _end_group(number: int, frame: FrameType | None) -> None:
    """End this copy and the processes that it has started, which remove their unfinished files."""
    signal.signal(number, signal.SIG_DFL)
    os.killpg(0, number)
