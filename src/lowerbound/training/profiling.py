"""Where the time of a training's steps goes, as a table."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from lowerbound.runs.tensor_files import writing
from lowerbound.runtime.devices import synchronize
from lowerbound.training.labels import DATA, UPDATE
from lowerbound.training.loop import Loop, Observer

PRODUCTS, ELEMENTWISE, OPTIMISER, GIVEN, PYTHON = (
    *("matrix products", "elementwise and sums", "optimiser"),
    *("data", "Python and waiting"),
)

# Steps that are timed, and as many more that are taken apart; before them, steps in which memory is allocated.
_STEPS, _FIRST = 100, 5

# What is listed by name.
_LISTED = 12

_MULTIPLY = (
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "addbmm",
    "mv",
    "addmv",
    "dot",
    "linear",
    "matmul",
    "convolution",
)
_HOST = (
    "## Call CompiledFxGraph",
    "Torch-Compiled Region",
    "TorchDynamo",
    "AOTDispatcher",
    "Pregraph",
    "autograd::engine",
)


class Profiler(Observer):
    """Takes some steps apart once it is settled how they are taken, and writes where their time went.

    The shares are of the time under the profiler, which makes small operations look somewhat dearer than they are: what is no
    operation's is Python's, or the wait for a device. The times are these shares of a step that is not profiled.

    Args:
        path: of the table, as Markdown; ``None`` to show it only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.begun: float | None = None
        self.steps = self.seen = 0
        self.plain: float | None = None
        self.profile: Any = None
        self.done = False

    def on_step(self, loop: Loop) -> None:
        """Begin where enough of the epoch is left, and end in time."""
        if self.done:
            return
        self.seen = self.seen + 1 if loop.autotuner.decided else 0
        left = -(-(len(loop.train) - loop.progress.position) // loop.batch_size)
        if self.begun is not None:
            self.steps += 1
            if self.steps == _STEPS or left == 0:
                self._end(loop)
        elif left >= _STEPS:
            self._begin(loop)

    def on_epoch(self, loop: Loop, record: dict[str, Any]) -> None:
        """Epochs of few steps are taken whole."""
        if not loop.progress.finished and len(loop.train) < (_STEPS + 1) * loop.batch_size:
            self._begin(loop)

    def on_interrupt(self, loop: Loop) -> None:
        """Leave no profiler running."""
        if self.profile is not None and self.begun is not None:
            self.profile.__exit__(None, None, None)

    def on_end(self, loop: Loop) -> None:
        """Say so if there was nothing to take apart."""
        self.on_interrupt(loop)
        if not self.done:
            loop.tell(
                f"no profile: the training ended before {2 * _STEPS} steps were taken the way it chose (train longer, or "
                "choose by compile='always' or 'never')"
            )

    def _begin(self, loop: Loop) -> None:
        if self.done or self.seen < _FIRST or self.begun is not None:
            return
        self.steps = 0
        if self.plain is not None:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (loop.device.type == "cuda")
            self.profile = profile(activities=kinds, acc_events=True)
            self.profile.__enter__()
        synchronize(loop.device)
        self.begun = time.perf_counter()

    def _end(self, loop: Loop) -> None:
        synchronize(loop.device)
        assert self.begun is not None
        seconds, self.begun = (time.perf_counter() - self.begun) / self.steps, None
        if self.plain is None:
            self.plain = seconds
            return
        self.profile.__exit__(None, None, None)
        self.done = True
        attribute = (
            "self_device_time_total" if loop.device.type == "cuda" else "self_cpu_time_total"
        )
        kinds, operations = shares(self.profile.events(), attribute, 1e6 * seconds * self.steps)
        text = table("a step", str(loop.autotuner.option), self.plain, kinds, operations)
        if self.path is not None:
            with writing(self.path):
                self.path.write_text(text, encoding="utf8")
        loop.tell(text + (f"\nwritten to {self.path}" if self.path is not None else ""))


def shares(
    events: Iterable[Any], attribute: str, whole: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Shares of the time of each kind of work, and of each operation.

    Args:
        events: of torch's profiler.
        attribute: of an event that holds its own time, in microseconds.
        whole: the time that they are shares of, in microseconds.
    """
    kinds: dict[str, float] = defaultdict(float)
    operations: dict[str, float] = defaultdict(float)
    for event in events:
        share, kind = getattr(event, attribute) / whole, _kind(event)
        if kind is not None and share > 0:
            kinds[kind] += share
            operations[event.name] += share
    kinds[PYTHON] = max(0.0, 1 - sum(kinds.values()))
    return kinds, operations


def _kind(event: Any) -> str | None:
    """What kind of work an operation is; ``None`` for what only calls others, whose own time is the framework's."""
    above, names = event, []
    while above is not None:
        names.append(above.name)
        above = above.cpu_parent
    if any(name.startswith((UPDATE, "Optimizer.")) for name in names):
        return OPTIMISER
    if DATA in names or (names[0].startswith("graph_") and "_index" in names[0]):
        return GIVEN
    if names[0].startswith(_HOST) or names[0].startswith(("Memcpy", "cuda")):
        return None
    name = names[0].removeprefix("aten::").removeprefix("mkldnn::").strip("_")
    if name in _MULTIPLY or "convolution" in name or "linear_pointwise" in name or "gemm" in name:
        return PRODUCTS
    return ELEMENTWISE


def table(
    what: str, way: str, seconds: float, kinds: Mapping[str, float], operations: Mapping[str, float]
) -> str:
    """The shares as Markdown.

    Args:
        what: took the time.
        way: how it was taken.
        seconds: it took.
        kinds: the share of each kind of work, see :func:`shares`.
        operations: the share of each operation.
    """
    lines = [f"Where the time of {what} goes: {1e3 * seconds:.3g} ms, {way}.", ""]
    rows = [
        (name, kinds.get(name, 0.0)) for name in (PRODUCTS, ELEMENTWISE, OPTIMISER, GIVEN, PYTHON)
    ]
    lines += _rows("work", rows, seconds)
    dearest = sorted(operations.items(), key=lambda entry: -entry[1])[:_LISTED]
    lines += ["", "The operations that take longest:", "", *_rows("operation", dearest, seconds)]
    return "\n".join(lines) + "\n"


def _rows(title: str, rows: Iterable[tuple[str, float]], seconds: float) -> list[str]:
    shown = [(name if len(name) <= 60 else f"{name[:57]}...", share) for name, share in rows]
    width = max(len(title), *(len(name) for name, _ in shown)) if shown else len(title)
    lines = [
        f"| {title:<{width}} |        ms | share |",
        f"|{'-' * (width + 2)}|----------:|------:|",
    ]
    return lines + [
        f"| {name:<{width}} | {1e3 * seconds * share:9.3f} | {share:5.1%} |"
        for name, share in shown
    ]
