"""Values that are rounded lie on a grid, which is found without regard to their unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The error of a value, in units of the precision of its type.
_ROUNDINGS = 8.0

# The smallest step that is looked for, as a multiple of the standard deviation and of the error.
_LEAST_STEP = 1e-4
_LEAST_ERRORS = 100.0

# Below this number float64 has fewer digits.
_TINY = float(np.finfo(float).tiny)

_FEWEST_VALUES = 3

# The largest number of significant digits of a step that is a decimal number, and of decimals that
# numpy rounds to correctly.
_MOST_DIGITS = 6
_MOST_DECIMALS = 22

_CLOSE = 1e-9

# float32 changes a value by less than this share of a step.
_NEAR = 0.01


def find_step(values: NDArray[np.float64], precision: float) -> float:
    """The largest step that divides all differences of values; 0.0 if there is none.

    If the values are multiplied by a number, so is their step; adding a number does not change it.
    A step that is tiny compared with their standard deviation hardly affects a density. It is found
    only so that draws can be rounded to it, and only if it is a power of ten from 1e-22 on, such as
    0.01 for cents.

    Args:
        values: the values.
        precision: the relative precision of their type.

    Example:
        >>> import numpy as np
        >>> values = np.array([0.5, 1.1, 1.3, 3.7])
        >>> find_step(values, 1e-16), find_step(values * 100 + 7, 1e-16)
        (0.2, 20.0)
        >>> find_step(np.array([0.07, 1e5, 231_017.21]), 1e-16)
        0.01
    """
    error = max(_ROUNDINGS * precision * float(np.abs(values).max()), _TINY)
    different = np.unique(values)
    gaps = np.diff(different)
    gaps = gaps[gaps > error]
    if not len(gaps) or len(values) < _FEWEST_VALUES:
        return 0.0
    _, deviation = find_mean_and_deviation(values)
    least = max(_LEAST_STEP * deviation, _LEAST_ERRORS * error)
    step = _find_common_step(different, gaps, error, least)
    return step or _find_decimal_step(values, precision, _LEAST_ERRORS * error)


def find_mean_and_deviation(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean and the standard deviation, even if float64 cannot represent the squares of values.

    Example:
        >>> import numpy as np
        >>> find_mean_and_deviation(np.array([1e-200, 3e-200]))
        (2e-200, 1e-200)
    """
    # Dividing by a power of two does not round.
    unit = math.ldexp(0.5, math.frexp(float(np.abs(values).max()))[1])
    values = values / unit
    return float(values.mean()) * unit, float(values.std()) * unit


def _find_common_step(
    different: NDArray[np.float64], gaps: NDArray[np.float64], error: float, least: float
) -> float:
    """The largest step above ``least`` that divides all gaps; 0.0 if there is none."""
    step, step_error = float(gaps.min()), error
    while step > least:  # Euclid's algorithm, for all gaps at once
        multiples = np.round(gaps / step)
        rest = np.abs(gaps - multiples * step)
        is_rest = rest > error + multiples * step_error
        if not is_rest.any():
            return _refine_step(different, step, error)
        rest, multiples = rest[is_rest], multiples[is_rest]
        step, step_error = float(rest.min()), error + float(multiples[rest.argmin()]) * step_error
    return 0.0


def _find_decimal_step(values: NDArray[np.float64], precision: float, least: float) -> float:
    """The largest power of ten above ``least`` that divides all values; 0.0 if there is none."""
    largest = math.floor(math.log10(np.abs(values).max()))
    end = max(math.floor(math.log10(least)), -_MOST_DECIMALS - 1)
    for exponent in range(largest, end, -1):
        errors = np.abs(np.round(values, -exponent) - values)
        if (errors <= precision * np.abs(values)).all():
            return float(f"1e{exponent}")
    return 0.0


def _refine_step(different: NDArray[np.float64], step: float, error: float) -> float:
    """The step from the range of the values, if all of them are on its grid."""
    distances = different - different[0]
    step = float(distances[-1] / np.round(distances[-1] / step))
    is_on_grid = np.abs(distances - np.round(distances / step) * step) <= error
    return step if is_on_grid.all() else 0.0


@dataclass(frozen=True)
class Grid:
    """Numbers with the same distance from one to the next.

    Args:
        start: one of them.
        step: the distance.
    """

    start: float
    step: float

    def round(self, raw: Any) -> Any:
        """The nearest of these numbers, without errors in the last digits if they are decimal."""
        rounded = self.start + np.round((raw - self.start) / self.step) * self.step
        first = max(0, math.ceil(-math.log10(self.step) - _CLOSE))
        for decimals in range(first, min(first + _MOST_DIGITS, _MOST_DECIMALS)):
            errors = (round(each, decimals) - each for each in (self.start, self.step))
            if all(abs(error) <= _CLOSE * self.step for error in errors):
                return np.round(rounded, decimals)
        return rounded

    def is_near(self, raw: Any) -> Any:
        """Whether values are such numbers, but for the error of float32."""
        return np.abs(self.round(raw) - raw) <= _NEAR * self.step

    def find_above(self, limit: float) -> float:
        """The smallest of these numbers above a limit."""
        count = math.ceil((self.start - limit) / self.step - _CLOSE) - 1
        return float(self.round(self.start - count * self.step))

    def find_below(self, limit: float) -> float:
        """The largest of these numbers below a limit."""
        count = math.ceil((limit - self.start) / self.step - _CLOSE) - 1
        return float(self.round(self.start + count * self.step))
