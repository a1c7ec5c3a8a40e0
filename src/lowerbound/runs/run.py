"""What a training leaves: a model, a history, a directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowerbound.models import Model
from lowerbound.objectives import Objective


@dataclass(frozen=True, eq=False)
class Run:
    """A training that has ended.

    Args:
        model: with the weights that were kept, in evaluation mode.
        objective: what was maximised.
        history: a record for each epoch, as in ``metrics.jsonl``.
        directory: of the run's files, or ``None``.
        best_epoch: the epoch whose weights were kept where there was validation, or at which the window of averaged weights ended that were
            kept where there was a tolerance, else 0.
        stopped_early: whether early stopping ended it.
        unfinished: a line for each schedule of the objective that had not come to its end, and for a training that had not settled.
        settled: whether it stopped by itself, see ``tolerance`` of :func:`lowerbound.fit`.
    """

    model: Model
    objective: Objective
    history: list[dict[str, Any]]
    directory: Path | None
    best_epoch: int
    stopped_early: bool
    unfinished: tuple[str, ...] = ()
    settled: bool = False

    def __repr__(self) -> str:
        last = self.history[-1]
        bounds = ", ".join(f"{part} {last[part]['bound']:.2f}" for part in ("train", "validation") if part in last)
        where = f", directory={str(self.directory)!r}" if self.directory else ""
        return f"Run(epochs={last['epoch']}, steps={last['step']}, bound: {bounds} nats{where})" + "".join(
            f"\n{line}" for line in self.unfinished
        )


