"""Progress of a long evaluation on standard error: a bar on a terminal, otherwise lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# The time before anything is shown, and the time between two lines.
_FIRST_SECONDS = 2.0
_BETWEEN_LINES_SECONDS = 30.0


@contextmanager
def show_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show the number of finished examples, if the evaluation takes more than two seconds.

    Args:
        what: The name of the evaluation.

    Yields:
        The argument ``progress`` of an evaluation.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(24),
        TextColumn("{task.completed:,} of {task.total:,} examples"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task(what, total=None)
    start = last_line = time.monotonic()
    # The time and the number of examples after the first batch. That batch may have waited for the
    # compiler, so the remaining time is estimated from the batches that follow it.
    after_first: tuple[float, int] | None = None

    def progress(done: int, total: int) -> None:
        nonlocal last_line, after_first
        now = time.monotonic()
        after_first = after_first or (now, done)
        then, done_then = after_first
        if done >= total or now - start < _FIRST_SECONDS:
            return
        if console.is_terminal:
            bar.start()
            bar.update(task, completed=done, total=total)
        elif now - last_line > _BETWEEN_LINES_SECONDS:
            last_line = now
            line = f"{what}: {done:,} of {total:,} examples"
            if done > done_then:
                left = (now - then) * (total - done) / (done - done_then)
                line += f", {left:,.0f} s left"
            print(line, file=sys.stderr)

    try:
        yield progress
    finally:
        if bar.live.is_started:
            bar.stop()
