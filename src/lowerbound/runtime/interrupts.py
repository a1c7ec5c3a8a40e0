"""Signals that ask a process to end: each becomes a KeyboardInterrupt, at a moment that is safe.

Python calls a signal's handler between any two operations of the main thread. A training must not
be interrupted everywhere: a step that has changed the weights has to be counted, and a checkpoint
that is being written should be completed. :class:`StopSignals` knows these moments.
"""

from __future__ import annotations

import _thread
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU")
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""The signals that ask a process to end, as far as the system has them."""

EXIT_CODE = 130
"""The exit code of the command after each of these signals."""

# The time that the current step of a training may take to end by itself; and the time between two
# interrupts, the second of which is needed only if code of others has swallowed the first one.
_GRACE_SECONDS = 2.0
_AGAIN_SECONDS = 1.2

# After this time the command ends, whatever it is doing, unless it is writing a checkpoint.
_LIMIT_SECONDS = 4.5

_MAIN_THREAD = threading.main_thread().ident or 0


class StopSignals:
    """Within its block, a signal that asks the process to end raises a KeyboardInterrupt.

    Signals that the process ignores, such as SIGHUP under ``nohup``, or that the program handles
    itself, are left alone. Blocks may be nested, see :meth:`catch`. Outside of the main thread
    nothing is caught, because Python calls handlers in that thread only.

    An instance belongs to one thread, and no other thread changes it. So the step of a training in
    another thread does not decide when the main thread may be interrupted.

    Args:
        ends_process: whether the process ends after a few seconds even if the interrupt has not
            reached its end, for instance because other code has swallowed it.
        main: the instance of the main thread, from which that of another thread learns whether a
            signal has come.
    """

    def __init__(self, *, ends_process: bool = False, main: StopSignals | None = None) -> None:
        self.ends_process = ends_process
        self._main = main or self
        self._received = False
        self._before: dict[int, Any] = {}
        self._postponed = 0
        self._in_step = False
        self._may_interrupt_step: Callable[[], bool] = bool
        self._pending = self._ending = self._explained = False
        self._raised_at = -math.inf
        self._explain: list[Callable[[], str]] = [lambda: "interrupted"]
        self._lock = threading.Lock()
        self._over = threading.Event()

    @staticmethod
    @contextmanager
    def catch(*, ends_process: bool = False) -> Iterator[StopSignals]:
        """Enter a block of the instance that is already active, or of a new one.

        Another thread than the main thread gets an instance of its own. It raises no interrupt
        unless it is asked to (:meth:`raise_if_requested`).
        """
        active = _find_active()
        if threading.current_thread() is not threading.main_thread():
            yield StopSignals(main=active)
        elif active is not None:
            yield active
        else:
            with StopSignals(ends_process=ends_process) as signals:
                yield signals

    @property
    def requested(self) -> bool:
        """Whether such a signal has come."""
        return self._main._received

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                handler = signal.getsignal(number)
                if handler in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = handler
                    signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        self._ending = True
        with self._lock:  # the watching thread sends no signal from now on
            self._over.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def postpone(self) -> Iterator[None]:
        """Within the block, such as the writing of a file, a signal waits for the end."""
        self._postponed += 1
        try:
            yield
        finally:
            self._postponed -= 1
        self._raise_if_pending()

    @contextmanager
    def finish_step(self, may_interrupt: Callable[[], bool]) -> Iterator[None]:
        """Within the block, a signal waits for the end, but for two seconds at most.

        Args:
            may_interrupt: whether the step can still be undone. While it cannot, a signal waits.
        """
        before = self._in_step, self._may_interrupt_step  # of a training around this one
        self._in_step, self._may_interrupt_step = True, may_interrupt
        try:
            yield
        finally:
            self._in_step, self._may_interrupt_step = before

    @contextmanager
    def explain(self, explain: Callable[[], str]) -> Iterator[None]:
        """Within the block, this function describes what an interrupt leaves behind."""
        self._explain.append(explain)
        yield
        # Not after an error, because then the explanation is still to be printed.
        self._explain.pop()

    def raise_if_requested(self) -> None:
        """Raise the interrupt that was postponed until now, if there is one.

        Raises:
            KeyboardInterrupt: if a signal has come.
        """
        self._pending = self.requested
        self._raise_if_pending()

    def ignore_further(self) -> None:
        """From now on signals change nothing, because the work is ending already."""
        self._ending = True

    def print_explanation(self) -> None:
        """Print once what the interrupt has left behind, and how to continue."""
        self.ignore_further()
        if not self._explained:
            self._explained = True
            with suppress(OSError):  # a full disk
                print(f"lowerbound: {self._explain[-1]()}", file=sys.stderr, flush=True)

    def end_process(self) -> NoReturn:
        """Print the explanation, and end the process at once.

        Python's own end would take seconds where threads or the compiler's processes are waited
        for, and after an interrupt within ``exec`` it would give another exit code.
        """
        self.print_explanation()
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(EXIT_CODE)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        first, self._received, self._pending = not self._received, True, True
        if first:
            threading.Thread(target=self._watch, args=(number,), daemon=True).start()
        if self._in_step and (first or not self._may_interrupt_step()):
            return
        self._raise_if_pending()

    def _raise_if_pending(self) -> None:
        if not self._pending or self._postponed or self._ending:
            return
        now = time.monotonic()
        if now - self._raised_at >= _AGAIN_SECONDS:
            self._pending, self._raised_at = False, now
            raise KeyboardInterrupt

    def _watch(self, number: int) -> None:
        """Send the signal again until the block has ended; end the process if that takes long."""
        limit, wait = time.monotonic() + _LIMIT_SECONDS, _GRACE_SECONDS
        while not self._over.wait(wait):
            if self.ends_process and time.monotonic() >= limit and not self._postponed:
                self.end_process()
            with self._lock:
                if not self._over.is_set():
                    _send_to_main_thread(number)
            wait = min(_AGAIN_SECONDS, max(0.1, limit - time.monotonic()))


def _find_active() -> StopSignals | None:
    """Find the instance of the main thread that catches signals now."""
    for number in STOP_SIGNALS:
        owner = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(owner, StopSignals):
            return owner
    return None


def _send_to_main_thread(number: int) -> None:
    if hasattr(signal, "pthread_kill"):  # it also ends a wait of the operating system
        signal.pthread_kill(_MAIN_THREAD, number)
    else:  # Windows
        _thread.interrupt_main(signal.Signals(number))
