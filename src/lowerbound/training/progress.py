"""The progress of a training run, in plain values that a checkpoint can store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lowerbound.training.batches import count_batches


@dataclass(frozen=True)
class Windows:
    """The state of the rule that stops training, see :mod:`lowerbound.training.autostop`."""

    rate_factor: float = 1.0
    """The factor by which the rule multiplies the learning rate."""
    length: int = 0
    """The number of steps of the current window; 0 before the first one."""
    end: int = 0
    """The step at which the window ends."""
    idle: int = 0
    """The number of windows in a row without a gain."""


@dataclass(eq=False)
class Progress:
    """The progress of a training run.

    A resumed run needs this progress, the weights, the optimiser's state and torch's random state.
    """

    epoch: int = 0
    """The number of complete epochs."""
    step: int = 0
    """The number of optimiser steps."""
    position: int = 0
    """The number of examples seen in the current epoch."""
    seconds: float = 0.0
    """The training time of earlier processes, in seconds."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over the examples seen in the current epoch, by term."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """A record for each complete epoch."""
    best_bound: float | None = None
    """The best validation bound; ``None`` before the first one."""
    best_epoch: int = 0
    """The epoch with the best validation bound; 0 before the first validation."""
    finished: bool = False
    """Whether training has ended, automatically or after its full length."""
    stopped_early: bool = False
    """Whether early stopping ended it."""
    settled: bool = False
    """Whether training stopped because it had settled to its tolerance."""
    start: dict[str, float] | None = None
    """The bound before and after the start from the data; ``None`` if nothing changed."""
    baseline: float | None = None
    """The score of independent entries, on the data by which the bound is judged."""
    windows: Windows = field(default_factory=Windows)
    """The state of the rule that applies the tolerance."""
    compiled: bool | None = None
    """Whether its steps are compiled; ``None`` while that is not decided."""
    compiled_from: int | None = None
    """The first step that was compiled; ``None`` before it."""
    onednn_products: list[str] | None = None
    """The kinds of products that oneDNN computes in compiled steps; ``None`` while not decided."""
    bfloat16: bool | None = None
    """Whether its networks compute in bfloat16; ``None`` while that is not decided."""
    threads: int | None = None
    """The number of processor threads of its steps; ``None`` while that is not decided."""
    steps_by_threads: dict[str, int] = field(default_factory=dict)
    """How many steps of the current epoch each number of threads computed."""

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        """The progress in a checkpoint, of this version or of an earlier one.

        Raises:
            TypeError: if the checkpoint is of a later version, with other fields.
        """
        state = dict(state)
        if "half" in state:
            state["bfloat16"] = state.pop("half")
        state.pop("products", None)  # one library computed all products
        windows = state.pop("windows", {})
        for old, name in _OLD_NAMES_OF_WINDOWS.items():
            if old in state:
                windows[name] = state.pop(old)
        return cls(**state, windows=Windows(**windows))

    def record_baseline(self) -> dict[str, float]:
        """The part of each epoch's record by which its bounds are judged."""
        return {} if self.baseline is None else {"baseline": self.baseline}

    def record_start(self) -> dict[str, Any]:
        """The part of the first epoch's record that describes the start from the data."""
        if self.start is None or self.history:
            return {}
        return {"start": self.start}

    def advance(self, examples: int) -> None:
        """Count a step on this many examples."""
        self.position += examples
        self.step += 1  # last, because from here on weights and progress fit each other again

    def count_epochs(self, examples: int) -> float:
        """Count the epochs so far, with the fraction of the current one.

        Args:
            examples: the number of examples in an epoch.
        """
        return self.epoch + self.position / examples

    def is_better(self, bound: float) -> bool:
        """Whether a validation bound is the best one so far."""
        return self.best_bound is None or bound > self.best_bound

    def go_back_to(self, step: int, batch_size: int) -> None:
        """Go back to an earlier step of the same epoch."""
        batches = count_batches(self.position, batch_size) - (self.step - step)
        self.step, self.position = step, batches * batch_size

    def continue_to(self, total_steps: int) -> None:
        """Continue a training, unless it has ended already after this many steps.

        The record of an epoch in whose middle the number of steps had ended is removed.
        """
        self.finish_at(total_steps)
        if not self.finished and self.position and len(self.history) > self.epoch:
            self.history.pop()

    def finish_at(self, total_steps: int) -> None:
        """Record whether training has ended, automatically or after ``total_steps`` steps."""
        by_itself = self.stopped_early or self.settled
        has_record = not self.position or len(self.history) > self.epoch
        self.finished = by_itself or (self.step >= total_steps and has_record)


# In checkpoints of earlier versions the fields of Windows are among those of Progress.
_OLD_NAMES_OF_WINDOWS = {
    "pace": "rate_factor",
    "window": "length",
    "window_end": "end",
    "idle": "idle",
}
