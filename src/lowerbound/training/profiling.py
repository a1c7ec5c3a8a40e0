"""Measures where the time of training steps goes, and shows it in a table."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from lowerbound.runtime.devices import synchronize
from lowerbound.runtime.outputs import write_whole
from lowerbound.training.batches import count_batches
from lowerbound.training.labels import DATA, UPDATE
from lowerbound.training.loop import Loop
from lowerbound.training.observing import Observer

PRODUCTS = "matrix products"
ELEMENTWISE = "elementwise and sums"
OPTIMISER = "optimiser"
DATA_WORK = "data"
PYTHON = "Python and waiting"
KINDS = (PRODUCTS, ELEMENTWISE, OPTIMISER, DATA_WORK, PYTHON)

# The number of steps that are timed, and the number of steps that are then profiled.
_STEPS = 100

# The number of steps before these, while memory is allocated and caches fill.
_WARMUP_STEPS = 5

# The number of operations that the table lists by name.
_LISTED_OPERATIONS = 12

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
# Parts of the names of a GPU's kernels.
_UPDATING = ("multi_tensor_apply",)
_MULTIPLYING = ("gemm", "cutlass", "xmma", "nvjet", "splitKreduce", "gemv", "convolve", "cudnn")
_GATHERING = ("_index_", "index_elementwise", "gather", "Memcpy HtoD")
# Words in the names of kernels that do more than gather examples.
_COMPUTING = {"exp", "expm1", "log", "log1p", "logsumexp", "lgamma", "digamma", "softplus", "tanh"}

_HOST = (
    "## Call CompiledFxGraph",
    "Torch-Compiled Region",
    "TorchDynamo",
    "AOTDispatcher",
    "Pregraph",
    "autograd::engine",
)


class Profiler(Observer):
    """Profiles some steps after the choice of how they run, and writes where their time went.

    The shares are measured under the profiler, which makes small operations look somewhat more
    expensive than they are. Time outside of all operations is spent in Python or in waiting for a
    device. The times in the table apply these shares to the time of a step without the profiler.

    Args:
        path: The Markdown file to write the table to; ``None`` to show it only.
    """

    only_reads = True

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.started: float | None = None
        self.steps = self.seen = 0
        self.plain: float | None = None
        self.profile: Any = None
        self.done = False

    def on_step(self, loop: Loop) -> None:
        """Start if enough steps of the epoch are left, and stop in time."""
        if self.done:
            return
        if loop.autotuner.decided:
            self.seen += 1
        left = count_batches(len(loop.train) - loop.progress.position, loop.batch_size)
        if self.started is not None:
            self.steps += 1
            if self.steps == _STEPS or left == 0:
                self._end(loop)
        elif left >= _STEPS:
            self._begin(loop)

    def on_epoch(self, loop: Loop, record: dict[str, Any]) -> None:
        """Start between two epochs if an epoch has fewer steps than the timing needs."""
        if not loop.progress.finished and len(loop.train) < (_STEPS + 1) * loop.batch_size:
            self._begin(loop)

    def on_interrupt(self, loop: Loop) -> None:
        """Stop the profiler if it is running."""
        if self.profile is not None and self.started is not None:
            self.profile.__exit__(None, None, None)

    def on_end(self, loop: Loop) -> None:
        """Tell the user if the training was too short for a profile."""
        self.on_interrupt(loop)
        if not self.done:
            loop.tell(
                f"the profile was not made: training ended before it took {2 * _STEPS} steps after "
                "the choice whether to compile them; train longer, or pass compile='always' or "
                "'never'"
            )

    def _begin(self, loop: Loop) -> None:
        if self.done or self.seen < _WARMUP_STEPS or self.started is not None:
            return
        self.steps = 0
        if self.plain is not None:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (loop.device.type == "cuda")
            self.profile = profile(activities=kinds, acc_events=True)
            self.profile.__enter__()
        synchronize(loop.device)
        self.started = time.perf_counter()

    def _end(self, loop: Loop) -> None:
        synchronize(loop.device)
        assert self.started is not None
        seconds, self.started = (time.perf_counter() - self.started) / self.steps, None
        if self.plain is None:
            self.plain = seconds
            return
        self.profile.__exit__(None, None, None)
        self.done = True
        attribute, whole = "self_cpu_time_total", 1e6 * seconds * self.steps
        events: Any = self.profile.events()
        kind_of: Callable[[Any], str | None] = _find_kind
        if loop.device.type == "cuda":
            # Each kernel is an event of its own. The operation that started it has its time, too,
            # but a CUDA graph starts kernels without operations.
            attribute = "self_device_time_total"
            events, kind_of = [event for event in events if _is_kernel(event)], _kind_of_kernel
        kinds, operations = measure_shares(events, attribute, whole, kind_of)
        text = format_table("a step", str(loop.autotuner.option), self.plain, kinds, operations)
        if self.path is not None:
            with write_whole(self.path) as file:
                file.write_text(text, encoding="utf8")
            text += f"\nwritten to {self.path}"
        loop.tell(text)


def measure_shares(
    events: Iterable[Any],
    attribute: str,
    whole: float,
    kind_of: Callable[[Any], str | None] | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """Measure the share of the time of each kind of work, and of each operation.

    Args:
        events: The events of torch's profiler.
        attribute: The attribute that contains an event's own time, in microseconds.
        whole: The total time, in microseconds.
        kind_of: The kind of work of an event; ``None`` for that of a processor's operation.
    """
    kind_of = kind_of or _find_kind
    kinds: dict[str, float] = defaultdict(float)
    operations: dict[str, float] = defaultdict(float)
    for event in events:
        share, kind = getattr(event, attribute) / whole, kind_of(event)
        if kind is not None and share > 0:
            kinds[kind] += share
            operations[event.name] += share
    kinds[PYTHON] = max(0.0, 1 - sum(kinds.values()))
    return kinds, operations


def _only_gathers(kernel: str) -> bool:
    """Whether a kernel gathers examples, and does not compute a density or a gradient as well."""
    if "index_put" in kernel or _COMPUTING.intersection(kernel.split("_")):
        return False
    return any(word in kernel for word in _GATHERING)


def _is_kernel(event: Any) -> bool:
    return event.device_type.name != "CPU" and not event.is_user_annotation


def _kind_of_kernel(event: Any) -> str | None:
    """The kind of work of a GPU's kernel, which its name shows."""
    words = {OPTIMISER: _UPDATING, PRODUCTS: _MULTIPLYING}
    kinds = [kind for kind, known in words.items() if any(word in event.name for word in known)]
    return (*kinds, DATA_WORK if _only_gathers(event.name) else ELEMENTWISE)[0]


def _find_kind(event: Any) -> str | None:
    """Find an operation's kind of work; ``None`` if it only calls other operations."""
    above, names = event, []
    while above is not None:
        names.append(above.name)
        above = above.cpu_parent
    if any(name.startswith((UPDATE, "Optimizer.")) for name in names):
        return OPTIMISER
    if DATA in names or (names[0].startswith("graph_") and _only_gathers(names[0])):
        return DATA_WORK
    if names[0].startswith(_HOST) or names[0].startswith(("Memcpy", "cuda")):
        return None
    name = names[0].removeprefix("aten::").removeprefix("mkldnn::").strip("_")
    if name in _MULTIPLY or "convolution" in name or "linear_pointwise" in name or "gemm" in name:
        return PRODUCTS
    return ELEMENTWISE


def format_table(
    what: str,
    option: str,
    seconds: float,
    kinds: Mapping[str, float],
    operations: Mapping[str, float],
) -> str:
    """Format the shares as Markdown.

    Args:
        what: The unit of work, such as "a step".
        option: How it ran, such as "compiled".
        seconds: The time that it took.
        kinds: The share of each kind of work, see :func:`measure_shares`.
        operations: The share of each operation.
    """
    lines = [f"Where the time of {what} goes: {1e3 * seconds:.3g} ms, {option}.", ""]
    rows = [(name, kinds.get(name, 0.0)) for name in KINDS]
    lines += _format_rows("work", rows, seconds)
    longest = sorted(operations.items(), key=lambda entry: -entry[1])[:_LISTED_OPERATIONS]
    lines += [
        "",
        "The operations that take longest:",
        "",
        *_format_rows("operation", longest, seconds),
    ]
    return "\n".join(lines) + "\n"


def _format_rows(title: str, rows: Iterable[tuple[str, float]], seconds: float) -> list[str]:
    shown = [(_shorten(name), share) for name, share in rows]
    width = max([len(title), *(len(name) for name, _ in shown)])
    lines = [
        f"| {title:<{width}} |        ms | share |",
        f"|{'-' * (width + 2)}|----------:|------:|",
    ]
    return lines + [
        f"| {name:<{width}} | {1e3 * seconds * share:9.3f} | {share:5.1%} |"
        for name, share in shown
    ]


def _shorten(name: str) -> str:
    if len(name) <= 60:
        return name
    return f"{name[:57]}..."
