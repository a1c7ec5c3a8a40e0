"""The cycles of times: the year, the week and the day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.entries import Entry

Cycle = Literal["year", "week", "day"]
Floats = NDArray[np.float64]

YEAR, WEEK, DAY = 31_556_952.0, 604_800.0, 86_400.0
"""Periods in seconds. A year has the average length in the Gregorian calendar, 365.2425 days."""

PERIODS: dict[Cycle, float] = {"year": YEAR, "week": WEEK, "day": DAY}

WEEKDAYS = 7
HOURS = 24

# 1 January 1970 was a Thursday, and weeks begin on Mondays.
_FIRST_WEEKDAY = 3

# Two years, and four weeks or days. It is a quarter less, since the last period is not complete.
_FEWEST_PERIODS: dict[Cycle, float] = {"year": 1.75, "week": 3.75, "day": 3.75}

# With fewer periods than this, a number of the period and a share of it would lose what a trend
# says about a time within the period.
_MANY_PERIODS = 26.0


def find_cycles(times: Floats) -> tuple[Cycle | None, tuple[Cycle, ...]]:
    """Find the cycles that times can show: the season, and those that split a time.

    They show the year, the week or the day if they cover about two years, four weeks or four days.
    For the year and the week, two different times must also be at most half a period apart. For the
    week, not all may be on the same weekday, and for the day, not all at the same time of day. The
    longest cycle is the *season* if it is the year, or if the times cover less than 26 of its
    periods. The others split a time, see :func:`split_times`.

    Args:
        times: seconds since 1970, none of them missing.

    Example:
        >>> find_cycles(3600.0 * np.arange(100)), find_cycles(3600.0 * np.arange(900))
        (('day', ()), ('week', ('day',)))
    """
    different = np.unique(times)
    span, closest = float(np.ptp(different)), float(np.diff(different).min(initial=np.inf))
    days = np.floor(different / DAY)
    varies: dict[Cycle, bool] = {
        "year": closest <= YEAR / 2,
        "week": closest <= WEEK / 2 and len(np.unique(days % WEEKDAYS)) > 1,
        "day": len(np.unique(different - days * DAY)) > 1,
    }
    found = [
        cycle
        for cycle, period in PERIODS.items()
        if varies[cycle] and span >= _FEWEST_PERIODS[cycle] * period
    ]
    if not found:
        return None, ()
    first, *others = found
    if first == "year" or span < _MANY_PERIODS * PERIODS[first]:
        return first, tuple(others)
    return None, tuple(found)


def find_period(cycles: Sequence[Cycle]) -> float:
    """Find the step of the first number of :func:`split_times`, or 0 if it has none."""
    return DAY if cycles else 0.0


def measure_season(season: Cycle | None, cycles: Sequence[Cycle]) -> float:
    """The period of a season in units of the first number of :func:`split_times`; 0 for none."""
    if season is None:
        return 0.0
    return PERIODS[season] / WEEKDAYS if "week" in cycles else PERIODS[season]


def list_phases(column: str, cycles: Sequence[Cycle]) -> Iterator[Entry]:
    """List the entries of all numbers of :func:`split_times` except the first."""
    if "week" in cycles:
        yield Entry(column, "codes", WEEKDAYS, is_phase=True)
    if "day" in cycles:
        yield Entry(column, "phases", HOURS, is_phase=True)


def split_times(times: Floats, cycles: Sequence[Cycle]) -> Floats:
    r"""Split times into numbers that together are the time, ``[N, E]``.

    With the cycle week, they are the number of the week and the weekday, from 0 for Monday to 6.
    With the cycle day, they are the number of the day and the share of it that has passed, from 0
    to 1. With both, they are the week, the weekday and the share,

    .. math:: t = \text{week} \cdot n + \text{day} \cdot (\text{weekday} + \text{share})

    for n weeks since a Monday. A season does not split a time. The first number is multiplied by
    the 86,400 seconds of a day. Then the product of its density, the probability of the weekday and
    the density of the share is the density of the time in seconds. The factor is not a week,
    because the probabilities of seven weekdays add up to 1.

    Args:
        times: seconds since 1970, ``[N]``.
        cycles: the cycles that split a time, ``"week"`` before ``"day"``.

    Example:
        >>> monday_noon = 4.5 * 86400.0
        >>> split_times(np.array([monday_noon]), ("week", "day")).tolist()
        [[86400.0, 0.0, 0.5]]
    """
    if not cycles:
        return times[:, None]
    day = np.floor(times / DAY)
    numbers = [day]
    if "week" in cycles:
        weekday = (day + _FIRST_WEEKDAY) % WEEKDAYS
        numbers = [np.round((day - weekday + _FIRST_WEEKDAY) / WEEKDAYS), weekday]
    if "day" in cycles:
        numbers.append(times / DAY - day)
    numbers[0] = numbers[0] * DAY
    return np.stack(numbers, 1)


def join_times(numbers: Floats, cycles: Sequence[Cycle], example: float) -> Floats:
    """The inverse of :func:`split_times`, ``[N]``; numbers that must be whole are rounded.

    Args:
        numbers: ``[N, E]``.
        cycles: the cycles that split a time.
        example: one of the times. If the day is not a cycle, all have its share of the day.
    """
    if not cycles:
        return numbers[:, 0]
    day = np.round(numbers[:, 0] / DAY)
    if "week" in cycles:
        day = day * WEEKDAYS - _FIRST_WEEKDAY + np.round(numbers[:, 1])
    share = numbers[:, -1] if "day" in cycles else example / DAY % 1
    return np.asarray((day + share) * DAY, dtype=float)
