"""Progress of a long evaluation on standard error: a bar on a terminal, otherwise lines."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median_low

# The time before anything is shown, and the time between two lines.
_FIRST_SECONDS = 2.0
_BETWEEN_LINES_SECONDS = 30.0

# The number of batches from whose times the remaining time is estimated.
_RECENT_BATCHES = 9


class _BatchTimer:
    """Estimates the remaining time from the median time of recent batches.

    The median leaves out a batch that waited for the compiler. The first batch, which has no others
    beside it, is not timed.
    """

    def __init__(self) -> None:
        self.seconds_per_example: deque[float] = deque(maxlen=_RECENT_BATCHES)
        self.last: tuple[float, int] | None = None

    def count(self, now: float, done: int) -> None:
        """Count a batch that was finished now, after which this many examples are done."""
        then, done_then = self.last or (now, done)
        if done > done_then:  # otherwise a round over the examples has just begun
            self.seconds_per_example.append((now - then) / (done - done_then))
        self.last = now, done

    def describe_left(self, examples: int) -> str:
        """Describe the time that this many examples take; "" if no batch was timed."""
        if not self.seconds_per_example:
            return ""
        return f"{median_low(self.seconds_per_example) * examples:,.0f} s left"


@contextmanager
def show_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show the number of finished examples, if the evaluation takes more than two seconds.

    Args:
        what: The name of the evaluation.

    Yields:
        The argument ``progress`` of an evaluation.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(24),
        TextColumn("{task.completed:,} of {task.total:,} examples"),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
    )
    task = bar.add_task(what, total=None, left="")
    start = last_line = time.monotonic()
    timer = _BatchTimer()

    def progress(done: int, total: int) -> None:
        nonlocal last_line
        now = time.monotonic()
        timer.count(now, done)
        if done >= total or now - start < _FIRST_SECONDS:
            return
        left = timer.describe_left(total - done)
        if console.is_terminal:
            bar.update(task, completed=done, total=total, left=left)
            bar.start()  # last, because it draws the bar at once
        elif now - last_line > _BETWEEN_LINES_SECONDS:
            last_line = now
            line = f"{what}: {done:,} of {total:,} examples"
            print(", ".join(filter(None, (line, left))), file=sys.stderr)

    try:
        yield progress
    finally:
        if bar.live.is_started:
            bar.stop()
