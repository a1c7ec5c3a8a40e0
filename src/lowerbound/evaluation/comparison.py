"""Whether one model is better than another, judged by the same examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from lowerbound.errors import DataError, SettingsError, ShapeError
from lowerbound.evaluation.checks import check_seed
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.importance import LikelihoodEstimate
from lowerbound.runtime.noise import derived_seed

# The largest number of values in memory while resampling: 2^21 doubles are 16 MiB.
_CHUNK_VALUES = 1 << 21

# With at least this share of doubtful examples, an estimate may be so much too low that its model
# is the better one.
_DOUBTFUL_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Difference:
    """The difference of two estimates over the same examples, in nats.

    ``str()`` of it is one sentence.

    Args:
        per_example: the first estimate minus the second, ``[N]``, float64.
        low: the lower end of the interval for the mean; nan for a single example.
        high: the upper end of the interval.
        level: the probability that such an interval covers the true mean.
        doubtful: the shares of doubtful examples in the first and in the second estimate, see
            :attr:`lowerbound.evaluation.LikelihoodEstimate.doubtful`. The estimates of these
            examples are too low, and the interval does not say by how much.
    """

    per_example: Tensor
    low: float
    high: float
    level: float
    doubtful: tuple[float, float] = (0.0, 0.0)

    @property
    def mean(self) -> float:
        """The mean over examples, in nats; positive if the first is better."""
        return float(self.per_example.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; nan for a single example."""
        return Estimate(self.per_example).standard_error

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def is_certain(self) -> bool:
        """Whether one is better than the other.

        The interval excludes 0, and the lower estimate is not doubtful. If it were, its model could
        be the better one.
        """
        return self.excludes_zero and self._doubt_of_the_lower < _DOUBTFUL_SHARE

    @property
    def _doubt_of_the_lower(self) -> float:
        first, second = self.doubtful
        if self.mean >= 0:
            return second
        return first

    def sentence(self, first: str = "the first", second: str = "the second") -> str:
        """Describe the difference in one sentence, with names for the two estimates."""
        count = len(self.per_example)
        if count == 1:
            return (
                "a difference cannot be judged by a single example "
                f"({first} - {second}: {self.mean:+.4g} nats)"
            )
        method = f"{100 * self.level:g}% paired bootstrap interval over {count:,} examples"
        if not self.excludes_zero:
            return (
                f"the two cannot be distinguished: {first} - {second} is {self.mean:+.4g} nats "
                f"[{self.low:.4g}, {self.high:.4g}] ({method})"
            )
        better, worse, low, high = first, second, self.low, self.high
        if self.mean < 0:
            better, worse, low, high = second, first, -self.high, -self.low
        by = f"by {abs(self.mean):.4g} nats [{low:.4g}, {high:.4g}] per example ({method})"
        if self.is_certain:
            return f"{better} is better {by}"
        return (
            f"it is unclear which is better: the estimate of {better} is higher {by}, but that of "
            f"{worse} is doubtful in {100 * self._doubt_of_the_lower:.0f}% of the examples, and "
            "too low there by an unknown amount; anneal to decide"
        )

    def __str__(self) -> str:
        return self.sentence()


def paired_difference(
    a: Estimate, b: Estimate, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Difference:
    r"""The mean difference of two estimates over the same examples, with its bootstrap interval.

    .. math:: \bar d = \frac1N \sum_i (a_i - b_i)

    Examples differ from each other far more than two models differ on one example. So the bootstrap
    resamples the differences of the examples, and not the two estimates. It is bias-corrected and
    accelerated (Efron 1987).

    The interval is about the choice of the examples. It includes the noise of the estimates, such
    as that of importance sampling, which differs from example to example, but it does not include
    their bias. So if the lower of two importance-sampled estimates is doubtful, the
    difference is not certain: its model may be the better one.

    Args:
        a: one estimate, for instance from :func:`lowerbound.evaluate`.
        b: another estimate over the same examples in the same order, best with the same seed.
        resamples: the number of sets of examples that are drawn with replacement.
        level: the probability with which such an interval should cover the true mean.
        seed: of the resampling.

    Returns:
        A :class:`Difference`; ``str()`` of it is one sentence.

    Raises:
        ShapeError: if the estimates are over different numbers of examples.
        DataError: if the value of an example is not finite, with the first such example.
        SettingsError: for a level that is not between 0 and 1, or fewer than 100 resamples.

    Example:
        >>> import torch
        >>> noise = torch.linspace(-1, 1, 50, dtype=torch.float64)
        >>> print(paired_difference(Estimate(10 * noise + 0.3), Estimate(10 * noise + 0.1 * noise)))
        the first is better by 0.3 nats [0.2835, 0.3163] per example
        (95% paired bootstrap interval over 50 examples)
    """
    if len(a.per_example) != len(b.per_example):
        raise ShapeError(
            f"paired_difference: the first estimate is over {len(a.per_example)} examples and the "
            f"second over {len(b.per_example)}; evaluate both on the same data"
        )
    check_seed("paired_difference", seed)
    if not 0 < level < 1:
        raise SettingsError(f"paired_difference: level={level} must be between 0 and 1")
    if resamples < 100:
        raise SettingsError(f"paired_difference: resamples={resamples} must be at least 100")
    check_finite(a, "the first estimate")
    check_finite(b, "the second estimate")
    difference = a.per_example - b.per_example
    doubtful = (_measure_doubtful_share(a), _measure_doubtful_share(b))
    values = difference.numpy()
    if len(values) == 1:
        return Difference(difference, math.nan, math.nan, level, doubtful)
    low, high = _compute_interval(values, _resample_means(values, resamples, seed), level)
    return Difference(difference, low, high, level, doubtful)


def check_finite(estimate: Estimate, name: str) -> None:
    """Check that the value of each example is finite, so that their mean is meaningful.

    Raises:
        DataError: naming the estimate, the first faulty example, and the remedy.
    """
    faulty = (~estimate.per_example.isfinite()).nonzero().flatten()
    if not len(faulty):
        return
    row = int(faulty[0])
    raise DataError(
        f"{name} is {float(estimate.per_example[row]):g} at row {row} (counted from 0; "
        f"{len(faulty):,} such of {len(estimate.per_example):,} examples), so a mean difference "
        "is meaningless. Take more samples; if the density of the example is zero under the model, "
        "leave it out of both estimates"
    )


def _measure_doubtful_share(estimate: Estimate) -> float:
    if not isinstance(estimate, LikelihoodEstimate):
        return 0.0
    return float(estimate.doubtful.double().mean())


def _resample_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Compute the means of sets of values that are drawn with replacement, in chunks."""
    generator = np.random.default_rng(derived_seed(seed, "bootstrap"))
    means = np.empty(resamples)
    step = max(1, _CHUNK_VALUES // len(values))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        means[start : start + size] = values[
            generator.integers(len(values), size=(size, len(values)))
        ].mean(1)
    return means


def _compute_interval(
    values: NDArray[np.float64], means: NDArray[np.float64], level: float
) -> tuple[float, float]:
    """Compute quantiles of the resampled means, bias-corrected and accelerated (Efron 1987)."""
    mean = values.mean()
    deviations = values - mean
    spread = float((deviations**2).sum())
    if spread <= len(values) * (1e-14 * np.abs(values).max()) ** 2:  # equal up to rounding
        return float(mean), float(mean)
    # For a mean, the jackknife's estimate of the acceleration has this closed form.
    acceleration = float((deviations**3).sum()) / (6 * spread**1.5)
    below = ((means < mean).sum() + 0.5 * (means == mean).sum()) / len(means)
    bias = ndtri(np.clip(below, 1 / (2 * len(means)), 1 - 1 / (2 * len(means))))
    edges = bias + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(means, ndtr(bias + edges / (1 - acceleration * edges)))
    return float(low), float(high)
