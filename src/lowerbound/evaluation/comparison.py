"""Whether one model is better than another, as far as some examples can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from lowerbound.errors import DataError, SettingsError, ShapeError
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.importance import LikelihoodEstimate
from lowerbound.runtime.noise import derived_seed

# Numbers held at once while resampling: 2^21 doubles are 16 MiB.
_PASS_SIZE = 1 << 21

# From this share of doubtful examples on, a figure may be too low to lose by.
_DOUBTFUL = 0.1


@dataclass(frozen=True, eq=False)
class Difference:
    """How much more one estimate has than another, example by example; in nats.

    Args:
        per_example: the first's value minus the second's, ``[N]``, float64.
        low: the lower end of the interval for the mean; nan for a single example.
        high: its upper end.
        level: how often such an interval covers the true mean.
        doubtful: the shares of examples for which the first's and the second's figure is doubtful, see
            :attr:`~lowerbound.evaluation.LikelihoodEstimate.doubtful`: these are too low, and the interval does not say by how much.
    """

    per_example: Tensor
    low: float
    high: float
    level: float
    doubtful: tuple[float, float] = (0.0, 0.0)

    @property
    def mean(self) -> float:
        """The mean over examples, in nats: positive where the first is better."""
        return float(self.per_example.mean())

    @property
    def standard_error(self) -> float:
        """Of that mean; nan for a single example."""
        return Estimate(self.per_example).standard_error

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def is_certain(self) -> bool:
        """Whether one is better: the interval excludes 0, and the lower figure is not doubtful, which could make it so."""
        return self.excludes_zero and self._doubt_of_the_lower < _DOUBTFUL

    @property
    def _doubt_of_the_lower(self) -> float:
        return self.doubtful[1 if self.mean >= 0 else 0]

    def sentence(self, first: str = "the first", second: str = "the second") -> str:
        """What the figures say, in one sentence, with names for the two that were compared."""
        count = len(self.per_example)
        if count == 1:
            return f"no difference can be told from a single example ({first} - {second}: {self.mean:+.4g} nats)"
        how = f"{100 * self.level:g}% paired bootstrap interval over {count:,} examples"
        if not self.excludes_zero:
            interval = f"[{self.low:.4g}, {self.high:.4g}]"
            return f"no difference can be told: {first} - {second} is {self.mean:+.4g} nats {interval} ({how})"
        ahead, behind, sign = (first, second, 1) if self.mean >= 0 else (second, first, -1)
        low, high = sorted((sign * self.low, sign * self.high))
        by = f"by {abs(self.mean):.4g} nats [{low:.4g}, {high:.4g}] per example ({how})"
        if self.is_certain:
            return f"{ahead} is better {by}"
        return (
            f"which is better cannot be told: the figure of {ahead} is higher {by}, but that of {behind} is too low by an unknown "
            f"amount, for it is doubtful in {100 * self._doubt_of_the_lower:.0f}% of the examples; anneal to decide"
        )

    def __str__(self) -> str:
        return self.sentence()


def paired_difference(
    a: Estimate, b: Estimate, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Difference:
    r"""The mean difference of two estimates over the same examples, with a paired bootstrap interval.

    .. math:: \bar d = \frac1N \sum_i (a_i - b_i)

    Examples differ among each other far more than two models do on one of them, so the examples' differences are
    resampled, not the two estimates: bias-corrected and accelerated (Efron 1987), which for a mean has closed forms for all
    but the resampling. The interval is about the examples' choice. Noise within the estimates, such as that of importance
    sampling, is in it as far as it differs from example to example; their bias is not. So where the lower of two
    importance-sampled figures is doubtful, no verdict is given: its model may be the better one.

    Args:
        a: one estimate, such as of ``lb.evaluate``.
        b: another of the same examples in the same order, best with the same seed.
        resamples: how many sets of examples to draw with replacement.
        level: how often such an interval is to cover the true mean.
        seed: of the resampling.

    Returns:
        A :class:`Difference`; ``str()`` of it is one sentence.

    Raises:
        ShapeError: if the estimates are over different numbers of examples.
        DataError: if an example's figure is not finite, naming the estimate and the first such example.
        SettingsError: for a level outside of (0, 1), or fewer than 100 resamples.

    Example:
        >>> import torch
        >>> noise = torch.linspace(-1, 1, 50, dtype=torch.float64)
        >>> print(paired_difference(Estimate(10 * noise + 0.3), Estimate(10 * noise + 0.1 * noise)))
        the first is better by 0.3 nats [0.2835, 0.3163] per example (95% paired bootstrap interval over 50 examples)
    """
    if len(a.per_example) != len(b.per_example):
        raise ShapeError(
            f"paired_difference: {len(a.per_example)} examples against {len(b.per_example)}; evaluate both on the same data"
        )
    if not 0 < level < 1 or resamples < 100 or seed < 0:
        raise SettingsError(
            f"paired_difference: level={level} must lie between 0 and 1, resamples={resamples} be at least 100, and "
            f"seed={seed} at least 0"
        )
    check_finite(a, "the first estimate")
    check_finite(b, "the second estimate")
    difference = a.per_example - b.per_example
    doubtful = (_doubtful_share(a), _doubtful_share(b))
    values = difference.numpy()
    if len(values) == 1:
        return Difference(difference, math.nan, math.nan, level, doubtful)
    low, high = _interval(values, _resampled_means(values, resamples, seed), level)
    return Difference(difference, low, high, level, doubtful)


def check_finite(estimate: Estimate, name: str) -> None:
    """Refuse figures whose mean says nothing.

    Raises:
        DataError: naming the estimate, the first example at fault, and what to do.
    """
    faulty = (~estimate.per_example.isfinite()).nonzero().flatten()
    if len(faulty):
        row = int(faulty[0])
        raise DataError(
            f"{name} is {float(estimate.per_example[row]):g} at row {row} (counted from 0; {len(faulty):,} such of "
            f"{len(estimate.per_example):,} examples), so a mean difference says nothing: take more samples, or if the model gives "
            "the example no density at all, leave it out of both"
        )


def _doubtful_share(estimate: Estimate) -> float:
    return (
        float(estimate.doubtful.double().mean())
        if isinstance(estimate, LikelihoodEstimate)
        else 0.0
    )


def _resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of ``resamples`` sets of as many values, drawn with replacement; the same for every chunk size."""
    generator = np.random.default_rng(derived_seed(seed, "bootstrap"))
    means = np.empty(resamples)
    step = max(1, _PASS_SIZE // len(values))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        means[start : start + size] = values[
            generator.integers(len(values), size=(size, len(values)))
        ].mean(1)
    return means


def _interval(
    values: NDArray[np.float64], means: NDArray[np.float64], level: float
) -> tuple[float, float]:
    """Quantiles of the resampled means, moved for their bias and for how their spread changes with the mean."""
    mean = values.mean()
    deviations = values - mean
    spread = float((deviations**2).sum())
    if spread <= len(values) * (1e-14 * np.abs(values).max()) ** 2:  # all the same, up to rounding
        return float(mean), float(mean)
    # Of the jackknife; in closed form for a mean.
    acceleration = float((deviations**3).sum()) / (6 * spread**1.5)
    below = ((means < mean).sum() + 0.5 * (means == mean).sum()) / len(means)
    bias = ndtri(np.clip(below, 1 / (2 * len(means)), 1 - 1 / (2 * len(means))))
    edges = bias + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(means, ndtr(bias + edges / (1 - acceleration * edges)))
    return float(low), float(high)
