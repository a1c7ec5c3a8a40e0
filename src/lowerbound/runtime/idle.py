"""How many processor cores no program uses."""

from __future__ import annotations

import os
import time
from pathlib import Path

# The number is an average over at least this many seconds.
_WINDOW_SECONDS = 1.0


class IdleCores:
    """How many cores are idle, by the counters of Linux.

    Args:
        file: the counters, as in ``/proc/stat``.
    """

    def __init__(self, file: Path = Path("/proc/stat")) -> None:
        self.file = file
        self.seen: tuple[float, float] | None = None
        self.average: float | None = None

    def read(self) -> float | None:
        """The average number over about the last second; ``None`` where it is not known."""
        now = time.perf_counter()
        if self.seen is not None and now - self.seen[0] < _WINDOW_SECONDS:
            return self.average
        idle = self._read_idle_seconds()
        if idle is None:
            return None
        if self.seen is not None:
            self.average = (idle - self.seen[1]) / (now - self.seen[0])
        self.seen = now, idle
        return self.average

    def _read_idle_seconds(self) -> float | None:
        """The idle seconds of all cores together since the machine started."""
        try:
            words = self.file.read_text(encoding="ascii").split(maxsplit=6)
            return (int(words[4]) + int(words[5])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError, AttributeError):
            return None
