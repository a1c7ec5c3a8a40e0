"""Records of a training run, the messages at its end, and checks for non-finite values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lowerbound.errors import NonFiniteError
from lowerbound.objectives.schedules import Schedule, was_cut_short
from lowerbound.training.progress import Progress


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


def find_non_finite(
    modules: Iterable[nn.Module], kept: nn.Module, optimizer: Optimizer
) -> str | None:
    """Name the first group of values that is not finite; values are unless an update overflowed."""
    states = [slot for slots in optimizer.state.values() for slot in slots.values()]
    groups = {
        "the model's weights": _list_values(modules),
        "the averaged weights": _list_values([kept]),
        "the optimiser's state": [slot for slot in states if isinstance(slot, Tensor)],
    }
    return next((name for name, values in groups.items() if not _are_finite(values)), None)


def _list_values(modules: Iterable[nn.Module]) -> list[Tensor]:
    return [value for module in modules for value in module.state_dict().values()]


def _are_finite(values: Iterable[Tensor]) -> bool:
    floating = [value for value in values if value.is_floating_point() and value.numel()]
    return bool(torch.isfinite(get_total_norm(floating, math.inf)))


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
