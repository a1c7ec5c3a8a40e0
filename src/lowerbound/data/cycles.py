"""Cycles of times: the day, the week and the year."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Cycle = Literal["day", "week", "year"]

PERIODS: dict[Cycle, float] = {"day": 86_400.0, "week": 604_800.0, "year": 31_556_952.0}
"""Periods in seconds. A year has the average length of the Gregorian calendar, 365.2425 days."""

# About two periods: the times of two whole ones end before the second does, by a step.
_FEWEST_PERIODS = 1.75


def find_cycles(times: NDArray[np.float64]) -> tuple[Cycle, ...]:
    """Find the cycles that times can show.

    They cover about two periods or more, and are finer than a period: two of them are at most half
    a period apart. So whole dates have no daily cycle.

    Args:
        times: seconds, none of them missing.

    Example:
        >>> find_cycles(3600.0 * np.arange(100)), find_cycles(86400.0 * np.arange(100))
        (('day',), ('week',))
    """
    different = np.unique(times)
    span, closest = np.ptp(different), np.diff(different).min(initial=np.inf)
    return tuple(
        cycle
        for cycle, period in PERIODS.items()
        if span >= _FEWEST_PERIODS * period and closest <= period / 2
    )
