"""The progress of a long evaluation, on standard error: a bar on a terminal, else a line at times."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE_SECONDS = 2.0
_BETWEEN_LINES_SECONDS = 30.0


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many examples are done, once that has taken two seconds.

    Yields:
        The ``progress`` argument of an evaluation.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.completed:,} of {task.total:,} examples"), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip
    task = bar.add_task(what, total=None)
    began = said = time.monotonic()

    def done(so_far: int, in_all: int) -> None:
        nonlocal said
        now = time.monotonic()
        if so_far >= in_all or now - began < _PATIENCE_SECONDS:
            return
        if console.is_terminal:
            bar.start()
            bar.update(task, completed=so_far, total=in_all)
        elif now - said > _BETWEEN_LINES_SECONDS:
            said = now
            left = (now - began) * (in_all - so_far) / so_far
            print(f"{what}: {so_far:,} of {in_all:,} examples, {left:,.0f} s left", file=sys.stderr)

    try:
        yield done
    finally:
        if bar.live.is_started:
            bar.stop()
