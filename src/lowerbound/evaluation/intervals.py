"""Intervals for the mean of a few values that may be skewed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

from lowerbound.errors import DataError, SettingsError
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed

Float = NDArray[np.float64]

# The largest number of values in memory while resampling: 2^21 doubles are 16 MiB.
_PASS_SIZE = 1 << 21

# A resample's standard deviation is taken to be at least this share of that of all values.
_LEAST_SPREAD = 0.2

# With fewer values than this, too many resamples repeat a single value.
_FEWEST_FOR_RESAMPLING = 5


def mean_interval(
    values: Tensor, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    r"""An interval that covers the mean of independent values with the given probability.

    It is the hull of two intervals, Student's and the studentised bootstrap's (Efron 1979, Hall
    1988): the smaller of both lower ends, and the larger of both upper ends.

    .. math:: \bar x \pm t_{n-1} \frac{s}{\sqrt n}, \qquad
        \Big[\bar x - q_{\text{high}} \frac{s}{\sqrt n},\; \bar x - q_{\text{low}}
        \frac{s}{\sqrt n}\Big], \quad
        q \text{ a quantile of } \frac{\bar x^* - \bar x}{\max(s^*, s / 5) / \sqrt n}

    The first is exact for normal values of any number, and the second follows the skewness. A
    resample may repeat almost equal values, so that its deviation s* is almost 0. So s* is replaced
    by a fifth of the deviation s of all values if that is larger. Without this floor, an interval
    could be wider by orders of magnitude, and would not cover the mean more often. At 95%
    and n = 10, the hull covers the mean of exponential values in 0.95 of all samples, of normal
    values in 0.96 and of log-normal values in 0.92; the bias-corrected bootstrap covers 0.87, 0.90
    and 0.82. Fewer than five values get Student's interval, which covers exponential values in 0.88
    of the samples of three.

    Args:
        values: ``[N]``; finite.
        level: the probability.
        resamples: the number of resampled means and standard deviations.
        seed: of the resampling.

    Returns:
        The lower and the upper end, nan for a single value.

    Raises:
        SettingsError: for a level that is not between 0 and 1, or fewer than 100 resamples.
        DataError: for a value that is not finite, naming the first one.

    Example:
        >>> import torch
        >>> low, high = mean_interval(torch.tensor([1.0, 2.0, 3.0]))  # 2 ± 4.303 / sqrt(3)
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    check_seed("mean_interval", seed)
    if not 0 < level < 1:
        raise SettingsError(f"mean_interval: level={level} must be between 0 and 1")
    if resamples < 100:
        raise SettingsError(f"mean_interval: resamples={resamples} must be at least 100")
    faulty = (~values.isfinite()).nonzero().flatten()
    if len(faulty):
        row = int(faulty[0])
        raise DataError(
            f"mean_interval: the value of example {row} (counted from 0) is "
            f"{float(values[row]):g}, so the mean has no interval; leave out such examples"
        )
    x = values.double().numpy()
    if len(x) == 1:
        return math.nan, math.nan
    mean, error = float(x.mean()), float(x.std(ddof=1)) / math.sqrt(len(x))
    if error <= 1e-14 * float(np.abs(x).max()):  # equal up to rounding
        return mean, mean
    high = float(stdtrit(len(x) - 1, (1 + level) / 2))
    low = -high
    if len(x) >= _FEWEST_FOR_RESAMPLING:
        ratios = _studentised_means(x, resamples, seed)
        ends = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
        low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    return mean - high * error, mean - low * error


def _studentised_means(x: Float, resamples: int, seed: int) -> Float:
    """The deviation of each resampled mean, in standard errors of the same resample."""
    least = _LEAST_SPREAD * x.std(ddof=1)
    generator = np.random.default_rng(derived_seed(seed, "bootstrap"))
    ratios = np.empty(resamples)
    step = max(1, _PASS_SIZE // len(x))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = x[generator.integers(len(x), size=(size, len(x)))]
        errors = np.maximum(drawn.std(1, ddof=1), least) / math.sqrt(len(x))
        ratios[start : start + size] = (drawn.mean(1) - x.mean()) / errors
    return ratios
