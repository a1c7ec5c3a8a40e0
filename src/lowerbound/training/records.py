"""Records of a training run, the messages at its end, and checks for non-finite values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lowerbound.errors import NonFiniteError
from lowerbound.objectives.schedules import Schedule, was_cut_short
from lowerbound.runs.finite import find_non_finite, list_buffers
from lowerbound.runs.optimizer_state import flatten_optimizer
from lowerbound.training.progress import Progress

# An exponential average of weights that has so much of the first ones has not forgotten them.
_LARGE_SHARE = 0.1


def record_schedules(
    schedules: Mapping[str, Schedule], step: int, epochs: float
) -> dict[str, dict[str, Any]]:
    """Record the value that each schedule has reached, and its end value."""
    return {
        name: {
            "reached": schedule.at(step, epochs),
            "end": schedule.end,
            "ended": schedule.ended(step, epochs),
        }
        for name, schedule in schedules.items()
    }


def describe_cut_schedules(progress: Progress) -> list[str]:
    """Write a line for each schedule that had not ended when the kept weights were reached."""
    if not progress.history:
        return []
    best = progress.best_epoch
    kept = progress.history[(best or len(progress.history)) - 1].get("schedules", {})
    last = progress.history[-1].get("schedules", {})
    lines = []
    for name, schedule in kept.items():
        if not was_cut_short(schedule):
            continue
        why = "the training ended before the schedule; train longer or shorten it"
        if last[name]["ended"]:
            why = (
                f"the kept weights are those of epoch {best}; train without validation to "
                "keep the last ones"
            )
        reached, end = schedule["reached"], schedule["end"]
        lines.append(f"{name} reached {reached:.3g}, not {end:.3g}: {why}")
    return lines


def describe_short_average(progress: Progress, decay: float | None) -> list[str]:
    """Write a line if much of the average of the kept weights is the weights of the first step."""
    if not progress.history or decay is None:
        return []
    record = progress.history[(progress.best_epoch or len(progress.history)) - 1]
    share = decay ** (record["step"] - 1)
    if share < _LARGE_SHARE:
        return []
    return [
        f"{share:.0%} of the averaged weights are those of the first step: train longer, or "
        f"average over fewer steps, with a smaller ema than {decay:g}"
    ]


def describe_complete(progress: Progress, total_steps: int, epoch_steps: int) -> str:
    """Describe a run that is already complete when training starts, and how to continue it.

    Args:
        progress: the progress of the run.
        total_steps: the number of steps that was asked for.
        epoch_steps: the number of steps in an epoch.
    """
    done, asked, unit = progress.step, total_steps, "steps"
    if not done % epoch_steps and not asked % epoch_steps:
        done, asked, unit = done // epoch_steps, asked // epoch_steps, "epochs"
    line, more = f"the training is complete at epoch {progress.epoch}", f"more than {done:,} {unit}"
    if done > asked:
        line = f"the run has {done:,} {unit} already, more than the {asked:,} asked for"
    if progress.stopped_early:
        return f"{line}; it stopped early, so it is not continued: train again without patience"
    if progress.settled and done >= asked:
        more += " and a smaller tolerance"
    elif progress.settled:
        more = "a smaller tolerance"
    return f"{line}; to continue, ask for {more}"


def find_non_finite_group(
    modules: Iterable[nn.Module], kept: nn.Module, optimizer: Optimizer
) -> str | None:
    """Name the first group of values that is not finite; values are unless an update overflowed."""
    if any(map(_has_non_finite, modules)):
        return "the model's weights"
    if _has_non_finite(kept):
        return "the averaged weights"
    if find_non_finite(flatten_optimizer(optimizer)[0]) is not None:
        return "the optimiser's state"
    return None


def _has_non_finite(module: nn.Module) -> bool:
    return find_non_finite(module.state_dict(), list_buffers(module)) is not None


def average_terms(terms: Mapping[str, Tensor], progress: Progress) -> dict[str, float]:
    """Average the terms over the validation data.

    Raises:
        NonFiniteError: if the bound is not finite.
    """
    averages = {name: float(term.mean()) for name, term in terms.items()}
    if not math.isfinite(averages["bound"]):
        raise make_non_finite_error(
            progress, "validation bound", "the mean over the validation data"
        )
    return averages


def make_non_finite_error(progress: Progress, term: str, tensor: str) -> NonFiniteError:
    """Make the error for a value that becomes non-finite after the last update of an epoch."""
    return NonFiniteError(
        f"step {progress.step}: the {term} is not finite, found in {tensor} after epoch "
        f"{progress.epoch + 1}. Likely cause: steps that are too long, or examples far outside of "
        "the training data's range. Remedy: take a smaller learning_rate or clip_norm=1.0, and "
        "check the data",
        step=progress.step,
        term=term,
        tensor=tensor,
    )
