"""Built-in observers: the display, the run directory, and the pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn

from lowerbound.conditionals import StandardNormal
from lowerbound.models import Model
from lowerbound.report.drawing import (
    can_draw,
    find_grid_side,
    find_limits,
    save_examples,
    save_pairs,
)
from lowerbound.report.figures import manifold_points, save_learning_curves
from lowerbound.report.part_names import name_part
from lowerbound.runs.directory import RunDirectory
from lowerbound.runs.saving import make_header
from lowerbound.runtime.autotune import Option
from lowerbound.training.batches import count_batches
from lowerbound.training.loop import Loop
from lowerbound.training.observing import Observer
from lowerbound.training.records import describe_complete
from lowerbound.training.state import collect_state

_REFRESH_SECONDS = 0.25

# If there are many epochs, about this many get a line, and at least one every few seconds.
_LINES = 100
_LINE_SECONDS = 10.0

# The width of the progress bar in columns, on narrow and on wide terminals.
_BAR_WIDTHS = (6, 24)

# The manifold of two latents is drawn at this many points along each latent, or as many as fit.
_MOST_MANIFOLD_SIDE = 20


class _StepRate:
    """Measures steps per second, without the first step and steps that waited for the compiler."""

    def __init__(self, option: Option | None = None) -> None:
        self.option, self.is_new = option, True
        self.start_seconds, self.start_step = 0.0, 0

    def count(self, loop: Loop) -> None:
        """Count a step; after the first step with a new option, such as compiled, start anew."""
        if loop.progress.position % loop.autotuner.batch_size:
            return  # a short last batch always runs uncompiled: the new option is still to come
        option = loop.autotuner.option
        if option != self.option or self.is_new:
            self.is_new = option != self.option
            self.option = option
            self.start_seconds, self.start_step = time.perf_counter(), loop.progress.step

    def measure(self, loop: Loop) -> float:
        """Measure the rate; 0 if no step was counted since the start."""
        steps = loop.progress.step - self.start_step
        seconds = time.perf_counter() - self.start_seconds
        if self.is_new or not steps:
            return 0.0
        return steps / max(seconds, 1e-9)


def _format_duration(seconds: float) -> str:
    """Write hours, minutes and seconds; unlike a ``timedelta``, the hours have no limit."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{seconds:02}"


class Display(Observer):
    """Shows training on standard error: live on a terminal, else a line for each epoch.

    Args:
        shown: the terms of the bound to show: a label, the term, and its sign.
    """

    only_reads = True

    def __init__(self, shown: Sequence[tuple[str, str, int]] = ()) -> None:
        self.terms = shown
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.live: Live | None = None
        self.label = "bound"
        self.shown = 0.0
        self.printed = -math.inf
        self.rate = _StepRate()

    def on_start(self, loop: Loop) -> None:
        """Start the progress bar on a terminal."""
        self.label = loop.objective.label(loop.model)
        self.rate = _StepRate(loop.autotuner.option)
        if loop.progress.finished:
            epoch_steps = count_batches(len(loop.train), loop.batch_size)
            self.console.print(describe_complete(loop.progress, loop.total_steps, epoch_steps))
        if not self.console.is_terminal:
            return
        wide = self.console.width > 100
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(_BAR_WIDTHS[wide]),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[left]}"),
            console=self.console,
        )
        self.task = self.bar.add_task(
            "starting", total=loop.total_steps, completed=loop.progress.step, speed="", left=""
        )
        self.live = Live(self.bar, console=self.console, refresh_per_second=4, transient=True)
        self.live.start()

    def on_note(self, loop: Loop, line: str) -> None:
        """Print the line."""
        self.console.print(line)

    def on_choice(self, loop: Loop, line: str) -> None:
        """Print the line."""
        self.console.print(line)

    def on_step(self, loop: Loop) -> None:
        """Show the running sums, a few times a second."""
        self.rate.count(loop)
        now = time.perf_counter()
        if self.live is None or now - self.shown < _REFRESH_SECONDS:
            return
        self.shown = now
        speed = left = ""
        if rate := self.rate.measure(loop):
            speed = f"{rate * loop.batch_size:,.0f}/s"
            left = _format_duration((loop.total_steps - loop.progress.step) / rate)
        names = {"bound": self.label}
        terms = "  ".join(
            f"{names.get(name, name)} {value:.1f}" for name, value in loop.averages().items()
        )
        self.bar.update(
            self.task,
            completed=loop.progress.step,
            description=f"epoch {loop.progress.epoch + 1}  {terms}",
            speed=speed,
            left=left,
        )

    def on_epoch(self, loop: Loop, record: dict[str, Any]) -> None:
        """Print the epoch's line; of very many short epochs, about a hundred lines are printed."""
        now, epoch_steps = time.perf_counter(), count_batches(len(loop.train), loop.batch_size)
        every = max(1, loop.total_steps // epoch_steps // _LINES)
        is_due = record["epoch"] % every == 0 or now - self.printed > _LINE_SECONDS
        if not is_due and not loop.progress.finished:
            return
        self.printed = now
        speed = record["examples_per_second"]
        train = name_part("train", record)
        line = f"epoch {record['epoch']:>4}  {train} {self._describe(record['train'])}"
        if "validation" in record:
            line += f"  validation {self._describe(record['validation'])}"
        line += f"  {speed:,.0f} examples/s"
        rate = self.rate.measure(loop)
        # If nothing was measured yet, the epoch's rate serves, unless compiling may be part of it.
        if not rate and not loop.autotuner.option.compiled:
            rate = speed / loop.batch_size
        if rate and not loop.progress.finished:  # 0 if an interrupt came after the steps
            left = (loop.total_steps - loop.progress.step) / rate
            most = "at most " * (loop.autostop is not None)
            line += f"  {most}{left:,.0f} s left"
        self.console.print(line)

    def _describe(self, terms: dict[str, float]) -> str:
        shown = [f"{label} {sign * terms[name]:.2f}" for label, name, sign in self.terms]
        return f"{terms['bound']:.2f} nats ({', '.join(shown)})"

    def on_interrupt(self, loop: Loop) -> None:
        """Leave the terminal as it was."""
        if self.live is not None:
            self.live.stop()

    def on_end(self, loop: Loop) -> None:
        """Print which weights were kept."""
        self.on_interrupt(loop)
        progress = loop.progress
        if progress.stopped_early:
            self.console.print(
                f"stopped early: no better validation {self.label} in {loop.patience} epochs"
            )
        if progress.settled:
            self.console.print(f"settled after {progress.step:,} steps")
        if progress.best_bound is not None:
            kept = f"epoch {progress.best_epoch}, validation"
            if loop.autostop is not None:
                kept = f"the average of the weights up to epoch {progress.best_epoch},"
            self.console.print(f"kept {kept} {self.label} {progress.best_bound:.2f} nats")
        if loop.gain is not None and loop.gain.warning is None:
            self.console.print(str(loop.gain))
        for line in loop.unfinished():
            self.console.print(line)


@dataclass(eq=False)
class Recorder(Observer):
    """Writes metrics and checkpoints to a run directory.

    Args:
        directory: to write to.
        save_every: seconds between two checkpoints.
    """

    only_reads = True

    directory: RunDirectory
    save_every: float
    header: dict[str, Any] | None = None
    written: float = 0.0
    option: Option | None = None

    def on_start(self, loop: Loop) -> None:
        """Remove metrics of steps that the newest checkpoint does not contain."""
        with loop.signals.postpone():
            self.directory.rewrite_metrics(loop.progress.history)
            self.config = self.directory.read_config()
            self.header = make_header(loop.model)
            self.option = loop.autotuner.settled_option
            self.written = time.monotonic()

    def on_step(self, loop: Loop) -> None:
        """Write a checkpoint if the last one is old, or the way in which steps run has changed.

        A run that is resumed from it changes at the same step.
        """
        before, self.option = self.option, loop.autotuner.settled_option
        if not self._is_due() and before == self.option:
            return
        loop.check_steps()
        if loop.find_non_finite() is None:
            self._checkpoint(loop)

    def on_epoch(self, loop: Loop, record: dict[str, Any]) -> None:
        """Write the line, and a checkpoint if the last one is old or this is the end."""
        with loop.signals.postpone():
            self.directory.append_metrics(record)
            if loop.progress.finished or self._is_due():
                self._checkpoint(loop)

    def on_interrupt(self, loop: Loop) -> None:
        """Write a checkpoint, unless a step was interrupted; then the last one remains."""
        if self.header is None or not loop.between_steps:
            return
        if loop.find_non_finite() is None:
            self._checkpoint(loop)

    def _is_due(self) -> bool:
        return time.monotonic() - self.written >= self.save_every

    def _checkpoint(self, loop: Loop) -> None:
        with loop.signals.postpone():
            self._write_checkpoint(loop)
            self.written = time.monotonic()

    def _write_checkpoint(self, loop: Loop) -> None:
        assert self.header is not None
        files, state = collect_state(loop)
        step = loop.progress.step
        self.directory.write_checkpoint(step, files, state, self.header, self.config)


@dataclass(eq=False)
class Painter(Observer):
    """Draws samples, reconstructions, the bound over time and, for two latents, their manifold.

    Args:
        directory: the run directory.
        every: the number of epochs between two pictures; 0 for no pictures.
        seed: the seed of the samples.
        count: the number of samples.
        pairs: the number of pairs of an example and its reconstruction.
    """

    directory: RunDirectory
    every: int
    seed: int
    count: int = 64
    pairs: int = 16

    def on_start(self, loop: Loop) -> None:
        """Choose the examples to reconstruct, which are validation examples if possible.

        Samples of a model that needs fields use the fields of some examples.
        """
        shown, model = loop.validation or loop.train, loop.model
        self.originals = shown.spread(self.pairs)
        draws = hasattr(model, "reconstruct") and hasattr(model, "sample")
        self.paints = draws and can_draw(shown.shape)
        self.limits = (0.0, 1.0)
        if self.paints and shown.levels is None:
            self.limits = find_limits(self._decode_originals())
        self.given: dict[str, torch.Tensor] = {}
        if model.needs or model.accepts:
            some = shown.spread(self.count)
            self.count = len(some)
            self.given = some.given(torch.arange(self.count), model.needs, model.accepts)

    def on_epoch(self, loop: Loop, record: dict[str, Any]) -> None:
        """Draw means of p(x|z), from the same noise at every epoch."""
        if not self.paints or not self.every:
            return
        if record["epoch"] % self.every and not loop.progress.finished:
            return
        name, folder = f"epoch-{record['epoch']:04d}.png", self.directory.path
        model: Any = loop.kept
        samples = model.sample(self.count, mean=True, seed=self.seed, **self.given)
        save_examples(samples, folder / "samples" / name, limits=self.limits)
        reconstructions = model.reconstruct(self.originals)
        place = folder / "reconstructions" / name
        save_pairs(self._decode_originals(), reconstructions, place, limits=self.limits)

    def _decode_originals(self) -> torch.Tensor:
        return self.originals.prepare("as-is").batch(torch.arange(len(self.originals)))

    def on_end(self, loop: Loop) -> None:
        """Draw the pictures of the whole run."""
        place = self.directory.path / "bound.png"
        label = loop.objective.label(loop.model)
        save_learning_curves(loop.progress.history, place, label=label)
        if self.paints and has_two_normal_latents(loop.model) and not loop.model.needs:
            side = find_grid_side(self.originals.shape, _MOST_MANIFOLD_SIDE)
            model: Any = loop.model
            manifold = model.decode(manifold_points(side))
            place = self.directory.path / "manifold.png"
            save_examples(manifold, place, columns=side, limits=self.limits)


def has_two_normal_latents(model: Model) -> bool:
    """Whether the prior is N(0, I) over two dimensions."""
    prior = getattr(model, "prior", None)
    return isinstance(prior, StandardNormal) and prior.shape == (2,)
