"""The loop: epochs of shuffled batches, validation, and the choice of the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lowerbound.data.examples import Examples
from lowerbound.errors import LowerboundError, NonFiniteError
from lowerbound.evaluation.baseline import Gain
from lowerbound.evaluation.scoring import compute_dataset_terms
from lowerbound.models import Model
from lowerbound.objectives import Objective
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.interrupts import StopSignals
from lowerbound.runtime.noise import derived_seed
from lowerbound.training.autostop import AutoStop, Decision, compute_comparable_bounds
from lowerbound.training.batches import Batch, BatchSource, count_batches
from lowerbound.training.compiling import StepAutotuner, StepOptions
from lowerbound.training.gains import measure_gain
from lowerbound.training.observing import Observer
from lowerbound.training.players import Weights, collect_players, collect_weights, copy_weights
from lowerbound.training.progress import Progress
from lowerbound.training.rates import LearningRates
from lowerbound.training.records import (
    average_terms,
    describe_cut_schedules,
    describe_short_average,
    find_non_finite_group,
    make_non_finite_error,
    record_schedules,
)
from lowerbound.training.step import TrainingStep

# After this many steps on a device the loop checks whether a step was refused, and after fewer
# steps if each of them keeps its stored values until then.
_UNCHECKED_STEPS = 256
_UNCHECKED_BATCHES = 32


@dataclass(eq=False)
class Loop:
    """A training run. The arguments are those of :func:`lowerbound.fit`, checked and resolved."""

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
    signals: StopSignals = field(default_factory=StopSignals)
    autostop: AutoStop | None = None
    decay: float | None = None
    options: StepOptions = field(default_factory=StepOptions)
    progress: Progress = field(default_factory=Progress)
    best_weights: Weights | None = None
    stop_requested: bool = False
    failure: str | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device, self.dtype = get_device(self.model), get_dtype(self.model)
        self.players = collect_players(self.model, self.objective)
        self.source = BatchSource(self.train, self.device, self.model.needs, self.model.accepts)
        self.train = self.source.examples
        self.step = TrainingStep(
            self.model,
            self.objective,
            self.optimizer,
            players=self.players,
            clip_norm=self.clip_norm,
            averaged=self.ema,
        )
        size = min(self.batch_size, len(self.train))
        self.autotuner = StepAutotuner(self.step, self.options, size, self.tell)
        self.schedules = self.objective.schedules()
        self.rates = LearningRates(self.optimizer, self.factor)
        self.started = time.perf_counter()
        self.examples_per_second = 0.0
        self.gain: Gain | None = None

    @torch.enable_grad()
    def run(self) -> None:
        """Train to the end. The caller seeds and restores torch's random state."""
        with self._report_failures():
            self._notify("on_start")
            for line in self.notes:
                self._notify("on_note", line)
            while not self.progress.finished:
                with closing(self._iterate_batches()) as batches:
                    for batch in batches:
                        with self.signals.finish_step(self._may_undo_step):
                            self._take_step(batch)
                        self._stop_if_requested()
                record = self._validate()
                decision = self._decide()
                with self.signals.postpone():
                    self._keep_best(record, decision)
                    self._end_epoch(record)
                self._notify("on_epoch", record)
        self.restore_best()
        self.gain = measure_gain(
            self.progress, self.model, self.objective, self.train, seed=self.seed
        )
        self._notify("on_end")

    # For observers and checkpoints.

    @property
    def kept(self) -> Model:
        """The model that is validated: the one with averaged weights, if weights are averaged."""
        if self.ema is None:
            return self.model
        return cast(Model, self.ema.module)

    @property
    def between_steps(self) -> bool:
        """Whether weights and progress fit each other, as they do unless a step was interrupted."""
        return self.step.taken == self.progress.step == self.step.accepted

    @property
    def seconds(self) -> float:
        """Time spent training so far, with that of earlier processes."""
        return self.progress.seconds + time.perf_counter() - self.started

    def averages(self) -> dict[str, float]:
        """The terms, averaged over this epoch's examples so far; waits for the device."""
        return {name: total / self.progress.position for name, total in self.step.totals.items()}

    def find_non_finite(self) -> str | None:
        """Name what is not finite of the weights, their average and the optimiser's state."""
        return find_non_finite_group([self.model, self.players], self.kept, self.optimizer)

    def tell(self, line: str) -> None:
        """Pass a line about how the steps run to all observers."""
        self._notify("on_choice", line)

    def unfinished(self) -> list[str]:
        """Messages about a training that ended before its schedules or its tolerance."""
        if self.autostop is None or self.progress.settled:
            cut = describe_cut_schedules(self.progress)
            return cut + describe_short_average(self.progress, self.decay)
        return self.autostop.describe_unfinished(self.progress)

    def snapshot(self) -> Progress:
        """The present progress of the training, as plain values."""
        return replace(
            self.progress,
            seconds=self.seconds,
            sums=self.step.totals,
            **self.autotuner.choices,
        )

    def weights(self) -> Weights:
        """All weights by the name of their file: the model's, and those of the objective."""
        return collect_weights(self.model, self.players)

    def load_weights(self, weights: Weights) -> None:
        """Put weights into the model and the objective's players.

        Raises:
            RuntimeError, KeyError: if they do not fit.
        """
        self.model.load_state_dict(weights["model"])
        if self.players:
            self.players.load_state_dict(weights["objective"])

    def request_stop(self) -> None:
        """Interrupt the training after the current step."""
        self.stop_requested = True

    def restore_best(self) -> None:
        """Put the best weights, or those that would be validated, into the model."""
        self.load_weights(self.best_weights or collect_weights(self.kept, self.players))
        self.model.eval()
        self.players.eval()

    def check_steps(self) -> None:
        """Wait for the device, and check whether it refused a step.

        Raises:
            NonFiniteError: if it did. Weights and progress are those before that step.
        """
        try:
            self.step.check()
        except NonFiniteError:
            self.progress.go_back_to(self.step.taken, self.batch_size)
            raise

    def resume(
        self,
        progress: Progress,
        *,
        best_weights: Weights | None = None,
        earlier_tolerance: float | None = None,
    ) -> None:
        """Continue from an earlier run, whose weights and optimiser's state the caller restores.

        Args:
            progress: The progress of the earlier run.
            best_weights: The best weights that it had found.
            earlier_tolerance: Its tolerance. If the tolerance is smaller now, a run that had
                settled continues.
        """
        self.progress, self.best_weights = progress, best_weights
        if self.autostop is not None and earlier_tolerance is not None:
            self.autostop.reconsider(progress, earlier_tolerance)
        self.step.resume(progress.step, progress.sums)
        self.autotuner.resume(progress, self._count_steps_left())
        progress.continue_to(self.total_steps)

    # The parts of the loop.

    def _iterate_batches(self) -> Generator[Batch]:
        """Yield the remaining batches of an epoch, in an order from the seed and the epoch alone.

        Between them the loop checks from time to time whether the device refused a step.
        """
        self.model.train()
        self.players.train()
        self.step.is_unchanged = False
        self.step.is_watched = any(observer.may_interfere for observer in self.observers)
        first, began = self.progress.position, time.perf_counter()
        most = _UNCHECKED_BATCHES
        if self.source.on_device:
            most = _UNCHECKED_STEPS
        seed = derived_seed(self.seed, "order", self.progress.epoch)
        rows = self.source.shuffle(self.batch_size, torch.Generator().manual_seed(seed))
        left = (self.total_steps - self.progress.step) * self.batch_size
        rows = rows[first : first + left]
        with closing(self.source.batches(rows, self.batch_size)) as batches:
            for batch in batches:
                yield batch
                if len(self.step.unchecked) >= most:
                    self.check_steps()
        self.check_steps()
        seconds = time.perf_counter() - began
        self.examples_per_second = (self.progress.position - first) / seconds

    def _take_step(self, batch: Batch) -> None:
        self.rates.set(self.progress.step, self.progress.windows.rate_factor)
        self.autotuner.run(batch, self._read_schedules(), self._count_steps_left())
        self.progress.advance(len(batch))
        self._notify("on_step")
        self.step.is_unchanged = not self.step.is_watched

    def _may_undo_step(self) -> bool:
        """Whether the step in progress, if there is one, has not begun to change the weights."""
        return self.step.taken == self.progress.step

    def _stop_if_requested(self) -> None:
        if self.stop_requested or self.signals.requested:
            self.check_steps()
            self.signals.ignore_further()
            raise KeyboardInterrupt

    def _read_schedules(self) -> dict[str, float]:
        now = self.progress.step, self.progress.count_epochs(len(self.train))
        return {name: schedule.at(*now) for name, schedule in self.schedules.items()}

    def _count_steps_left(self) -> int:
        left = self.total_steps - self.progress.step
        if self.autostop is None:
            return left
        return max(1, min(left, self.autostop.count_fewest_steps_left(self.progress)))

    def _validate(self) -> dict[str, Any]:
        """Validate, and make the record of the epoch that has just ended."""
        progress = self.progress
        averages = self.averages()
        where = self.find_non_finite()
        if where is not None:
            raise make_non_finite_error(progress, "parameter", where)
        rate = self.rates.compute_model_rate(progress.step - 1, progress.windows.rate_factor)
        record: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train": averages,
            "learning_rate": rate,
            "examples_per_second": self.examples_per_second,
            **self.autotuner.record(),
            **progress.record_start(),
        }
        if self.model.hides_entries:
            record["hides_entries"] = True
        if self.schedules:
            epochs = progress.count_epochs(len(self.train))
            record["schedules"] = record_schedules(self.schedules, progress.step, epochs)
        data = self.validation
        if data is not None:
            terms = compute_dataset_terms(self.kept, self.objective, data, seed=self.seed)
            record["validation"] = average_terms(terms, progress)
        record |= progress.record_baseline()
        record["seconds"] = self.seconds
        return record

    def _keep_best(self, record: dict[str, Any], decision: Decision | None) -> None:
        if decision is not None:
            self._act_on(decision, record)
        elif "validation" in record and self.progress.is_better(record["validation"]["bound"]):
            self._keep(record["validation"]["bound"])

    def _keep(self, bound: float) -> None:
        self.progress.best_bound = bound
        self.progress.best_epoch = self.progress.epoch + 1
        self.best_weights = copy_weights(collect_weights(self.kept, self.players))

    def _decide(self) -> Decision | None:
        """Ask the rule that stops training, if there is one, how to continue; change nothing."""
        if self.autostop is None:
            return None
        step = self.progress.step
        epochs = self.progress.count_epochs(len(self.train))
        schedules = self.schedules.values()
        return self.autostop.consider(
            self.progress,
            epoch_steps=count_batches(len(self.train), self.batch_size),
            last=step >= self.total_steps,
            changing=not all(schedule.ended(step, epochs) for schedule in schedules),
            best_weights=(self.best_weights or {}).get("model"),
            bounds_of=partial(
                compute_comparable_bounds,
                objective=self.objective,
                train=self.train,
                validation=self.validation,
                seed=self.seed,
            ),
        )

    def _act_on(self, decision: Decision, record: dict[str, Any]) -> None:
        window = decision.record
        if window is not None:
            if decision.is_best:
                self._keep(window["bound"])
            if decision.goes_back and self.best_weights is not None:
                self.load_weights(self.best_weights)
            label = self.objective.label(self.model)
            self.tell(decision.describe(self.rates.own[0] * window["pace"], label))
            finite = {name: value for name, value in window.items() if math.isfinite(value)}
            record["window"] = finite
        if self.autostop is not None:
            self.autostop.follow(decision)
        self.progress.windows = decision.windows
        self.progress.settled = decision.settled

    def _end_epoch(self, record: dict[str, Any]) -> None:
        progress = self.progress
        progress.history.append(record)
        if progress.position == len(self.train):
            progress.epoch += 1
            progress.position = 0
            self.step.begin_epoch()
            self.autotuner.steps_by_threads.clear()
        waited = progress.epoch - progress.best_epoch
        progress.stopped_early = self.patience is not None and waited >= self.patience
        progress.finish_at(self.total_steps)

    def _notify(self, event: str, *given: Any) -> None:
        for observer in self.observers:
            getattr(observer, event)(self, *given)

    @contextmanager
    def _report_failures(self) -> Iterator[None]:
        """Around the epochs: observers receive an error, and learning rates are restored."""
        try:
            yield
        except BaseException as error:
            self.autotuner.close()  # before a checkpoint is written
            if isinstance(error, NonFiniteError):
                self.failure = str(error)
            if isinstance(error, KeyboardInterrupt):
                self.signals.ignore_further()
            for observer in self.observers:
                try:
                    observer.on_interrupt(self)
                except LowerboundError as another:  # a later error must not replace the first
                    error.add_note(str(another))
            raise
        finally:
            self.autotuner.close()
            self.rates.restore()
