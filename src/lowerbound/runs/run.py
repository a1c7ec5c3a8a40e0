"""The result of training: a model, a history and a directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowerbound.models import Model
from lowerbound.objectives import Objective
from lowerbound.report.part_names import name_part


@dataclass(frozen=True, eq=False)
class Run:
    """The result of training.

    Args:
        model: The model with the weights that were kept, in evaluation mode.
        objective: The objective that was maximised.
        history: A record for each epoch, as in ``metrics.jsonl``.
        directory: The directory of the run's files, or ``None``.
        best_epoch: The epoch whose weights were kept, which is the one with the best validation
            bound. With a tolerance it is the last epoch of the best average of the weights. It is
            0 if the last weights were kept.
        stopped_early: Whether early stopping ended the training.
        unfinished: Messages about schedules of the objective that did not reach their end, about a
            tolerance that was not reached, and about an interrupt.
        settled: Whether training stopped automatically, see ``tolerance`` of
            :func:`lowerbound.fit`.
        baseline: The score of independent entries in nats per example, see
            :func:`lowerbound.evaluation.score_independent_entries`: of the validation data, or else
            of the training data. ``None`` if the likelihood is neither a mass nor a density.
    """

    model: Model
    objective: Objective
    history: list[dict[str, Any]]
    directory: Path | None
    best_epoch: int
    stopped_early: bool
    unfinished: tuple[str, ...] = ()
    settled: bool = False
    baseline: float | None = None

    def __repr__(self) -> str:
        where = f", directory={str(self.directory)!r}" if self.directory else ""
        if not self.history:  # because the first epoch was interrupted
            return "\n".join([f"Run(epochs=0{where})", *self.unfinished])
        last = self.history[-1]
        parts = [part for part in ("train", "validation") if part in last]
        bounds = ", ".join(f"{name_part(part, last)} {last[part]['bound']:.2f}" for part in parts)
        label = self.objective.label(self.model)
        line = f"Run(epochs={last['epoch']}, steps={last['step']}, {label}: {bounds} nats{where})"
        return "\n".join([line, *self.unfinished])
