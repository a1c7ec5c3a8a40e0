"""The loop: epochs of shuffled batches, validation, the choice of the best weights, and who watches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lowerbound.data.examples import Examples
from lowerbound.errors import LowerboundError, NonFiniteError
from lowerbound.evaluation.scoring import dataset_terms
from lowerbound.models import Model
from lowerbound.objectives import Objective
from lowerbound.objectives.schedules import cut_short
from lowerbound.runtime.compiler import Choice
from lowerbound.runtime.devices import device_of, dtype_of
from lowerbound.runtime.noise import derived_seed
from lowerbound.training.compiling import Pacer, Precision
from lowerbound.training.feeding import Feed
from lowerbound.training.settling import Settling
from lowerbound.training.step import TrainingStep

# Steps on a device after which it is asked whether it refused one; fewer where each holds its batch until then.
_UNCHECKED_STEPS = 256
_UNCHECKED_BATCHES = 32


@dataclass(eq=False)
class Progress:
    """Where a training stands; with the model, the optimiser and torch's random state, all that is needed to go on."""

    epoch: int = 0
    """Epochs that are complete."""
    step: int = 0
    """Optimiser steps taken."""
    position: int = 0
    """Examples seen of the epoch under way."""
    seconds: float = 0.0
    """Time spent training, before this process's share."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over the examples seen of the epoch under way, by term."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """A record for each complete epoch."""
    best_bound: float | None = None
    """The best validation bound; ``None`` before the first one that is a number."""
    best_epoch: int = 0
    """The epoch with the best validation bound; 0 before the first validation."""
    finished: bool = False
    """Whether the training has reached its end, by its length or by early stopping."""
    stopped_early: bool = False
    """Whether early stopping ended it."""
    compiled: bool | None = None
    """Whether its steps are compiled; ``None`` while that is not decided."""
    half: bool | None = None
    """Whether its networks compute in bfloat16; ``None`` while that is not decided."""
    pace: float = 1.0
    """The factor that has come to the learning rate where the training stops by itself."""
    window: int = 0
    """There: the steps of the window under way."""
    window_end: int = 0
    """There: the step at which it ends."""
    idle: int = 0
    """There: windows in a row that did not gain."""
    settled: bool = False
    """There: whether the training has stopped by itself."""


class Observer:
    """Someone who watches a training: all methods are called in the loop's own thread, and do nothing by default.

    To write your own: subclass, override what matters, and pass an instance in ``observers`` of :func:`lowerbound.fit`.
    """

    def on_start(self, loop: Loop) -> None:
        """Before the first step."""

    def on_choice(self, loop: Loop, line: str) -> None:
        """When it is decided how the steps are taken, which the line says with the reason, or when they are profiled."""

    def on_step(self, loop: Loop) -> None:
        """After a step."""

    def on_epoch(self, loop: Loop, record: dict[str, Any]) -> None:
        """After an epoch and its validation."""

    def on_interrupt(self, loop: Loop) -> None:
        """When an error or a signal ends the training between two steps; the error goes on afterwards."""

    def on_end(self, loop: Loop) -> None:
        """After the last epoch, with the weights that are kept."""


@dataclass(eq=False)
class Loop:
    """One training. The arguments are those of :func:`lowerbound.fit`, checked and resolved."""

    model: Model
    objective: Objective
    train: Examples
    validation: Examples | None
    optimizer: Optimizer
    factor: Callable[[int], float]
    total_steps: int
    batch_size: int
    clip_norm: float | None
    ema: AveragedModel | None
    patience: int | None
    seed: int
    observers: list[Observer]
    settling: Settling | None = None
    compile: Choice = "never"
    precision: Precision = "float32"
    profiled: bool = False
    progress: Progress = field(default_factory=Progress)
    best_weights: dict[str, Tensor] | None = None
    stop_requested: bool = False
    failure: str | None = None

    def __post_init__(self) -> None:
        self.device, self.dtype = device_of(self.model), dtype_of(self.model)
        self.feed = Feed(self.train, self.device)
        self.train = self.feed.examples
        self.step = TrainingStep(
            self.model,
            self.objective,
            self.optimizer,
            self.feed,
            self.clip_norm,
            self.ema,
            self.profiled,
        )
        size = min(self.batch_size, len(self.train))
        self.pacer = Pacer(self.step, self.compile, self.precision, size, self.tell)
        self.schedules = self.objective.schedules()
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.started = time.perf_counter()

    def resume(self, progress: Progress, best_weights: dict[str, Tensor] | None = None) -> None:
        """Continue from where an earlier training stood, with the best weights that it had found.

        The caller restores the model's weights and the optimiser's state.
        """
        self.progress, self.best_weights = progress, best_weights
        if progress.position and len(progress.history) > progress.epoch:
            progress.history.pop()  # of an epoch that the number of steps cut short, and that now goes on
        self.step.resume(progress.step, progress.sums)
        self.pacer.resume(progress.compiled, progress.half, self._steps_left())
        progress.finished = (
            progress.stopped_early or progress.settled or progress.step >= self.total_steps
        )

    def request_stop(self) -> None:
        """Stop after the step under way; a second request stops at once.

        Raises:
            KeyboardInterrupt: if a stop has been requested already.
        """
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True

    @property
    def between_steps(self) -> bool:
        """Whether weights and progress belong together, which they do not where a step was cut short."""
        return self.step.taken == self.progress.step == int(self.step.accepted)

    @property
    def seconds(self) -> float:
        """Time spent training so far, earlier processes included."""
        return self.progress.seconds + time.perf_counter() - self.started

    @property
    def kept(self) -> Model:
        """The model whose bound is validated: with averaged weights where there are such."""
        return self.model if self.ema is None else cast(Model, self.ema.module)

    @torch.enable_grad()
    def run(self) -> None:
        """Train to the end. torch's random state is the caller's to seed and restore."""
        try:
            for observer in self.observers:
                observer.on_start(self)
            while not self.progress.finished:
                self._epoch()
        except BaseException as error:
            self.failure = str(error) if isinstance(error, NonFiniteError) else None
            for observer in self.observers:
                try:
                    observer.on_interrupt(self)
                except LowerboundError as another:  # must not take the place of the first
                    error.add_note(str(another))
            raise
        finally:
            self._set_rates(1.0)  # an optimiser that is the caller's own goes back as it came
        self.model.load_state_dict(self.best_weights or self.kept.state_dict())
        self.model.eval()
        for observer in self.observers:
            observer.on_end(self)

    def averages(self) -> dict[str, float]:
        """The terms of the epoch under way, averaged over the examples seen; costs a synchronisation with the device."""
        return {name: total / self.progress.position for name, total in self.step.totals.items()}

    def snapshot(self) -> Progress:
        """Where the training stands now, in plain numbers."""
        now = replace(self.progress, seconds=self.seconds, sums=self.step.totals)
        way = self.pacer.verdict
        return now if way is None else replace(now, compiled=way.compiled, half=way.half)

    def tell(self, line: str) -> None:
        """Let all observers know what was decided or found out about how the steps are taken."""
        for observer in self.observers:
            observer.on_choice(self, line)

    def _epoch(self) -> None:
        progress = self.progress
        order = self._order()
        self.model.train()
        began, first = time.perf_counter(), progress.position
        left = order[first:][: (self.total_steps - progress.step) * self.batch_size]
        with closing(self.feed.batches(left, self.batch_size)) as batches:
            for batch in batches:
                if self.stop_requested:
                    self._check()
                    raise KeyboardInterrupt
                self._take(batch)
                for observer in self.observers:
                    observer.on_step(self)
                if len(self.step.unchecked) >= (
                    _UNCHECKED_STEPS if self.feed.at_hand else _UNCHECKED_BATCHES
                ):
                    self._check()
        self._check()
        rate = (progress.position - first) / (time.perf_counter() - began)
        record = self._record(self.averages(), rate)
        window = None if self.settling is None else self.settling.consider(self)
        if window is not None:
            record["window"] = window
        progress.history.append(record)
        if progress.position == len(order):
            progress.epoch += 1
            progress.position = 0
            self.step.begin_epoch()
        patient = self.patience is None or progress.epoch - progress.best_epoch < self.patience
        progress.stopped_early = not patient
        progress.finished = (
            progress.stopped_early or progress.settled or progress.step >= self.total_steps
        )
        for observer in self.observers:
            observer.on_epoch(self, record)

    def _check(self) -> None:
        """See whether a step was refused; if so, the training stands where it stood before that step."""
        try:
            self.step.check()
        except NonFiniteError:
            progress = self.progress
            batches = -(-progress.position // self.batch_size) - (progress.step - self.step.taken)
            progress.step, progress.position = self.step.taken, batches * self.batch_size
            raise

    def healthy(self) -> bool:
        """Whether all weights are finite, as they are unless an update of finite gradients overflowed."""
        weights = [
            value
            for value in self.model.state_dict().values()
            if value.is_floating_point() and value.numel()
        ]
        return bool(torch.isfinite(get_total_norm(weights, math.inf)))

    def _refuse(self, faulty: bool, term: str, tensor: str) -> None:
        """What the check before each update cannot see."""
        if faulty:
            step = self.progress.step
            raise NonFiniteError(
                f"step {step}: the {term} is not finite, found in {tensor} after epoch {self.progress.epoch + 1}. Likely cause: "
                "steps that are too long, or examples far outside of the training data's range. Remedy: a smaller "
                "learning_rate, clip_norm=1.0, or a look at the data",
                step=step,
                term=term,
                tensor=tensor,
            )

    def _order(self) -> Tensor:
        """The order of this epoch's examples: a function of the seed and the epoch alone."""
        generator = torch.Generator().manual_seed(
            derived_seed(self.seed, "order", self.progress.epoch)
        )
        return self.feed.order(self.batch_size, generator)

    def unfinished(self) -> list[str]:
        """What to say of schedules of the objective that the weights which are kept have not seen to their end."""
        progress = self.progress
        if not progress.history:
            return []
        if self.settling is not None and not progress.settled:
            return [self.settling.unfinished(self)]
        best = progress.best_epoch
        kept = progress.history[best - 1 if best else -1].get("schedules", {})
        last = progress.history[-1].get("schedules", {})
        lines = []
        for name, schedule in kept.items():
            if cut_short(schedule):
                why = (
                    f"the weights that were kept are those of epoch {best}; without validation it is the last ones"
                    if last[name]["ended"]
                    else "the training ended before the schedule; train longer or shorten it"
                )
                lines.append(
                    f"{name} reached {schedule['reached']:.3g}, not {schedule['end']:.3g}: {why}"
                )
        return lines

    @property
    def changing(self) -> bool:
        """Whether a schedule of the objective has not come to its end."""
        return not all(
            schedule.ended(self.progress.step, self._epochs_taken)
            for schedule in self.schedules.values()
        )

    @property
    def _epochs_taken(self) -> float:
        """Passes over the data so far, with the part of the one under way."""
        return self.progress.epoch + self.progress.position / len(self.train)

    def _take(self, batch: Tensor) -> None:
        """One step on a batch, with everything that belongs to it."""
        self._set_rates(self.factor(self.progress.step) * self.progress.pace)
        now = (self.progress.step, self._epochs_taken)
        scheduled = {name: schedule.at(*now) for name, schedule in self.schedules.items()}
        self.pacer(batch, scheduled, self._steps_left())
        self.progress.position += len(batch)
        self.progress.step += 1  # last: see between_steps

    def _steps_left(self) -> int:
        return (
            self.total_steps - self.progress.step
            if self.settling is None
            else self.settling.likely_left(self)
        )

    def _set_rates(self, factor: float) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor

    def _record(self, averages: dict[str, float], rate: float) -> dict[str, Any]:
        """The line of metrics of the epoch that has just ended."""
        progress = self.progress
        self._refuse(not self.healthy(), "parameter", "the model's weights")
        record: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train": averages,
            "learning_rate": self.base_rates[0] * self.factor(progress.step - 1) * progress.pace,
            "examples_per_second": rate,
        }
        if self.schedules:
            now = (progress.step, self._epochs_taken)
            record["schedules"] = {
                name: {
                    "reached": schedule.at(*now),
                    "end": schedule.end,
                    "ended": schedule.ended(*now),
                }
                for name, schedule in self.schedules.items()
            }
        if self.validation is not None:
            terms = dataset_terms(self.kept, self.objective, self.validation, seed=self.seed)
            record["validation"] = {name: float(term.mean()) for name, term in terms.items()}
            bound = record["validation"]["bound"]
            self._refuse(
                not math.isfinite(bound), "validation bound", "the mean over the validation data"
            )
            better = progress.best_bound is None or bound > progress.best_bound
            if better and self.settling is None:
                progress.best_bound, progress.best_epoch = bound, progress.epoch + 1
                self.best_weights = {
                    name: value.clone() for name, value in self.kept.state_dict().items()
                }
        return record | {"seconds": self.seconds}
