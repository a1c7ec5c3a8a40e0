"""Findings: a problem of a model, its cause, and a remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from lowerbound.objectives.schedules import was_cut_short


@dataclass(frozen=True)
class Finding:
    """An observation about a model, with its likely cause and a remedy.

    Args:
        what: the observation.
        cause: the likely cause, with the measurement that supports it.
        remedy: what to try.
    """

    what: str
    cause: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}. Likely cause: {self.cause}. Remedy: {self.remedy}"


def find_reached_bounds(likelihood: nn.Module, shares: tuple[float, float]) -> Iterator[Finding]:
    """Find a learned scale with more than 1% of its entries at the floor or at the ceiling."""
    low, high = shares
    if low > 0.01:
        yield Finding(
            f"{100 * low:.0f}% of the likelihood's scales are at their floor "
            f"min_scale={likelihood.min_scale:g}",
            "these entries hardly vary, and without the floor the bound would be arbitrarily high",
            "compare this bound only with bounds of the same floor; or dequantise "
            "(pixels='dequantize'), or use scale='shared'",
        )
    if high > 0.01:
        yield Finding(
            f"{100 * high:.0f}% of the likelihood's scales are at their ceiling "
            f"max_scale={likelihood.max_scale:g}",
            "the data vary more than that in some entries",
            "rescale the data, or raise max_scale",
        )


def find_unfinished_schedules(schedules: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    """Find the schedules that had not ended when the model got its present weights."""
    for name, schedule in schedules.items():
        if not was_cut_short(schedule):
            continue
        reached, end = (f"{schedule[key]:.3g}" for key in ("reached", "end"))
        if "epoch" in schedule:
            yield Finding(
                f"the weights are those of epoch {schedule['epoch']:g}, when {name} was {reached}, "
                f"on its way to {end}",
                "the validation bound was best before the schedule ended",
                "train without validation, which keeps the last weights, or shorten the schedule; "
                "or train for longer if it had not ended",
            )
        else:
            yield Finding(
                f"the training ended while {name} was {reached}, on its way to {end}",
                f"the schedule of {name} is longer than the training",
                "train for longer (--resume continues the training), or shorten the schedule",
            )
