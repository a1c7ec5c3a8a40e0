"""Where a training stands, in plain numbers that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Windows:
    """Where a training that stops by itself stands, see :mod:`lowerbound.training.autostop`."""

    rate_factor: float = 1.0
    """The factor that its rule has put on the learning rate."""
    length: int = 0
    """The steps of the window under way; 0 before the first one."""
    end: int = 0
    """The step at which it ends."""
    idle: int = 0
    """How many windows in a row have not gained."""


@dataclass(eq=False)
class Progress:
    """Where a training stands.

    With the weights, the optimiser's state and torch's random state, this is all that is needed to
    go on.
    """

    epoch: int = 0
    """Epochs that are complete."""
    step: int = 0
    """Optimiser steps taken."""
    position: int = 0
    """Examples seen of the epoch under way."""
    seconds: float = 0.0
    """Time spent training by earlier processes."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over the examples seen of the epoch under way, by term."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """A record for each complete epoch."""
    best_bound: float | None = None
    """The best validation bound; ``None`` before the first one."""
    best_epoch: int = 0
    """The epoch with the best validation bound; 0 before the first validation."""
    finished: bool = False
    """Whether the training has reached its end, by its length or by itself."""
    stopped_early: bool = False
    """Whether early stopping ended it."""
    settled: bool = False
    """Whether it has stopped by its tolerance."""
    windows: Windows = field(default_factory=Windows)
    """Where it stands in the rule of its tolerance."""
    compiled: bool | None = None
    """Whether its steps are compiled; ``None`` while that is not decided."""
    bfloat16: bool | None = None
    """Whether its networks compute in bfloat16; ``None`` while that is not decided."""

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        """The progress in a checkpoint, of this version or of an earlier one.

        Raises:
            TypeError: if the checkpoint is of a later version, with other fields.
        """
        state = dict(state)
        if "half" in state:
            state["bfloat16"] = state.pop("half")
        windows = state.pop("windows", {})
        for old, name in _OLD_NAMES_OF_WINDOWS.items():
            if old in state:
                windows[name] = state.pop(old)
        return cls(**state, windows=Windows(**windows))

    def advance(self, examples: int) -> None:
        """Count a step on so many examples."""
        self.position += examples
        self.step += 1  # last: only then do weights and progress belong together again

    def finish_at(self, total_steps: int) -> None:
        """See whether the training has ended, by itself or after so many steps."""
        by_itself = self.stopped_early or self.settled
        self.finished = by_itself or self.step >= total_steps


# Checkpoints of earlier versions hold the fields of Windows among those of Progress.
_OLD_NAMES_OF_WINDOWS = {
    "pace": "rate_factor",
    "window": "length",
    "window_end": "end",
    "idle": "idle",
}
