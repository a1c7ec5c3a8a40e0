"""The numbers by which a row of a table describes its columns, and how they are distributed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["continuous", "seasonal", "counts", "codes", "ordered codes", "phases"]

Transform = Literal["identity", "log", "logit"]


@dataclass(frozen=True)
class Entry:
    """One number by which a row describes a column, and how it is distributed.

    Args:
        column: the name of the column.
        family: ``"continuous"``; ``"seasonal"`` for times with a season; ``"counts"``;
            ``"codes"``; ``"ordered codes"``; or ``"phases"``, shares of a day from 0 to 1.
        levels: the number of codes, or of the knots of phases; 0 for other families.
        transform: the function that was applied to continuous values before they were standardised.
        centre: the average of the transformed values, which was subtracted.
        spread: their standard deviation, by which they were divided.
        least_scale: the smallest standard deviation of a continuous entry of rounded values.
        period: of a seasonal entry, the length of the season in the unit of centre and spread.
        is_phase: whether it is the weekday or the time of day of a time.
    """

    column: str
    family: Family
    levels: int = 0
    transform: Transform = "identity"
    centre: float = 0.0
    spread: float = 1.0
    least_scale: float = 0.0
    period: float = 0.0
    is_phase: bool = False
